"""The state directory: made once, opened with suspicion, locked by one."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.errors import Exit, MeshError, Refused, StateCorrupt
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.state import StateDir
from proxy.model.codec import Value
from proxy.model.names import HostName, ServiceName, TrustDomain

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TD = TrustDomain("mesh.internal")


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.create(tmp_path / ".meshctl", TD, NOW)


class Sample(Value, frozen=True, kw_only=True):
    number: int


class TestCreateAndOpen:
    def test_what_was_made_is_opened(self, state: StateDir) -> None:
        assert StateDir.open(state.path) == state
        assert state.trust_domain == TD
        assert state.created == "2026-03-01T12:00:00Z"

    def test_is_for_its_owner_only(self, state: StateDir) -> None:
        assert state.path.stat().st_mode & 0o777 == 0o700
        assert (state.path / "mesh.json").stat().st_mode & 0o777 == 0o600
        assert state.cache.stat().st_mode & 0o777 == 0o700

    def test_lies_beside_the_inventory(self, tmp_path: Path) -> None:
        assert StateDir.beside(tmp_path / "inventory.yaml") == tmp_path / ".meshctl"

    def test_create_refuses_what_exists(self, state: StateDir) -> None:
        with pytest.raises(Refused, match="not empty"):
            StateDir.create(state.path, TrustDomain("other"), NOW)
        assert StateDir.open(state.path).trust_domain == TD

    def test_open_of_nothing_says_init(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="there is no mesh in") as caught:
            StateDir.open(tmp_path / ".meshctl")
        assert caught.value.hint == f"meshctl init {tmp_path}"

    @pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770])
    def test_open_to_others_is_refused(self, state: StateDir, mode: int) -> None:
        state.path.chmod(mode)
        with pytest.raises(Refused, match="open to other users") as caught:
            StateDir.open(state.path)
        assert caught.value.hint == f"chmod 700 {state.path}"

    def test_a_file_in_its_place_is_corrupt(self, tmp_path: Path) -> None:
        (tmp_path / ".meshctl").write_text("")
        with pytest.raises(StateCorrupt, match="is not a folder"):
            StateDir.open(tmp_path / ".meshctl")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b'{"version": 1, "trust_domain": "mesh.int',
            b'{"version": 2, "trust_domain": "a", "created": ""}',
            b'{"version": 1, "trust_domain": "NOT ONE", "created": ""}',
            b'{"version": 1, "created": ""}',
            b'{"version": 1, "trust_domain": "a", "created": "", "more": 1}',
            b"\xff\xfe",
            b"[" * 100_000,
        ],
    )
    def test_damaged_mesh_json_is_named(self, state: StateDir, content: bytes) -> None:
        (state.path / "mesh.json").write_bytes(content)
        with pytest.raises(StateCorrupt, match=r"mesh\.json") as caught:
            StateDir.open(state.path)
        assert "restore" in caught.value.hint

    def test_missing_mesh_json_is_named(self, state: StateDir) -> None:
        (state.path / "mesh.json").unlink()
        with pytest.raises(StateCorrupt, match=r"mesh\.json is missing"):
            StateDir.open(state.path)


class TestFiles:
    def test_what_is_written_is_read(self, state: StateDir) -> None:
        assert state.read("sample.json", Sample) is None
        state.write("sample.json", Sample(number=3))
        assert state.read("sample.json", Sample) == Sample(number=3)
        assert (state.path / "sample.json").stat().st_mode & 0o777 == 0o600

    def test_every_truncation_is_corrupt(self, state: StateDir) -> None:
        state.write("sample.json", Sample(number=3))
        file = state.path / "sample.json"
        whole = file.read_bytes()
        for length in range(len(whole.rstrip())):
            file.write_bytes(whole[:length])
            with pytest.raises(StateCorrupt, match=r"sample\.json"):
                state.read("sample.json", Sample)


class TestRecord:
    record = DeployRecord(
        hosts={HostName("web-1"): HostRecord(services=(ServiceName("web"), ServiceName("api")))}
    )

    def test_is_empty_at_first_and_then_what_was_written(self, state: StateDir) -> None:
        assert state.read_record() == DeployRecord()
        state.write_record(self.record)
        assert state.read_record() == self.record

    def test_allows_exactly_what_it_has(self) -> None:
        assert self.record.allows(HostName("web-1"), ServiceName("api"))
        assert not self.record.allows(HostName("web-1"), ServiceName("db"))
        assert not self.record.allows(HostName("web-2"), ServiceName("web"))

    @pytest.mark.parametrize(
        "content",
        [
            b'{"hosts": {"web-1": {"services": ["we',
            b'{"hosts": {"web-1": {"services": ["../x"]}}}',
            b'{"hosts": {"Web 1": {"services": []}}}',
            b'{"hosts": {"web-1": {"services": "web"}}}',
            b'{"hosts": {"web-1": {"servces": []}}}',
        ],
    )
    def test_damaged_is_corrupt_and_says_what_to_do(self, state: StateDir, content: bytes) -> None:
        (state.path / "deployed.json").write_bytes(content)
        with pytest.raises(StateCorrupt, match=r"deployed\.json") as caught:
            state.read_record()
        assert "meshctl deploy" in caught.value.hint


HOLD = """
import sys
from pathlib import Path
from meshctl.state import StateDir
with StateDir.open(Path(sys.argv[1])).lock("meshctl deploy -i x"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(state: StateDir) -> Callable[[], "subprocess.Popen[str]"]:
    def hold() -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(state.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    return hold


class TestLock:
    def test_second_is_refused_with_the_first_ones_name(
        self, state: StateDir, holder: Callable[[], "subprocess.Popen[str]"]
    ) -> None:
        with holder() as process:
            with pytest.raises(Refused) as caught, state.lock():
                pass
            text = str(caught.value)
            assert "'meshctl deploy -i x'" in text
            assert f"process {process.pid} on {socket.gethostname()}" in text
            assert f"since {datetime.now(UTC):%Y-%m-%d}" in text
            assert caught.value.exit_code is Exit.REFUSED
            process.communicate("")
        with state.lock():
            pass

    def test_of_a_killed_process_is_no_obstacle(
        self, state: StateDir, holder: Callable[[], "subprocess.Popen[str]"]
    ) -> None:
        with holder() as process:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        assert b"meshctl deploy" in (state.path / "lock").read_bytes()
        with state.lock():
            pass

    def test_is_free_again_after_an_error(self, state: StateDir) -> None:
        with pytest.raises(ZeroDivisionError), state.lock():
            raise ZeroDivisionError
        with state.lock():
            pass
        assert (state.path / "lock").read_bytes() == b""

    def test_is_not_reentrant(self, state: StateDir) -> None:
        with state.lock("one"), pytest.raises(Refused, match="'one'"), state.lock("two"):
            pass

    def test_default_command_is_this_process(
        self, state: StateDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/meshctl", "deploy", "--yes"])
        with state.lock(), pytest.raises(Refused, match="'meshctl deploy --yes'"), state.lock():
            pass

    def test_holder_that_has_not_written_its_name_is_still_the_holder(
        self, state: StateDir
    ) -> None:
        with state.lock():
            os.truncate(state.path / "lock", 0)
            with pytest.raises(Refused, match="is locked"), state.lock():
                pass

    def test_where_it_cannot_be_made_is_an_error(self, state: StateDir) -> None:
        (state.path / "lock").mkdir()
        with pytest.raises(MeshError, match="lock cannot be opened"), state.lock():
            pass
