"""``meshctl`` as a process of its own, in the folder of a small mesh that nothing runs for."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]
"""The words of a command, and ``expect``: its exit code, 0 unless said otherwise."""

COMMAND_S = 90.0
REGISTRY_S = 20.0


@contextmanager
def registry() -> Iterator[str]:
    """An embedded registry; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "meshctl.registry", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=REGISTRY_S)


def mesh_in(folder: Path, registry: str, services: str, **environment: str) -> Run:
    """A new mesh of one local host with these ``services``, lines of YAML; its commands."""

    def meshctl(*words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", "from meshctl.cli import main; main()", *words],
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    meshctl("init", ".", "--trust-domain", "mesh.test", "--no-passphrase")
    (folder / "inventory.yaml").write_text(f"""\
version: 1
consul: {{mode: embedded, address: "{registry}"}}
hosts:
  - name: one
    transport: local
    root: {folder}/one
    services:
{services}""")
    return meshctl


WEB_AND_API = """\
      - {name: web, port: 18080, protocol: http, upstreams: [{service: api, port: 19001}]}
      - {name: api, port: 18081, protocol: http}
"""
