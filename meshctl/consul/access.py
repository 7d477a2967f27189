"""Consul's API of access control: ``/v1/acl``, as far as Consul 1.8 and later have it in common."""

import json
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

from meshctl.acl import Grant, Token
from meshctl.consul.client import Connection
from meshctl.errors import RemoteFailure

_RESET_INDEX = re.compile(r"reset index: (\d+)")
"""Consul's own words since 1.4; its documented way to learn the index."""


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
            return Token(str(self._parsed(text)["SecretID"]))
        again = _RESET_INDEX.search(text)
        if status == 403 and again is not None:
            raise Spent("Consul has a management token already", reset_index=int(again.group(1)))
        raise _not_ready(status, text)

    async def own_accessor(self) -> str | None:
        """None: Consul does not know the token."""
        status, text = await self._call("GET", "/v1/acl/token/self")
        if status == 200:
            return str(self._parsed(text)["AccessorID"])
        if status == 403:
            return None
        raise _not_ready(status, text)

    async def policies(self) -> dict[str, PolicyStub]:
        """By name."""
        return {
            entry["Name"]: PolicyStub(
                id=entry["ID"], name=entry["Name"], description=entry.get("Description") or ""
            )
            for entry in await self._get("/v1/acl/policies")
        }

    async def tokens(self) -> tuple[TokenStub, ...]:
        return tuple(
            TokenStub(
                accessor=entry["AccessorID"],
                description=entry.get("Description") or "",
                policies=tuple(link["Name"] for link in entry.get("Policies") or ()),
            )
            for entry in await self._get("/v1/acl/tokens")
        )

    async def put_policy(self, grant: Grant, known: PolicyStub | None) -> None:
        body = {"Name": grant.name, "Description": grant.mark, "Rules": grant.rules}
        path = "/v1/acl/policy" if known is None else f"/v1/acl/policy/{quote(known.id, safe='')}"
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
        await self._change("DELETE", f"/v1/acl/policy/{quote(policy.id, safe='')}")

    async def delete_token(self, accessor: str) -> None:
        await self._change("DELETE", f"/v1/acl/token/{quote(accessor, safe='')}")

    async def use_agent_token(self, token: Token) -> None:
        """The agent that is asked tries again at once what it was refused without the token."""
        await self._change("PUT", "/v1/agent/token/agent", {"Token": token.secret})

    async def _get(self, path: str) -> list[dict[str, Any]]:
        status, text = await self._call("GET", path)
        if status != 200:
            raise self._failed(status, text)
        entries: list[dict[str, Any]] = self._parsed(text)
        return entries

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

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._connection.garbage("its answer is not JSON") from error

    def _failed(self, status: int, text: str) -> RemoteFailure:
        if status == 403:
            return RemoteFailure(
                f"Consul at {self._connection.url} denies the management of access",
                output=text[:500],
                hint="run meshctl deploy again: it makes a new management token",
            )
        return _not_ready(status, text)


def _not_ready(status: int, text: str) -> NotReady:
    return NotReady(
        f"Consul's access control is not ready (it answers {status})",
        output=text[:500],
        hint="see `journalctl -u meshctl-consul` on the control hosts; every server has to run the"
        " configuration of this deploy: deploy without --limit",
    )
