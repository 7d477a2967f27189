"""``meshctl.signer`` and the modules of ``meshctl`` that it imports, as a wheel.

The list is not written down: imports are followed, from the sources, so that a new one cannot be
forgotten. A control host gets these few modules and nothing else of the operator's side.
"""

import ast
import importlib.resources
from collections.abc import Iterator

from meshctl.bundle import packing

DISTRIBUTION = "meshctl_signer"
REQUIRES = ("aiohttp", "cryptography", "msgspec")
"""Third-party libraries that a signer needs; their versions are those that meshctl asks for."""

_ROOTS = ("meshctl.signer.__main__", "meshctl.signer.keys", "meshctl.signer.consul_keys")


def file_name() -> str:
    return packing.file_name(DISTRIBUTION)


def build() -> bytes:
    return packing.pack(DISTRIBUTION, "The signer of a meshctl mesh", sources())


def sources() -> dict[str, bytes]:
    """By path, sorted."""
    found: dict[str, bytes] = {}
    waiting = list(_ROOTS)
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        source = _find(module)
        if source is None:
            continue  # `from a import b`, where b is not a module
        path, content = source
        found[path] = content
        waiting += _imported(content)
        waiting += [module.rpartition(".")[0]] if "." in module else []
    return dict(sorted(found.items()))


def _find(module: str) -> tuple[str, bytes] | None:
    folder = module.replace(".", "/")
    top = importlib.resources.files("meshctl")
    for path in (f"{folder}.py", f"{folder}/__init__.py"):
        file = top.joinpath(path.removeprefix("meshctl/"))
        if file.is_file():
            return path, file.read_bytes()
    return None


def _imported(content: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(content)):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module), level=0):
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            case _:
                continue
        yield from (name for name in names if name == "meshctl" or name.startswith("meshctl."))
