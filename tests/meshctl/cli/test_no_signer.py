"""What is said where identities are renewed by nobody but an operator."""

from pathlib import Path

import pytest

from meshctl.cli.deploy import no_signer
from meshctl.inventory.parse import parse

HOST = "hosts: [{name: a, address: 10.0.0.1, roles: [%s]}]\n"
BASE = "version: 1\nconsul: {mode: existing}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BASE + HOST % "control", ""),
        (BASE + HOST % "workload", "no host reached over ssh has the role control"),
        (BASE + "certificates: {signer: none}\n" + HOST % "control", "certificates.signer is none"),
    ],
)
def test_who_renews_identities_is_said_where_it_is_nobody(text: str, says: str) -> None:
    note = no_signer(parse(text, Path("/mesh/inventory.yaml")))
    if not says:
        assert note == ""
        return
    assert says in note
    assert "identities live 720h" in note
    assert "meshctl certs rotate" in note
