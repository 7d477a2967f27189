"""Keys that cannot be used are refused with what to do, before any connection."""

import shutil
from pathlib import Path

import pytest

from meshctl.errors import Refused
from meshctl.transport.ssh import credentials


@pytest.fixture
def key(keys: Path, tmp_path: Path) -> Path:
    path = tmp_path / "key"
    shutil.copy(keys / "client", path)
    return path


def test_a_missing_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not exist") as caught:
        credentials.options(tmp_path / "nothing")
    assert "ssh.key" in caught.value.hint


def test_a_key_that_others_may_read_is_refused(key: Path) -> None:
    key.chmod(0o644)

    with pytest.raises(Refused, match=r"can be read by others \(mode 0644\)") as caught:
        credentials.options(key)
    assert caught.value.hint == f"chmod 600 {key}"


def test_a_public_key_in_place_of_the_private_one_is_refused(keys: Path) -> None:
    with pytest.raises(Refused, match="is not an SSH private key"):
        credentials.options(keys / "client.pub")


def test_a_truncated_key_is_refused(key: Path) -> None:
    key.write_bytes(key.read_bytes()[:150])

    with pytest.raises(Refused, match="is not an SSH private key"):
        credentials.options(key)


def test_an_encrypted_key_without_an_agent_is_refused(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

    with pytest.raises(Refused, match="is encrypted") as caught:
        credentials.options(keys / "locked")
    assert "ssh-add" in caught.value.hint


def test_a_named_key_is_offered_alone(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")

    options = credentials.options(key)

    assert len(options["client_keys"]) == 1
    assert options["agent_path"] is None


def test_without_a_named_key_the_agent_and_the_usual_files_are_left_to_offer() -> None:
    assert credentials.options(None) == {"preferred_auth": "publickey"}
