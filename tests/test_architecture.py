"""Who may import whom, read from the sources' syntax trees, and what a host must not need."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Longest prefix wins. Values: prefixes of our own modules that may be imported besides one's own
# layer, and the third-party libraries that have their home there.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "proxy": (set(), set()),
    "proxy.model": (set(), {"msgspec"}),
    "proxy.core": ({"proxy.model"}, set()),
    "proxy.core.routing.regex": ({"proxy.model"}, {"re2"}),
    "proxy.http": ({"proxy.model", "proxy.core"}, {"httptools", "jh2", "uvloop"}),
    "proxy.net": ({"proxy"}, {"httptools", "uvloop", "msgspec"}),
    "proxy.net.signatures": ({"proxy"}, {"jwt"}),
    "proxy.__main__": ({"proxy"}, {"uvloop"}),
    "proxy.worker": ({"proxy"}, {"uvloop"}),
    "proxy.keyfiles": (set(), set()),
    "proxy.chains": ({"proxy.keyfiles"}, {"cryptography"}),
    "proxy.keypairs": ({"proxy.keyfiles", "proxy.chains"}, {"cryptography"}),
    "proxy.keys": (
        {"proxy.model", "proxy.keyfiles", "proxy.chains", "proxy.keypairs"},
        {"cryptography", "msgspec"},
    ),
    "proxy.query": ({"proxy.model"}, set()),
    # The same lines and notices from every program that runs on a host.
    "proxy.log": ({"proxy.core"}, set()),
    "proxy.notify": (set(), set()),
    "meshctl": ({"proxy"}, set()),
    "meshctl.errors": ({"proxy.model"}, set()),
    "meshctl.layout": ({"proxy.model"}, set()),
    "meshctl.acl": ({"proxy.model"}, set()),
    "meshctl.rpctls": ({"proxy.model"}, set()),
    "meshctl.durations": (set(), set()),
    "meshctl.sizes": (set(), set()),
    "meshctl.yamltree": ({"proxy.model", "meshctl.errors"}, {"yaml"}),
    "meshctl.inventory": (
        {
            "proxy.model",
            "proxy.core",
            "meshctl.errors",
            "meshctl.yamltree",
            "meshctl.durations",
            "meshctl.sizes",
        },
        set(),
    ),
    "meshctl.policy": (
        {
            *("proxy.model", "proxy.core", "meshctl.errors", "meshctl.yamltree"),
            *("meshctl.durations", "meshctl.sizes"),
            *("meshctl.inventory.model", "meshctl.inventory.shape"),
        },
        {"msgspec"},
    ),
    # Explanations read a request with the very parser.
    "meshctl.policy.requests": ({"proxy.model", "proxy.http"}, set()),
    "meshctl.facts": (
        {
            "proxy.model",
            "proxy.core",
            "meshctl.errors",
            "meshctl.layout",
            "meshctl.inventory.model",
        },
        {"msgspec"},
    ),
    "meshctl.artifacts": (
        {
            "proxy.model",
            "proxy.core",
            "meshctl.errors",
            "meshctl.layout",
            "meshctl.inventory.model",
            "meshctl.acl",
            "meshctl.rpctls",
            "meshctl.pki.record",
            "meshctl.signer.settings",
        },
        {"jinja2"},
    ),
    "meshctl.plan": (
        {
            "proxy.model",
            "proxy.core",
            "meshctl.errors",
            "meshctl.layout",
            "meshctl.inventory.model",
            "meshctl.facts",
            "meshctl.acl",
            "meshctl.rpctls",
            "meshctl.artifacts",
            "meshctl.bundle.model",
            "meshctl.pki.record",
        },
        {"msgspec"},
    ),
    "meshctl.pki": ({"proxy.model", "meshctl"}, {"cryptography", "msgspec"}),
    "meshctl.pki.authority": (
        {"proxy.model", "meshctl.errors", "meshctl.pki.certificates", "meshctl.pki.record"},
        {"cryptography"},
    ),
    "meshctl.pki.certificates": (set(), {"cryptography"}),
    "meshctl.pki.record": ({"proxy.model"}, set()),
    "meshctl.durable": ({"proxy.model", "meshctl.errors"}, set()),
    "meshctl.state": (
        {"proxy.model", "meshctl.errors", "meshctl.durable", "meshctl.pki.record"},
        {"msgspec"},
    ),
    "meshctl.finding": (set(), set()),
    "meshctl.renewing": (
        {
            "proxy.model",
            "meshctl.layout",
            "meshctl.inventory.model",
            "meshctl.facts",
            "meshctl.finding",
        },
        set(),
    ),
    "meshctl.status": (
        {
            "proxy.model",
            "meshctl.errors",
            "meshctl.layout",
            "meshctl.inventory.model",
            "meshctl.facts",
            "meshctl.finding",
            "meshctl.renewing",
            "meshctl.plan.desired",
        },
        set(),
    ),
    # What runs on a host from a string: the standard library and each other.
    "meshctl.onhost": (set(), set()),
    "meshctl.consul": ({"proxy.model", "proxy.core", "meshctl"}, {"consul", "aiohttp", "msgspec"}),
    "meshctl.telemetry.report.page": ({"proxy.model", "meshctl"}, {"jinja2"}),
    "meshctl.registry": ({"proxy.model", "meshctl.errors"}, {"aiohttp", "msgspec"}),
    "meshctl.transport": ({"proxy.model", "meshctl"}, {"asyncssh"}),
    "meshctl.bundle": ({"proxy", "meshctl"}, {"packaging"}),
    # On control hosts, with a handful of other modules of meshctl (bundle.signerwheel).
    "meshctl.signer": (
        {
            *("proxy.model", "proxy.core", "proxy.keyfiles", "proxy.chains"),
            *("proxy.keypairs", "proxy.log", "proxy.notify"),
            *("meshctl.errors", "meshctl.durable", "meshctl.pki.authority"),
            *("meshctl.pki.certificates", "meshctl.pki.issued", "meshctl.pki.record"),
        },
        {"aiohttp", "cryptography"},
    ),
    "meshctl.signer.settings": ({"proxy.model"}, set()),
    "meshctl.apply": ({"proxy.model", "proxy.core", "meshctl"}, {"msgspec"}),
    "meshctl.dashboard": ({"proxy.model", "proxy.core", "meshctl"}, {"aiohttp", "msgspec"}),
    # Text for others' programs: pure.
    "meshctl.observe": (
        {"proxy.model", "proxy.core.grpc", "meshctl.durations", "meshctl.inventory.model"},
        set(),
    ),
    "meshctl.cli": (
        {"proxy.model", "proxy.core", "meshctl"},
        {"typer", "rich", "click", "msgspec"},
    ),
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("proxy", "meshctl"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                # `from a import b` may import the module a.b
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            case ast.ImportFrom(level=level) if level:
                yield node.lineno, "<relative import>"
            case _:
                pass


def layer_of(module: str) -> str:
    return max((layer for layer in LAYERS if is_below(module, layer)), key=len)


def is_below(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@pytest.mark.parametrize(("module", "path"), tuple(modules()), ids=str)
def test_imports_stay_within_the_layer(module: str, path: Path) -> None:
    layer = layer_of(module)
    own, libraries = LAYERS[layer]
    wrong = []
    for line, name in imports(path):
        top = name.partition(".")[0]
        if top in ("proxy", "meshctl"):
            allowed = (
                is_below(name, layer)
                or any(is_below(name, prefix) for prefix in own)
                or name in ("proxy.__version__", "meshctl.__version__")
            )
        else:
            allowed = top in sys.stdlib_module_names or top in libraries
        if not allowed:
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}, not allowed in {layer}")
    assert wrong == []


def test_the_proxy_never_imports_the_operators_side() -> None:
    offenders = [
        f"{module}:{line}"
        for module, path in modules()
        if is_below(module, "proxy")
        for line, name in imports(path)
        if is_below(name, "meshctl")
    ]
    assert offenders == []


def test_the_operators_side_never_imports_the_proxys_sockets() -> None:
    offenders = [
        f"{module}:{line}"
        for module, path in modules()
        if is_below(module, "meshctl")
        for line, name in imports(path)
        if is_below(name, "proxy.net")
    ]
    assert offenders == []


def test_every_module_says_why_it_exists() -> None:
    silent = [
        module
        for module, path in modules()
        if len((ast.get_docstring(ast.parse(path.read_text())) or "").strip()) < 20
    ]
    assert silent == []


# bundle.host_install and the like run on a host from a string: they are held to the stdlib above.
OPERATOR_ONLY = (
    *("aiohttp", "asyncssh", "consul", "jinja2", "meshctl", "pip", "rich", "typer", "yaml"),
    *("click", "cryptography", "packaging"),
)


def test_a_proxy_starts_without_anything_of_the_operators() -> None:
    blocked = ", ".join(repr(name) for name in OPERATOR_ONLY)
    code = f"""
import sys
for name in ({blocked}):
    sys.modules[name] = None
import importlib, pkgutil, proxy
for module in pkgutil.walk_packages(proxy.__path__, "proxy."):
    if module.name not in ("proxy.__main__", "proxy.keys", "proxy.chains", "proxy.keypairs"):
        importlib.import_module(module.name)
import proxy.__main__
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
