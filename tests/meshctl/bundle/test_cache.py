"""Resolved once, locked, verified each time; and what is said when that cannot be done."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from meshctl.bundle import Bundle, BundleCache, Target
from meshctl.bundle import cache as cache_module
from meshctl.bundle import index as index_module
from meshctl.bundle.index import NoWheel
from meshctl.errors import MeshError, Refused, StateCorrupt, Unreachable

THIS = Target.of_this_machine()
Needs = Callable[..., None]


def short(bundle: Bundle) -> list[str]:
    return [wheel.name.split("-")[0] for wheel in bundle.wheels]


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the index was asked")

    monkeypatch.setattr(index_module, "_pip", fail)


def test_a_bundle_holds_what_the_host_needs_with_pip_and_the_proxy(
    index: Path, make_wheel, host_needs: Needs, cache: BundleCache
) -> None:
    make_wheel(index, "alpha", requires=("beta; python_version >= '3'", "gamma; extra == 'x'"))
    make_wheel(index, "beta")
    host_needs("alpha>=0.5")

    bundle = cache.resolve(THIS)

    assert short(bundle) == ["alpha", "beta", "meshctl_proxy", "pip"]
    for wheel in bundle.wheels:
        content = wheel.path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == wheel.sha256
        assert len(content) == wheel.size


def test_a_locked_bundle_needs_no_index_and_has_the_same_digest(
    small_bundle: Bundle, cache: BundleCache, no_index: None
) -> None:
    assert cache.resolve(THIS) == small_bundle
    assert cache.resolve(THIS, offline=True).digest == small_bundle.digest


def test_a_newer_version_on_the_index_does_not_change_what_is_locked(
    small_bundle: Bundle, index: Path, make_wheel, cache: BundleCache
) -> None:
    make_wheel(index, "alpha", "2.0")

    assert cache.resolve(THIS).digest == small_bundle.digest


def test_other_requirements_are_resolved_anew(
    small_bundle: Bundle, index: Path, make_wheel, host_needs: Needs, cache: BundleCache
) -> None:
    make_wheel(index, "alpha", "2.0")
    host_needs("alpha>=2")

    assert any("alpha-2.0" in wheel.name for wheel in cache.resolve(THIS).wheels)


def test_each_kind_of_host_has_its_own_wheels(
    index: Path, make_wheel, host_needs: Needs, cache: BundleCache
) -> None:
    tags = [
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp311-cp311-manylinux_2_34_x86_64",
        "cp311-abi3-manylinux_2_35_x86_64",
        "cp312-cp312-manylinux_2_17_aarch64",
    ]
    for tag in tags:
        make_wheel(index, "alpha", tag=tag)
    host_needs("alpha")
    old = Target(python="3.11", machine="x86_64", glibc="2.28")
    new = replace(old, glibc="2.36")
    arm = Target(python="3.12", machine="aarch64", glibc="2.31")

    chosen = {
        str(target): next(one.name for one in cache.resolve(target).wheels if "alpha" in one.name)
        for target in (old, new, arm)
    }

    assert [name.removeprefix("alpha-1.0-") for name in chosen.values()] == [
        "cp311-cp311-manylinux_2_17_x86_64.whl",
        "cp311-cp311-manylinux_2_34_x86_64.whl",
        "cp312-cp312-manylinux_2_17_aarch64.whl",
    ]


def test_a_damaged_wheel_is_fetched_again_and_only_that_one(
    small_bundle: Bundle, cache: BundleCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = small_bundle.wheels[0]
    alpha.path.write_bytes(b"damaged")
    asked: list[str] = []
    fetch = index_module.fetch

    def watched(requirements, target, into):
        asked.extend(map(str, requirements))
        return fetch(requirements, target, into)

    monkeypatch.setattr(index_module, "fetch", watched)

    assert cache.resolve(THIS) == small_bundle
    assert asked == ["alpha==1.0"]
    assert hashlib.sha256(alpha.path.read_bytes()).hexdigest() == alpha.sha256


def test_an_index_that_serves_other_bytes_for_a_locked_wheel_is_refused(
    small_bundle: Bundle, index: Path, make_wheel, cache: BundleCache
) -> None:
    small_bundle.wheels[0].path.unlink()
    make_wheel(index, "alpha", content="import os  # not what it was\n")

    with pytest.raises(Refused, match=r"another file for alpha-1\.0") as caught:
        cache.resolve(THIS)
    assert "bundle.lock.json" in caught.value.hint


def test_offline_and_never_fetched_names_the_command_that_fetches(
    host_needs: Needs, cache: BundleCache, no_index: None
) -> None:
    host_needs("alpha")

    with pytest.raises(Unreachable, match="never fetched") as caught:
        cache.resolve(THIS, offline=True)
    assert "meshctl bundle fetch" in caught.value.hint


def test_offline_and_damaged_is_told_and_not_used(
    small_bundle: Bundle, cache: BundleCache, no_index: None
) -> None:
    small_bundle.wheels[0].path.write_bytes(b"damaged")

    with pytest.raises(Unreachable, match="damaged"):
        cache.resolve(THIS, offline=True)


def test_an_index_without_the_distribution_is_unreachable_with_pips_words(
    index: Path, host_needs: Needs, cache: BundleCache
) -> None:
    host_needs("alpha")

    with pytest.raises(Unreachable, match=r"does not have alpha(?s:.*)pip says:\nERROR"):
        cache.resolve(THIS)


def test_a_distribution_without_a_wheel_for_the_target_is_named(
    index: Path,
    make_wheel,
    host_needs: Needs,
    cache: BundleCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_wheel(index, "alpha", tag="cp311-cp311-win_amd64")
    host_needs("alpha")
    # A folder of wheels cannot be asked for all versions, as an index can: answer for it.
    pip = index_module._pip
    monkeypatch.setattr(
        index_module, "_pip", lambda argv: pip(["--version"] if argv[0] == "index" else argv)
    )

    with pytest.raises(NoWheel, match=r"no wheel of alpha fits cp3"):
        cache.resolve(THIS)


def test_a_full_disk_is_told_before_anything_is_fetched(
    index: Path, host_needs: Needs, cache: BundleCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    host_needs("alpha")
    monkeypatch.setattr(index_module, "_FREE_BYTES", 2**62)

    with pytest.raises(MeshError, match="MiB free"):
        cache.resolve(THIS)


def test_a_corrupt_lock_file_is_told_and_left_as_it_is(
    small_bundle: Bundle, cache: BundleCache, tmp_path: Path
) -> None:
    path = tmp_path / "state" / "bundle.lock.json"
    path.write_text(path.read_text()[:-20])
    before = path.read_text()

    with pytest.raises(StateCorrupt, match="is not a bundle lock"):
        cache.resolve(THIS)
    assert path.read_text() == before


def test_the_lock_file_names_every_fetched_wheel(small_bundle: Bundle, tmp_path: Path) -> None:
    document = json.loads((tmp_path / "state" / "bundle.lock.json").read_text())

    locked = {one["name"]: one["sha256"] for one in document["targets"][str(THIS)]["wheels"]}

    assert locked == {
        one.name: one.sha256 for one in small_bundle.wheels if "meshctl_proxy" not in one.name
    }


def test_several_at_once_fetch_once_and_agree(
    quick_index: Path,
    make_wheel,
    host_needs: Needs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_wheel(quick_index, "alpha")
    host_needs("alpha")
    calls: list[object] = []
    fetch = index_module.fetch
    monkeypatch.setattr(index_module, "fetch", lambda *args: calls.append(1) or fetch(*args))
    where = (tmp_path / "cache", tmp_path / "state" / "bundle.lock.json")

    with ThreadPoolExecutor(4) as pool:
        bundles = list(pool.map(lambda _: BundleCache(*where).resolve(THIS), range(4)))

    assert len({bundle.digest for bundle in bundles}) == 1
    assert len(calls) == 1


def test_remains_of_a_killed_run_are_removed(
    small_bundle: Bundle, cache: BundleCache, tmp_path: Path
) -> None:
    left = tmp_path / "cache" / ".partial-killed"
    left.mkdir()
    (left / "half.whl").write_bytes(b"half")

    cache.resolve(THIS)

    assert not left.exists()
    assert not [name for name in os.listdir(tmp_path / "cache") if name.startswith(".partial")]


def test_a_signers_bundle_is_locked_beside_the_proxys(
    quick_index: Path,
    make_wheel: Callable[..., Path],
    cache: BundleCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("aiohttp", "cryptography", "msgspec", "typer", "uvloop"):
        make_wheel(quick_index, name)
    lines = [
        "aiohttp>=1",
        "cryptography>=1",
        "msgspec>=1",
        "typer>=1",
        "uvloop>=1; extra == 'host'",
    ]
    monkeypatch.setattr(cache_module.importlib.metadata, "requires", lambda _: lines)

    signer = cache.resolve(THIS, kind="signer")
    proxy = cache.resolve(THIS)

    assert signer.kind == "signer"
    assert short(signer) == [
        *("aiohttp", "cryptography", "meshctl_proxy", "meshctl_signer", "msgspec", "pip")
    ]
    assert short(proxy) == ["meshctl_proxy", "pip", "uvloop"]
    assert signer.digest != proxy.digest
    for wheel in quick_index.glob("*.whl"):
        wheel.unlink()  # both are locked: nothing is fetched again
    assert cache.resolve(THIS, kind="signer", offline=True).digest == signer.digest
    assert cache.resolve(THIS, offline=True).digest == proxy.digest
