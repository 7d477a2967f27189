"""Three file servers that read paths each in its own way: nginx, Apache httpd, Python's own.

Each is a process of the test's own, on a loopback port, with one directory to serve.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

_STARTS_IN_S = 20.0
_MODULES = Path("/usr/lib/apache2/modules")


def _program(name: str) -> str | None:
    """Where users' programs are looked for there are no servers."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Unavailable(Exception):
    """A program is not installed."""


class Server(ABC):
    """As the grid sees an application: ``start``, ``stop``, ``port``."""

    name: str

    def __init__(self, directory: Path, site: Path) -> None:
        """``directory`` is the server's own; ``site`` is what it serves."""
        self.directory, self.site = directory, site
        directory.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.answer: Any = None
        """Of no use here."""
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @abstractmethod
    def require(cls) -> None:
        """Raises Unavailable."""

    @abstractmethod
    def command(self) -> list[str]: ...

    async def start(self) -> None:
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.directory, stdout=log, stderr=log
            )
        ends_s = time.monotonic() + _STARTS_IN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                log_text = (self.directory / "log").read_text()
                assert self._process.poll() is None, log_text
                assert time.monotonic() < ends_s, log_text
                time.sleep(0.02)

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None


class Nginx(Server):
    name = "nginx"
    default_type = "text/plain"

    @classmethod
    def require(cls) -> None:
        if _program("nginx") is None:
            raise Unavailable("nginx is not installed (Debian: nginx-light)")

    @property
    def server(self) -> str:
        """What its ``server`` block says."""
        return f"listen 127.0.0.1:{self.port}; root {self.site}; autoindex on;"

    def command(self) -> list[str]:
        here = self.directory
        spools = "".join(
            f"{kind}_temp_path {here}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # As root it takes another user to serve as, who could not write here.
        user = f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if not os.getuid() else ""
        config = here / "nginx.conf"
        config.write_text(
            f"""daemon off; master_process off; pid {here}/pid; error_log stderr crit;
{user}events {{ worker_connections 1024; }}
http {{
access_log off; default_type {self.default_type}; client_max_body_size 0;
keepalive_requests 1000000;
{spools}server {{ {self.server} }}
}}
"""
        )
        return [_program("nginx") or "", "-p", str(here), "-e", "stderr", "-c", str(config)]


class Httpd(Server):
    name = "httpd"

    @classmethod
    def require(cls) -> None:
        if _program("apache2") is None or not _MODULES.is_dir():
            raise Unavailable("Apache httpd is not installed (Debian: apache2-bin)")

    def command(self) -> list[str]:
        here = self.directory
        # As root it wants another user to serve as, who must be able to read the site.
        user = f"User {pwd.getpwnam('nobody').pw_name}\nGroup nogroup\n" if not os.getuid() else ""
        (here / "httpd.conf").write_text(
            f"""ServerRoot {here}
ServerName localhost
Listen 127.0.0.1:{self.port}
LoadModule mpm_event_module {_MODULES}/mod_mpm_event.so
LoadModule authz_core_module {_MODULES}/mod_authz_core.so
LoadModule autoindex_module {_MODULES}/mod_autoindex.so
{user}PidFile {here}/pid
DefaultRuntimeDir {here}
ErrorLog /dev/stderr
LogLevel crit
MaxKeepAliveRequests 0
StartServers 1
ServerLimit 1
ThreadsPerChild 16
MaxRequestWorkers 16
MinSpareThreads 1
MaxSpareThreads 16
DocumentRoot {self.site}
# The most generous reading it has: an escaped slash is one.
AllowEncodedSlashes On
<Directory {self.site}>
Options Indexes
Require all granted
</Directory>
"""
        )
        return [_program("apache2") or "", "-D", "FOREGROUND", "-f", str(here / "httpd.conf")]


class Python(Server):
    name = "python"

    @classmethod
    def require(cls) -> None:
        """It is what runs this."""

    def command(self) -> list[str]:
        where = ["--bind", "127.0.0.1", "--directory", str(self.site)]
        return [
            sys.executable, "-m", "http.server", str(self.port), *where, "--protocol", "HTTP/1.1",
        ]  # fmt: skip


SERVERS: tuple[type[Server], ...] = (Nginx, Httpd, Python)
