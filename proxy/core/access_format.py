"""The text form of an access log's line: what an operator writes, parsed; and what may stand in it.

``%field%`` stands for the field's value, ``%%`` for a percent sign, all else for itself. A value is
written so that it cannot be taken for anything around it: what is not printable ASCII, the
double quote and the backslash are written as ``\\xNN``. A value that is missing is ``-``.
"""

import re
from dataclasses import dataclass
from typing import Final

BOTH: Final = (
    *("ts", "log", "side", "host", "caller", "caller_identity", "service", "service_identity"),
    "protocol",
)
"""First in every line, in this order."""
HTTP: Final = (
    *("method", "authority", "route", "endpoint", "attempts", "status"),
    *("grpc_status", "flag", "reason", "policy"),
    *("path", "request_id", "trace_id", "queue_ms", "connect_ms", "first_byte_ms", "total_ms"),
    *("request_bytes", "response_bytes"),
)
"""After them, of a request."""
TCP: Final = (
    *("endpoint", "attempts", "flag", "reason", "policy", "connect_ms", "total_ms"),
    *("sent_bytes", "received_bytes"),
)
"""After them, of a TCP session."""
FIELDS: Final = (*BOTH, *HTTP, *(name for name in TCP if name not in HTTP))

MAX_FORMAT_CHARS: Final = 1000
MAX_FORMAT_FIELDS: Final = 50
"""Named in one format, each as often as it is; together with what each value is cut to, a bound
for the length of a line."""

_PIECE = re.compile(r"%([^%]*)%")
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    template: str
    """With a ``%s`` for the value of each of ``names``."""
    names: tuple[str, ...]

    def fill(self, values: list[str]) -> str:
        """``values``: of ``names``, as they come from the network."""
        if _UNSAFE.search("".join(values)):
            values = [_UNSAFE.sub(_escaped, value) for value in values]
        return self.template % tuple(values)


def parse_format(text: str) -> Compiled:
    """Raises ValueError with what is wrong, in lower case and without a full stop."""
    if not text.strip():
        raise ValueError("is empty")
    if len(text) > MAX_FORMAT_CHARS:
        raise ValueError(f"is longer than {MAX_FORMAT_CHARS} characters")
    if not text.isprintable():
        raise ValueError("has a line break or another character that cannot be printed")
    if not text.isascii():
        raise ValueError("has a character that is not ASCII")
    literals, names = [""], []
    at = 0
    for match in _PIECE.finditer(text):
        literals[-1] += text[at : match.start()]
        at = match.end()
        name = match.group(1)
        if not name:
            literals[-1] += "%"
        elif name in FIELDS:
            names.append(name)
            literals.append("")
        else:
            raise ValueError(f"%{name}% is no field; there are {', '.join(FIELDS)}")
    rest = text[at:]
    if "%" in rest:
        raise ValueError("has a single % in it; a percent sign is written %%")
    if not names:
        raise ValueError("names no field, such as %path%")
    if len(names) > MAX_FORMAT_FIELDS:
        raise ValueError(f"names more than {MAX_FORMAT_FIELDS} fields")
    literals[-1] += rest
    template = "%s".join(literal.replace("%", "%%") for literal in literals)
    return Compiled(template=template, names=tuple(names))


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match.group().encode("utf-8", "backslashreplace"))
