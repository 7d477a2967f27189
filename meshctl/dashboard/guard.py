"""Who may look, and what the browser may do for them.

The dashboard shows a mesh from inside to whoever reaches its port, and every user and every web
page of this machine reaches a port of loopback. So: a random token that only the operator's
terminal and a file of theirs have, exchanged for a cookie that scripts cannot read and other sites
cannot send; ``Host`` and ``Origin`` by exact match, against names that others have pointed at
127.0.0.1 (DNS rebinding); and a content policy that lets the page run its own files and reach this
server, nothing else.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Middleware

_TOKEN_BYTES = 32
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        # No text can become markup, not even by a mistake in our own script.
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
# A redirect would be part of a journey that another site may have begun, and the browser would
# keep the strict cookie back from it. This page's own step to / has no such past, and takes the
# place of the address with the token in the history.
_ENTER = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">
<title>meshctl dashboard</title><p><a href="/">Open the dashboard</a></p></html>
"""
_REFUSED = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>meshctl dashboard</title>
<h1>This dashboard is not open here yet</h1>
<p>Open the whole address that <code>meshctl dashboard</code> printed, with its token.
After a restart of the command the address is a new one.</p></html>
"""


class Guard:
    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._session = secrets.token_urlsafe(_TOKEN_BYTES)
        # Cookies do not know ports: two dashboards must not log each other out.
        self.cookie = f"meshctl_dashboard_{port}"
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self.address = f"http://127.0.0.1:{port}/"

    @property
    def url(self) -> str:
        """Whoever has it may look."""
        return f"{self.address}?token={self.token}"

    def middleware(self) -> Middleware:
        @web.middleware
        async def guarded(
            request: web.Request,
            handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        ) -> web.StreamResponse:
            answer: web.StreamResponse | None = self._refusal(request)
            if answer is None:
                try:
                    answer = await handler(request)
                except web.HTTPException as error:
                    answer = _plain(error.status, error.text or error.reason)
            if not answer.prepared:
                answer.headers.update(HEADERS)
            return answer

        return guarded

    def _refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that goes no further; None: it may."""
        if request.method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, "the dashboard only shows")
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _plain(HTTPStatus.MISDIRECTED_REQUEST, "this is not the name of this server")
        origins = request.headers.getall("Origin", [])
        if any(origin != f"http://{hosts[0].lower()}" for origin in origins):
            return _plain(HTTPStatus.FORBIDDEN, "this is for the dashboard's own page")
        if request.path == "/" and (given := request.query.get("token")) is not None:
            return self._enter(given)
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return _plain(HTTPStatus.FORBIDDEN, "this is for the dashboard's own page")
        if not _same(request.cookies.get(self.cookie, ""), self._session):
            return self._stranger(request)
        return None

    def _enter(self, given: str) -> web.Response:
        if not _same(given, self.token):
            return web.Response(
                status=HTTPStatus.FORBIDDEN, text=_REFUSED, content_type="text/html"
            )
        answer = web.Response(text=_ENTER, content_type="text/html")
        answer.set_cookie(self.cookie, self._session, httponly=True, samesite="Strict", path="/")
        return answer

    def _stranger(self, request: web.Request) -> web.Response:
        if request.path == "/":
            return web.Response(
                status=HTTPStatus.FORBIDDEN, text=_REFUSED, content_type="text/html"
            )
        return _plain(HTTPStatus.FORBIDDEN, "open the address that meshctl dashboard printed")


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", content_type="text/plain")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
