"""What every act is given: the mesh's directory, its ports, its applications, and its commands."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from demokit.inventory import Ports
from demokit.load import CLIENTS, send
from demokit.services import Services
from demokit.stage import ActFailed, console, say

MESHCTL = str(Path(sys.executable).with_name("meshctl"))
COMMAND_DEADLINE_S = 180.0
HEALTHY_DEADLINE_S = 30.0
ANSWERS_DEADLINE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    directory: Path
    ports: Ports
    services: Services

    def meshctl(self, *arguments: str, expect: int = 0) -> None:
        """As an operator would: its output is shown. Raises ActFailed if it ends otherwise."""
        self._run(arguments, is_shown=True, expect=expect)

    def ask_meshctl(self, *arguments: str) -> Any:
        """The same with ``-o json``, for what is shown in fewer words."""
        return json.loads(self._run((*arguments, "-o", "json"), is_shown=False))

    def _run(self, arguments: tuple[str, ...], *, is_shown: bool, expect: int = 0) -> str:
        console.print(f"[bold cyan]$ meshctl {escape(' '.join(arguments))}[/]")
        stream = None if is_shown else subprocess.PIPE
        done = subprocess.run(
            [MESHCTL, *arguments],
            cwd=self.directory,
            text=True,
            stdout=stream,
            stderr=stream,
            timeout=COMMAND_DEADLINE_S,
        )
        if done.returncode != expect:
            raise ActFailed(
                f"meshctl {arguments[0]} ended with exit code {done.returncode}: "
                f"{(done.stdout or '') + (done.stderr or '')}"
            )
        return done.stdout or ""

    def put_in_force(self, services: str, *, is_difference_shown: bool = False) -> None:
        """``services`` as all of ``mesh.yaml``, which every proxy runs when this returns."""
        (self.directory / "mesh.yaml").write_text("version: 1\n" + services)
        if is_difference_shown:
            self.meshctl("apply", "--yes")
            return
        began = time.monotonic()
        printed = self._run(("apply", "--yes"), is_shown=False).splitlines()
        say(f"{printed[-1]}, {time.monotonic() - began:.1f} s later", "dim")

    def wait_answers(self, name: str) -> float:
        """Until ``name`` gets requests from web and answers; how long it took, in seconds."""
        began = time.monotonic()
        while not send(self.ports.web_to_api, CLIENTS, "/hello").answers[name]:
            if time.monotonic() - began > ANSWERS_DEADLINE_S:
                raise ActFailed(f"{name} gets no requests, or does not answer them")
            time.sleep(0.1)
        return time.monotonic() - began

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_DEADLINE_S
        while time.monotonic() < deadline:
            done = subprocess.run(
                [MESHCTL, "status", "-o", "json"],
                cwd=self.directory,
                capture_output=True,
                timeout=COMMAND_DEADLINE_S,
            )
            if done.returncode == 0:
                return
            time.sleep(0.2)
        raise ActFailed("the mesh did not become healthy")
