"""What is told of calls: access logs and traces of a service, and where they go."""

import re
from urllib.parse import urlsplit

from proxy.core.access_format import parse_format
from proxy.core.soundness import words
from proxy.core.soundness.finding import Findings, Wrong, judged, shown
from proxy.core.soundness.numbers import check_numbers
from proxy.model.telemetry import AccessLog, Telemetry, Tracing

_URL = re.compile(r"[!-~]{1,2048}")
_FORMAT_RULE = "write one line with fields in it, such as %method% %path% %status%"


def check_access_log(path: str, log: AccessLog) -> Findings:
    yield from check_numbers(path, log)
    if log.format:
        yield from judged(f"{path}.format", _format(log.format))


def check_tracing(path: str, tracing: Tracing) -> Findings:
    yield from check_numbers(path, tracing)
    if tracing.header:
        yield from judged(f"{path}.header", _header(tracing.header))


def check_telemetry(telemetry: Telemetry) -> Findings:
    yield from check_numbers("telemetry", telemetry)
    if telemetry.otlp:
        yield from judged("telemetry.otlp", _receiver(telemetry.otlp))


def _format(text: str) -> Wrong | None:
    try:
        parse_format(text)
    except ValueError as error:
        said, _, hint = str(error).partition("; ")
        return Wrong(said if said.startswith("%") else f"it {said}", hint or _FORMAT_RULE)
    return None


def _header(text: str) -> Wrong | None:
    """``name``, or ``name: value``."""
    name, colon, value = text.partition(":")
    if (wrong := words.header(name)) is not None:
        return wrong
    value = value.strip(" ")
    if colon and not value:
        return Wrong(f"{shown(text)} has no value", f"give one, or leave out the colon: {name}")
    return words.header_value(value)


def _receiver(text: str) -> Wrong | None:
    rule = "use http://HOST:PORT/PATH or https: such as http://127.0.0.1:4318/v1/traces"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return Wrong(f"{shown(text)} is not a URL", rule)
    if parts.username is not None or parts.password is not None:
        # Not shown: whoever wrote it meant a secret.
        hint = "let the receiver know hosts by their address, or put a collector on each host"
        return Wrong("a receiver's URL cannot have a user or a password in it", hint)
    if not _URL.fullmatch(text) or parts.scheme not in ("http", "https") or not host or port == 0:
        return Wrong(f"{shown(text)} cannot be sent to", rule)
    if "?" in text or "#" in text:
        return Wrong(f"{shown(text)} has more than a path", "leave out '?' and '#'")
    return None
