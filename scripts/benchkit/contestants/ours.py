"""This project's proxy: as it is deployed, from a built wheel, in an environment for a host.

The registry that it registers with and watches runs too, on the load core, and is not counted:
Consul's agent is not part of a proxy.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchkit.contestants import (
    CALLER,
    HTTP_SERVICE,
    TCP_SERVICE,
    TRUST_DOMAIN,
    Pair,
    Site,
)
from benchkit.processes import Group, Process

# A document of proxy/model/settings.py; it goes no further than the JSON encoder.
Json = dict[str, Any]


class Ours:
    name = "meshctl"
    features: Sequence[str] = (
        "everything that the first release does is on: registry watches and TTL checks, active "
        "health check of the application, metrics, request and idle timeouts, admin listener",
        "the peer is checked by its URI SAN, once per connection",
    )

    def __init__(self, *, host_python: Path, operator_python: Path, version: str) -> None:
        """``host_python`` has the host extra only; ``operator_python`` runs the registry."""
        self._host_python = host_python
        self._operator_python = operator_python
        self.version = version

    def start(self, site: Site, group: Group) -> Pair:
        registry = ["-m", "meshctl.registry", "--port", str(site.ports.registry)]
        group.add(
            Process(
                "registry",
                [str(self._operator_python), *registry],
                core=site.load_core,
                log=site.directory / "registry.log",
                environment=_environment(),
            )
        )
        server = _settings(
            site,
            host="b",
            admin=site.ports.server_admin,
            inbound=site.ports.http_in,
            workloads=[
                _workload(site, HTTP_SERVICE, "http", allow=[CALLER]),
                _workload(site, TCP_SERVICE, "tcp", allow=[CALLER]),
            ],
        )
        client = _settings(
            site,
            host="a",
            admin=site.ports.client_admin,
            inbound=site.ports.client_inbound,
            workloads=[
                _workload(
                    site,
                    CALLER,
                    "http",
                    allow=[],
                    upstreams=[
                        _upstream(HTTP_SERVICE, "http", site.ports.http_out),
                        _upstream(TCP_SERVICE, "tcp", site.ports.tcp_out),
                    ],
                )
            ],
        )
        return Pair(
            server=group.add(self._run(site, "meshctl-server", server)),
            client=group.add(self._run(site, "meshctl-client", client)),
        )

    def _run(self, site: Site, name: str, settings: Json) -> Process:
        state = Path(settings["state_dir"])
        for workload in settings["workloads"]:
            _install(site.identities / workload["service"], state, workload["service"])
        path = site.directory / f"{name}.json"
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return Process(
            name,
            [str(self._host_python), "-I", "-m", "proxy", "--settings", str(path)],
            core=site.proxy_core,
            log=site.directory / f"{name}.log",
            environment=_environment(),
        )


def version_of(python: Path, revision: str) -> str:
    """What the installed package says, with the revision of the tree that it was built from."""
    said = subprocess.run(
        [str(python), "-I", "-c", "import proxy; print(proxy.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"{said.stdout.strip()} ({revision})"


def _environment() -> dict[str, str]:
    """Nothing of the caller's Python settings reaches the proxy, nor a notify socket."""
    return {key: os.environ[key] for key in ("PATH", "LANG", "TZ") if key in os.environ}


def _settings(
    site: Site, *, host: str, admin: int, inbound: int, workloads: Sequence[Json]
) -> Json:
    return {
        "host": host,
        "trust_domain": TRUST_DOMAIN,
        "advertise": "127.0.0.1",
        "release": "bench",
        "config": "bench",
        "admin": _address(admin),
        "inbound": _address(inbound),
        "consul": {"url": f"http://127.0.0.1:{site.ports.registry}"},
        "state_dir": str(site.directory / f"state-{host}"),
        "trust_bundle": str(site.identities / "trust.pem"),
        "workloads": list(workloads),
        "drain_s": 1.0,
    }


def _workload(
    site: Site,
    service: str,
    protocol: str,
    *,
    allow: Sequence[str],
    upstreams: Sequence[Json] = (),
) -> Json:
    return {
        "service": service,
        "protocol": protocol,
        "version": "1",
        "app": _address(site.backend_port),
        "health": {"kind": "tcp"},
        "allow": list(allow),
        "upstreams": list(upstreams),
    }


def _upstream(service: str, protocol: str, port: int) -> Json:
    return {"service": service, "protocol": protocol, "listen": _address(port)}


def _address(port: int) -> Json:
    return {"host": "127.0.0.1", "port": port}


def _install(made: Path, state: Path, service: str) -> None:
    """The layout that ``proxy.keys`` leaves: a directory per serial and a link to the current."""
    home = state / "identities" / service
    home.mkdir(parents=True, mode=0o700)
    for directory in (state, state / "identities", home):
        directory.chmod(0o700)
    (home / "1").mkdir(mode=0o700)
    for name in ("key.pem", "chain.pem"):
        # copy2 keeps the mode 0600.
        shutil.copy2(made / name, home / "1" / name)
    (home / "current").symlink_to("1")
