"""A gRPC application and its caller, by grpcio, without generated code: messages are bytes.

serve PORT NAME      echo.Echo/{Say,Count,Chat,Slow} until ended; grpc.health.v1 says SERVING
call PORT CALLS      prints one JSON object: what came back, by kind of call
load PORT FILE       unary calls until FILE is there; prints {"total": , "failed": , "codes": }
"""

import collections
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVING = b"\x08\x01"
WORKERS = 4


def serve(port, name):
    def say(request, context):
        context.set_trailing_metadata((("x-served-by", name),))
        return name.encode() + b": " + request

    def count(request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def chat(requests, context):
        for request in requests:
            yield request[::-1]

    def slow(request, context):
        stopped = threading.Event()
        context.add_callback(stopped.set)
        stopped.wait(30)
        return b"late"

    echo = grpc.method_handlers_generic_handler(
        "echo.Echo",
        {
            "Say": grpc.unary_unary_rpc_method_handler(say),
            "Count": grpc.unary_stream_rpc_method_handler(count),
            "Chat": grpc.stream_stream_rpc_method_handler(chat),
            "Slow": grpc.unary_unary_rpc_method_handler(slow),
        },
    )
    health = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {"Check": grpc.unary_unary_rpc_method_handler(lambda request, context: SERVING)},
    )
    server = grpc.server(ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers((echo, health))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def call(port, calls):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        say = channel.unary_unary("/echo.Echo/Say")
        served = collections.Counter()
        for number in range(calls):
            answer, told = say.with_call(b"%d" % number, timeout=20)
            assert answer.endswith(b": %d" % number), answer
            served[dict(told.trailing_metadata())["x-served-by"]] += 1
        counted = list(channel.unary_stream("/echo.Echo/Count")(b"1000", timeout=20))
        said = iter([b"one", b"two", b"three"])
        chatted = list(channel.stream_stream("/echo.Echo/Chat")(said, timeout=20))
        refusals = {}
        for name, method, timeout in (
            ("deadline", "/echo.Echo/Slow", 1.0),
            ("denied", "/echo.Echo/Denied", 20.0),
        ):
            try:
                channel.unary_unary(method)(b"", timeout=timeout)
            except grpc.RpcError as error:
                refusals[name] = error.code().name, error.details()
    print(
        json.dumps(
            {
                "served": served,
                "counted": len(counted),
                "is_in_order": counted == [b"%d" % number for number in range(1000)],
                "chatted": [each.decode() for each in chatted],
                "refusals": refusals,
            }
        )
    )


def load(port, ends):
    codes = collections.Counter()
    lock = threading.Lock()

    def work():
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            say = channel.unary_unary("/echo.Echo/Say")
            while not os.path.exists(ends):
                try:
                    say(b"again", timeout=20, wait_for_ready=False)
                    code = "OK"
                except grpc.RpcError as error:
                    code = error.code().name
                with lock:
                    codes[code] += 1
                time.sleep(0.01)

    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = codes.total()
    print(json.dumps({"total": total, "failed": total - codes["OK"], "codes": codes}))


if __name__ == "__main__":
    what, port, last = sys.argv[1:]
    if what == "serve":
        serve(int(port), last)
    elif what == "call":
        call(int(port), int(last))
    else:
        load(int(port), last)
