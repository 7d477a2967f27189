"""Log lines: whole, bounded, without secrets."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from proxy import log

PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----"


@pytest.fixture
def lines() -> Iterator[Any]:
    root = logging.getLogger()
    before, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    stream = io.StringIO()
    log.configure(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    logging.raiseExceptions = raises


def test_a_line_is_one_json_object_with_its_extras(lines: Any) -> None:
    logging.getLogger("proxy.x").warning(
        "two\nlines of %s", "text", extra={"service": "api", "count": 2, "why": {3}}
    )
    (line,) = lines()
    assert line.pop("ts").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "proxy.x",
        "msg": "two\nlines of text",
        "service": "api",
        "count": 2,
        "why": [3],
    }


def test_an_exception_is_part_of_its_line(lines: Any) -> None:
    try:
        raise ValueError(PEM)
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = lines()
    assert "ValueError" in line["error"]
    assert "MIGH" not in line["error"]


def test_key_material_and_tokens_do_not_get_out(lines: Any) -> None:
    logger = logging.getLogger("x")
    logger.info("read %s", PEM, extra={"data": PEM.encode(), "cut": PEM[:40], "list": [PEM]})
    logger.info("sent X-Consul-Token: s3cret and {'x-consul-token': 's3cret'}")
    text = json.dumps(lines())
    assert "MIGH" not in text
    assert "s3cret" not in text
    assert "private key removed" in text


def test_bytes_and_surrogates_do_not_break_a_line(lines: Any) -> None:
    logging.getLogger("x").info("path \udcff", extra={"raw": b"\xff\x00ok"})
    (line,) = lines()
    assert line["msg"] == "path \\udcff"
    assert "ok" in line["raw"]


def test_a_field_is_bounded(lines: Any) -> None:
    logging.getLogger("x").info("y" * 100_000)
    assert len(lines()[0]["msg"]) < log.MAX_FIELD_CHARS + 50


def test_repeated_lines_are_held_back_and_counted(
    lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    for number in range(500):
        logging.getLogger("x").warning("failed %d", number)
        logging.getLogger("y").warning("rare") if number == 0 else None
    assert len(lines()) == log.REPEATS_AT_ONCE + 1
    now += 5.0
    logging.getLogger("x").warning("failed %d", 500)
    assert lines()[-1]["held_back"] == 500 - log.REPEATS_AT_ONCE


def test_the_table_of_repetitions_is_bounded() -> None:
    repetition = log.Repetition()
    for number in range(5 * log.MAX_TRACKED):
        record = logging.LogRecord("x", logging.INFO, "f", 1, f"m{number}", (), None)
        assert repetition.filter(record)
    assert len(repetition._seen) <= log.MAX_TRACKED


def test_who_has_to_show_each_decision_holds_no_repeats_back(lines: Any) -> None:
    stream = io.StringIO()
    log.configure(stream, are_repeats_held_back=False)
    for _ in range(3 * log.REPEATS_AT_ONCE):
        logging.getLogger("x").info("signed %s", PEM)
    shown = stream.getvalue().splitlines()
    assert len(shown) == 3 * log.REPEATS_AT_ONCE
    assert "MIGH" not in stream.getvalue()
