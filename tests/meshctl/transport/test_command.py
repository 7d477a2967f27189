"""How commands are named in errors."""

from meshctl.transport.command import shown, tail


def test_a_command_is_shown_on_one_short_line() -> None:
    text = shown(["python3", "-I", "-c", "import os\n" * 100])

    assert text.startswith("python3 -I -c 'import os import os")
    assert len(text) <= 80
    assert text.endswith("...")


def test_a_short_command_is_shown_as_it_is_typed() -> None:
    assert shown(["echo", "two words"]) == "echo 'two words'"


def test_the_tail_of_an_output_is_text_whatever_the_bytes() -> None:
    assert tail(b"x" * 10_000 + b"\xff end").endswith("x� end")
    assert len(tail(b"x" * 10_000)) == 4096
