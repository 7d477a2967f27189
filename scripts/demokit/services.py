"""The applications behind the mesh: plain processes that know nothing of it."""

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from demokit.inventory import Ports
from demokit.load import ask
from demokit.stage import ActFailed

APP = Path(__file__).with_name("app.py")
NAMES = ("web", "api v1", "api v2", "users", "cache")
_STOP_S = 5.0


@dataclass(kw_only=True)
class Services:
    ports: Ports
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        self.running[name] = subprocess.Popen([sys.executable, str(APP), *self._arguments(name)])

    def _arguments(self, name: str) -> list[str]:
        p = self.ports
        service, _, version = name.partition(" ")
        more = [f"--name={service}", f"--port={self.port(name)}"]
        if version:
            more.append(f"--version={version}")
        upstream = {
            "web": ("api", p.web_to_api),
            "api v1": ("users", p.api_to_users),
            "api v2": ("users", p.api_2_to_users),
        }.get(name)
        if upstream is not None:
            more.append("--call={}=http://127.0.0.1:{}/".format(*upstream))
        return ["tcp" if service == "cache" else "http", *more]

    def port(self, name: str) -> int:
        """The application's own, behind its proxy."""
        found: int = getattr(self.ports, {"api v1": "api_1", "api v2": "api_2"}.get(name, name))
        return found

    def breaks(self, name: str) -> None:
        """From now on it answers 503, while its health check still passes."""
        self._tell(name, "/break")

    def mends(self, name: str) -> None:
        self._tell(name, "/mend")

    def _tell(self, name: str, path: str) -> None:
        answer = ask(self.port(name), path, method="POST")
        if answer.status != 200:
            raise ActFailed(f"{name} answered {answer.status} to POST {path}")

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait(_STOP_S)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
