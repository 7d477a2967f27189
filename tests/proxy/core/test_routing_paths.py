import posixpath
import re
import string
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.routing import normalise_path
from proxy.core.routing.paths import path_of

NORMAL = (b"/", b"/a", b"/a/", b"/a/b-c_d~e.f", b"/a%2Fb", b"/%C3%A9", b"/@a:b,c=d!$&'()*+", b"*")


@pytest.mark.parametrize("path", NORMAL)
def test_a_path_in_normal_form_stays(path: bytes) -> None:
    assert normalise_path(path) == path


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/%61dmin", b"/admin"),
        (b"/%41dmin", b"/Admin"),
        (b"/%40me/%2b", b"/@me/+"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/a%5cb", b"/a%5Cb"),
        (b"/a%3bb", b"/a%3Bb"),
        (b"/%2561", b"/%2561"),
        (b"/%%36%31", b"/%2561"),
        (b"/%", b"/%25"),
        (b"/%zz%4", b"/%25zz%254"),
        (b"/%00%ff%20", b"/%00%FF%20"),
        (b"/caf\xc3\xa9 x", b"/caf%C3%A9%20x"),
        (b"//a///b", b"/a/b"),
        (b"/a/", b"/a/"),
        (b"/a//", b"/a/"),
        (b"/.", b"/"),
        (b"/a/.", b"/a/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a//../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/../../a", b"/a"),
        (b"/..", b"/"),
        (b"/%2e%2E/a", b"/a"),
        (b"/x/%2e%2e/a", b"/a"),
        (b"/...", b"/..."),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/a;v=1", b"/a"),
        (b"/a;v=1/b;w", b"/a/b"),
        (b"/public/..;/admin", b"/admin"),
        (b"/a/;x", b"/a/"),
        (b"\\a\\b", b"\\a\\b"),
        (b"/a\\..\\b", b"/b"),
    ],
)
def test_each_spelling_has_one_normal_form(path: bytes, normal: bytes) -> None:
    assert normalise_path(path) == normal


def test_the_query_is_no_part_of_the_path() -> None:
    assert path_of(b"/a/../b?x=/../c") == b"/b"
    assert path_of(b"/a?") == b"/a"


def test_remembered_targets_are_bounded_and_still_right() -> None:
    for number in range(5000):
        assert path_of(b"/x/../%d?q" % number) == b"/%d" % number


def reference(path: str) -> str:
    """Written apart from the code under test: character by character, then posixpath."""
    text = ""
    place = 0
    while place < len(path):
        char = path[place]
        digits = path[place + 1 : place + 3]
        if char == "%" and len(digits) == 2 and set(digits) <= set(string.hexdigits):
            decoded = chr(int(digits, 16))
            is_plain = decoded.isascii() and decoded.isprintable() and decoded not in " /\\;?#%"
            text += decoded if is_plain else f"%{digits.upper()}"
            place += 3
            continue
        text += "%25" if char == "%" else char
        place += 1
    text = re.sub(r";[^/]*", "", text.replace("\\", "/"))
    is_closed = re.search(r"/\.{0,2}$", text) is not None
    normal = posixpath.normpath(re.sub("/+", "/", text))
    return normal + "/" if is_closed and normal != "/" else normal


pieces = st.sampled_from(
    ["/", "/", "/", "a", "b", ".", "..", "%2e", "%2E", "%2f", "%61", "%", "%25", ";", "\\", "x"]
)


@given(st.lists(pieces, max_size=14).map(lambda parts: "/" + "".join(parts)))
def test_normal_forms_agree_with_a_plain_reference_and_are_stable(path: str) -> None:
    normal = normalise_path(path.encode())

    assert normal.decode() == reference(path)
    assert normalise_path(normal) == normal
    assert b"//" not in normal


def test_any_bytes_have_a_normal_form() -> None:
    rng = Random(1)
    for _ in range(2000):
        path = b"/" + rng.randbytes(rng.randrange(30))
        normal = normalise_path(path)
        assert normalise_path(normal) == normal
        assert re.fullmatch(rb"/[!-~]*", normal)
