import pytest
from labkit import sources
from labkit.command import Unavailable

DEB822 = """\
# a comment
Types: deb deb-src
# another
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/example.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_stanzas_become_sources_and_disabled_or_source_only_ones_do_not():
    first, second = sources.parse_deb822(DEB822)
    assert first.uri == "http://mirror.example/debian"
    assert first.suites == ("bookworm", "bookworm-updates")
    assert first.components == ("main", "contrib")
    assert first.keyring == "/usr/share/keyrings/example.gpg"
    assert second.uri == "http://mirror.example/security"
    assert "BEGIN PGP" in second.signed_by


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://m.example/debian bookworm main", ("bookworm", ("main",), "")),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib # x",
            ("bookworm", ("main", "contrib"), "/k.gpg"),
        ),
        ("deb-src http://m.example/debian bookworm main", None),
        ("# deb http://m.example/debian bookworm main", None),
        ("deb http://m.example/debian", None),
        ("", None),
    ],
)
def test_one_line_sources(line, expected):
    found = [(s.suites[0], s.components, s.signed_by) for s in sources.parse_lines(line)]
    assert found == ([] if expected is None else [expected])


def test_the_archive_of_the_wanted_suite_is_found_in_either_style(tmp_path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "other.list").write_text("deb http://other.example/x stable main\n")
    (parts / "off.sources.disabled").write_text(DEB822)
    (parts / "debian.sources").write_text(DEB822)
    assert sources.main_archive(tmp_path, "bookworm").uri == "http://mirror.example/debian"
    assert sources.main_archive(tmp_path, "stable").uri == "http://other.example/x"
    with pytest.raises(Unavailable, match="bullseye"):
        sources.main_archive(tmp_path, "bullseye")


def test_another_suite_keeps_archive_and_key():
    source = next(sources.parse_deb822(DEB822))
    (other,) = sources.parse_deb822(source.deb822("bullseye"))
    assert (other.uri, other.suites) == (source.uri, ("bullseye",))
    assert other.signed_by == source.signed_by


def test_an_inline_key_survives_a_change_of_suite():
    source = list(sources.parse_deb822(DEB822))[1]
    (other,) = sources.parse_deb822(source.deb822("bullseye"))
    assert other.signed_by == source.signed_by


def test_a_machine_that_is_not_debian_is_refused_by_name(tmp_path):
    release = tmp_path / "os-release"
    release.write_text('ID=fedora\nPRETTY_NAME="Fedora Linux 40"\n')
    with pytest.raises(Unavailable, match="Fedora Linux 40"):
        sources.own_suite(release)
