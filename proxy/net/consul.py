"""The local Consul agent's HTTP API, as far as a proxy needs it, and nothing more.

Only calls and fields that Consul 1.8 and the current version have in common. Every call has a
deadline and a limit on its answer, and ends in one of three errors, translated here once.
Short calls share one kept connection; each blocking query has its own, for as long as it runs.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from proxy.core.validation import split_url
from proxy.net.exchange import Connection, Disconnected, ExchangeError, Response, connect

MAX_ANSWER_BYTES = 8 * 1024 * 1024
CALL_DEADLINE_S = 5.0
BLOCKING_SLACK_S = 5.0
"""On top of wait + wait/16, the longest that Consul says a blocking query takes."""

MAX_TOKEN_BYTES = 4096
_FORBIDDEN = 403

_log = logging.getLogger(__name__)

CheckStatus = Literal["passing", "warning", "critical"]
Kind = Literal["unavailable", "rejected", "garbage"]


class ConsulError(Exception):
    """No usable answer; the text is a sentence for the operator."""

    kind: Kind = "unavailable"


class Unavailable(ConsulError):
    """The agent cannot be reached, or did not answer in time."""


class Rejected(ConsulError):
    """The agent answered, with a status that is not success."""

    kind: Kind = "rejected"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Garbage(ConsulError):
    """The answer is not what Consul's API says it is."""

    kind: Kind = "garbage"


class Node(msgspec.Struct, frozen=True, rename="pascal"):
    node: str = ""
    address: str = ""


class Service(msgspec.Struct, frozen=True):
    """Of a health entry, and of the agent's own list."""

    id: str = msgspec.field(name="ID", default="")
    service: str = msgspec.field(name="Service", default="")
    address: str | None = msgspec.field(name="Address", default="")
    port: int = msgspec.field(name="Port", default=0)
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)


class Check(msgspec.Struct, frozen=True):
    check_id: str = msgspec.field(name="CheckID", default="")
    service_id: str = msgspec.field(name="ServiceID", default="")
    """Empty: of the whole node, such as Consul's own ``serfHealth``."""
    status: str = msgspec.field(name="Status", default="critical")


class HealthEntry(msgspec.Struct, frozen=True, rename="pascal"):
    node: Node
    service: Service
    checks: list[Check] | None = None


class _Pair(msgspec.Struct, frozen=True, rename="pascal"):
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TtlCheck:
    """To be registered with a service."""

    check_id: str
    name: str
    ttl_s: float
    status: CheckStatus
    deregister_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All instances of a service, ill ones included."""

    index: int
    entries: tuple[HealthEntry, ...]
    unreadable: int
    """Entries that are not what the API says; skipped, the others count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    index: int
    value: bytes | None
    """None: there is no such key."""


class Consul:
    """One agent. Not for use from several event loops."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_file: str | None = None,
        datacenter: str | None = None,
    ):
        """``url`` is ``http://host:port``; raises ValueError for anything else, or for a token
        that cannot be sent. ``token_file``: read again when Consul refuses ``token``, which may
        have been replaced there."""
        self._host, self._port = split_url(url)
        self.url = url
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self._bare_head = f"Host: {shown}:{self._port}\r\nUser-Agent: meshctl-proxy\r\n"
        self._token_file = token_file
        self._use(token)
        self._datacenter = _datacenter(datacenter or "")
        self._lock = asyncio.Lock()
        self._kept: Connection | None = None

    async def register(
        self,
        *,
        service_id: str,
        name: str,
        address: str,
        port: int,
        meta: Mapping[str, str],
        checks: tuple[TtlCheck, ...],
    ) -> None:
        """PUT /v1/agent/service/register. Registering again keeps the state of known checks."""
        body = {
            "ID": service_id,
            "Name": name,
            "Address": address,
            "Port": port,
            "Meta": dict(meta),
            "Checks": [_check_body(check) for check in checks],
        }
        await self._call("PUT", "/v1/agent/service/register", body)

    async def deregister(self, service_id: str) -> None:
        """PUT /v1/agent/service/deregister; a service that is not there is not an error."""
        try:
            await self._call("PUT", f"/v1/agent/service/deregister/{quote(service_id, safe='')}")
        except Rejected as error:
            if error.status != 404:  # current versions; 1.8 answers 200
                raise

    async def update_check(self, check_id: str, status: CheckStatus, output: str) -> None:
        """PUT /v1/agent/check/update. Rejected with 404, or 500 from 1.8, if unknown."""
        path = f"/v1/agent/check/update/{quote(check_id, safe='')}"
        await self._call("PUT", path, {"Status": status, "Output": output})

    async def services(self) -> dict[str, Service]:
        """GET /v1/agent/services: those registered with this very agent, by id."""
        answer = await self._call("GET", "/v1/agent/services")
        services: dict[str, Service] = _decode(answer.body, dict[str, Service])
        return services

    async def health(self, name: str, *, index: int, wait_s: float, datacenter: str = "") -> Health:
        """GET /v1/health/service/<name>, blocking if ``index`` is not 0.

        ``datacenter``: another than this agent's own. Rejected with 500 if there is no way to it.
        """
        path = f"/v1/health/service/{quote(name, safe='')}"
        answer = await self._block(path, index, wait_s, datacenter)
        if answer.status != 200:
            raise self._refused(answer)
        entries, unreadable = [], 0
        for raw in _decode(answer.body, list[msgspec.Raw]):
            try:
                entries.append(msgspec.json.decode(raw, type=HealthEntry))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                unreadable += 1
        return Health(index=_index(answer), entries=tuple(entries), unreadable=unreadable)

    async def key(self, key: str, *, index: int, wait_s: float) -> Key:
        """GET /v1/kv/<key>, blocking if ``index`` is not 0."""
        answer = await self._block(f"/v1/kv/{quote(key)}", index, wait_s)
        if answer.status == 404 and b"x-consul-index" in answer.headers:
            return Key(index=_index(answer), value=None)
        if answer.status != 200:
            raise self._refused(answer)
        pairs = _decode(answer.body, list[_Pair])
        if len(pairs) != 1:
            raise Garbage(f"{len(pairs)} values for one key")
        try:
            value = base64.b64decode(pairs[0].value or "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise Garbage("the value of a key is not base64") from error
        return Key(index=_index(answer), value=value)

    def _use(self, token: str | None) -> None:
        if token and not (token.isascii() and token.isprintable()):
            raise ValueError("the Consul token is not printable ASCII")
        self._token = token
        shown = f"X-Consul-Token: {token}\r\n" if token else ""
        self._head = (self._bare_head + shown).encode()

    def _refused(self, answer: Response) -> Rejected:
        """Whoever asked tries again after a while, with the new token if there is one."""
        if answer.status == _FORBIDDEN and self._token_file is not None:
            # What is there now may be half of a sentence, or nothing: then the old one stays.
            with contextlib.suppress(OSError, ValueError):
                with open(self._token_file, "rb") as file:
                    token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
                if token and token != self._token:
                    self._use(token)
                    _log.info("Consul refused the token; the file has another one")
        return _rejected(answer)

    async def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def _call(self, method: str, path: str, body: Any = None) -> Response:
        request = self._request(method, path, body)
        try:
            async with asyncio.timeout(CALL_DEADLINE_S), self._lock:
                answer = await self._ask_kept(request)
        except TimeoutError as error:
            raise Unavailable(f"no answer within {CALL_DEADLINE_S:g} s") from error
        except ExchangeError as error:
            raise _translate(error) from error
        if not 200 <= answer.status < 300:
            raise self._refused(answer)
        return answer

    async def _ask_kept(self, request: bytes) -> Response:
        kept, self._kept = self._kept, None
        if kept is not None and kept.is_open:
            try:
                answer = await kept.ask(request)
            except Disconnected as error:
                # The agent may have closed it just then; every call here is idempotent.
                if error.was_answering:
                    raise
            else:
                self._kept = kept
                return answer
        fresh = await connect(self._host, self._port, max_body_bytes=MAX_ANSWER_BYTES)
        answer = await fresh.ask(request)
        self._kept = fresh
        return answer

    async def _block(self, path: str, index: int, wait_s: float, datacenter: str = "") -> Response:
        where = _datacenter(datacenter) or self._datacenter
        query = f"index={index}&wait={max(1, round(wait_s))}s{where}"
        request = self._request("GET", f"{path}?{query}", None, is_last=True)
        deadline_s = wait_s + wait_s / 16 + BLOCKING_SLACK_S if index else CALL_DEADLINE_S
        connection: Connection | None = None
        try:
            async with asyncio.timeout(deadline_s):
                connection = await connect(self._host, self._port, max_body_bytes=MAX_ANSWER_BYTES)
                return await connection.ask(request)
        except TimeoutError as error:
            raise Unavailable(f"no answer within {deadline_s:g} s") from error
        except ExchangeError as error:
            raise _translate(error) from error
        finally:
            if connection is not None:
                connection.close()

    def _request(self, method: str, path: str, body: Any, *, is_last: bool = False) -> bytes:
        lines = f"{method} {path} HTTP/1.1\r\n".encode() + self._head
        if is_last:
            lines += b"Connection: close\r\n"
        if method == "GET":
            return lines + b"\r\n"
        content = b"" if body is None else json.dumps(body).encode()
        kind = b"Content-Type: application/json\r\n" if content else b""
        return lines + kind + b"Content-Length: %d\r\n\r\n" % len(content) + content


def _datacenter(name: str) -> str:
    """As it is put behind a query; empty: left to the agent."""
    return f"&dc={quote(name, safe='')}" if name else ""


def _check_body(check: TtlCheck) -> dict[str, str]:
    body = {
        "CheckID": check.check_id,
        "Name": check.name,
        "TTL": f"{check.ttl_s:g}s",
        "Status": check.status,
    }
    if check.deregister_after_s is not None:
        body["DeregisterCriticalServiceAfter"] = f"{round(check.deregister_after_s)}s"
    return body


def _index(answer: Response) -> int:
    """0 if there is none that could be a number; digits only, as ``int`` accepts far more."""
    text = answer.headers.get(b"x-consul-index", b"")
    return int(text) if text.isdigit() and len(text) <= 20 else 0


def _decode(body: bytes, into: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body or b"null", type=into)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Garbage(f"not an answer of Consul: {error}") from error


def _rejected(answer: Response) -> Rejected:
    text = answer.body[:200].decode("utf-8", "replace").strip()
    return Rejected(f"answered {answer.status}" + (f": {text}" if text else ""), answer.status)


def _translate(error: ExchangeError) -> ConsulError:
    if isinstance(error, Disconnected):
        return Unavailable(str(error))
    return Garbage(str(error))
