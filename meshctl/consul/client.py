"""py-consul over an aiohttp session of our own, and its errors in ours.

py-consul knows the paths, parameters and shapes of Consul's API. Its own asynchronous transport
is not used: it passes arguments that aiohttp has deprecated, follows redirects and reads answers
of any size. Whatever py-consul, aiohttp or a broken Consul can raise is translated here, once.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from consul import ACLPermissionDenied, ConsulException
from consul import base as consul_base

from meshctl.acl import KEY_PREFIX
from meshctl.errors import InvalidInput, RemoteFailure, Unreachable
from proxy.model.registration import SERVICE_PREFIX
from proxy.model.violation import Violation

CALL_DEADLINE_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Some 30,000 instances of one service."""

T = TypeVar("T")


class _Http(consul_base.HTTPClient):  # type: ignore[misc]  # py-consul has no types
    """What py-consul calls: each method gives an awaitable of the decoded answer."""

    def __init__(self, host: str, port: int, scheme: str, verify: Any, cert: Any) -> None:
        super().__init__(host, port, scheme, verify, cert)
        context = ssl.create_default_context() if scheme == "https" else False
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))

    def get(self, callback: Any, path: str, params: Any = None, headers: Any = None) -> Any:
        return self._request("GET", callback, self.uri(path, params), headers, None)

    def put(
        self,
        callback: Any,
        path: str,
        params: Any = None,
        data: str | bytes = "",
        headers: Any = None,
    ) -> Any:
        return self._request("PUT", callback, self.uri(path, params), headers, data)

    def delete(self, callback: Any, path: str, params: Any = None, headers: Any = None) -> Any:
        return self._request("DELETE", callback, self.uri(path, params), headers, None)

    def post(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("Consul's API has PUT for everything used here")

    def close(self) -> Any:
        return self._session.close()

    async def _request(
        self, method: str, callback: Callable[[Any], T], url: str, headers: Any, data: Any
    ) -> T:
        async with self._session.request(
            method, url, headers=headers, data=data, allow_redirects=False
        ) as answer:
            parts: list[bytes] = []
            size = 0
            async for part in answer.content.iter_any():
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
                parts.append(part)
            text = b"".join(parts).decode()
            if 300 <= answer.status < 400:
                raise ValueError(f"a redirect, status {answer.status}")
            return callback(consul_base.Response(answer.status, answer.headers, text))


class _Client(consul_base.Consul):  # type: ignore[misc]  # py-consul has no types
    def http_connect(
        self, host: str, port: int, scheme: str, verify: Any = True, cert: Any = None
    ) -> _Http:
        return _Http(host, port, scheme, verify, cert)


class Connection:
    """py-consul's API as ``api``, whose calls go through ``ask``."""

    def __init__(self, url: str, token: str | None, datacenter: str | None) -> None:
        """Raises InvalidInput for a URL that is not ``http[s]://host:port``."""
        self.url = url.rstrip("/")
        self._scheme, self._host, self._port = _split(url)
        self._token = token
        self._datacenter = datacenter
        self._client: Any = None

    @property
    def api(self) -> Any:
        """Made at first use: aiohttp wants a running loop."""
        if self._client is None:
            self._client = _Client(
                host=self._host, port=self._port, scheme=self._scheme, dc=self._datacenter
            )
            if self._token is not None:
                # py-consul prefers the environment's token; one that was given must win.
                self._client.token = self._token
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.http.close()

    async def indexed(self, call: Awaitable[Any]) -> Any:
        """The answer to a query that comes with an index, without the index."""
        answer = await self.ask(call)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self.garbage("an index is missing")
        return answer[1]

    async def ask(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                return await call
        except TimeoutError as error:
            raise Unreachable(
                f"Consul at {self.url} did not answer within {CALL_DEADLINE_S:g} s",
                hint=self._hint_to_look(),
            ) from error
        except ACLPermissionDenied as error:
            raise RemoteFailure(
                f"Consul at {self.url} denies access",
                output=str(error),
                hint=f"with consul.mode managed, run `meshctl deploy`; else give meshctl, by "
                f"consul.operator_token_file, a token that may write keys under {KEY_PREFIX} and "
                f"read services under {SERVICE_PREFIX} and all nodes",
            ) from error
        except ConsulException as error:
            raise RemoteFailure(
                f"Consul at {self.url} failed to answer",
                output=_clip(str(error)),
                hint="see its own log; with 'No cluster leader' a majority of servers is missing",
            ) from error
        except aiohttp.ClientPayloadError as error:
            raise self.garbage("its answer broke off") from error
        except aiohttp.ClientResponseError as error:
            raise self.garbage("it does not speak HTTP") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(
                f"Consul at {self.url} cannot be reached: {_clip(str(error))}",
                hint=self._hint_to_look(),
            ) from error
        except (
            AttributeError,
            IndexError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            # What py-consul's decoding raises for JSON of another shape, and bad base64 or UTF-8.
            raise self.garbage("it is not JSON of Consul's shape") from error

    def _hint_to_look(self) -> str:
        return f"see that Consul runs there: curl {self.url}/v1/status/leader"

    def garbage(self, what: str) -> RemoteFailure:
        return RemoteFailure(
            f"what answers at {self.url} is not Consul: {what}",
            hint="check consul.address in the inventory",
        )


def _split(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/"):
        raise InvalidInput(
            "the address of Consul",
            [
                Violation(
                    path="consul.address",
                    message=f"{url!r} is not a URL of Consul",
                    hint="use http://host:port",
                )
            ],
        )
    shown = f"[{host}]" if ":" in host else host
    return parts.scheme, shown, port or (443 if parts.scheme == "https" else 80)


def _clip(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:497]}..."
