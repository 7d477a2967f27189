"""``python -m proxy.query``: body on stdout, the outcome in the exit code."""

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from proxy import query


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/status":
                self.answer(200)
            case "/ready":
                self.answer(503)
            case _:
                self.wfile.write(b"SSH-2.0-x\r\n")

    def do_POST(self) -> None:
        self.answer(200 if self.path == "/reload" else 404)

    def answer(self, status: int) -> None:
        body = f"{self.command} {self.path}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def admin() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("method", "path", "code", "body"),
    [
        ("GET", "/status", 0, "GET /status\n"),
        ("POST", "/reload", 0, "POST /reload\n"),
        ("GET", "/ready", 1, "GET /ready\n"),
        ("POST", "/nope", 1, "POST /nope\n"),
        ("GET", "/garbage", 1, ""),
    ],
)
def test_the_exit_code_says_how_it_went(
    admin: str,
    method: str,
    path: str,
    code: int,
    body: str,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert query.main(["--admin", admin, method, path]) == code
    captured = capsysbinary.readouterr()
    assert captured.out == body.encode()
    assert bool(captured.err) is (path == "/garbage")


def test_nobody_there_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    assert query.main(["--admin", address, "GET", "/status"]) == 3
    assert f"nothing listens on {address}" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["localhost", ":1", "x:0", "x:99999", "x:٣"])
def test_what_is_no_address_is_wrong_usage(address: str) -> None:
    with pytest.raises(SystemExit) as error:
        query.main(["--admin", address, "GET", "/status"])
    assert error.value.code == 2
