"""Whom meshctl trusts, how it authenticates and what it says when it does not get in."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from meshctl.errors import Refused, Unreachable
from meshctl.inventory.model import Become, Host
from meshctl.transport.ssh import SshConnector, scan_host_key, trust

Connect = Callable[..., SshConnector]
MakeHost = Callable[..., Host]


def authentications(folder: Path) -> int:
    """How many clients went so far as to authenticate."""
    return (folder / "sshd.log").read_text().count("Accepted publickey")


async def test_an_unknown_host_is_refused_before_authentication_with_the_way_to_trust_it(
    sshd, make_host: MakeHost, connector_to: Connect, known_hosts: Path, keys: Path
) -> None:
    host = make_host("web-1", sshd.port)
    before = authentications(sshd.folder)

    with pytest.raises(Refused, match="is not known") as caught:
        await connector_to(host).connect(host.name)

    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", keys / "host.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert fingerprint in str(caught.value)
    assert "meshctl hosts trust web-1" in caught.value.hint
    assert authentications(sshd.folder) == before
    assert not known_hosts.exists()


async def test_a_scanned_and_trusted_host_is_let_in(
    sshd, make_host: MakeHost, connector_to: Connect, known_hosts: Path
) -> None:
    host = make_host("web-1", sshd.port)
    key = await scan_host_key(host, known_hosts=known_hosts)
    assert not key.is_trusted
    assert key.name == f"[127.0.0.1]:{sshd.port}"

    assert trust(key, known_hosts)
    transport = await connector_to(host).connect(host.name)

    assert (await transport.run(["id", "-u"])).stdout == b"0\n"
    assert known_hosts.stat().st_mode & 0o777 == 0o600
    assert (await scan_host_key(host, known_hosts=known_hosts)).is_trusted


@pytest.mark.parametrize("new", ["other_host", "ecdsa_host"])
@pytest.mark.parametrize("policy", ["strict", "accept-new"])
async def test_a_changed_key_is_refused_before_authentication_whatever_the_policy(
    start_sshd,
    make_host: MakeHost,
    accepting,
    connector_to: Connect,
    known_hosts: Path,
    new: str,
    policy: str,
) -> None:
    old = start_sshd()
    make = make_host if policy == "strict" else accepting
    host = make("web-1", old.port)
    was = await scan_host_key(host, known_hosts=known_hosts)
    trust(was, known_hosts)
    recorded = known_hosts.read_text()
    old.stop()
    server = start_sshd(host_key=new, port=old.port)

    with pytest.raises(Refused, match="HAS CHANGED") as caught:
        await connector_to(host).connect(host.name)

    now = await scan_host_key(host, known_hosts=known_hosts)
    assert was.fingerprint in str(caught.value)
    assert now.fingerprint in str(caught.value)
    assert now.known == (f"{was.key_type} {was.fingerprint}",)
    assert "meshctl hosts trust --replace web-1" in caught.value.hint
    assert authentications(server.folder) == 0
    assert known_hosts.read_text() == recorded

    with pytest.raises(Refused, match="HAS CHANGED"):
        trust(now, known_hosts)
    assert trust(now, known_hosts, replace=True)
    await connector_to(host).connect(host.name)


async def test_accept_new_records_an_unknown_key_once(
    sshd, accepting, connector_to: Connect, known_hosts: Path
) -> None:
    host = accepting("web-1", sshd.port)

    await asyncio.gather(*(connector_to(host).connect(host.name) for _ in range(3)))

    assert known_hosts.read_text().count("\n") == 1
    assert known_hosts.read_text().startswith(f"[127.0.0.1]:{sshd.port} ssh-ed25519 ")


async def test_a_key_known_for_another_port_proves_nothing(
    sshd, make_host: MakeHost, connector_to: Connect, known_hosts: Path
) -> None:
    host = make_host("web-1", sshd.port)
    key = await scan_host_key(host, known_hosts=known_hosts)
    known_hosts.parent.mkdir()
    known_hosts.write_text(key.line.replace(key.name, "127.0.0.1") + "\n")

    with pytest.raises(Refused, match="is not known"):
        await connector_to(host).connect(host.name)


async def test_a_revoked_key_is_refused(
    sshd, make_host: MakeHost, connector_to: Connect, known_hosts: Path
) -> None:
    host = make_host("web-1", sshd.port)
    key = await scan_host_key(host, known_hosts=known_hosts)
    known_hosts.parent.mkdir()
    known_hosts.write_text(f"{key.line}\n@revoked {key.line}\n")

    with pytest.raises(Refused, match="revoked"):
        await connector_to(host).connect(host.name)


async def test_a_host_behind_a_jump_host_is_reached_over_one_shared_jump_connection(
    sshd, start_sshd, make_host: MakeHost, connector_to: Connect, known_hosts: Path
) -> None:
    bastion = start_sshd()
    jump = f"root@127.0.0.1:{bastion.port}"
    hosts = [make_host(name, sshd.port, jump=jump) for name in ("web-1", "web-2", "web-3")]

    first = await scan_host_key(hosts[0], known_hosts=known_hosts)
    assert first.subject == f"jump host 127.0.0.1:{bastion.port} of web-1"
    with pytest.raises(Refused, match=r"jump host .* is not known"):
        await connector_to(*hosts).connect(hosts[0].name)
    trust(first, known_hosts)
    second = await scan_host_key(hosts[0], known_hosts=known_hosts)
    assert second.subject.startswith("web-1 (")
    trust(second, known_hosts)

    before = authentications(bastion.folder)
    connector = connector_to(*hosts)
    transports = await asyncio.gather(*(connector.connect(host.name) for host in hosts))
    outputs = [await transport.run(["echo", "hi"]) for transport in transports]

    assert [one.stdout for one in outputs] == [b"hi\n"] * 3
    assert authentications(bastion.folder) == before + 1


async def test_a_target_that_the_jump_host_cannot_reach_is_unreachable(
    sshd, accepting, connector_to: Connect, unused_tcp_port: int
) -> None:
    host = accepting("web-9", unused_tcp_port, jump=f"root@127.0.0.1:{sshd.port}")

    with pytest.raises(Unreachable, match=r"web-9 .* cannot be reached"):
        await connector_to(host).connect(host.name)


async def test_a_closed_port_is_unreachable(
    make_host: MakeHost, connector_to: Connect, unused_tcp_port: int
) -> None:
    host = make_host("web-9", unused_tcp_port)

    with pytest.raises(Unreachable, match=r"web-9 .* cannot be reached") as caught:
        await connector_to(host).connect(host.name)
    assert caught.value.hint


async def test_a_server_that_never_speaks_is_unreachable_within_the_deadline(
    make_host: MakeHost, connector_to: Connect
) -> None:
    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    try:
        host = make_host("web-9", server.sockets[0].getsockname()[1], connect_timeout_s=0.2)
        with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s"):
            await connector_to(host).connect(host.name)
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_a_server_that_speaks_something_else_is_unreachable(
    make_host: MakeHost, connector_to: Connect
) -> None:
    async def speak_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_http, "127.0.0.1", 0) as server:
        host = make_host("web-9", server.sockets[0].getsockname()[1])
        with pytest.raises(Unreachable, match="web-9"):
            await connector_to(host).connect(host.name)


async def test_a_key_the_host_does_not_know_is_refused(
    web: Host, make_host: MakeHost, connector_to: Connect, keys: Path
) -> None:
    host = make_host("web-1", web.ssh.port, key=keys / "other_host")

    with pytest.raises(Refused, match="does not let root in") as caught:
        await connector_to(host).connect(host.name)
    assert "ssh-copy-id" in caught.value.hint


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    try:
        while not path.exists():
            assert process.poll() is None
        yield path
    finally:
        process.terminate()
        process.wait(timeout=5)


async def test_an_encrypted_key_is_used_through_the_agent(
    web: Host, make_host: MakeHost, connector_to: Connect, keys: Path, tmp_path: Path, agent: Path
) -> None:
    locked = tmp_path / "locked"
    shutil.copy(keys / "client", locked)
    shutil.copy(keys / "client.pub", tmp_path / "locked.pub")
    subprocess.run(["ssh-add", "-q", locked], check=True)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret words", "-f", locked], check=True)
    host = make_host("web-1", web.ssh.port, key=locked)

    transport = await connector_to(host).connect(host.name)

    assert (await transport.run(["true"])).exit_status == 0


@pytest.fixture
def operator() -> Iterator[str]:
    """A unix user without any right, for the time of a test."""
    if os.geteuid() != 0 or not shutil.which("useradd") or not shutil.which("sudo"):
        pytest.skip("needs root, useradd and sudo")
    name = f"mesh-test-{os.getpid()}"
    subprocess.run(["useradd", "-M", "-s", "/bin/sh", "-p", "*", name], check=True)
    try:
        yield name
    finally:
        sudo_rule(name).unlink(missing_ok=True)
        # Forced: the server's process for the connection may take a moment to end.
        subprocess.run(["userdel", "-f", name], check=True, capture_output=True)


def sudo_rule(user: str) -> Path:
    return Path("/etc/sudoers.d") / user


@pytest.fixture
async def operators_host(operator: str, start_sshd, accepting) -> AsyncIterator[Host]:
    server = start_sshd()
    # The session's folders are root's own; the operator's keys must be readable for sshd as him.
    public = Path(f"/etc/ssh/{operator}.keys")
    public.write_text(server.client_key.with_suffix(".pub").read_text())
    server.stop()
    again = start_sshd(f"AuthorizedKeysFile {public}")
    try:
        yield accepting("web-1", again.port, user=operator)
    finally:
        public.unlink()


async def test_a_user_without_sudo_rights_is_refused_with_the_line_to_add(
    operators_host: Host, connector_to: Connect
) -> None:
    with pytest.raises(Refused, match="cannot become root without a password") as caught:
        await connector_to(operators_host).connect(operators_host.name)
    assert f"{operators_host.ssh.user} ALL=(root) NOPASSWD: ALL" in caught.value.hint


async def test_a_user_with_sudo_rights_runs_commands_as_root(
    operators_host: Host, connector_to: Connect, tmp_path: Path
) -> None:
    user = operators_host.ssh.user
    sudo_rule(user).write_text(f"{user} ALL=(root) NOPASSWD: ALL\n")
    transport = await connector_to(operators_host).connect(operators_host.name)

    assert (await transport.run(["id", "-u"])).stdout == b"0\n"
    pid_file = tmp_path / "pid"
    task = asyncio.create_task(transport.run(["sh", "-c", f"echo $$ > {pid_file}; exec sleep 60"]))
    async with asyncio.timeout(10):
        while not pid_file.is_file() or not pid_file.read_text():
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await transport.close()
    process = Path(f"/proc/{pid_file.read_text().strip()}")
    async with asyncio.timeout(10):  # the far side ends it when it notices
        while process.exists():
            await asyncio.sleep(0.01)


async def test_become_none_runs_commands_as_the_user_himself(
    operators_host: Host, accepting, connector_to: Connect
) -> None:
    host = accepting(
        "web-1", operators_host.ssh.port, user=operators_host.ssh.user, become=Become.NONE
    )
    transport = await connector_to(host).connect(host.name)

    assert (await transport.run(["id", "-un"])).stdout.decode().strip() == host.ssh.user
