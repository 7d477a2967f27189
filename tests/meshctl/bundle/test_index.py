"""The real package index, for the kinds of host that there are. Skipped without one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meshctl.bundle import Bundle, BundleCache, Target, install
from meshctl.errors import Unreachable
from meshctl.transport.local import LocalTransport
from proxy.model.names import parse_host


@pytest.fixture(scope="module")
def resolve(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Target], Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    cache = BundleCache(folder / "cache", folder / "bundle.lock.json")

    def one(target: Target) -> Bundle:
        try:
            return cache.resolve(target)
        except Unreachable as error:
            pytest.skip(f"no package index: {error}")

    return one


@pytest.mark.parametrize(("python", "machine"), [("3.11", "x86_64"), ("3.13", "aarch64")])
def test_every_kind_of_host_gets_binary_wheels_of_its_own(
    resolve: Callable[[Target], Bundle], python: str, machine: str
) -> None:
    bundle = resolve(Target(python=python, machine=machine, glibc="2.36"))

    names = [wheel.name for wheel in bundle.wheels]
    assert {name.split("-")[0] for name in names} >= {
        *("cryptography", "google_re2", "httptools", "jh2", "meshctl_proxy", "msgspec", "pip"),
        "uvloop",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(("aiohttp", "asyncssh", "rich", "jinja"))]
    for name in names:
        assert name.endswith(("py3-none-any.whl", f"{machine}.whl")), name


async def test_a_release_from_the_index_loads_everything_the_proxy_uses(
    resolve: Callable[[Target], Bundle], tmp_path: Path
) -> None:
    bundle = resolve(Target.of_this_machine())
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for wheel in bundle.wheels:
        (wheels / wheel.name).symlink_to(wheel.path)
    transport = LocalTransport(parse_host("here"))
    release = tmp_path / "releases" / bundle.digest

    done = await install(transport, bundle, wheels_dir=str(wheels), release=str(release))
    loaded = await transport.run(
        [f"{release}/bin/python", "-I", "-c",
         "import uvloop, httptools, jh2._hazmat, msgspec, re2, proxy, cryptography.x509;"
         "print(proxy.__file__)"]
    )  # fmt: skip

    assert done.changed
    assert loaded.exit_status == 0, loaded.stderr
    assert loaded.stdout.decode().startswith(str(release))
