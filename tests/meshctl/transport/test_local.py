"""Commands on this machine: same promises as over SSH."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from meshctl.errors import RemoteFailure
from meshctl.transport.local import LocalTransport
from proxy.model.names import parse_host
from proxy.model.settings import Address


@pytest.fixture
def transport() -> LocalTransport:
    return LocalTransport(parse_host("local-1"), max_output_bytes=16 * 2**20)


async def test_a_command_gives_its_status_and_both_outputs(transport: LocalTransport) -> None:
    done = await transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"])

    assert (done.exit_status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


async def test_a_command_that_does_not_exist_is_a_result(transport: LocalTransport) -> None:
    assert (await transport.run(["/no/such/command"])).exit_status == 127


async def test_a_command_that_may_not_be_run_is_an_error(
    transport: LocalTransport, tmp_path: Path
) -> None:
    with pytest.raises(RemoteFailure, match="cannot be started"):
        await transport.run([str(tmp_path)])


async def test_a_command_killed_by_a_signal_has_a_status_above_128(
    transport: LocalTransport,
) -> None:
    assert (await transport.run(["sh", "-c", "kill -KILL $$"])).exit_status == 137


async def test_megabytes_go_through_in_both_directions(transport: LocalTransport) -> None:
    payload = os.urandom(12 * 2**20)

    assert (await transport.run(["cat"], stdin=payload)).stdout == payload


async def test_a_command_may_end_without_reading_its_input(transport: LocalTransport) -> None:
    assert (await transport.run(["true"], stdin=bytes(8 * 2**20))).exit_status == 0


async def test_the_operators_python_settings_are_not_passed_on(
    transport: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/evil")
    monkeypatch.setenv("MESHCTL_PASSPHRASE", "secret")

    seen = (await transport.run(["env"])).stdout.decode()

    assert {line.partition("=")[0] for line in seen.splitlines()} <= {
        "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PWD", "SHLVL", "TMPDIR", "USER", "_",
    }  # fmt: skip


async def test_python3_is_the_interpreter_that_runs_meshctl(transport: LocalTransport) -> None:
    done = await transport.run(["python3", "-I", "-c", "import sys; print(sys.version)"])

    assert done.stdout.decode().strip() == sys.version


async def test_output_beyond_the_limit_stops_the_command() -> None:
    transport = LocalTransport(parse_host("local-1"), max_output_bytes=2**20)

    with pytest.raises(RemoteFailure, match=r"local-1: `yes` printed more than 1 MiB"):
        await transport.run(["yes"], timeout_s=20)


async def test_a_command_past_its_deadline_is_killed_with_what_it_started(
    transport: LocalTransport, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"

    with pytest.raises(RemoteFailure, match=r"did not end within 0\.3 s") as caught:
        await transport.run(
            ["sh", "-c", f"echo half; sleep 60 & echo $$ $! > {pids}; wait"], timeout_s=0.3
        )

    assert caught.value.output == "half\n"
    await until_gone(pids)


async def test_a_cancelled_command_is_killed(transport: LocalTransport, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.create_task(transport.run(["sh", "-c", f"echo $$ > {pids}; exec sleep 60"]))
    async with asyncio.timeout(10):
        while not pids.is_file() or not pids.read_text():
            await asyncio.sleep(0.01)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await until_gone(pids)


async def test_what_a_command_leaves_running_in_a_session_of_its_own_stays(
    transport: LocalTransport, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 60' >/dev/null 2>&1 </dev/null &"

    await transport.run(["sh", "-c", script])
    async with asyncio.timeout(10):
        while not pid_file.is_file() or not pid_file.read_text():
            await asyncio.sleep(0.01)

    os.kill(int(pid_file.read_text()), 9)  # raises if it is gone


async def test_a_tunnel_is_the_address_itself(transport: LocalTransport) -> None:
    target = Address(host="127.0.0.1", port=15000)

    async with transport.tunnel(target) as local:
        assert local == target


async def until_gone(pids: Path) -> None:
    async with asyncio.timeout(10):
        for pid in pids.read_text().split():
            while _is_running(pid):
                await asyncio.sleep(0.01)


def _is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_lines_come_while_the_command_goes_on_and_leaving_ends_it(
    transport: LocalTransport, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = f"echo $$ > {pids}; echo one; printf 'two\\nthree\\n'; exec sleep 60"

    async with transport.lines(["sh", "-c", script]) as lines:
        assert [await anext(lines) for _ in range(3)] == [b"one", b"two", b"three"]

    await until_gone(pids)


async def test_lines_end_with_the_command(transport: LocalTransport) -> None:
    async with transport.lines(["printf", "one\\ntwo"]) as lines:
        assert [line async for line in lines] == [b"one", b"two"]


async def test_a_streaming_command_that_fails_says_so_after_its_lines(
    transport: LocalTransport,
) -> None:
    async with transport.lines(["sh", "-c", "echo out; echo why >&2; exit 7"]) as lines:
        assert await anext(lines) == b"out"
        with pytest.raises(RemoteFailure, match="ended with 7") as caught:
            await anext(lines)
    assert caught.value.output == "why"


async def test_a_streaming_command_that_does_not_exist_is_told_when_read(
    transport: LocalTransport,
) -> None:
    async with transport.lines(["/no/such/command"]) as lines:
        with pytest.raises(RemoteFailure, match="ended with 127"):
            await anext(lines)


async def test_a_streaming_command_has_its_input_open_until_the_end(
    transport: LocalTransport, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    script = f"echo ready; cat; echo over > {ended}"
    async with transport.lines(["sh", "-c", script]) as lines:
        assert await anext(lines) == b"ready"
        assert not ended.exists()


async def test_a_streaming_command_past_its_deadline_is_killed(
    transport: LocalTransport, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = f"echo $$ > {pids}; echo half; exec sleep 60"
    async with transport.lines(["sh", "-c", script], timeout_s=3.0) as lines:
        with pytest.raises(RemoteFailure, match="did not end within 3 s"):
            async for _ in lines:
                pass
    await until_gone(pids)


async def test_a_slow_reader_of_lines_slows_the_command_and_loses_nothing(
    transport: LocalTransport,
) -> None:
    numbers = 1_000_000
    async with transport.lines(["seq", str(numbers)]) as lines:
        await anext(lines)
        await asyncio.sleep(0)
        rest = [line async for line in lines]
    assert (len(rest), rest[-1]) == (numbers - 1, b"1000000")


async def test_a_line_without_an_end_stops_the_command(transport: LocalTransport) -> None:
    async with transport.lines(["sh", "-c", "tr '\\0' x < /dev/zero"]) as lines:
        with pytest.raises(RemoteFailure, match="a line of more than 16 MiB"):
            await anext(lines)
