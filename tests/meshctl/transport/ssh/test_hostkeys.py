"""The known-hosts file: what is matched, recorded, replaced and left alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh
import pytest

from meshctl.errors import Refused, StateCorrupt
from meshctl.transport.ssh import hostkeys
from meshctl.transport.ssh.hostkeys import HostKey, Trusted, trust
from proxy.model.names import parse_host

WEB = parse_host("web-1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


@pytest.fixture(scope="module")
def generated() -> list[asyncssh.SSHKey]:
    return [asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(8)]


def presented(key: asyncssh.SSHKey, address: str = "10.0.0.7", port: int = 22) -> HostKey:
    return hostkeys.host_key(WEB, "web-1", address, port, key, Trusted())


def test_no_file_knows_nobody(path: Path) -> None:
    assert not hostkeys.lookup(path, "10.0.0.7", 22).is_known


@pytest.mark.parametrize("port", [22, 2222])
@pytest.mark.parametrize("address", ["10.0.0.7", "web.example.com", "fd00::7"])
def test_a_recorded_key_is_found_under_its_address_and_port_only(
    path: Path, generated: list[asyncssh.SSHKey], address: str, port: int
) -> None:
    trust(presented(generated[0], address, port), path)

    assert generated[0] in hostkeys.lookup(path, address, port).keys
    assert not hostkeys.lookup(path, address, port + 1).is_known
    assert not hostkeys.lookup(path, "10.0.0.8", port).is_known


def test_recording_twice_changes_nothing(path: Path, generated: list[asyncssh.SSHKey]) -> None:
    assert trust(presented(generated[0]), path)
    before = path.read_bytes()

    assert not trust(presented(generated[0]), path)
    assert path.read_bytes() == before


def test_another_key_is_refused_and_replaced_only_when_told(
    path: Path, generated: list[asyncssh.SSHKey]
) -> None:
    path.write_text("# mine\n")
    trust(presented(generated[0]), path)
    trust(presented(generated[2], "10.0.0.9"), path)

    with pytest.raises(Refused, match="HAS CHANGED"):
        trust(presented(generated[1]), path)
    assert trust(presented(generated[1]), path, replace=True)

    assert hostkeys.lookup(path, "10.0.0.7", 22).keys == (generated[1],)
    assert hostkeys.lookup(path, "10.0.0.9", 22).keys == (generated[2],)
    assert path.read_text().startswith("# mine\n")


def test_replacing_leaves_other_names_on_the_same_line(
    path: Path, generated: list[asyncssh.SSHKey]
) -> None:
    path.write_text(presented(generated[0]).line.replace("10.0.0.7", "10.0.0.7,web,10.0.0.8"))

    trust(presented(generated[1]), path, replace=True)

    assert hostkeys.lookup(path, "10.0.0.7", 22).keys == (generated[1],)
    assert hostkeys.lookup(path, "10.0.0.8", 22).keys == (generated[0],)


def test_a_key_trusted_by_a_pattern_is_not_replaced(
    path: Path, generated: list[asyncssh.SSHKey]
) -> None:
    path.write_text(presented(generated[0]).line.replace("10.0.0.7", "10.0.0.*") + "\n")
    before = path.read_text()

    with pytest.raises(Refused, match="every host that matches"):
        trust(presented(generated[1]), path, replace=True)
    assert path.read_text() == before


def test_many_writers_at_once_lose_nothing(path: Path, generated: list[asyncssh.SSHKey]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda one: trust(presented(one[1], f"10.0.1.{one[0]}"), path),
                enumerate(generated),
            )
        )

    assert len(path.read_text().splitlines()) == len(generated)


def test_the_file_keeps_its_mode_and_stays_a_symbolic_link(
    tmp_path: Path, path: Path, generated: list[asyncssh.SSHKey]
) -> None:
    real = tmp_path / "dotfiles"
    real.touch(mode=0o640)
    real.chmod(0o640)
    path.symlink_to(real)

    trust(presented(generated[0]), path)

    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "10.0.0.7" in real.read_text()


@pytest.mark.parametrize("text", ["one-word\n", "@unknown-marker a b\n"])
def test_a_file_in_another_format_is_reported_with_its_name(path: Path, text: str) -> None:
    path.write_text(text)

    with pytest.raises(StateCorrupt, match="known_hosts"):
        hostkeys.lookup(path, "10.0.0.7", 22)
