"""curl, nghttp and h2load through two proxies to nginx and nghttpd, in HTTP/1.1 and HTTP/2.

None of these programs is ours. Every version that a client may speak is tried with every version
that an application may speak.
"""

import asyncio
import hashlib
import os
import random
import re
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.backends import Unavailable
from integration.http2_backends import BACKENDS, UPLOADS

from proxy.model.names import ServiceName
from proxy.model.settings import Protocol

pytestmark = pytest.mark.timeout(180)

BIG_BYTES = 8 * 1024 * 1024
SMALL = b"what everybody may read\n"
CLIENTS = {"--http1.1": b"1.1", "--http2-prior-knowledge": b"2"}
"""curl's options, and what it then says that it was answered with."""
_ENDS_IN_S = 60.0


@dataclass(kw_only=True, slots=True)
class Place:
    """Three applications that serve the same files, each behind two proxies."""

    grid: Any
    site: Path
    scratch: Path
    digest: str
    """Of ``/big``."""

    def url(self, service: str, path: str) -> str:
        near = self.grid.planes["near"]
        host, port = near.outbound_address(ServiceName("web"), ServiceName(service))
        return f"http://{host}:{port}{path}"

    def upload(self) -> Path:
        path = self.scratch / "upload"
        path.write_bytes(random.Random(2).randbytes(BIG_BYTES))
        return path


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lacks(what: str) -> None:
    if os.environ.get("MESHCTL_REQUIRE_BACKENDS") == "1":
        pytest.fail(f"{what} (MESHCTL_REQUIRE_BACKENDS=1)", pytrace=False)
    pytest.skip(what)


async def run(program: str, *arguments: str, given: bytes | None = None) -> bytes:
    """What ``program`` says; that it failed is a failure."""
    if shutil.which(program) is None:
        package = "curl" if program == "curl" else "nghttp2-client"
        _lacks(f"{program} is not installed (Debian: {package})")
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_ENDS_IN_S):
            said, complained = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (arguments, said[-2000:], complained[-2000:])
    return said


@pytest.fixture
async def place(tmp_path: Path, make_grid: Callable[..., Any]) -> AsyncIterator[Place]:
    site, scratch = tmp_path / "site", tmp_path / "scratch"
    scratch.mkdir()
    (site / UPLOADS).mkdir(parents=True)
    big = random.Random(1).randbytes(BIG_BYTES)
    (site / "big").write_bytes(big)
    (site / "small").write_bytes(SMALL)
    for backend, _ in BACKENDS.values():
        try:
            backend.require()
        except Unavailable as error:
            _lacks(str(error))
    servers = []
    grid = await make_grid()
    try:
        for service, (backend, protocol) in BACKENDS.items():
            server = backend(tmp_path / backend.name, site)
            await server.start()
            servers.append(server)
            speaks: Protocol = "http2" if protocol == "http2" else "http"
            await grid.serve(service, backend.name, protocol=speaks, port=server.port)
        grid.apply()
        yield Place(grid=grid, site=site, scratch=scratch, digest=digest_of(big))
    finally:
        for server in servers:
            await server.stop()


def curl(option: str, *arguments: str) -> tuple[str, ...]:
    return (option, "-sS", "--max-time", "50", *arguments)


VERSIONS = pytest.mark.parametrize(
    ("option", "service"),
    [(option, service) for option in CLIENTS for service in BACKENDS],
    ids=[f"{option.strip('-')}-{each.name}" for option in CLIENTS for each, _ in BACKENDS.values()],
)


@VERSIONS
async def test_curl_reads_files_heads_and_refusals(place: Place, option: str, service: str) -> None:
    said = await run(
        "curl",
        *curl(option, "-w", "%{http_version} %{http_code}\n", place.url(service, "/small")),
    )
    assert said == SMALL + CLIENTS[option] + b" 200\n"
    said = await run("curl", *curl(option, "-I", place.url(service, "/small")))
    assert re.search(rb"(?im)^content-length: %d\r?$" % len(SMALL), said), said
    said = await run(
        "curl",
        *curl(option, "-o", "/dev/null", "-w", "%{http_code}", place.url(service, "/none")),
    )
    assert said == b"404"
    # curl 7.88 cannot use a connection of prior knowledge again, whoever answers.
    if option == "--http1.1":
        several = [place.url(service, "/small")] * 30
        assert await run("curl", *curl(option, *several)) == SMALL * 30


@VERSIONS
async def test_curl_reads_much_as_it_was_written(place: Place, option: str, service: str) -> None:
    said = await run("curl", *curl(option, place.url(service, "/big")))
    assert digest_of(said) == place.digest


@VERSIONS
async def test_a_slow_reader_loses_nothing(place: Place, option: str, service: str) -> None:
    said = await run("curl", *curl(option, "--limit-rate", "4M", place.url(service, "/big")))
    assert digest_of(said) == place.digest


@VERSIONS
@pytest.mark.parametrize("is_counted", [True, False], ids=["length", "no-length"])
async def test_curl_writes_much_as_it_has_it(
    place: Place, option: str, service: str, is_counted: bool
) -> None:
    upload = place.upload()
    # A server in HTTP/1.1 says 100, so a client that waits for it must not wait in vain.
    expecting = ("--expect100-timeout", "40") if service == "api" else ()
    said = await run(
        "curl",
        *curl(option, *expecting, "-T", str(upload) if is_counted else "-"),
        place.url(service, f"/{UPLOADS}/a"),
        given=None if is_counted else upload.read_bytes(),
    )
    arrived = said if service == "orders" else (place.site / UPLOADS / "a").read_bytes()
    assert digest_of(arrived) == digest_of(upload.read_bytes())


@pytest.mark.parametrize("service", BACKENDS)
async def test_nghttp_reads_and_writes(place: Place, service: str) -> None:
    url = place.url(service, "/small")
    assert await run("nghttp", url, *[place.url(service, f"/small?{n}") for n in range(9)]) == (
        SMALL * 10
    )
    assert digest_of(await run("nghttp", place.url(service, "/big"))) == place.digest
    assert digest_of(await run("nghttp", "-w", "10", "-W", "12", place.url(service, "/big"))) == (
        place.digest
    )
    upload = place.upload()
    # nginx takes trailers of a request for an error of the protocol.
    trailer = () if service == "api2" else ("--trailer", "x-end: yes")
    said = await run(
        *("nghttp", "-d", str(upload), "-H", ":method: PUT", *trailer),
        place.url(service, f"/{UPLOADS}/b"),
    )
    arrived = said if service == "orders" else (place.site / UPLOADS / "b").read_bytes()
    assert digest_of(arrived) == digest_of(upload.read_bytes())


@pytest.mark.parametrize("service", BACKENDS)
@pytest.mark.parametrize("version", ["--h1", ""], ids=["http1.1", "http2"])
async def test_h2load_sees_no_request_fail(place: Place, service: str, version: str) -> None:
    load = ("-n", "2000", "-c", "8", "-m", "1" if version else "16", *filter(None, (version,)))
    said = await run("h2load", *load, place.url(service, "/small"))
    assert b"2000 succeeded, 0 failed, 0 errored, 0 timeout" in said, said
    assert b"2000 2xx, 0 3xx, 0 4xx, 0 5xx" in said


@pytest.mark.parametrize("service", BACKENDS)
async def test_h2load_writes_and_no_request_fails(place: Place, service: str) -> None:
    body = place.scratch / "body"
    body.write_bytes(random.Random(3).randbytes(20_000))
    load = ("-n", "400", "-c", "4", "-m", "8", "-d", str(body), "-H", ":method: PUT")
    said = await run("h2load", *load, place.url(service, f"/{UPLOADS}/c"))
    assert b"400 succeeded, 0 failed, 0 errored, 0 timeout" in said, said
    assert b"400 2xx, 0 3xx, 0 4xx, 0 5xx" in said
