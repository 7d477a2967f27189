"""Consul's built-in layer-4 proxy, ``consul connect proxy``, twice: for the TCP rows.

Its certificates are its own, from the CA of an agent in development mode, which runs on the load
core and is not counted. Who may call whom is an intention: deny, but for the caller.
"""

import http.client
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchkit import probe
from benchkit.contestants import CALLER, STRANGER, TCP_SERVICE, Group, Pair, Site
from benchkit.processes import Failed, Process
from benchkit.processes import Group as Processes

_READY_S = 20.0
_PAUSE_S = 0.1
_ASK_S = 5.0


class ConsulConnect:
    name = "consul connect"
    group = Group.TCP
    phases = frozenset({"tcp"})
    features: Sequence[str] = (
        "`consul connect proxy` twice, certificates from the CA of `consul agent -dev`, an "
        "intention that lets one service in; one endpoint; `GOMAXPROCS` as Go chooses it on one "
        "core",
    )
    omissions: Sequence[str] = ("TCP only",)

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        said = subprocess.run(
            [str(binary), "version"], capture_output=True, text=True, check=True
        ).stdout
        self.version = said.split()[1].removeprefix("v")

    def start(self, site: Site, processes: Processes) -> Pair:
        """Waits for the agent, without which no proxy starts."""
        ports = site.ports
        agent = processes.add(
            Process(
                "consul-agent",
                [str(self._binary), *self._agent(site)],
                core=site.load_core,
                log=site.directory / "consul-agent.log",
            )
        )
        self._wait(site, agent)
        for source, action in ((CALLER, "allow"), ("*", "deny")):
            intention = {"SourceName": source, "DestinationName": TCP_SERVICE, "Action": action}
            _ask(site, "POST", "/v1/connect/intentions", intention)
        server = self._proxy(
            site,
            "consul-server",
            site.proxy_core,
            *("-service", TCP_SERVICE, "-service-addr", f"127.0.0.1:{site.backend_port}"),
            *("-listen", f"127.0.0.1:{ports.tcp_in}", "-register"),
        )
        client = self._proxy(
            site, "consul-client", site.proxy_core, *_calling(CALLER, ports.tcp_out)
        )
        stranger = self._proxy(
            site, "consul-stranger", site.load_core, *_calling(STRANGER, ports.stranger_out)
        )
        pair = Pair(server=processes.add(server), client=processes.add(client))
        processes.add(stranger)
        return pair

    def intruders(self, site: Site) -> Sequence[str]:
        if probe.is_served(site.ports.stranger_out):
            return (f"{STRANGER} was let in",)
        return ()

    def _agent(self, site: Site) -> list[str]:
        """Only HTTP: the other ports would meet those of another agent on this machine."""
        configuration = site.directory / "consul.json"
        server, serf_lan, serf_wan = (
            site.ports.client_admin,
            site.ports.server_admin,
            site.ports.client_inbound,
        )
        ports = {
            "http": site.ports.registry,
            "dns": -1,
            "grpc": -1,
            "server": server,
            "serf_lan": serf_lan,
            "serf_wan": serf_wan,
        }
        configuration.write_text(json.dumps({"ports": ports}), encoding="utf-8")
        return ["agent", "-dev", "-bind", "127.0.0.1", "-config-file", str(configuration)]

    def _proxy(self, site: Site, name: str, core: int, *arguments: str) -> Process:
        command = [
            *(str(self._binary), "connect", "proxy"),
            *("-http-addr", f"127.0.0.1:{site.ports.registry}", "-log-level", "warn"),
            *arguments,
        ]
        return Process(name, command, core=core, log=site.directory / f"{name}.log")

    def _wait(self, site: Site, agent: Process) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            agent.check()
            try:
                if _ask(site, "GET", "/v1/connect/ca/roots").get("Roots"):
                    return
            except (OSError, http.client.HTTPException, Failed):
                pass
            if time.monotonic() > deadline:
                raise Failed(f"the Consul agent is not ready\n{agent.log_tail()}")
            time.sleep(_PAUSE_S)


def _calling(service: str, port: int) -> tuple[str, ...]:
    return ("-service", service, "-upstream", f"{TCP_SERVICE}:127.0.0.1:{port}")


def _ask(site: Site, method: str, path: str, body: object = None) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", site.ports.registry, timeout=_ASK_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise Failed(f"Consul answered {response.status} to {path}: {content[:200]!r}")
    answer = json.loads(content)
    return answer if isinstance(answer, dict) else {}
