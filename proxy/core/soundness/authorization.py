"""The intentions of one service."""

from proxy.core.soundness import words
from proxy.core.soundness.finding import Finding, Findings, Wrong, at, judged
from proxy.core.soundness.lists import at_most, each_of, unique
from proxy.core.soundness.matching import MAX_SOURCES, check_match
from proxy.model.authorization import EVERYBODY, Intention

MAX_INTENTIONS = 1000


def check_intentions(path: str, intentions: tuple[Intention, ...]) -> Findings:
    yield from at_most(path, intentions, MAX_INTENTIONS)
    yield from unique(path, [each.name for each in intentions])
    for number, each in enumerate(intentions[:MAX_INTENTIONS]):
        yield from _intention(f"{path}[{number}]", each)


def _intention(path: str, each: Intention) -> Findings:
    yield from judged(f"{path}.name", words.name(each.name))
    if bool(each.allow) is bool(each.deny):
        what = "it has allow and deny" if each.allow else "it names no callers"
        yield at(path, what, "use exactly one of: allow, deny")
    for key in ("allow", "deny"):
        callers = getattr(each, key)
        yield from each_of(f"{path}.{key}", callers, _caller, MAX_SOURCES)
        if EVERYBODY in callers and len(callers) > 1:
            yield at(f"{path}.{key}", "'*' is every caller already", "remove the others")
    yield from check_match(f"{path}.match", each.match)
    if each.match.sources:
        yield Finding(
            paths=(f"{path}.match.sources",),
            message="an intention says in allow or deny whom it is for",
            hint="name the callers there",
        )


def _caller(name: str) -> Wrong | None:
    return None if name == EVERYBODY else words.service_name(name)
