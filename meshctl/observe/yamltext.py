"""Text of the few YAML files that Prometheus reads: rules by block, so that people can read them.

Scalars are JSON strings, which every YAML reader takes; only expressions stand as they are.
"""

import json
from collections.abc import Iterable, Iterator

from meshctl.observe.alerting import AlertGroup
from meshctl.observe.recording import Group


def recording_rules(groups: Iterable[Group]) -> str:
    """A rule file; what it is made from has no tabs and no line breaks."""
    return _file(_recording_lines(groups))


def alerting_rules(groups: Iterable[AlertGroup]) -> str:
    return _file(_alerting_lines(groups))


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _file(lines: Iterator[str]) -> str:
    return "\n".join(("groups:", *lines, ""))


def _recording_lines(groups: Iterable[Group]) -> Iterator[str]:
    for group in groups:
        yield f"  - name: {group.name}"
        yield "    rules:"
        for rule in group.rules:
            yield f"      - record: {quoted(rule.name)}"
            yield f"        expr: {_expression(rule.expression)}"


def _alerting_lines(groups: Iterable[AlertGroup]) -> Iterator[str]:
    for group in groups:
        yield f"  - name: {group.name}"
        yield "    rules:"
        for alert in group.alerts:
            yield f"      - alert: {alert.name}"
            yield f"        expr: {_expression(alert.expression)}"
            yield f"        for: {alert.lasts}"
            yield "        labels:"
            yield f"          severity: {alert.severity}"
            yield "        annotations:"
            yield f"          summary: {quoted(alert.summary)}"
            yield f"          description: {quoted(alert.description)}"
            yield f"          command: {quoted(alert.command)}"


def _expression(text: str) -> str:
    return f"|-\n          {text}"
