"""The texts of a policy, one rule each: None if it is obeyed, or what is wrong and what is right.

Whatever these accept can be put on the wire as it is, and cannot change what a message's reader
takes for its framing or for somebody's identity.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from proxy.core.routing.regex import InvalidRegex, compile_regex
from proxy.core.soundness.finding import Wrong, shown
from proxy.model.names import InvalidName, parse_service

Rule = Callable[[str], Wrong | None]

_MAX_VALUE = 4096
_MAX_PATH = 2048

# RFC 9110, section 5.6.2, lower case.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}")
_COOKIE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")
_DATACENTER = re.compile(r"[a-z0-9_-]{1,64}")
_PATH = re.compile(r"/[!-~]*")
_GRPC_SERVICE = re.compile(r"[!-~]{0,256}")
_GRPC_NAME = re.compile(r"(?=.{1,256}$)[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*")
_HOST = r"(?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])"
_AUTHORITY = re.compile(rf"(?=.{{1,253}}$)(?:\*\.)?{_HOST}")
_HOST_PORT = re.compile(rf"(?=.{{1,259}}$){_HOST}(?::[0-9]{{1,5}})?")
_SEGMENT_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,31})\}")

_FRAMING = frozenset(
    (
        *("connection", "content-length", "expect", "http2-settings", "keep-alive", "te"),
        *("proxy-connection", "trailer", "transfer-encoding", "upgrade"),
    )
)
_IDENTITY = frozenset(("x-forwarded-client-cert",))
_MESH = "x-mesh-"


def grpc_service(text: str) -> Wrong | None:
    """What a health service is asked for; empty: the server as a whole."""
    if _GRPC_SERVICE.fullmatch(text) is None:
        hint = "use a name such as orders.v1.Orders, or true for the server as a whole"
        return Wrong(f"{shown(text)} is not the name of a gRPC service", hint)
    return None


def grpc_name(text: str, what: str) -> Wrong | None:
    """Of a service with its package, or of a method: identifiers of Protocol Buffers; some
    languages' own have dashes, too."""
    if _GRPC_NAME.fullmatch(text) is None or (what == "method" and "." in text):
        example = "orders.v1.Orders" if what == "service" else "GetOrder"
        return Wrong(f"{shown(text)} is not the name of a gRPC {what}", f"write it as {example}")
    return None


def header(name: str) -> Wrong | None:
    """The name of a header that routes can see: neither framing, nor the mesh's own."""
    if _TOKEN.fullmatch(name) is None:
        hint = "use lower case, without a colon" if name != name.lower() else "use a header's name"
        return Wrong(f"{shown(name)} is not the name of a header", hint)
    # To a gateway such as WSGI `_` and `-` are one.
    plain = name.replace("_", "-")
    if plain == "host":
        return Wrong("the host is not a header here", "use 'authorities' or 'authority'")
    if plain in _FRAMING:
        return Wrong(f"{name!r} belongs to the connection, not to the request", "remove it")
    if plain in _IDENTITY or plain.startswith(_MESH):
        return Wrong(f"{name!r} is written by the mesh alone", "remove it")
    return None


def changed_header(name: str) -> Wrong | None:
    if name.replace("_", "-") == "x-request-id":
        return Wrong(f"{name!r} is written by the mesh alone", "remove it")
    return header(name)


def header_value(value: str) -> Wrong | None:
    if len(value) > _MAX_VALUE:
        return Wrong(f"it has {len(value)} characters", f"use at most {_MAX_VALUE}")
    if _VALUE.fullmatch(value) is None:
        return Wrong(
            f"{shown(value)} cannot be a header's value",
            "use printable characters, without white space at either end",
        )
    return None


def cookie(name: str) -> Wrong | None:
    return _matching(_COOKIE, name, "the name of a cookie", "use letters, digits, '_' and '-'")


def method(name: str) -> Wrong | None:
    if name == "CONNECT":
        return Wrong("CONNECT is not a request that can be routed", "remove it")
    hint = f"write {name.upper()}" if _METHOD.fullmatch(name.upper()) else "such as GET"
    return _matching(_METHOD, name, "a method", hint)


def name(text: str) -> Wrong | None:
    """Of a route, a limit, a fault, a subset: it stands in logs, metrics and headers."""
    return _matching(_NAME, text, "a name", "use up to 63 letters, digits, '.', '_' and '-'")


def service_name(text: str) -> Wrong | None:
    try:
        parse_service(text)
    except InvalidName as error:
        return Wrong(str(error), "use the name of a service in the inventory")
    return None


def version(text: str) -> Wrong | None:
    return _matching(_VERSION, text, "a version", "use a version such as v1")


def datacenter(text: str) -> Wrong | None:
    rule = "use lower-case letters, digits, '_' and '-'"
    return _matching(_DATACENTER, text, "a datacenter's name", rule)


def authority(text: str) -> Wrong | None:
    hint = "use a host without port, in lower case: api.example.com or *.example.com"
    return _matching(_AUTHORITY, text, "a host", hint)


def host_port(text: str) -> Wrong | None:
    hint = "use a host in lower case, with a port if need be: api.example.com:8443"
    return _matching(_HOST_PORT, text, "an authority", hint)


def scheme(text: str) -> Wrong | None:
    return None if text in ("http", "https") else Wrong(f"{shown(text)} is not a scheme", "http(s)")


def path(text: str) -> Wrong | None:
    """As the application gets it: without query and fragment, without dot segments."""
    if len(text) > _MAX_PATH or _PATH.fullmatch(text) is None:
        return Wrong(
            f"{shown(text)} is not a path",
            "begin it with /, and write other than printable ASCII as %XX",
        )
    if "?" in text or "#" in text:
        return Wrong(f"{shown(text)} has more than a path", "leave out '?' and '#'")
    if not {".", ".."}.isdisjoint(text.split("/")):
        return Wrong(f"{shown(text)} has a dot segment", "write the path that it leads to")
    return None


def template(text: str) -> Wrong | None:
    wrong = path(text)
    if wrong is not None:
        return wrong
    segments = text[1:].split("/")
    names = set()
    for number, segment in enumerate(segments):
        if segment == "*" or (segment == "**" and number == len(segments) - 1):
            continue
        found = _SEGMENT_NAME.fullmatch(segment)
        if found is not None and found[1] not in names:
            names.add(found[1])
        elif found is not None:
            return Wrong(f"{{{found[1]}}} is there twice in {shown(text)}", "give each its own")
        elif not {"{", "}", "*"}.isdisjoint(segment):
            return Wrong(
                f"{shown(segment)} is not a segment of a template",
                "use a word, {name}, * for any one segment, or ** at the end for the rest",
            )
    return None


def template_names(text: str) -> frozenset[str]:
    return frozenset(_SEGMENT_NAME.findall(text))


def rewritten_path(text: str, names: frozenset[str]) -> Wrong | None:
    """``names`` are those of the template that the route matches."""
    bare = _SEGMENT_NAME.sub(lambda found: found[1] if found[1] in names else found[0], text)
    if not {"{", "}"}.isdisjoint(bare):
        known = ", ".join(f"{{{known}}}" for known in sorted(names))
        hint = f"known: {known}" if known else "{name} needs a match by path template with it"
        return Wrong(f"{shown(text)} names a segment that the match does not have", hint)
    return path(bare)


@lru_cache(maxsize=4096)
def regex(pattern: str) -> Wrong | None:
    """What the routes' own engine accepts."""
    try:
        compile_regex(pattern)
    except InvalidRegex as error:
        return Wrong(f"{shown(pattern)}: {error}", "use the syntax of RE2")
    except ImportError:
        return Wrong(
            f"{shown(pattern)} cannot be checked: the package google-re2 is not installed",
            "install google-re2, or use exact, prefix or template",
        )
    return None


def _matching(pattern: re.Pattern[str], text: str, what: str, hint: str) -> Wrong | None:
    if pattern.fullmatch(text) is None:
        return Wrong(f"{shown(text)} is not {what}", hint)
    return None
