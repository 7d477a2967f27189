"""A ``View`` as rows of text: services, routes, endpoints, edges; sorted, and nothing asked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.text import Text

from meshctl.cli import figures
from meshctl.cli.columns import Cell, Column
from meshctl.telemetry import words
from meshctl.telemetry.view import Edge, EndpointRow, RouteRow, ServiceRow, Sessions, Signals, View


class By(StrEnum):
    SERVICE = "service"
    ROUTE = "route"
    ENDPOINT = "endpoint"
    EDGE = "edge"


class Sort(StrEnum):
    RATE = "rate"
    FAILURES = "failures"
    P95 = "p95"
    RETRIES = "retries"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    names: tuple[str, ...]
    signals: Signals | None
    actual_per_s: float
    sessions_per_s: float
    cells: Sequence[Cell]


_SIGNALS = (
    Column("REQ/S"),
    Column("SUCCESS"),
    Column("P50", 3),
    Column("P95"),
    Column("P99", 2),
)
_STATES = {
    "available": "green",
    "ejected": "red",
    "failing": "red",
    "probing": "yellow",
    "avoided": "yellow",
    "gone": "yellow",
}

COLUMNS: dict[By, tuple[Column, ...]] = {
    By.SERVICE: (
        Column("SERVICE", is_name=True),
        *_SIGNALS,
        Column("ACTUAL/S", 7),
        Column("RETRIES", 1),
        Column("TCP OPEN", 4),
        Column("TCP/S", 6),
        Column("TO CALLER/S", 8),
        Column("FROM CALLER/S", 9),
        Column("DENIED", 5),
        Column("ENDPOINTS", 2),
    ),
    By.ROUTE: (
        Column("CALLER", is_name=True),
        Column("SERVICE", is_name=True),
        Column("ROUTE", is_name=True),
        *_SIGNALS,
        Column("FAILED", 4),
    ),
    By.ENDPOINT: (
        Column("SERVICE", is_name=True),
        Column("HOST", is_name=True),
        Column("VERSION", 5, is_name=True),
        Column("CALLER", is_name=True),
        Column("FROM", 4, is_name=True),
        Column("STATE", is_name=True),
        *_SIGNALS,
        Column("IN FLIGHT", 6),
    ),
    By.EDGE: (
        Column("CALLER", is_name=True),
        Column("SERVICE", is_name=True),
        Column("SECURED", is_name=True),
        *_SIGNALS,
        Column("RETRIES", 4),
        Column("TCP OPEN", 5),
        Column("TCP/S", 6),
        Column("DENIED", 7),
        Column("SEEN BY", 8, is_name=True),
    ),
}


def rows(seen: View, by: By) -> list[Row]:
    match by:
        case By.SERVICE:
            return list(map(_service, seen.services))
        case By.ROUTE:
            return list(map(_route, seen.routes))
        case By.ENDPOINT:
            return list(map(_endpoint, seen.endpoints))
        case By.EDGE:
            return list(map(_edge, seen.edges))


def ordered(found: Iterable[Row], sort: Sort) -> list[Row]:
    """What needs looking at first; by name among equals."""

    def key(row: Row) -> tuple[float, tuple[str, ...]]:
        signals = row.signals
        match sort:
            case Sort.RATE:
                value = signals.per_s if signals is not None else row.sessions_per_s
            case Sort.FAILURES:
                value = signals.failures if signals is not None else 0
            case Sort.P95:
                value = (signals.p95_ms or 0.0) if signals is not None else 0.0
            case Sort.RETRIES:
                value = row.actual_per_s - (signals.per_s if signals is not None else 0.0)
            case Sort.NAME:
                value = 0.0
        return -value, row.names

    return sorted(found, key=key)


def cells(signals: Signals | None) -> tuple[Cell, ...]:
    if signals is None or not signals.requests:
        return (words.NOTHING,) * len(_SIGNALS)
    return (
        figures.rate(signals),
        figures.share(signals),
        words.milliseconds(signals.p50_ms),
        words.milliseconds(signals.p95_ms),
        words.milliseconds(signals.p99_ms),
    )


def state(word: str) -> Text:
    return Text(figures.name(word).plain, style=_STATES.get(word, ""))


def _service(row: ServiceRow) -> Row:
    tcp = row.sessions
    is_http = row.signals is not None
    return Row(
        names=(row.service,),
        signals=row.signals,
        actual_per_s=row.actual_per_s,
        sessions_per_s=tcp.opened_per_s if tcp is not None else 0.0,
        cells=(
            figures.name(row.service),
            *cells(row.signals),
            words.number(row.actual_per_s) if is_http else words.NOTHING,
            figures.retried(row.actual_per_s, row.signals),
            *_tcp(tcp),
            figures.count(row.denied),
            _endpoints(row),
        ),
    )


def _tcp(tcp: Sessions | None) -> tuple[Cell, ...]:
    if tcp is None:
        return (words.NOTHING,) * 4
    return (
        str(tcp.open),
        words.number(tcp.opened_per_s),
        words.bytes_per_s(tcp.sent_bytes_per_s),
        words.bytes_per_s(tcp.received_bytes_per_s),
    )


def _endpoints(row: ServiceRow) -> Text:
    if not row.endpoints:
        return Text(words.NOTHING)
    style = "" if row.available == row.endpoints else "yellow" if row.available else "red"
    return Text(f"{row.available}/{row.endpoints}", style=style)


def _route(row: RouteRow) -> Row:
    route = "(none matched)" if row.route == "-" else row.route
    return Row(
        names=(row.service, row.caller, row.route),
        signals=row.signals,
        actual_per_s=row.signals.per_s,
        sessions_per_s=0.0,
        cells=(
            *map(figures.name, (row.caller, row.service, route)),
            *cells(row.signals),
            figures.count(row.signals.failures),
        ),
    )


def _endpoint(row: EndpointRow) -> Row:
    return Row(
        names=(row.service, row.host, row.version, row.caller, row.caller_host),
        signals=row.signals,
        actual_per_s=row.signals.per_s if row.signals is not None else 0.0,
        sessions_per_s=0.0,
        cells=(
            *map(figures.name, (row.service, row.host, row.version, row.caller, row.caller_host)),
            state(row.state),
            *cells(row.signals),
            str(row.in_flight),
        ),
    )


def _edge(row: Edge) -> Row:
    tcp = row.sessions
    return Row(
        names=(row.caller, row.service, row.protocol),
        signals=row.signals,
        actual_per_s=row.actual_per_s,
        sessions_per_s=tcp.opened_per_s if tcp is not None else 0.0,
        cells=(
            *map(figures.name, (row.caller, row.service)),
            figures.security(row.security),
            *cells(row.signals),
            figures.retried(row.actual_per_s, row.signals),
            *_tcp(tcp)[:2],
            figures.count(row.denied),
            " and ".join(_SIDES.get(side, "?") for side in row.seen_by) or words.NOTHING,
        ),
    )


_SIDES = {"source": "caller", "destination": "called"}
