"""Logs: one JSON object a line on stderr, for the journal; the same shape as the proxy's."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

MAX_FIELD_CHARS = 4096

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """``{"ts": …, "level": …, "logger": …, "msg": …, extras}``; the text of a bug is ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage()[:MAX_FIELD_CHARS],
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = str(value)[:MAX_FIELD_CHARS]
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-MAX_FIELD_CHARS:]
        return json.dumps(line, separators=(",", ":"))


def configure() -> None:
    """Once, at start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # A failing handler must not print a traceback with the record's arguments to stderr.
    logging.raiseExceptions = False
