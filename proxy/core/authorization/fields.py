"""The headers and query parameters that both policy and application see.

As with paths, whoever grants access by them must not let the application read another value than
policy read. Of what rules look at, that is refused which applications read in different ways:

* a header or parameter that comes twice, where rules look at its value: some take the first, some
  the last, some join them;
* a header whose name is another one to gateways such as WSGI and CGI, to which ``x_team`` and
  ``x.team`` are ``x-team``;
* a ``;`` in the query, where rules look at parameters: the end of one, to some.
"""

from collections.abc import Iterable
from typing import Final

from proxy.core.authorization.decision import Reason
from proxy.core.routing.conditions import Head
from proxy.core.routing.paths import decode
from proxy.model.routing import Match, TextMatch

_FOLDED: Final = bytes.maketrans(b"!#$%&'*+.^_`|~", b"-" * 14)


class Looked:
    """What one caller's rules look at, besides method and path."""

    __slots__ = ("_folded", "_headers", "_parameters", "_values")

    def __init__(self, matches: Iterable[Match]) -> None:
        headers: dict[bytes, bool] = {}
        self._parameters: set[bytes] = set()
        for match in matches:
            for name, text in match.headers.items():
                key = name.lower().encode()
                headers[key] = headers.get(key, False) or _is_for_value(text)
            self._parameters.update(
                name.encode() for name, text in match.query.items() if _is_for_value(text)
            )
        self._headers = frozenset(headers)
        self._values = frozenset(name for name, is_for_value in headers.items() if is_for_value)
        self._folded = frozenset(name.translate(_FOLDED) for name in headers)

    def ambiguity(self, head: Head) -> Reason | None:
        """None: it has one reading."""
        if self._headers and self._is_header_ambiguous(head.lines):
            return Reason.AMBIGUOUS_HEADER
        if self._parameters and self._is_query_ambiguous(head.target):
            return Reason.AMBIGUOUS_QUERY
        return None

    def _is_header_ambiguous(self, lines: Iterable[bytes]) -> bool:
        found: set[bytes] = set()
        for line in lines:
            name = line[: line.index(b":")]
            if name in self._headers:
                if name in found and name in self._values:
                    return True
                found.add(name)
            elif name.translate(_FOLDED) in self._folded:
                return True
        return False

    def _is_query_ambiguous(self, target: bytes) -> bool:
        query = target.partition(b"?")[2]
        if b";" in query:
            return True
        found: set[bytes] = set()
        for piece in query.split(b"&"):
            name = decode(piece.partition(b"=")[0].replace(b"+", b" "))
            if name in self._parameters:
                if name in found:
                    return True
                found.add(name)
        return False


def _is_for_value(text: TextMatch) -> bool:
    return text.exact is not None or text.prefix is not None or text.regex is not None
