"""Logs: one JSON object a line on stderr, for the journal.

A line that repeats is held back after a few, and counted; key material never gets out, even if
somebody puts it into a message.
"""

import io
import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from proxy.core.backoff import TokenBucket

MAX_FIELD_CHARS = 4096
REPEATS_AT_ONCE = 10
REPEATS_PER_S = 0.2
MAX_TRACKED = 256
"""Different messages whose repetition is counted; the oldest is forgotten."""

_Kind = tuple[str, int, str]
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
)
_TOKEN = re.compile(r"(x-consul-token\W{0,4})[^\s'\"]+", re.I)


class JsonFormatter(logging.Formatter):
    """``{"ts": …, "level": …, "logger": …, "msg": …, extras}``; the text of a bug is ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _safe(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = _plain(value)
        if record.exc_info:
            line["error"] = _safe(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


class Repetition(logging.Filter):
    """Lets a few equal lines through, then one every few seconds with the count of the others.

    Equal: same logger, level and message before its arguments are put in.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[_Kind, tuple[TokenBucket, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, record.levelno, str(record.msg))
        known = self._seen.pop(key, None)
        bucket, held_back = (
            known
            if known is not None
            else (TokenBucket(rate=REPEATS_PER_S, burst=REPEATS_AT_ONCE), 0)
        )
        is_let_through = bucket.try_take(time.monotonic())
        if is_let_through and held_back:
            record.held_back = held_back
        self._seen[key] = (bucket, 0 if is_let_through else held_back + 1)
        if len(self._seen) > MAX_TRACKED:
            del self._seen[next(iter(self._seen))]
        return is_let_through


def configure(
    stream: TextIO | None = None,
    *,
    level: int = logging.INFO,
    are_repeats_held_back: bool = True,
) -> None:
    """Once, at start; replaces whatever handlers the root logger had.

    ``are_repeats_held_back`` False: for who has to show each decision, and bounds them itself.
    """
    target = sys.stderr if stream is None else stream
    if isinstance(target, io.TextIOWrapper):
        target.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(target)
    handler.setFormatter(JsonFormatter())
    if are_repeats_held_back:
        handler.addFilter(Repetition())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # A failing handler must not print a traceback with the record's arguments to stderr.
    logging.raiseExceptions = False


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:100]]
    if isinstance(value, bytes | bytearray):
        return _safe(bytes(value).decode("utf-8", "backslashreplace"))
    return _safe(str(value))


def _safe(text: str) -> str:
    text = _KEY.sub("[private key removed]", text)
    text = _TOKEN.sub(r"\1[removed]", text)
    if len(text) > MAX_FIELD_CHARS:
        text = f"{text[:MAX_FIELD_CHARS]}… ({len(text)} characters)"
    # Lone surrogates (from os.fsdecode) cannot be written as UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
