"""Turns pushed wheels into a release on a host, by one command there."""

import importlib.resources
from collections.abc import Sequence
from functools import cache

from meshctl.bundle.model import Bundle, Kind
from meshctl.errors import RemoteFailure
from meshctl.transport import Transport
from meshctl.transport.command import tail
from proxy.model import codec

INSTALL_S = 420.0
"""pip alone may take 300 s on a small machine with a slow disk."""

WAIT_S = 60.0
"""For an installation that a cut connection left running."""

PROBES: dict[Kind, tuple[str, ...]] = {
    "proxy": ("proxy", "uvloop", "httptools", "jh2._hazmat", "msgspec", "re2", "cryptography.x509"),
    "signer": ("meshctl.signer.service", "meshctl.signer.keys"),
}
"""Imported once on the host before a release counts as complete."""


class Installation(codec.Value, frozen=True, kw_only=True):
    """What the host reports."""

    release: str
    changed: bool
    """False: the release was complete already."""


class _Request(codec.Value, frozen=True, kw_only=True):
    wheels_dir: str
    release: str
    pip: str
    wheels: tuple[tuple[str, str], ...]
    probe: tuple[str, ...]
    wait_s: float


@cache
def install_script() -> str:
    """The text of ``host_install.py``, for ``python3 -I -c``."""
    return importlib.resources.files("meshctl.bundle").joinpath("host_install.py").read_text()


def install_request(
    bundle: Bundle, *, wheels_dir: str, release: str, probe: Sequence[str] | None = None
) -> bytes:
    """Standard input of the script."""
    return codec.encode(
        _Request(
            wheels_dir=wheels_dir,
            release=release,
            pip=bundle.pip.name,
            wheels=tuple((one.name, one.sha256) for one in bundle.wheels),
            probe=PROBES[bundle.kind] if probe is None else tuple(probe),
            wait_s=WAIT_S,
        )
    )


async def install(
    transport: Transport,
    bundle: Bundle,
    *,
    wheels_dir: str,
    release: str,
    python: str = "python3",
) -> Installation:
    """Idempotent. The bundle's wheels must lie in ``wheels_dir`` on the host. Raises
    RemoteFailure with the host's sentence; nothing half made is left behind.
    """
    done = await transport.run(
        [python, "-I", "-c", install_script()],
        stdin=install_request(bundle, wheels_dir=wheels_dir, release=release),
        timeout_s=INSTALL_S,
    )
    if done.exit_status != 0:
        raise RemoteFailure(
            f"{transport.host}: the release {bundle.digest} could not be installed",
            output=tail(done.stderr).strip(),
            hint="correct what the host says and deploy again",
        )
    try:
        return codec.decode(done.stdout, Installation)
    except codec.Malformed as error:
        raise RemoteFailure(
            f"{transport.host}: the installation answered with something else: {error}",
            output=tail(done.stdout),
        ) from error
