"""The signer as a process: what it says when it cannot start, and its signals."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from signing.world import World

from proxy.model import codec


def start(path: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", "-m", "meshctl.signer", "--settings", str(path), *more],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("mesh.test", "Mesh Test", "is not a trust domain"),
        ('"csr_per_s": 50', '"csr_per_s": 0', "csr_per_s more than 0"),
        ('"leaf_life_s": 86400', '"leaf_life_s": 59', "at least 60"),
        ('"csr_per_s"', '"csr_per"', "unknown field `csr_per`"),
        ('"port": 7', '"port": 70000', "70000 is not a port"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_started(
    world: World, before: str, after: str, reason: str
) -> None:
    path = Path(world.signer(port=7).record).parent / "signer.json"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))

    done = start(path)

    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_check_looks_at_the_files_and_starts_nothing(world: World) -> None:
    settings = world.signer()
    path = Path(settings.record).parent / "signer.json"
    assert (start(path, "--check").returncode, start(path, "--check").stderr) == (0, "")

    Path(settings.record).unlink()

    done = start(path, "--check")
    assert done.returncode == 1
    assert "record.json does not exist: run meshctl deploy" in done.stderr


async def test_it_tells_systemd_that_it_is_ready_reloads_and_stops_when_told(
    world: World, tmp_path: Path
) -> None:
    settings = world.signer()
    path = Path(settings.record).parent / "signer.json"
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(tmp_path / "notify"))
    notices.settimeout(60)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "meshctl.signer", "--settings", str(path)),
        stderr=asyncio.subprocess.PIPE,
        env={"NOTIFY_SOCKET": str(tmp_path / "notify")},
    )
    assert process.stderr is not None
    assert await asyncio.to_thread(notices.recv, 100) == b"READY=1"

    async def said(word: str) -> dict[str, str]:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while True:
                line = codec.decode(await process.stderr.readline(), dict[str, str])
                if line["msg"].startswith(word):
                    return line

    process.send_signal(1)
    assert (await said("reloaded"))["record"]
    Path(settings.record).write_text("{")
    process.send_signal(1)
    assert "is not a deploy record" in (await said("nothing was reloaded"))["msg"]
    process.terminate()
    assert await asyncio.to_thread(notices.recv, 100) == b"STOPPING=1"
    assert await asyncio.wait_for(process.wait(), 60) == 0
    notices.close()
