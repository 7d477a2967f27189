"""This project's proxy: as it is deployed, from a built wheel, in an environment for a host.

The registry that it registers with and watches runs too, on the load core, and is not counted:
Consul's agent is not part of a proxy.
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchkit import probe, registry
from benchkit.contestants import (
    ADDRESSES,
    CALLER,
    EVERY_PHASE,
    HTTP_SERVICE,
    ROUTING_HEADER,
    TCP_SERVICE,
    TRUST_DOMAIN,
    Group,
    Pair,
    Site,
)
from benchkit.processes import Failed, Process
from benchkit.processes import Group as Processes

# A document of proxy/model/settings.py; it goes no further than the JSON encoder.
Json = dict[str, Any]

Keys = Mapping[str, bytes]
"""What is published: registry keys and their values."""

BEFORE = "meshctl before"
"""The name of an earlier tree's proxy."""

_POLICIES = Path(__file__).parents[1] / "policies.py"
_SERVER_HOST, _SECOND_HOST, _CLIENT_HOST = "b", "c", "a"
_MAKING_S = 60


class Ours:
    def __init__(
        self,
        *,
        host_python: Path,
        operator_python: Path,
        version: str,
        group: Group = Group.FULL,
        is_before: bool = False,
    ) -> None:
        """``host_python`` has the host extra only; ``operator_python`` runs the registry.
        ``is_before``: of an earlier tree, which may not speak all that this one does."""
        self._host_python = host_python
        self._operator_python = operator_python
        self._is_full = group is Group.FULL
        self.version = version
        self.group = group
        self.name = "meshctl" if self._is_full else f"meshctl {group}"
        if is_before:
            self.name = BEFORE
        self.phases = EVERY_PHASE if self._is_full else frozenset({"http"})
        if is_before:
            self.phases = frozenset({"http", "latency", "tcp", "memory"})
        self.features: Sequence[str] = (
            (
                "as deployed; nothing can be turned off: registry watches and TTL checks, health "
                "check of the application, the routes by a published policy, peak EWMA over two "
                "endpoints, retries with budget, limits, outlier detection, request id, "
                "`x-forwarded-client-cert`, the caller's SPIFFE ID checked against who is allowed, "
                "metrics with histograms by caller and code, timeouts, admin listener",
                "for gRPC and HTTP/2: HTTP/2 with both applications, its own frames (`mesh/1`) "
                "between the proxies; no time limit but the caller's",
            )
            if self._is_full
            else ("the same without a policy and with one endpoint",)
        )
        self.omissions: Sequence[str] = ()

    def start(self, site: Site, processes: Processes) -> Pair:
        policy = self.policies(site, generations=[1])[0] if self._is_full else None
        return self.start_with(site, processes, policy=policy)

    def start_with(
        self,
        site: Site,
        processes: Processes,
        *,
        policy: Keys | None,
        upstreams: Mapping[str, int] | None = None,
        registered: Iterable[Json] = (),
        has_log_files: bool = False,
    ) -> Pair:
        """``upstreams``: further services of the client, each with its loopback port.
        ``registered``: further services of other hosts. ``has_log_files``: there is a place for
        them, which the policy may ask for."""
        settings = self._server(site), self._client(site, upstreams or {})
        if has_log_files:
            for each in settings:
                each["log_dir"] = f"{each['state_dir']}-log"
                Path(each["log_dir"]).mkdir()
        self._start_registry(site, processes)
        registry.register(site.ports.registry, *registered)
        if policy is not None:
            registry.publish(site.ports.registry, policy)
        server = processes.add(self._run(site, "meshctl-server", settings[0]))
        probe.wait_listening(server, site.ports.http_in)
        if self._is_full:
            second = (second_endpoint(service, site) for service in (HTTP_SERVICE, TCP_SERVICE))
            registry.register(site.ports.registry, *second)
        client = self._run(site, "meshctl-client", settings[1])
        return Pair(server=server, client=processes.add(client))

    def intruders(self, site: Site) -> Sequence[str]:
        return probe.intruders(site, tcp_port=site.ports.http_in)

    def policies(
        self,
        site: Site,
        *,
        generations: Sequence[int],
        others: Sequence[str] = (),
        told: Sequence[Json] = (),
    ) -> list[Keys]:
        """Snapshots with ``ROUTES`` for the HTTP service, and routes for ``others``. ``told``:
        for each generation, what is told of calls, and statuses to answer with."""
        request = {
            "trust_domain": TRUST_DOMAIN,
            "generations": list(generations),
            "service": HTTP_SERVICE,
            "header": ROUTING_HEADER,
            "routes": [asdict(route) for route in site.application.routes],
            "most_requests": site.application.most_requests,
            # A stream may last, and so may a download.
            "request_s": 0.0 if site.application.is_multiplexed else 15.0,
            "others": list(others),
            "told": list(told),
        }
        path = site.directory / "policies.json"
        made = subprocess.run(
            [str(self._operator_python), "-I", str(_POLICIES), str(path)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=_MAKING_S,
            check=False,
        )
        if made.returncode != 0:
            raise Failed(f"the policy could not be made: {made.stderr.strip()}")
        read = json.loads(path.read_text(encoding="utf-8"))
        return [{key: base64.b64decode(value) for key, value in keys.items()} for keys in read]

    def _start_registry(self, site: Site, processes: Processes) -> None:
        command = ["-m", "meshctl.registry", "--port", str(site.ports.registry)]
        process = processes.add(
            Process(
                "registry",
                [str(self._operator_python), *command],
                core=site.load_core,
                log=site.directory / "registry.log",
                environment=plain_environment(),
            )
        )
        registry.wait_ready(site.ports.registry, process)

    def _server(self, site: Site) -> Json:
        # On every address of the machine, as on a real host; here those of ADDRESSES are used.
        inbound = {"host": "0.0.0.0", "port": site.ports.http_in}
        return _settings(
            site,
            host=_SERVER_HOST,
            admin=site.ports.server_admin,
            inbound=inbound if self._is_full else _address(site.ports.http_in),
            workloads=[
                _workload(
                    HTTP_SERVICE,
                    site.application.protocol,
                    app=site.application.port,
                    allow=[CALLER],
                ),
                _workload(TCP_SERVICE, "tcp", app=site.backend_port, allow=[CALLER]),
            ],
        )

    def _client(self, site: Site, upstreams: Mapping[str, int]) -> Json:
        called = [
            _upstream(HTTP_SERVICE, site.application.protocol, site.ports.http_out),
            _upstream(TCP_SERVICE, "tcp", site.ports.tcp_out),
            *(_upstream(service, "http", port) for service, port in upstreams.items()),
        ]
        return _settings(
            site,
            host=_CLIENT_HOST,
            admin=site.ports.client_admin,
            inbound=_address(site.ports.client_inbound),
            workloads=[
                _workload(CALLER, "http", app=site.backend_port, allow=[], upstreams=called)
            ],
        )

    def run_as_operator(self, command: Sequence[str], *, timeout_s: float) -> str:
        """What a Python program says that needs all of ``meshctl``. Raises Failed."""
        try:
            ended = subprocess.run(
                [str(self._operator_python), "-I", *command],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=plain_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{command[0]} took more than {timeout_s:g} s") from error
        if ended.returncode != 0:
            raise Failed(f"{command[0]} failed: {ended.stderr.strip()}")
        return ended.stdout

    def _run(self, site: Site, name: str, settings: Json) -> Process:
        state = Path(settings["state_dir"])
        for workload in settings["workloads"]:
            install(site.identities / workload["service"], state, workload["service"])
        path = site.directory / f"{name}.json"
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return Process(
            name,
            [str(self._host_python), "-I", "-m", "proxy", "--settings", str(path)],
            core=site.proxy_core,
            log=site.directory / f"{name}.log",
            environment=plain_environment(),
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


def second_endpoint(service: str, site: Site) -> Json:
    """The server sidecar once more, under its second address, as a service of another host."""
    return endpoint(service, _SECOND_HOST, ADDRESSES[1], site.ports.http_in)


def endpoint(service: str, host: str, address: str, port: int) -> Json:
    """A registration in the form of proxy/model/registration.py, without a check: healthy."""
    return {
        "ID": f"mesh-{service}-{host}",
        "Name": f"mesh-{service}",
        "Address": address,
        "Port": port,
        "Meta": {
            "mesh": "1",
            "mesh-trust-domain": TRUST_DOMAIN,
            "mesh-host": host,
            "mesh-version": "1",
        },
    }


def plain_environment() -> dict[str, str]:
    """Nothing of the caller's Python settings reaches the proxy, nor a notify socket."""
    return {key: os.environ[key] for key in ("PATH", "LANG", "TZ") if key in os.environ}


def _settings(
    site: Site, *, host: str, admin: int, inbound: Json, workloads: Sequence[Json]
) -> Json:
    return {
        "host": host,
        "trust_domain": TRUST_DOMAIN,
        "advertise": ADDRESSES[0],
        "release": "bench",
        "config": "bench",
        "admin": _address(admin),
        "inbound": inbound,
        "consul": {"url": f"http://127.0.0.1:{site.ports.registry}"},
        "state_dir": str(site.directory / f"state-{host}"),
        "trust_bundle": str(site.identities / "trust.pem"),
        "workloads": list(workloads),
        "drain_s": 1.0,
    }


def _workload(
    service: str,
    protocol: str,
    *,
    app: int,
    allow: Sequence[str],
    upstreams: Sequence[Json] = (),
) -> Json:
    return {
        "service": service,
        "protocol": protocol,
        "version": "1",
        "app": _address(app),
        "health": {"kind": "tcp"},
        "allow": list(allow),
        "upstreams": list(upstreams),
    }


def _upstream(service: str, protocol: str, port: int) -> Json:
    return {"service": service, "protocol": protocol, "listen": _address(port)}


def _address(port: int) -> Json:
    return {"host": ADDRESSES[0], "port": port}


def install(made: Path, state: Path, service: str) -> None:
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
