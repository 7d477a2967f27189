"""``python -m proxy.query``: body on stdout, the outcome in the exit code."""

import http.server
import json
import socket
import subprocess
import sys
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


class Numbers(http.server.BaseHTTPRequestHandler):
    """``/after/N`` answers with the next number; ``/broken`` never well."""

    def do_GET(self) -> None:
        last = self.path.rpartition("/")[2]
        if last.isdecimal():
            body = b'{"next": %d,\n "path": "%s"}\n' % (int(last) + 1, self.path.encode())
            self.send_response(200)
        else:
            body = b"not today\n"
            self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def numbers() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Numbers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def ask_again(address: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxy.query", "--admin", address, "--every", *arguments]


def test_again_and_again_each_answer_is_one_line_until_the_time_is_over(numbers: str) -> None:
    done = subprocess.run(
        ask_again(numbers, "0.02", "--for", "0.1", "GET", "/after/3"),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert 2 <= len(lines) <= 6
    assert {json.loads(line)["path"] for line in lines} == {"/after/3"}


def test_following_goes_on_from_where_the_answer_says(numbers: str) -> None:
    command = ask_again(numbers, "0.01", "--follow", "GET", "/after/3")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["path"] for _ in range(4)]
        assert process.stdin is not None
        process.stdin.close()
        process.stdout.read()
        assert process.wait(timeout=30) == 0
    assert seen == ["/after/3", "/after/4", "/after/5", "/after/6"]


def test_an_answer_that_is_none_is_a_line_and_it_goes_on(numbers: str) -> None:
    command = ask_again(numbers, "0.01", "GET", "/broken")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = {process.stdout.readline() for _ in range(3)}
        process.communicate(timeout=30)
    assert seen == {b'{"error": "GET /broken: 503 not today"}\n'}


def test_it_ends_when_nobody_reads_any_more(numbers: str) -> None:
    command = ask_again(numbers, "0.01", "GET", "/after/3")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "arguments", [["--for", "1"], ["--follow"], ["--every", "0"], ["--every", "nan"]]
)
def test_repeating_without_a_sensible_interval_is_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        query.main(["--admin", "127.0.0.1:1", *arguments, "GET", "/status"])
    assert error.value.code == 2
