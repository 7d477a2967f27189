"""What a route does to a request's or an answer's head, prepared so that a request pays little."""

from collections.abc import Callable

from proxy.core.routing.conditions import Head
from proxy.core.routing.paths import encode_path, known_path, normalise_path, path_of
from proxy.core.routing.templates import prefix_segments, rewrite_parts
from proxy.model.routing import HeaderChanges, PathMatch, Redirect

LineChange = Callable[[list[bytes]], list[bytes]]
PathChange = Callable[[bytes], bytes]
"""A target's path in normal form to the path that is forwarded."""

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def compile_lines(changes: HeaderChanges | None) -> LineChange | None:
    """None if nothing changes. Remove, set, add, in one pass: what is set is removed first."""
    if changes is None or not (changes.remove or changes.set or changes.add):
        return None
    gone = tuple(
        name.lower().encode() + b": " for name in dict.fromkeys((*changes.remove, *changes.set))
    )
    new = [
        name.lower().encode() + b": " + value.encode()
        for name, value in (*changes.set.items(), *changes.add.items())
    ]
    if not gone:
        return lambda lines: lines + new
    return lambda lines: [line for line in lines if not line.startswith(gone)] + new


def compile_path(path: str, match: PathMatch | None) -> PathChange | None:
    """None if ``path`` is empty: it stays."""
    if not path:
        return None
    if match is not None and match.prefix is not None:
        cut = sum(len(one or b"") + 1 for one in prefix_segments(match.prefix))
        front = encode_path(path).rstrip(b"/")
        return lambda path: (front + path[cut:]) or b"/"
    parts = rewrite_parts(path, match)
    if all(isinstance(part, bytes) for part in parts):
        whole = b"".join(part for part in parts if isinstance(part, bytes))
        return lambda path: whole

    def fill_in(path: bytes) -> bytes:
        segments = path.split(b"/")
        return b"".join(segments[part] if isinstance(part, int) else part for part in parts)

    return fill_in


def rewrite(head: Head, change: PathChange) -> None:
    """The query stays. What stays of the path is forwarded in its normal form."""
    target = head.target
    mark = target.find(b"?")
    path = change(known_path(target) or path_of(target))
    head.target = path if mark < 0 else path + target[mark:]


def location(redirect: Redirect, head: Head, scheme: bytes) -> bytes:
    """``scheme``: the request's, lower case. Without an authority, only a path."""
    path, mark, query = head.target.partition(b"?")
    if redirect.path:
        path = encode_path(redirect.path)
    new_scheme = redirect.scheme.encode() or scheme
    authority = redirect.authority.encode()
    if not authority:
        authority = head.authority or b""
        if new_scheme != scheme:
            authority = authority.removesuffix(_DEFAULT_PORTS.get(scheme, b":"))
    if not authority:
        # `//x/y` would be another host's.
        return normalise_path(path) + mark + query
    return b"%b://%b%b%b%b" % (new_scheme, authority, path, mark, query)
