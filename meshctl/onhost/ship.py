"""The text that carries the programs of this package to a host's interpreter."""

import json
from functools import cache
from importlib import resources
from typing import Any

# In the order in which they import each other.
_MODULES = (
    "fault", "files", "lock", "command", "supervisor", "upkeep", "service", "signer", "consul",
    "removal", "main",
)  # fmt: skip

_BOOT = (
    "import json, sys, types\n"
    "shipped = json.loads(sys.stdin.readline())\n"
    "for name, text in shipped['modules']:\n"
    "    sys.modules[name] = module = types.ModuleType(name)\n"
    "    package, _, last = name.rpartition('.')\n"
    "    if package in sys.modules: setattr(sys.modules[package], last, module)\n"
    "    exec(compile(text, name, 'exec'), module.__dict__)\n"
    "sys.modules['meshctl.onhost.main'].main(shipped['request'])\n"
)


def command(python: str) -> tuple[str, ...]:
    """argv: nothing in it but the loader."""
    return (python, "-I", "-S", "-c", _BOOT)


def stdin(request: dict[str, Any]) -> bytes:
    """One line: the programs and the request, secrets included."""
    return json.dumps({"modules": _modules(), "request": request}).encode() + b"\n"


@cache
def _modules() -> list[tuple[str, str]]:
    folder = resources.files("meshctl.onhost")
    texts = [
        (f"meshctl.onhost.{name}", folder.joinpath(f"{name}.py").read_text()) for name in _MODULES
    ]
    return [("meshctl", ""), ("meshctl.onhost", ""), *texts]
