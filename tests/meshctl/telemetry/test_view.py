"""The document of a view: all of it, in JSON, small enough for one a second."""

import json
import time
from dataclasses import fields

import msgspec
from browser import made
from telemetry.made import MadeMesh

from meshctl.telemetry.rates import view
from meshctl.telemetry.view import Edge, View, document


def test_every_field_of_a_view_is_there_under_its_name() -> None:
    found = json.loads(msgspec.json.encode(document(made.shop(1))))
    assert found.keys() == {field.name for field in fields(View)}
    assert found["edges"][0].keys() == {field.name for field in fields(Edge)}
    assert found["denials"] == [
        {"caller": "reports", "service": "orders", "policy": "orders/default-deny", "count": 3}
    ]


def test_a_thousand_edges_fit_a_message_of_a_megabyte_or_so() -> None:
    mesh = MadeMesh(200, 1000, seed=1)
    before, after = mesh.step(10.0), mesh.step(10.0)
    body = msgspec.json.encode(document(view(before, after, at=time.time())))
    assert len(body) < 2 * 1024 * 1024
