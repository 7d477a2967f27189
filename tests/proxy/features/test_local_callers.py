"""Processes of real users call through real listeners: only the workload's own may."""

import asyncio
import logging
import os
import pwd
import shutil
import socket
import subprocess
from typing import Any

import pytest

from proxy.model.names import ServiceName
from proxy.model.settings import Address, HealthCheck, Upstream, Workload
from proxy.net import local_callers

OWN, OTHER = "daemon", "nobody"
"""Users that every Unix has."""

CALL = """
import socket, sys
host, port, request = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode().decode("unicode_escape")
with socket.create_connection((host, port), timeout=60) as client:
    try:
        client.sendall(request.encode())
        print(client.recv(65536).decode(), end="")
    except ConnectionError:
        pass
"""
GET = "GET / HTTP/1.1\\r\\nHost: api.mesh\\r\\n\\r\\n"
WAYS = ("http", "by host", "tcp")
HOSTS = ("127.0.0.1", "::1")


@pytest.fixture
def python() -> str:
    """One that any user may run: the tests' own may be in somebody's home."""
    found = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root, to be other users, and a Python of the system")
    return found


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    try:
        family = socket.AF_INET6 if ":" in found else socket.AF_INET
        socket.create_server((found, 0), family=family).close()
    except OSError:
        pytest.skip(f"this machine cannot listen on {found}")
    return found


async def add(grid: Any, user: str, host: str = "127.0.0.1") -> Any:
    """One more host with the workload web, of ``user``; its data plane."""
    at = Address(host=host, port=0)
    upstreams = tuple(
        Upstream(service=ServiceName(name), protocol=protocol, listen=at)
        for name, protocol in (("api", "http"), ("db", "tcp"))
    )
    workload = Workload(
        service=ServiceName("web"),
        protocol="http",
        version="1",
        app=Address(host="127.0.0.1", port=1),
        health=HealthCheck(),
        allow=(),
        upstreams=upstreams,
        outbound=at,
        user=user,
    )
    plane = await grid._add("local", (workload,))
    await grid.serve("api", "a1")
    app = await grid.serve("db", "d1")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"echo " + await reader.read(100))
        await writer.drain()

    app.script = echo
    grid.apply()
    return plane


def address(plane: Any, way: str) -> tuple[str, int]:
    web = ServiceName("web")
    if way == "by host":
        found: tuple[str, int] = plane.hosts_address(web)
        return found
    return plane.outbound_address(web, ServiceName("api" if way == "http" else "db"))


async def call(python: str, user: str, plane: Any, way: str) -> str:
    """What a process of ``user`` gets to read."""
    host, port = address(plane, way)
    done = await asyncio.to_thread(  # uvloop's own processes cannot be other users
        subprocess.run,
        [python, "-I", "-c", CALL, host, str(port), GET if way != "tcp" else "hello"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=90,
        user=user,
        group=pwd.getpwnam(user).pw_gid,
        extra_groups=[],
        cwd="/",
    )
    assert done.returncode == 0
    return str(done.stdout)


@pytest.mark.parametrize("way", WAYS)
async def test_only_processes_of_its_user_call_as_a_workload(
    cold_grid: Any, python: str, host: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    await cold_grid.start()
    plane = await add(cold_grid, OWN, host)
    answer = await call(python, OWN, plane, way)
    assert answer.startswith("echo hello" if way == "tcp" else "HTTP/1.1 200")
    count = "mesh_local_callers_refused_total"
    assert cold_grid.metric("local", count, source_workload="web") == 0
    with caplog.at_level(logging.WARNING):
        for number, user in enumerate((OTHER, "root"), 1):
            uid = pwd.getpwnam(user).pw_uid
            answer = await call(python, user, plane, way)
            why = f"the process (uid {uid}) may not call as web: only unix user {OWN} may"
            if way == "tcp":
                assert answer == ""
            else:
                assert answer.startswith("HTTP/1.1 403")
                assert why in answer
                assert "x-mesh-flag: UAEX" in answer
                assert "x-mesh-policy: web/local-user" in answer
            assert cold_grid.metric("local", count, source_workload="web") == number
            lines = [each for each in caplog.records if each.msg == "local caller refused"]
            assert lines[-1].__dict__["why"] == why
    received = cold_grid.apps["d1"].connections if way == "tcp" else 0
    assert received <= 1
    assert len(cold_grid.apps["a1"].requests) <= 1


async def test_without_a_user_everybody_calls(cold_grid: Any, python: str) -> None:
    await cold_grid.start()
    plane = await add(cold_grid, "")
    for user in (OWN, OTHER, "root"):
        assert (await call(python, user, plane, "http")).startswith("HTTP/1.1 200")


def own_user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


async def connect(grid: Any, plane: Any, way: str = "http") -> Any:
    return await grid.dial(*address(plane, way))


async def test_the_user_of_this_very_process_may_call_for_it(cold_grid: Any) -> None:
    await cold_grid.start()
    plane = await add(cold_grid, own_user())
    client = await connect(cold_grid, plane)
    for _ in range(3):
        assert (await client.get("/")).status == 200
    session = await connect(cold_grid, plane, "tcp")
    session.send(b"hello")
    assert await session.reader.read(100) == b"echo hello"


async def test_a_user_that_does_not_exist_lets_nobody_in_and_says_so(cold_grid: Any) -> None:
    await cold_grid.start()
    plane = await add(cold_grid, "no-such-user")
    problem = "there is no unix user no-such-user on this host"
    assert plane.user_problems() == {"web": problem}
    client = await connect(cold_grid, plane)
    for _ in range(2):  # on one connection, which stays
        response = await client.get("/")
        assert response.status == 403
        assert problem in response.body.decode()
    session = await connect(cold_grid, plane, "tcp")
    assert await session.is_closed()


async def test_a_user_made_later_is_found_at_a_reload(
    cold_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cold_grid.start()
    plane = await add(cold_grid, "made-later")
    assert (await (await connect(cold_grid, plane)).get("/")).status == 403
    known = pwd.getpwnam(own_user())
    monkeypatch.setattr(pwd, "getpwnam", {"made-later": known}.__getitem__)
    plane.reload_identities()
    assert plane.user_problems() == {}
    assert (await (await connect(cold_grid, plane)).get("/")).status == 200


async def test_a_host_that_does_not_tell_who_calls_lets_nobody_in(
    cold_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.net.sock_diag.SocketOwners._works", lambda _: False)
    await cold_grid.start()
    plane = await add(cold_grid, own_user())
    response = await (await connect(cold_grid, plane)).get("/")
    assert response.status == 403
    assert "this host does not tell which user calls" in response.body.decode()
    assert "this host does not tell" in plane.user_problems()["web"]


async def test_a_client_that_is_gone_already_reaches_nothing(
    cold_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request waits in the socket, but whose it was cannot be told any more."""
    await cold_grid.start()
    plane = await add(cold_grid, own_user())
    with socket.create_connection(address(plane, "http"), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    # Only now does the loop get to accept it.
    count = "mesh_local_callers_refused_total"
    async with asyncio.timeout(30):
        while not cold_grid.metric("local", count, source_workload="web"):
            await asyncio.sleep(0.005)
    assert cold_grid.apps["a1"].requests == []


async def test_those_who_may_not_call_do_not_take_the_room_of_those_who_may(
    cold_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_callers, "EXPLAINED_AT_ONCE", 3)
    await cold_grid.start()
    plane = await add(cold_grid, "no-such-user")
    told = [await connect(cold_grid, plane) for _ in range(3)]
    for client in told:
        assert (await client.get("/")).status == 403
    silent = await connect(cold_grid, plane)
    assert await silent.is_closed()
    assert (await told[0].get("/")).status == 403
    told[0].close()
    count = "mesh_local_callers_refused_total"

    async def status() -> int:
        client = await connect(cold_grid, plane)
        try:
            return int((await client.get("/")).status)
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0

    async with asyncio.timeout(30):  # as soon as the one that left is seen to have left
        while await status() != 403:
            await asyncio.sleep(0.005)
    assert cold_grid.metric("local", count, source_workload="web") >= 5
