"""The soak's own judgement: a soak that cannot fail shows nothing."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from soakkit import command, page, watch
from soakkit.verdict import Growth, Limit, Look, TooShort, judge

LIMITS = {"rss": Limit(share=0.03, least=1.0)}


def looks(*values: float) -> list[Look]:
    return [Look(at_s=60.0 * n, figures={"rss": value}) for n, value in enumerate(values)]


def is_fine(*values: float) -> bool:
    (found,) = judge(looks(*values), LIMITS)
    return found.is_within


def test_what_stays_is_fine() -> None:
    assert is_fine(*[40.0] * 10)


def test_what_rises_all_the_time_is_not() -> None:
    rising = [40.0 + n * 0.5 for n in range(20)]
    (found,) = judge(looks(*rising), LIMITS)
    assert not found.is_within
    assert found.by == pytest.approx(4.5)
    assert found.level == pytest.approx(47.25)


def test_what_rises_only_in_the_first_half_is_fine() -> None:
    assert is_fine(*[20.0 + n * 2 for n in range(10)], *[40.0] * 10)


def test_what_shrinks_is_fine() -> None:
    assert is_fine(*[40.0 - n for n in range(20)])


def test_noise_and_one_bad_moment_decide_nothing() -> None:
    rng = random.Random(1)
    noisy = [100.0 + rng.uniform(-1, 1) for _ in range(60)]
    noisy[45] = 130.0
    assert is_fine(*noisy)


def test_growth_below_the_least_is_noise_whatever_its_share() -> None:
    assert is_fine(*[1.0 + n * 0.05 for n in range(20)])
    assert not is_fine(*[1.0 + n * 0.2 for n in range(20)])


@pytest.mark.parametrize("number", [0, 1, 6])
def test_a_few_looks_are_no_verdict(number: int) -> None:
    with pytest.raises(TooShort):
        judge(looks(*[1.0] * number), LIMITS)


def test_both_sides_are_held_against_every_limit() -> None:
    assert len(watch.limits()) == 2 * len(watch.LIMITS)
    assert watch.limits(2.0)["client memory"].least == 2 * watch.LIMITS["memory"].least


@pytest.mark.parametrize("option", ["--minutes", "--rate", "--every"])
def test_impossible_options_are_refused_before_anything_is_started(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([option, "0"]) == 2
    assert "above 0" in capsys.readouterr().err


def test_its_section_has_each_figure_and_says_what_grows() -> None:
    seen = [
        Look(at_s=60.0 * n, figures={"client memory": 80.0, "client lost": 2.0}) for n in (0, 9)
    ]
    grown = [
        Growth(name="client memory", level=80.0, by=9.0, is_within=False),
        Growth(name="server series", level=4039.0, by=-1.0, is_within=True),
    ]
    text = page.section(seen, grown, rate=150)
    assert "scripts/soak --minutes 9 --rate 150" in text
    assert "2 lines and spans were lost" in text
    assert "| client's proxy: memory | 80 MiB | +9.0 | **no** |" in text
    assert "| server's proxy: series | 4,039 | -1.0 | yes |" in text
