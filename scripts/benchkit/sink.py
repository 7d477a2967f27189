"""Where proxies under measurement send their spans: takes everything, keeps nothing.

``python sink.py PORT``: an HTTP server that answers every POST with 200.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_READ = 1 << 20


class _Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers.get("Content-Length", "0"))
        while left and (read := self.rfile.read(min(left, _READ))):
            left -= len(read)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Receiver).serve_forever()
