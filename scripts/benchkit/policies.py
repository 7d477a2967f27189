"""Makes a policy snapshot as ``meshctl apply`` would publish it, but for the signature: the
benchmark gives its proxies no policy keys.

Run as a program (``python policies.py OUT``, a request as JSON on standard input) by the
interpreter that has this project installed; the rest of the benchmark needs nothing but the
standard library. Written to OUT: for each generation, a JSON object of registry keys and their
values in base64.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from proxy.model.names import parse_service, parse_trust_domain
from proxy.model.policy import Policy, Route, ServicePolicy, Snapshot, Timeouts
from proxy.model.registration import SNAPSHOT_KEY
from proxy.model.resilience import Limits
from proxy.model.routing import DirectResponse, HeaderChanges, Match, PathMatch, TextMatch
from proxy.model.snapshot import pack
from proxy.model.telemetry import AccessLog, Telemetry, Tracing

ROUTES_PER_SERVICE = 5


def make(request: dict[str, Any], generation: int) -> dict[str, bytes]:
    """``trust_domain``, ``service`` with its ``routes``, ``most_requests`` and ``request_s``, and
    ``others``: names of services that get ``ROUTES_PER_SERVICE`` routes each. ``told``, if there
    is any, has for each generation what is told of calls, and ``statuses`` that the caller's own
    proxy answers with under ``/status/``."""
    told = request["told"][generation - 1] if request["told"] else {}
    service = ServicePolicy(
        routes=tuple(
            Route(
                name=route["name"],
                match=Match(
                    path=PathMatch(prefix=route["path_prefix"]),
                    headers=_header(request["header"], route),
                ),
            )
            for route in request["routes"]
        )
        + tuple(_answering(status) for status in told.get("statuses", ())),
        timeouts=Timeouts(request_s=request["request_s"]),
        limits=Limits(requests=request["most_requests"], pending=request["most_requests"]),
        access_log=msgspec.convert(told.get("access_log", {}), AccessLog),
        tracing=msgspec.convert(told.get("tracing", {}), Tracing),
    )
    services = {parse_service(request["service"]): service} if request["routes"] else {}
    for name in request["others"]:
        services[parse_service(name)] = _other(name, generation)
    snapshot = Snapshot(
        generation=generation,
        trust_domain=parse_trust_domain(request["trust_domain"]),
        policy=Policy(
            services=services, telemetry=msgspec.convert(told.get("telemetry", {}), Telemetry)
        ),
    )
    return {SNAPSHOT_KEY: pack(snapshot)}


def _answering(status: int) -> Route:
    return Route(
        name=f"status-{status}",
        match=Match(path=PathMatch(exact=f"/status/{status}")),
        respond=DirectResponse(status=status),
    )


def _header(name: str, route: dict[str, str]) -> dict[str, TextMatch]:
    if route["header_exact"]:
        return {name: TextMatch(exact=route["header_exact"])}
    if route["header_prefix"]:
        return {name: TextMatch(prefix=route["header_prefix"])}
    return {}


def _other(name: str, generation: int) -> ServicePolicy:
    """No two routes are alike, and each generation differs in each service."""
    return ServicePolicy(
        routes=tuple(
            Route(
                name=f"{name}-{number}",
                match=Match(
                    path=PathMatch(prefix=f"/{name}/v{number}"),
                    methods=("GET", "POST"),
                    headers={"x-variant": TextMatch(exact=f"{name}-{number}")},
                ),
                request_headers=HeaderChanges(set={"x-generation": str(generation)}),
            )
            for number in range(ROUTES_PER_SERVICE)
        )
    )


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    encoded = [
        {key: base64.b64encode(value).decode() for key, value in make(asked, generation).items()}
        for generation in asked["generations"]
    ]
    Path(sys.argv[1]).write_text(json.dumps(encoded), encoding="utf-8")
