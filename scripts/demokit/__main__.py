"""Runs the acts, and cleans up after them or says what to try."""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.markup import escape

from demokit.acts import ACTS
from demokit.inventory import Ports
from demokit.scene import MESHCTL, Scene
from demokit.services import Services
from demokit.stage import ActFailed, claim, console

_CLEAN_UP_S = 120.0
_LOG_LINES = 15


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Show the mesh on this machine."
    )
    parser.add_argument("--keep", action="store_true", help="leave it running and say what to try")
    keep: bool = parser.parse_args().keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ports = Ports.pick()
    directory = Path(tempfile.mkdtemp(prefix="meshctl-demo-"))
    scene = Scene(directory=directory, ports=ports, services=Services(ports=ports))
    code = 1
    try:
        for number, (text, show) in enumerate(ACTS, start=1):
            claim(number, text)
            show(scene)
        code = 0
        console.print("\n[bold green]Everything held.[/]")
    except (ActFailed, OSError, TimeoutError, subprocess.TimeoutExpired) as failure:
        console.print(f"\n[bold red]The demo failed:[/] {escape(str(failure))}")
        show_logs(directory)
    except KeyboardInterrupt:
        code = 130
    finally:
        if keep and code == 0:
            explain_keeping(scene)
        else:
            clean_up(scene)
    return code


def show_logs(directory: Path) -> None:
    for log in sorted(directory.glob("hosts/*/var/log/*.log")):
        console.print(f"[dim]--- {log}[/]")
        for line in log.read_text(errors="replace").splitlines()[-_LOG_LINES:]:
            console.print(f"[dim]{escape(line)}[/]")


def clean_up(scene: Scene) -> None:
    if (scene.directory / "inventory.yaml").exists():
        subprocess.run(
            [MESHCTL, "uninstall", "--yes"],
            cwd=scene.directory,
            capture_output=True,
            timeout=_CLEAN_UP_S,
        )
    scene.services.stop()
    shutil.rmtree(scene.directory, ignore_errors=True)


def explain_keeping(scene: Scene) -> None:
    ports, directory = scene.ports, scene.directory
    pids = " ".join(str(process.pid) for process in scene.services.running.values())
    (directory / "apps.pid").write_text(pids + "\n")
    console.print(f"""
[bold]Left running.[/] To try:
   cd {directory}
   curl -s http://127.0.0.1:{ports.web_to_api}/   # as web calls api
   curl -s -x http://127.0.0.1:{ports.web_to_all} http://api.mesh/   # the same by name
   curl -s http://127.0.0.1:{ports.web}/   # the application web itself
   printf 'hello\\n' | nc -N 127.0.0.1 {ports.web_to_cache}   # as web calls cache, TCP
   curl -s http://127.0.0.1:{ports.admin[0]}/metrics   # what front's proxy counts
   curl -s -X POST http://127.0.0.1:{ports.api_2}/break   # api v2 answers 503, until /mend
   {MESHCTL} apply   # after an edit of mesh.yaml
   {MESHCTL} status --watch
   {MESHCTL} top   # while something calls; also edges, tap api, dashboard
   {MESHCTL} uninstall --yes   # then end the applications: kill $(cat apps.pid)""")


if __name__ == "__main__":
    sys.exit(main())
