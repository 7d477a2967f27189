"""Sizes as operators write them."""

from typing import Any

import pytest

from meshctl.sizes import InvalidSize, parse, show


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1KiB", 1024), ("512MiB", 2**29), ("2GiB", 2**31), ("1.5GiB", 3 * 2**29), ("0KiB", 0)],
)
def test_a_size_is_a_number_of_bytes(text: str, size_bytes: int) -> None:
    assert parse(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [512, 1.5, True, None, "", "512", "512MB", "512 MiB", "-1MiB", "1mib", "1e3MiB", "9" * 5000],
)
def test_anything_else_is_refused_in_few_words(text: Any) -> None:
    with pytest.raises(InvalidSize) as caught:
        parse(text)
    assert len(str(caught.value)) < 90


@pytest.mark.parametrize("size_bytes", [1024, 3 * 1024, 2**20, 2**29, 2**30, 3 * 2**29])
def test_what_is_shown_is_read_back(size_bytes: int) -> None:
    assert parse(show(size_bytes)) == size_bytes
