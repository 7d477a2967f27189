"""``POST /v1/renew``: the HTTP around a renewal, and the life of the process.

The request is JSON, ``{"csr": "<PEM>"}``; the answer ``{"chain": "<PEM>"}``, or ``{"error",
"hint", "code"}`` with 400, 403, 429 (and Retry-After) or 503. One request a connection.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus

from aiohttp import web

from meshctl.signer import state
from meshctl.signer.admin import Admin
from meshctl.signer.decision import STATUS, Caller, Code, Refusal, identify
from meshctl.signer.listener import Listener
from meshctl.signer.measures import Measures
from meshctl.signer.settings import SignerSettings, SignerStatus
from meshctl.signer.signing import Signing
from proxy import __version__
from proxy.keyfiles import Refused
from proxy.model import codec
from proxy.model.codec import Value
from proxy.notify import Notifier

PATH = "/v1/renew"
MAX_BODY_BYTES = 16 * 1024
"""A request for a P-256 certificate is under 1 KiB."""
UPKEEP_S = 10.0
"""How often the signer's own certificate is looked at."""
GRACE_S = 5.0
"""What is being signed at a stop has so long to be sent."""

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The signer cannot start; one sentence that says what is in the way."""


class _Ask(Value, frozen=True, kw_only=True):
    csr: str


class _Answer(Value, frozen=True, kw_only=True):
    chain: str


class _Refused(Value, frozen=True, kw_only=True):
    error: str
    hint: str
    code: str


class Service:
    """``run`` is the whole life of it; ``stop`` and ``reload`` may be called meanwhile."""

    def __init__(
        self, settings: SignerSettings, *, clock: Callable[[], datetime] | None = None
    ) -> None:
        """Within a running event loop."""
        self._settings = settings
        self._now = clock or (lambda: datetime.now(UTC))
        self._started_at = f"{self._now():%Y-%m-%dT%H:%M:%SZ}"
        self._notifier = Notifier(os.environ)
        self._measures = Measures()
        self._signing = Signing(settings, self._measures)
        self._in_force: state.InForce | None = None
        self._reload_error = ""
        self._listener = Listener(self._handle, self._context, self._measures)
        self._admin = Admin(self.status, self._ready, self._measures)
        self._stop = asyncio.Event()
        self.started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Done with the port that is listened on."""

    async def run(self) -> int:
        """Until stopped: exit code 0, or 1 if it could not go on. Raises StartError."""
        try:
            await self._start()
            upkeep = asyncio.create_task(self._keep_up(), name="upkeep")
            stop = asyncio.create_task(self._stop.wait(), name="stop")
            parts = (stop, upkeep, self._listener.accepting)
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts[1:]:
                if part.done() and not self._stop.is_set():
                    _log.critical("task %s died", part.get_name(), exc_info=part.exception())
            self._notifier.stopping()
            upkeep.cancel()
            stop.cancel()
            await asyncio.gather(upkeep, stop, return_exceptions=True)
        finally:
            await self._listener.close(GRACE_S)
            await self._admin.close()
            self._signing.close()
        return 0 if self._stop.is_set() else 1

    def stop(self) -> None:
        self._stop.set()

    def reload(self) -> None:
        """Trust bundle, record and intermediate anew; what cannot be read changes nothing."""
        try:
            self._put_in_force(state.load(self._settings, self._now()))
        except Refused as error:
            self._reload_error = str(error)
            self._measures.reload_failed.value = 1
            _log.error("nothing was reloaded: %s", error)
        else:
            self._reload_error = ""
            self._measures.reload_failed.value = 0
            _log.info("reloaded", extra=self._digests())

    def status(self) -> SignerStatus:
        in_force = self._known()
        settings = self._settings
        return SignerStatus(
            host=settings.host,
            version=__version__,
            release=settings.release,
            started_at=self._started_at,
            signer=in_force.status,
            record_digest=in_force.record_digest,
            bundle_digest=in_force.bundle_digest,
            leaf_life_s=settings.leaf_life_s,
            signed=int(self._measures.signed.value),
            refused=self._measures.refusals,
            reload_error=self._reload_error,
        )

    async def _start(self) -> None:
        try:
            self._put_in_force(state.load(self._settings, self._now()))
        except Refused as error:
            raise StartError(str(error)) from error
        listen, admin = self._settings.listen, self._settings.admin
        try:
            where = f"{listen.host}:{listen.port}"
            port = self._listener.start(listen)
            where = f"{admin.host}:{admin.port} for the admin port"
            await self._admin.start(admin)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise StartError(f"cannot listen on {where}: {reason}") from error
        _log.info("ready", extra=self._digests())
        self._notifier.ready()
        self.started.set_result(port)

    async def _keep_up(self) -> None:
        """Renews the signer's own certificate."""
        while True:
            await asyncio.sleep(UPKEEP_S)
            in_force, now = self._known(), self._now()
            if now < in_force.serving.renew_at:
                continue
            try:
                self._put_in_force(state.renewed(in_force, self._settings, now))
            except Refused as error:
                _log.error("the signer's own certificate cannot be renewed: %s", error)

    def _put_in_force(self, loaded: state.InForce) -> None:
        self._in_force = loaded
        self._measures.ends_at(loaded.status.not_after)

    def _known(self) -> state.InForce:
        assert self._in_force is not None, "set before anything listens"
        return self._in_force

    def _context(self) -> ssl.SSLContext:
        return self._known().serving.context

    def _ready(self) -> str:
        """Empty: ready."""
        if self._now() >= datetime.fromisoformat(self._known().status.not_after):
            return f"the signer's certificate ended at {self._known().status.not_after}"
        return ""

    def _digests(self) -> dict[str, str]:
        in_force = self._known()
        return {
            "serial": in_force.status.serial,
            "not_after": in_force.status.not_after,
            "record": in_force.record_digest,
            "bundle": in_force.bundle_digest,
        }

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        caller: Caller | None = None
        in_force = self._known()
        try:
            self._check_head(request)
            connection = request.get_extra_info("ssl_object")
            der = connection.getpeercert(binary_form=True)
            caller = identify(der, self._settings.trust_domain)
            self._signing.admit(caller, in_force)
            ask = await _read(request)
            leaf = await self._signing.sign(caller, ask.csr.encode(), in_force)
        except Refusal as refusal:
            self._signing.refused(refusal, request.remote or "", caller)
            return _refusal(refusal)
        return _response(200, _Answer(chain=leaf.chain_pem.decode("ascii")))

    def _check_head(self, request: web.BaseRequest) -> None:
        if request.path != PATH or request.method != "POST":
            raise Refusal(Code.BAD_REQUEST, f"there is only POST {PATH} here")
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise Refusal(Code.BAD_REQUEST, f"the body is larger than {MAX_BODY_BYTES} bytes")


async def _read(request: web.BaseRequest) -> _Ask:
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(Code.BAD_REQUEST, f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        return codec.decode(body, _Ask)
    except codec.Malformed as error:
        raise Refusal(Code.BAD_REQUEST, f"the body is not a renewal: {error}") from error


def _refusal(refusal: Refusal) -> web.Response:
    status = STATUS[refusal.code]
    answer = _Refused(error=str(refusal), hint=refusal.hint, code=str(refusal.code))
    response = _response(status, answer)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        response.headers["Retry-After"] = str(refusal.retry_after_s)
    return response


def _response(status: int, value: Value) -> web.Response:
    response = web.Response(
        status=status, body=codec.encode(value), content_type="application/json"
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "meshctl-signer"
    response.force_close()
    return response
