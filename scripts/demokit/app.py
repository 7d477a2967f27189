"""A small service that knows nothing of the mesh: what the demo and the tests put behind it.

    app.py http --name web --version v1 --port 8080 [--call api=http://127.0.0.1:9001/]
    app.py tcp --name cache --port 7000

``http`` answers a GET with a JSON document that says who it is, who the mesh says is calling, and
for ``/`` what the services it called answered. After ``POST /break`` it is healthy by its own
account and answers 503, until ``POST /mend``. At ``/echo`` it is a WebSocket that sends short
texts back in upper case. ``tcp`` sends each line back in upper case, and a line count after the
client has closed its side. Standard library only: it also runs on hosts.
"""

import argparse
import base64
import hashlib
import http.client
import json
import signal
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CALL_TIMEOUT_S = 10.0
PASSED_ON = ("x-request-id", "traceparent", "tracestate")
"""All that an application has to do for a request to be one trace."""

WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 1.3."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body leave as one
    name = ""
    version = ""
    calls: dict[str, str] = {}
    is_broken = False

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.reply({"service": self.name, "healthy": True})
            return
        if Answer.is_broken:
            self.reply({"service": self.name, "version": self.version, "error": "broken"}, 503)
            return
        if self.path == "/echo" and self.headers.get("upgrade", "").lower() == "websocket":
            self.converse()
            return
        calls = self.calls if self.path == "/" else {}
        self.reply(
            {
                "service": self.name,
                "version": self.version,
                "path": self.path,
                "caller": self.headers.get("x-forwarded-client-cert", "nobody"),
                "request_id": self.headers.get("x-request-id", ""),
                "called": {name: self.call(url) for name, url in calls.items()},
            }
        )

    def converse(self) -> None:
        key = self.headers.get("sec-websocket-key", "") + WEBSOCKET_GUID
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
        self.send_header("sec-websocket-accept", accept.decode())
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        while (head := self.rfile.read(2)) and head[0] == 0x81 and 0x80 <= head[1] <= 0x80 + 125:
            mask = self.rfile.read(4)
            masked = self.rfile.read(head[1] - 0x80)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked)).upper()
            self.wfile.write(bytes((0x81, len(text))) + text)
            self.wfile.flush()

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        received = 0
        while received < length:
            chunk = self.rfile.read(min(65536, length - received))
            if not chunk:
                break
            received += len(chunk)
        if self.path in ("/break", "/mend"):
            Answer.is_broken = self.path == "/break"
        self.reply({"service": self.name, "version": self.version, "received": received})

    def call(self, url: str) -> object:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=CALL_TIMEOUT_S
        )
        try:
            connection.request(
                "GET",
                parts.path or "/",
                headers={name: self.headers[name] for name in PASSED_ON if name in self.headers},
            )
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                return {"status": response.status, "reason": body.decode(errors="replace").strip()}
            return json.loads(body)
        except OSError as error:
            return {"status": 0, "reason": str(error)}
        finally:
            connection.close()

    def reply(self, document: object, status: int = 200) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class UpperCase(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        lines = 0
        for line in self.rfile:
            self.wfile.write(line.upper())
            lines += 1
        self.wfile.write(b"%d lines\n" % lines)


class Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that closes its connection is none; the rest is told as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("http", "tcp"))
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", default="v1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--call", action="append", default=[], metavar="NAME=URL")
    options = parser.parse_args()
    Answer.name, Answer.version = options.name, options.version
    Answer.calls = dict(call.split("=", 1) for call in options.call)
    address = ("127.0.0.1", options.port)
    server = Http(address, Answer) if options.kind == "http" else Tcp(address, UpperCase)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with server:
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
