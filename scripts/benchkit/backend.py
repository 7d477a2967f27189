"""nginx behind the server sidecar: a body of 1 KiB for requests, a large one for the relay."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchkit.contestants import REQUEST_PREFIX
from benchkit.processes import Process

BODY_BYTES = 1024
LARGE_BYTES = 8 * 1024 * 1024
ECHOED = ("x-request-id", "traceparent", "x-forwarded-client-cert")

_CONFIGURATION = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  open_file_cache max=16 inactive=3600s;
  open_file_cache_valid 3600s;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {directory}/files;
    location {prefix}/ {{ try_files {small} =404; }}
    location = {echo} {{ return 200 "{echoed}"; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    port: int
    small: str = "/small"
    """1 KiB, as is every path below the prefix that the load asks for."""
    routed: str = f"{REQUEST_PREFIX}/0"
    """One of those."""
    large: str = "/large"
    echo: str = f"{REQUEST_PREFIX}/echo"
    """Answers with a line ``name=value`` for each of ``ECHOED`` as it arrived."""


def body(size: int) -> bytes:
    """Text without long runs, so that nothing in between finds it worth compressing."""
    line = b"0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ\n"
    return (line * (size // len(line) + 1))[:size]


def start(directory: Path, *, port: int, core: int) -> tuple[Backend, Process]:
    """``directory`` is the backend's own; nothing is written outside of it."""
    files = directory / "files"
    files.mkdir(parents=True)
    backend = Backend(port=port)
    (files / backend.small[1:]).write_bytes(body(BODY_BYTES))
    (files / backend.large[1:]).write_bytes(body(LARGE_BYTES))
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory,
            port=port,
            prefix=REQUEST_PREFIX,
            small=backend.small,
            echo=backend.echo,
            echoed="".join(f"{name}=$http_{name.replace('-', '_')}\\n" for name in ECHOED),
            # Started as root, a worker of another user could not enter our private directory.
            user="user root;" if os.geteuid() == 0 else "",
        ),
        encoding="utf-8",
    )
    command = ["nginx", "-p", str(directory), "-e", str(directory / "start.log")]
    process = Process(
        "nginx",
        [*command, "-c", str(configuration)],
        core=core,
        log=directory / "nginx.log",
    )
    return backend, process
