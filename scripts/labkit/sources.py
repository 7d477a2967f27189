"""The package mirror this machine already uses, read from its own apt configuration.

Text of ``sources.list`` (one line a source) and ``*.sources`` (deb822) in, ``Source`` values out.
No mirror is named here: whatever serves this machine serves the lab.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labkit.command import Unavailable, run

_DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One archive of binary packages."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str
    """A keyring's path, or an armoured key's text, or empty: apt's own trusted keys."""

    def deb822(self, suite: str) -> str:
        """The same archive and key, another suite."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {suite}", "Components: main"]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"

    @property
    def keyring(self) -> str:
        """A keyring file, for tools that take no inline key."""
        return self.signed_by if self.signed_by.startswith("/") else _DEFAULT_KEYRING


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources of a ``.sources`` file; disabled stanzas and source packages are left out."""
    for stanza in text.replace("\r\n", "\n").split("\n\n"):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                if last:
                    fields[last] += "\n" + line
                continue
            last, colon, value = line.partition(":")
            last = last.strip().lower()
            if colon:
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            yield Source(
                uri=uri,
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", ""),
            )


def parse_lines(text: str) -> Iterator[Source]:
    """Sources of a ``.list`` file: ``deb [options] uri suite component...``."""
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        if not line.startswith(("deb ", "deb\t")):
            continue
        rest = line[3:].strip()
        options = ""
        if rest.startswith("["):
            options, _, rest = rest[1:].partition("]")
        words = rest.split()
        if len(words) < 3:
            continue
        signed_by = ""
        for option in options.split():
            name, _, value = option.partition("=")
            if name.lower() == "signed-by":
                signed_by = value
        yield Source(
            uri=words[0], suites=(words[1],), components=tuple(words[2:]), signed_by=signed_by
        )


def configured(apt: Path = Path("/etc/apt")) -> tuple[Source, ...]:
    """Every source apt would read, in its order."""
    found: list[Source] = []
    parts = apt / "sources.list.d"
    files = [apt / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    for path in files:
        if not path.is_file():
            continue
        if path.suffix == ".list":
            found += parse_lines(path.read_text(encoding="utf-8"))
        elif path.suffix == ".sources":
            found += parse_deb822(path.read_text(encoding="utf-8"))
    return tuple(found)


def own_suite(os_release: Path = Path("/etc/os-release")) -> str:
    """This machine's code name, for example ``bookworm``."""
    fields = {}
    if os_release.is_file():
        for line in os_release.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            fields[name] = value.strip('"')
    if fields.get("ID") != "debian":
        raise Unavailable(
            f"needs a Debian machine, to take packages from the mirror it already uses; "
            f"this is {fields.get('PRETTY_NAME', 'no known distribution')}"
        )
    return fields.get("VERSION_CODENAME", "")


def main_archive(apt: Path = Path("/etc/apt"), suite: str | None = None) -> Source:
    """The archive that serves this machine's own suite."""
    wanted = own_suite() if suite is None else suite
    for source in configured(apt):
        if wanted in source.suites and "main" in source.components:
            return source
    raise Unavailable(f"no apt source for {wanted!r} main found in {apt}")


def proxy_environment() -> dict[str, str]:
    """apt's own HTTP proxy as variables, for tools that do not read apt's configuration."""
    done = run(["apt-config", "shell", "http", "Acquire::http::Proxy"], check=False)
    value = done.stdout.strip().removeprefix("http=").strip("'")
    return {"http_proxy": value} if value and value != "DIRECT" else {}
