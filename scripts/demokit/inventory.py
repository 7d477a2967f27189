"""What runs where: three hosts that are this one machine."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from demokit.stage import ActFailed


def free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range, so that no outgoing connection takes them meanwhile."""
    found: list[int] = []
    for port in range(18000 + os.getpid() % 4000, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ActFailed("no free ports on loopback")


@dataclass(frozen=True)
class Ports:
    registry: int
    admin: list[int]
    inbound: list[int]
    web: int
    api_1: int
    api_2: int
    users: int
    cache: int
    web_to_api: int
    web_to_cache: int
    web_to_all: int
    """Told apart by Host."""
    api_to_users: int
    api_2_to_users: int

    @classmethod
    def pick(cls) -> "Ports":
        ports = free_ports(17)
        return cls(ports[0], ports[1:4], ports[4:7], *ports[7:])


def inventory(base: Path, ports: Ports) -> str:
    def proxy(host: int) -> str:
        inbound, admin = ports.inbound[host], ports.admin[host]
        return f"{{inbound_address: 127.0.0.1, inbound_port: {inbound}, admin_port: {admin}}}"

    return f"""\
version: 1
consul:
  mode: embedded
  address: http://127.0.0.1:{ports.registry}

hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: {base}/front
    proxy: {proxy(0)}
    services:
      - name: web
        port: {ports.web}
        protocol: http
        health: {{http: /healthz, interval: 1s}}
        outbound_port: {ports.web_to_all}
        upstreams:
          - {{service: api, port: {ports.web_to_api}}}
          - {{service: cache, port: {ports.web_to_cache}}}

  - name: back-1
    address: 127.0.0.1
    transport: local
    root: {base}/back-1
    proxy: {proxy(1)}
    services:
      - name: api
        version: v1
        port: {ports.api_1}
        protocol: http
        health: {{http: /healthz, interval: 1s}}
        upstreams:
          - {{service: users, port: {ports.api_to_users}}}
      - name: users
        port: {ports.users}
        protocol: http
        health: {{http: /healthz, interval: 1s}}

  - name: back-2
    address: 127.0.0.1
    transport: local
    root: {base}/back-2
    proxy: {proxy(2)}
    services:
      - name: api
        version: v2
        port: {ports.api_2}
        protocol: http
        health: {{http: /healthz, interval: 1s}}
        upstreams:
          - {{service: users, port: {ports.api_2_to_users}}}
      - name: cache
        port: {ports.cache}
        protocol: tcp
        health: {{tcp: true, interval: 1s}}
"""
