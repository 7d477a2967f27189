"""Commands and tunnels over a real OpenSSH server."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshctl.errors import Refused, RemoteFailure, Unreachable
from meshctl.inventory.model import Host
from meshctl.transport.ssh import SshConnector, SshTransport
from meshctl.transport.ssh.transport import MAX_SESSIONS
from proxy.model.settings import Address

Connect = Callable[..., SshConnector]


@pytest.fixture
async def transport(web: Host, connector_to: Connect) -> SshTransport:
    return await connector_to(web).connect(web.name)


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_a_command_gives_its_status_and_both_outputs(transport: SshTransport) -> None:
    done = await transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"])

    assert (done.exit_status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


async def test_arguments_arrive_as_they_were_given(transport: SshTransport) -> None:
    hostile = ["a b", "", "$HOME", "`id`", "'", '"', "\\", ";reboot", "line\nbreak", "*", "ä"]

    done = await transport.run(["printf", "%s\\0", *hostile])

    assert done.stdout.decode().split("\0")[:-1] == hostile


async def test_a_command_that_does_not_exist_is_a_result(transport: SshTransport) -> None:
    assert (await transport.run(["/no/such/command"])).exit_status == 127


async def test_a_command_killed_by_a_signal_has_a_status_above_128(
    transport: SshTransport,
) -> None:
    assert (await transport.run(["sh", "-c", "kill -KILL $$"])).exit_status == 137


async def test_megabytes_go_through_in_both_directions(transport: SshTransport) -> None:
    payload = os.urandom(12 * 2**20)

    done = await transport.run(["cat"], stdin=payload)

    assert done.stdout == payload


async def test_a_command_may_end_without_reading_its_input(transport: SshTransport) -> None:
    done = await transport.run(["true"], stdin=bytes(8 * 2**20))

    assert done.exit_status == 0


async def test_output_beyond_the_limit_stops_the_command(web: Host, connector_to: Connect) -> None:
    transport = await connector_to(web).connect(web.name)
    transport._max_output_bytes = 2**20

    with pytest.raises(RemoteFailure, match=r"web-1: `yes` printed more than 1 MiB"):
        await transport.run(["yes"], timeout_s=20)
    assert (await transport.run(["echo", "alive"])).stdout == b"alive\n"


async def test_a_command_past_its_deadline_is_ended_on_the_host(
    transport: SshTransport, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"

    with pytest.raises(RemoteFailure, match="did not end within 3 s") as caught:
        await transport.run(
            ["sh", "-c", f"echo half; echo $$ > {pid_file}; exec sleep 60"], timeout_s=3.0
        )

    assert caught.value.output == "half\n"
    await until(lambda: _is_gone(int(pid_file.read_text())), "the command still runs")


async def test_a_cancelled_command_is_ended_and_the_connection_stays(
    transport: SshTransport, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    task = asyncio.create_task(transport.run(["sh", "-c", f"echo $$ > {pid_file}; exec sleep 60"]))
    await until(lambda: pid_file.is_file() and bool(pid_file.read_text()), "not started")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await until(lambda: _is_gone(int(pid_file.read_text())), "the command still runs")
    assert (await transport.run(["true"])).exit_status == 0


async def test_more_commands_than_the_server_has_sessions_wait_for_each_other(
    transport: SshTransport,
) -> None:
    done = await asyncio.gather(
        *(transport.run(["echo", str(number)]) for number in range(MAX_SESSIONS * 3))
    )

    assert [one.stdout for one in done] == [f"{n}\n".encode() for n in range(MAX_SESSIONS * 3)]


async def test_a_connection_cut_in_the_middle_of_a_push_names_host_and_command(
    start_sshd, accepting, connector_to: Connect, tmp_path: Path
) -> None:
    server = start_sshd()
    host = accepting("web-2", server.port)
    transport = await connector_to(host).connect(host.name)
    target = tmp_path / "received"
    push = asyncio.create_task(
        # Reads a little and then no more, so that the push is certainly under way.
        transport.run(["sh", "-c", f"head -c 100000 > {target}; sleep 60"], stdin=bytes(2**25))
    )
    await until(lambda: target.is_file() and target.stat().st_size == 100000, "no push")

    server.signal_connections(signal.SIGKILL)

    with pytest.raises(Unreachable, match=r"web-2: .* was lost during `sh -c .*head -c") as caught:
        await push
    assert caught.value.can_retry
    assert not transport.is_open


async def test_a_silent_network_is_noticed_by_the_keepalive(
    start_sshd, accepting, connector_to: Connect
) -> None:
    server = start_sshd()
    host = accepting("web-2", server.port)
    connector = connector_to(host, keepalive_s=0.1, keepalive_count=2)
    transport = await connector.connect(host.name)
    running = asyncio.create_task(transport.run(["sleep", "60"]))
    stopped = server.connections()
    try:
        server.signal_connections(signal.SIGSTOP)
        with pytest.raises(Unreachable, match=r"web-2: .* during `sleep 60`"):
            async with asyncio.timeout(10):
                await running
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


async def test_a_command_on_a_broken_connection_is_unreachable(
    start_sshd, accepting, connector_to: Connect
) -> None:
    server = start_sshd()
    host = accepting("web-2", server.port)
    transport = await connector_to(host).connect(host.name)
    server.signal_connections(signal.SIGKILL)
    await until(lambda: not transport.is_open, "still open")

    with pytest.raises(Unreachable, match="web-2"):
        await transport.run(["true"])


async def test_a_tunnel_leads_to_the_target_as_the_host_sees_it(
    transport: SshTransport,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " + await reader.readline())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with transport.tunnel(Address(host="127.0.0.1", port=port)) as local:
            assert local.port != port
            reader, writer = await asyncio.open_connection(local.host, local.port)
            writer.write(b"there\n")
            assert await reader.read() == b"hello there\n"
            writer.close()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(local.host, local.port)


async def test_a_tunnel_forbidden_by_the_server_is_refused_with_the_setting_to_change(
    start_sshd, accepting, connector_to: Connect
) -> None:
    server = start_sshd("AllowTcpForwarding no")
    host = accepting("web-2", server.port)
    transport = await connector_to(host).connect(host.name)

    with pytest.raises(Refused, match="forbids a tunnel") as caught:
        async with transport.tunnel(Address(host="127.0.0.1", port=1)):
            pass
    assert "AllowTcpForwarding" in caught.value.hint


def _is_gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True


async def test_lines_come_while_the_command_goes_on_and_leaving_ends_it_on_the_host(
    transport: SshTransport, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    script = f"echo one; printf 'two\\nthree\\n'; echo $$ > {pid_file}; trap '' HUP; exec sleep 60"

    async with transport.lines(["sh", "-c", script]) as lines:
        assert [await anext(lines) for _ in range(3)] == [b"one", b"two", b"three"]
        await until(lambda: pid_file.is_file() and bool(pid_file.read_text()), "not started")

    await until(lambda: _is_gone(int(pid_file.read_text())), "the command still runs")
    assert (await transport.run(["true"])).exit_status == 0


async def test_lines_end_with_the_command_or_say_how_it_failed(transport: SshTransport) -> None:
    async with transport.lines(["printf", "one\\ntwo"]) as lines:
        assert [line async for line in lines] == [b"one", b"two"]
    async with transport.lines(["sh", "-c", "echo out; echo why >&2; exit 7"]) as lines:
        assert await anext(lines) == b"out"
        with pytest.raises(RemoteFailure, match=r"web-1: `sh -c .*` ended with 7") as caught:
            await anext(lines)
    assert caught.value.output == "why"


async def test_a_streaming_command_sees_its_input_end_when_it_is_left(
    transport: SshTransport, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    script = f"trap '' TERM HUP; echo ready; cat; echo over > {ended}"

    async with transport.lines(["sh", "-c", script]) as lines:
        assert await anext(lines) == b"ready"
        assert not ended.exists()

    await until(ended.exists, "its input did not end")


async def test_a_streaming_command_past_its_deadline_is_ended(
    transport: SshTransport, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}; echo half; exec sleep 60"
    async with transport.lines(["sh", "-c", script], timeout_s=3.0) as lines:
        with pytest.raises(RemoteFailure, match="did not end within 3 s"):
            async for _ in lines:
                pass
    await until(lambda: _is_gone(int(pid_file.read_text())), "the command still runs")


async def test_a_slow_reader_of_lines_loses_nothing(transport: SshTransport) -> None:
    async with transport.lines(["seq", "1000000"]) as lines:
        assert await anext(lines) == b"1"
        await asyncio.sleep(0.1)  # so that the window fills; nothing depends on it
        rest = [line async for line in lines]
    assert (len(rest), rest[-1]) == (999_999, b"1000000")


async def test_a_connection_that_is_cut_ends_the_lines(
    start_sshd, accepting, connector_to: Connect
) -> None:
    server = start_sshd()
    host = accepting("web-3", server.port)
    transport = await connector_to(host).connect(host.name)

    async with transport.lines(["sh", "-c", "echo one; exec sleep 60"]) as lines:
        assert await anext(lines) == b"one"
        server.signal_connections(signal.SIGKILL)
        with pytest.raises(Unreachable, match=r"web-3: .* was lost during `sh -c"):
            await anext(lines)


async def test_a_proxy_is_no_longer_asked_once_the_connection_is_cut(
    start_sshd, accepting, connector_to: Connect, tmp_path: Path
) -> None:
    server = start_sshd()
    host = accepting("web-4", server.port)
    transport = await connector_to(host).connect(host.name)
    pid_file = tmp_path / "pid"
    # Nothing listens there, which it goes on to say.
    query = f"{sys.executable} -m proxy.query --admin 127.0.0.1:9 --every 0.05 GET /stats"

    async with transport.lines(["sh", "-c", f"echo $$ > {pid_file}; exec {query}"]) as lines:
        for _ in range(2):
            assert (await anext(lines)).startswith(b'{"error": "nothing listens')
        server.signal_connections(signal.SIGKILL)
        with pytest.raises(Unreachable):
            async for _ in lines:
                pass

    await until(lambda: _is_gone(int(pid_file.read_text())), "it is still asked")
