"""``otlp.py ADDRESS PORT FILE``: takes traces by OTLP over HTTP and appends each span to FILE.

Decodes with the project's own definitions, so that what it can read any collector can.
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


def main(address: str, port: str, file: str) -> None:
    path = Path(file)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            with path.open("a") as lines:
                for span in spans(request):
                    print(json.dumps(span), file=lines)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    ThreadingHTTPServer((address, int(port)), Receiver).serve_forever()


def spans(request: ExportTraceServiceRequest) -> list[dict[str, Any]]:
    return [
        {
            "resource": attributes(each.resource.attributes),
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent": span.parent_span_id.hex(),
            "name": span.name,
            "kind": span.kind,
            "status": span.status.code,
            "start": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "attributes": attributes(span.attributes),
        }
        for each in request.resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    ]


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


if __name__ == "__main__":
    main(*sys.argv[1:])
