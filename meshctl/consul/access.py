"""Consul's API of access control: ``/v1/acl``, as far as Consul 1.8 and later have it in common."""

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from meshctl.acl import Grant, Token
from meshctl.consul.client import Connection
from meshctl.errors import RemoteFailure

_RESET_INDEX = re.compile(r"reset index: (\d+)")
"""Consul's own words since 1.4; its documented way to learn the index."""

T = TypeVar("T")


class NotReady(RemoteFailure):
    """Access control does not work yet: no leader, or a server that has not turned it on."""


class Spent(RemoteFailure):
    """There was a management token once, and this is not who has it."""

    def __init__(self, message: str, *, reset_index: int) -> None:
        super().__init__(message, hint="run meshctl deploy again")
        self.reset_index = reset_index
        """What ``acl-bootstrap-reset`` in the leader's data folder has to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStub:
    id: str
    name: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStub:
    accessor: str
    description: str
    policies: tuple[str, ...]
    """Names."""


class AccessEdge:
    """One agent, asked with the management token. ``async with``."""

    def __init__(self, url: str, token: Token | None) -> None:
        self._connection = Connection(url, None, None)
        self._headers = {} if token is None else {"X-Consul-Token": token.secret}

    async def __aenter__(self) -> "AccessEdge":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()

    async def bootstrap(self) -> Token:
        """The first token, which may do everything. Raises Spent the second time, NotReady."""
        status, text = await self._call("PUT", "/v1/acl/bootstrap")
        if status == 200:
            return self._read(text, lambda answer: Token(str(uuid.UUID(answer["SecretID"]))))
        # 403, or 500 where a reset file of an earlier time says another index.
        again = _RESET_INDEX.search(text)
        if again is not None:
            raise Spent("Consul has a management token already", reset_index=int(again.group(1)))
        raise _not_ready(status, text)

    async def own_accessor(self) -> str | None:
        """None: Consul does not know the token."""
        status, text = await self._call("GET", "/v1/acl/token/self")
        if status == 200:
            return self._read(text, lambda answer: str(uuid.UUID(answer["AccessorID"])))
        if status == 403:
            return None
        raise _not_ready(status, text)

    async def policies(self) -> dict[str, PolicyStub]:
        """By name."""
        return {policy.name: policy for policy in await self._list("/v1/acl/policies", _policy)}

    async def tokens(self) -> tuple[TokenStub, ...]:
        return tuple(await self._list("/v1/acl/tokens", _token))

    async def put_policy(self, grant: Grant, known: PolicyStub | None) -> None:
        body = {"Name": grant.name, "Description": grant.mark, "Rules": grant.rules}
        path = "/v1/acl/policy" if known is None else f"/v1/acl/policy/{known.id}"
        await self._change("PUT", path, body)

    async def put_token(self, grant: Grant, *, is_known: bool, mark: str) -> None:
        body: dict[str, Any] = {
            "AccessorID": grant.token.accessor,
            "Description": f"{mark}{grant.about}",
            "Policies": [{"Name": grant.name}],
        }
        if is_known:
            await self._change("PUT", f"/v1/acl/token/{grant.token.accessor}", body)
        else:
            await self._change("PUT", "/v1/acl/token", {**body, "SecretID": grant.token.secret})

    async def delete_policy(self, policy: PolicyStub) -> None:
        await self._change("DELETE", f"/v1/acl/policy/{policy.id}")

    async def delete_token(self, accessor: str) -> None:
        await self._change("DELETE", f"/v1/acl/token/{accessor}")

    async def use_agent_token(self, token: Token) -> None:
        """The agent that is asked tries again at once what it was refused without the token."""
        await self._change("PUT", "/v1/agent/token/agent", {"Token": token.secret})

    async def _list(self, path: str, make: Callable[[Any], T]) -> list[T]:
        status, text = await self._call("GET", path)
        if status != 200:
            raise self._failed(status, text)
        return self._read(text, lambda answer: [make(entry) for entry in answer])

    async def _change(self, method: str, path: str, body: Any = None) -> None:
        status, text = await self._call(method, path, body)
        if status != 200:
            raise self._failed(status, text)

    async def _call(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        http = self._connection.api.http

        def answer(response: Any) -> tuple[int, str]:
            return int(response.code), str(response.body)

        if method == "GET":
            call = http.get(answer, path, headers=self._headers)
        elif method == "DELETE":
            call = http.delete(answer, path, headers=self._headers)
        else:
            data = "" if body is None else json.dumps(body)
            call = http.put(answer, path, headers=self._headers, data=data)
        return await self._connection.ask(call)

    def _read(self, text: str, make: Callable[[Any], T]) -> T:
        try:
            return make(json.loads(text))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise self._connection.garbage("its answer is not of Consul's shape") from error

    def _failed(self, status: int, text: str) -> RemoteFailure:
        if status == 403:
            return RemoteFailure(
                f"Consul at {self._connection.url} denies the management of access",
                output=text[:500],
                hint="run meshctl deploy again: it makes a new management token",
            )
        return _not_ready(status, text)


def _policy(entry: Any) -> PolicyStub:
    return PolicyStub(
        # As a UUID, for it becomes a part of a path.
        id=str(uuid.UUID(entry["ID"])),
        name=str(entry["Name"]),
        description=str(entry.get("Description") or ""),
    )


def _token(entry: Any) -> TokenStub:
    return TokenStub(
        accessor=str(uuid.UUID(entry["AccessorID"])),
        description=str(entry.get("Description") or ""),
        policies=tuple(str(link["Name"]) for link in entry.get("Policies") or ()),
    )


def _not_ready(status: int, text: str) -> NotReady:
    return NotReady(
        f"Consul's access control is not ready (it answers {status})",
        output=text[:500],
        hint="see `journalctl -u meshctl-consul` on the control hosts; every server has to run the"
        " configuration of this deploy: deploy without --limit",
    )
