"""What callers send to the agent endpoints, as JSON, to the values of ``catalogue``.

Refuses with Consul's own words what Consul refuses, and as NotImplementedHere what Consul would
accept but this registry cannot do: doing half of it would be worse.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshctl.registry.catalogue import CheckDefinition, Service, Status

_META_KEY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_META_PAIRS = 64
_META_VALUE_BYTES = 512

_DURATION = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h)")
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}

_SERVICE_FIELDS = frozenset(
    [
        "ID",
        "Name",
        "Tags",
        "Address",
        "Port",
        "Meta",
        "Check",
        "Checks",
        "EnableTagOverride",
        "Weights",
        "Token",
    ]
)
_SERVICE_ELSEWHERE = frozenset(
    [
        "Kind",
        "TaggedAddresses",
        "Proxy",
        "Connect",
        "Namespace",
        "Partition",
        "Locality",
        "SocketPath",
        "Ports",
    ]
)
_CHECK_FIELDS = frozenset(
    [
        "CheckID",
        "ID",
        "Name",
        "Notes",
        "TTL",
        "Status",
        "DeregisterCriticalServiceAfter",
        "ServiceID",
        "Token",
    ]
)
_CHECK_ELSEWHERE = frozenset(
    [
        "Args",
        "ScriptArgs",
        "HTTP",
        "Method",
        "Body",
        "Header",
        "TCP",
        "TCPUseTLS",
        "UDP",
        "GRPC",
        "GRPCUseTLS",
        "H2PING",
        "H2PingUseTLS",
        "DockerContainerID",
        "Shell",
        "AliasNode",
        "AliasService",
        "Timeout",
        "Interval",
        "TLSServerName",
        "TLSSkipVerify",
        "OSService",
        "OutputMaxSize",
        "SuccessBeforePassing",
        "FailuresBeforeCritical",
        "FailuresBeforeWarning",
        "DisableRedirects",
        "Namespace",
        "Partition",
    ]
)


class BadRequest(Exception):
    """The caller's fault; the text is the body of the 400."""


class NotImplementedHere(Exception):
    """Consul does it, the embedded registry does not; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    service: Service
    checks: tuple[CheckDefinition, ...]


def parse_service(body: bytes) -> Registration:
    """Body of PUT /v1/agent/service/register."""
    fields = _fields(_json(body), _SERVICE_FIELDS, _SERVICE_ELSEWHERE, "service")
    name = _text(fields, "Name")
    if not name:
        raise BadRequest("Missing service name")
    service_id = _text(fields, "ID") or name
    address = _text(fields, "Address")
    if address and _is_unspecified(address):
        raise BadRequest("Invalid service address")
    given = [fields["Check"]] if fields.get("Check") else []
    given += _list(fields, "Checks")
    checks = [
        _check(
            check,
            default_id=f"service:{service_id}" + (f":{position}" if len(given) > 1 else ""),
            default_name=f"Service '{name}' check",
        )
        for position, check in enumerate(given, start=1)
    ]
    service = Service(
        id=service_id,
        name=name,
        tags=tuple(_string(tag, "Tags") for tag in _list(fields, "Tags")),
        address=address,
        port=_integer(fields, "Port"),
        meta=_meta(fields.get("Meta")),
        enable_tag_override=_boolean(fields, "EnableTagOverride"),
        weights=_weights(fields.get("Weights")),
    )
    return Registration(service=service, checks=tuple(checks))


def parse_check(body: bytes) -> tuple[CheckDefinition, str]:
    """Body of PUT /v1/agent/check/register: the check and its service's id, or ''."""
    raw = _json(body)
    fields = _fields(raw, _CHECK_FIELDS - {"CheckID"}, _CHECK_ELSEWHERE, "check")
    name = _text(fields, "Name")
    if not name:
        raise BadRequest("Missing check name")
    service_id = _text(fields, "ServiceID")
    return _check(raw, default_id=name, default_name=name), service_id


def parse_update(body: bytes) -> tuple[Status, str]:
    """Body of PUT /v1/agent/check/update/<id>."""
    fields = _fields(_json(body), frozenset({"Status", "Output"}), frozenset(), "update")
    text = _text(fields, "Status")
    try:
        return Status(text), _text(fields, "Output")
    except ValueError:
        raise BadRequest(f"Invalid check status: '{text}'") from None


def parse_duration(text: str) -> float:
    """Seconds of a Go duration such as ``1m30s``; raises ValueError."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    if rest == "0":
        return 0.0
    if not rest or len(rest) > 64 or re.fullmatch(f"(?:{_DURATION.pattern})+", rest) is None:
        raise ValueError(f'time: invalid duration "{text}"')
    seconds = 0.0
    for part in _DURATION.findall(rest):
        number = re.match(r"[0-9.]+", part)
        assert number is not None
        seconds += float(number.group()) * _UNITS[part[number.end() :]]
    return sign * seconds


def _check(raw: object, *, default_id: str, default_name: str) -> CheckDefinition:
    fields = _fields(raw, _CHECK_FIELDS, _CHECK_ELSEWHERE, "check", refuse_elsewhere=False)
    ttl_s = _duration(fields, "TTL")
    if ttl_s and _duration(fields, "Interval"):
        raise BadRequest("Invalid check: Interval and TTL cannot both be specified")
    for field in sorted(_CHECK_ELSEWHERE & fields.keys()):
        if fields[field]:
            raise NotImplementedHere(f"the check field {field}; only TTL checks are")
    if ttl_s <= 0:
        raise BadRequest("Invalid check: TTL must be > 0 for TTL checks")
    status = _text(fields, "Status") or Status.CRITICAL
    if status not in list(Status):
        raise BadRequest("Status for checks must 'passing', 'warning', 'critical'")
    return CheckDefinition(
        id=_text(fields, "CheckID") or _text(fields, "ID") or default_id,
        name=_text(fields, "Name") or default_name,
        ttl_s=ttl_s,
        notes=_text(fields, "Notes"),
        status=Status(status),
        deregister_after_s=max(0.0, _duration(fields, "DeregisterCriticalServiceAfter")),
    )


def _json(body: bytes) -> Any:
    if not body.strip():
        raise BadRequest("Request decode failed: EOF")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Request decode failed: {error}") from None


def _fields(
    raw: object,
    known: frozenset[str],
    elsewhere: frozenset[str],
    what: str,
    *,
    refuse_elsewhere: bool = True,
) -> dict[str, Any]:
    """Keys are matched as Go does, whatever their case."""
    if not isinstance(raw, dict):
        raise BadRequest(f"Request decode failed: a {what} is a JSON object")
    spelled = {name.lower(): name for name in known | elsewhere}
    fields: dict[str, Any] = {}
    for key, value in raw.items():
        name = spelled.get(key.lower())
        if name is None:
            raise BadRequest(f'Request decode failed: json: unknown field "{key}"')
        if refuse_elsewhere and name in elsewhere and value:
            raise NotImplementedHere(f"the {what} field {name}")
        fields[name] = value
    return fields


def _string(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"Request decode failed: {field} must be a string")
    return value


def _text(fields: Mapping[str, Any], field: str) -> str:
    value = fields.get(field)
    return "" if value is None else _string(value, field)


def _list(fields: Mapping[str, Any], field: str) -> list[Any]:
    value = fields.get(field)
    if value is not None and not isinstance(value, list):
        raise BadRequest(f"Request decode failed: {field} must be a list")
    return value or []


def _integer(fields: Mapping[str, Any], field: str) -> int:
    value = fields.get(field, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"Request decode failed: {field} must be an integer")
    return value


def _boolean(fields: Mapping[str, Any], field: str) -> bool:
    value = fields.get(field, False)
    if not isinstance(value, bool):
        raise BadRequest(f"Request decode failed: {field} must be a boolean")
    return value


def _duration(fields: Mapping[str, Any], field: str) -> float:
    """A Go duration, or nanoseconds when it is a number."""
    value = fields.get(field)
    if value is None or value == "":
        return 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        return value / 1e9
    try:
        return parse_duration(_string(value, field))
    except ValueError as error:
        raise BadRequest(f"Request decode failed: {error}") from None


def _weights(value: object) -> tuple[int, int]:
    if value is None:
        return 1, 1
    fields = _fields(value, frozenset({"Passing", "Warning"}), frozenset(), "weight")
    passing, warning = _integer(fields, "Passing"), _integer(fields, "Warning")
    if passing < 1:
        raise BadRequest("Invalid Weights: Passing must be greater than 0")
    if warning < 0:
        raise BadRequest("Invalid Weights: Warning must be greater or equal than 0")
    return passing, warning


def _meta(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest("Request decode failed: Meta must be an object")
    if len(value) > _META_PAIRS:
        raise BadRequest(
            f"Invalid Service Meta: Node metadata cannot contain more than {_META_PAIRS} key"
        )
    for key, text in value.items():
        fault = ""
        if _META_KEY.fullmatch(key) is None:
            fault = "Key contains invalid characters"
        elif key.startswith("consul-"):
            fault = "Key prefix 'consul-' is reserved for internal use"
        elif len(_string(text, "Meta").encode("utf-8", "surrogatepass")) > _META_VALUE_BYTES:
            fault = f"Value is too long (limit: {_META_VALUE_BYTES} characters)"
        if fault:
            raise BadRequest(
                f"Invalid Service Meta: Couldn't load metadata pair ('{key}', '{text}'): {fault}"
            )
    return dict(value)


def _is_unspecified(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")).is_unspecified
    except ValueError:
        return False
