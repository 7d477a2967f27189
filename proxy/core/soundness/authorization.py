"""The intentions of one service, and whose tokens they may ask for."""

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from proxy.core.routing.regex import any_case
from proxy.core.soundness import words
from proxy.core.soundness.finding import Finding, Findings, Wrong, at, judged, shown
from proxy.core.soundness.lists import at_most, each_of, unique
from proxy.core.soundness.matching import MAX_SOURCES, check_match, check_texts
from proxy.core.soundness.numbers import check_numbers
from proxy.model.authorization import EVERYBODY, Intention, TokenProvider, TokenRule

MAX_INTENTIONS = 1000
MAX_PROVIDERS: Final = 100
MAX_AUDIENCES: Final = 100
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Of RFC 7518 and RFC 8037 those with a public key: with another, whoever can verify a token can
make one. Never ``none``."""

_MAX_TEXT: Final = 1024
_PRINTABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def check_intentions(
    path: str, intentions: tuple[Intention, ...], providers: Collection[str]
) -> Findings:
    """``providers``: names of those whose tokens may be asked for."""
    yield from at_most(path, intentions, MAX_INTENTIONS)
    yield from unique(path, [each.name for each in intentions])
    for number, each in enumerate(intentions[:MAX_INTENTIONS]):
        yield from _intention(f"{path}[{number}]", each)
        if each.token is not None:
            yield from _token(f"{path}[{number}].token", each, each.token, providers)


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
    asked = each.match.path.regex if each.match.path is not None else None
    if each.deny and asked is not None and words.regex(asked) is None:
        # It is enforced in any case of its letters, which may be too much where it alone is not.
        yield from judged(f"{path}.match.path.regex", words.regex(any_case(asked)))
    if each.match.sources:
        yield Finding(
            paths=(f"{path}.match.sources",),
            message="an intention says in allow or deny whom it is for",
            hint="name the callers there",
        )


def _token(
    path: str, intention: Intention, rule: TokenRule, providers: Collection[str]
) -> Findings:
    if intention.deny:
        # Whoever leaves the token away would not be denied.
        hint = "ask for the token in what allows; what none allows is denied"
        yield at(path, "what denies cannot ask for a token", hint)
    if rule.provider not in providers:
        known = ", ".join(sorted(providers)[:10])
        yield at(
            f"{path}.provider",
            f"{shown(rule.provider)} is not one of tokens",
            f"known: {known}" if known else "describe it under 'tokens' at the top of the file",
        )
    yield from check_texts(f"{path}.claims", rule.claims, _printable, _claim)


def check_tokens(providers: Mapping[str, TokenProvider]) -> Findings:
    yield from at_most("tokens", providers, MAX_PROVIDERS)
    for name, each in providers.items():
        path = f"tokens.{name}"
        yield from judged(path, words.name(name))
        yield from judged(f"{path}.issuer", _printable(each.issuer))
        yield from each_of(f"{path}.audiences", each.audiences, _printable, MAX_AUDIENCES)
        if not each.audiences:
            message = "tokens for anybody else would be good here as well"
            yield at(f"{path}.audiences", message, "name who the tokens are for")
        if bool(each.jwks_file) is bool(each.jwks_url):
            yield at(path, "it has no keys, or has them twice", "use one of: jwks_file, jwks_url")
        elif each.jwks_file:
            yield from judged(f"{path}.jwks_file", _file(each.jwks_file))
        else:
            yield from judged(f"{path}.jwks_url", _url(each.jwks_url))
        yield from each_of(f"{path}.algorithms", each.algorithms, _algorithm, len(ALGORITHMS))
        if not each.algorithms:
            yield at(f"{path}.algorithms", "no token could be signed", "name one at least")
        yield from judged(f"{path}.header", words.header(each.header))
        yield from check_numbers(path, each)


def _claim(text: str) -> Wrong | None:
    if len(text) <= _MAX_TEXT and text.isprintable():
        return None
    return Wrong(f"{shown(text)} is not a claim's value", f"use up to {_MAX_TEXT} characters")


def _algorithm(name: str) -> Wrong | None:
    if name in ALGORITHMS:
        return None
    return Wrong(f"{shown(name)} is not possible here", f"use one of: {', '.join(ALGORITHMS)}")


def _printable(text: str) -> Wrong | None:
    if len(text) <= _MAX_TEXT and _PRINTABLE.fullmatch(text):
        return None
    return Wrong(f"{shown(text)} has no place here", f"use 1 to {_MAX_TEXT} printable characters")


def _file(text: str) -> Wrong | None:
    if text.startswith("/") and "/../" not in text and _printable(text) is None:
        return None
    return Wrong(f"{shown(text)} is not an absolute path", "begin it with /")


def _url(text: str) -> Wrong | None:
    rule = "use https://HOST/PATH; http only for 127.0.0.1, [::1] and localhost"
    wrong = Wrong(f"{shown(text)} cannot be fetched", rule)
    if _printable(text) is not None or " " in text or "#" in text:
        return wrong
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return wrong
    if not host or parts.username is not None or parts.password is not None:
        return wrong
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return None
    return wrong


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _caller(name: str) -> Wrong | None:
    return None if name == EVERYBODY else words.service_name(name)
