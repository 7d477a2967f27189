"""Where a passphrase may come from, and that it does not show."""

import getpass
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from meshctl.errors import MeshError, Refused
from meshctl.pki import passphrase
from meshctl.pki.passphrase import Passphrase

Typist = Callable[..., list[str]]


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Typist:
    """Answers prompts; returns the list of questions, filled as they are asked."""

    def answer(*answers: str) -> list[str]:
        waiting, asked = list(answers), []

        def ask(question: str, stream: object = None) -> str:
            asked.append(question)
            if not waiting:
                raise EOFError
            return waiting.pop(0)

        monkeypatch.setattr(getpass, "getpass", ask)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        return asked

    return answer


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_bytes(b"from a file\nsecond line\n")
    return file


def test_does_not_show() -> None:
    secret = Passphrase(b"hunter2")
    assert "hunter2" not in f"{secret!r} {secret}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


@pytest.mark.parametrize(("value", "why"), [(b"", "empty"), (b"x" * 1001, "longer")])
def test_absurd_ones_are_refused(value: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        Passphrase(value)


class TestFile:
    def test_first_line_counts(self, secret_file: Path) -> None:
        assert passphrase.from_file(secret_file) == Passphrase(b"from a file")

    def test_windows_line_end_is_dropped(self, secret_file: Path) -> None:
        secret_file.write_bytes(b"secret\r\n")
        assert passphrase.from_file(secret_file) == Passphrase(b"secret")

    @pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620])
    def test_open_to_others_is_refused(self, secret_file: Path, mode: int) -> None:
        secret_file.chmod(mode)
        with pytest.raises(Refused, match="open to other users") as caught:
            passphrase.from_file(secret_file)
        assert caught.value.hint == f"chmod 600 {secret_file}"

    @pytest.mark.parametrize("content", [b"", b"\n", b"\nsecret\n"])
    def test_without_a_first_line_is_refused(self, secret_file: Path, content: bytes) -> None:
        secret_file.write_bytes(content)
        with pytest.raises(Refused, match="empty"):
            passphrase.from_file(secret_file)

    def test_too_long_is_refused(self, secret_file: Path) -> None:
        secret_file.write_bytes(b"x" * 5000)
        with pytest.raises(Refused, match="longer"):
            passphrase.from_file(secret_file)

    def test_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(MeshError, match="none cannot be read: No such file"):
            passphrase.from_file(tmp_path / "none")

    def test_comes_before_the_environment(self, secret_file: Path) -> None:
        environ = {passphrase.VARIABLE: "other"}
        assert passphrase.from_options(secret_file, environ) == Passphrase(b"from a file")


class TestEnvironment:
    def test_is_taken_out_so_that_children_do_not_get_it(self) -> None:
        environ = {passphrase.VARIABLE: "sécret"}
        assert passphrase.from_options(None, environ) == Passphrase("sécret".encode())
        assert environ == {}

    def test_absent_is_none_and_empty_is_refused(self) -> None:
        assert passphrase.from_options(None, {}) is None
        with pytest.raises(Refused, match="empty"):
            passphrase.from_options(None, {passphrase.VARIABLE: ""})


class TestPrompt:
    def test_new_is_asked_twice(self, typist: Typist) -> None:
        asked = typist("one", "one")
        assert passphrase.prompt_new() == Passphrase(b"one")
        assert len(asked) == 2

    def test_new_may_be_none(self, typist: Typist) -> None:
        typist("")
        assert passphrase.prompt_new() is None

    def test_new_that_differs_is_asked_again(
        self, typist: Typist, capsys: pytest.CaptureFixture[str]
    ) -> None:
        typist("one", "two", "three", "three")
        assert passphrase.prompt_new() == Passphrase(b"three")
        assert "differ" in capsys.readouterr().err

    def test_new_is_given_up_after_three_pairs(self, typist: Typist) -> None:
        typist(*"abcdef")
        with pytest.raises(Refused, match="not repeated correctly"):
            passphrase.prompt_new()

    def test_end_of_input_is_refused(self, typist: Typist) -> None:
        typist()
        with pytest.raises(Refused, match="no passphrase was typed"):
            passphrase.prompt()

    def test_never_echoes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fall_back(question: str, stream: object = None) -> str:
            warnings.warn("Can not control echo", getpass.GetPassWarning, stacklevel=2)
            return "typed in the open"

        monkeypatch.setattr(getpass, "getpass", fall_back)
        with pytest.raises(Refused, match="cannot hide") as caught:
            passphrase.prompt()
        assert "--passphrase-file" in caught.value.hint


class TestSource:
    def test_asks_the_terminal_last(
        self, typist: Typist, monkeypatch: pytest.MonkeyPatch, secret_file: Path
    ) -> None:
        asked = typist("typed")
        assert passphrase.source(secret_file)() == Passphrase(b"from a file")
        monkeypatch.setitem(os.environ, passphrase.VARIABLE, "variable")
        assert passphrase.source()() == Passphrase(b"variable")
        assert asked == []
        assert passphrase.source()() == Passphrase(b"typed")

    def test_without_a_terminal_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(passphrase.VARIABLE, raising=False)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
        with pytest.raises(Refused, match="no terminal") as caught:
            passphrase.source()()
        assert "--passphrase-file FILE" in caught.value.hint
