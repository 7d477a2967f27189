"""A call, an answer, a query that may wait: what lies between HTTP and the state.

Also the reading of Consul's parameters and the forms of its plain and JSON answers.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from meshctl.registry.definitions import BadRequest, parse_duration
from meshctl.registry.kv import MAX_VALUE_BYTES

DEFAULT_WAIT_S = 300.0
MAX_WAIT_S = 600.0
"""Both Consul's."""
MAX_BODY_BYTES = 1024 * 1024
"""Of any request: a transaction carries its values in base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    method: str
    path: str
    """Decoded, without the query."""
    query: Mapping[str, tuple[str, ...]]
    body: bytes = b""

    def has(self, name: str) -> bool:
        return name in self.query

    def get(self, name: str) -> str:
        return self.query.get(name, ("",))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A read that can block. It is due when ``index()`` exceeds ``min_index`` at arrival, or
    later when ``touched()`` has changed as well: then something that concerns it happened.
    """

    min_index: int
    """0: does not wait."""
    wait_s: float
    index: Callable[[], int]
    touched: Callable[[], int]
    render: Callable[[], Answer]


Outcome: TypeAlias = Answer | Query


def too_large(size: int) -> Answer:
    return plain(
        413,
        f"Request body({size} bytes) too large, max size: {MAX_VALUE_BYTES} bytes. "
        "See https://www.consul.io/docs/agent/options.html#kv_max_value_size.",
    )


def query(
    call: Call, index: Callable[[], int], touched: Callable[[], int], render: Callable[[], Answer]
) -> Query:
    text, wait_text = call.get("index"), call.get("wait")
    if text and not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise BadRequest("Invalid index")
    try:
        wait_s = parse_duration(wait_text) if wait_text else 0.0
    except ValueError:
        raise BadRequest("Invalid wait time") from None
    return Query(
        min_index=int(text or 0),
        wait_s=min(wait_s, MAX_WAIT_S) if wait_s > 0 else DEFAULT_WAIT_S,
        index=index,
        touched=touched,
        render=render,
    )


def unsigned(call: Call, name: str) -> int | Answer | None:
    """Consul blames itself (500) for a number that is none."""
    if not call.has(name):
        return None
    text = call.get(name)
    if text.isascii() and text.isdigit() and int(text[:21]) < 2**64:
        return int(text)
    return plain(500, f'strconv.ParseUint: parsing "{text}": invalid syntax')


def is_set(call: Call, name: str) -> bool:
    """A flag parameter: present without a value means yes; else Go's spellings of a boolean."""
    if not call.has(name):
        return False
    match call.get(name):
        case "" | "1" | "t" | "T" | "true" | "True" | "TRUE":
            return True
        case "0" | "f" | "F" | "false" | "False" | "FALSE":
            return False
        case _:
            raise BadRequest(f"Invalid value for ?{name}")


def require(argument: str, message: str) -> None:
    if not argument:
        raise BadRequest(message)


def json_answer(value: object, *, status: int = 200) -> Answer:
    return Answer(
        status=status, body=json.dumps(value).encode() + b"\n", content_type="application/json"
    )


def plain(status: int, text: str) -> Answer:
    return Answer(status=status, body=text.encode("utf-8", "replace"))


def unimplemented(what: str) -> Answer:
    return plain(
        501,
        f"The embedded registry does not implement {what}; "
        "it has only what the mesh uses of Consul's API.",
    )
