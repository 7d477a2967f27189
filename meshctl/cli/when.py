"""Points in time as people and programs read them."""

from datetime import UTC, datetime, timedelta


def text(moment: datetime) -> str:
    """RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def remaining(end: datetime, now: datetime) -> str:
    """``in 29 d``, ``in 3 h``, ``in 40 s``, or ``4 d ago``: the largest unit that says enough."""
    left = end - now
    size = _size(abs(left))
    return f"in {size}" if left > timedelta(0) else f"{size} ago"


def _size(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
