"""A snapshot as it lies in Consul: canonical JSON, compressed once it is large.

Consul refuses values above 512 KiB, and a policy for 1,000 services with 5,000 routes has more as
JSON. gzip, so that ``consul kv get meshctl/snapshot | tail -n +2 | zcat`` shows it (the first line
is its signature: ``signed``). A proxy unpacks it in parts, to keep only those that it uses.
"""

import gzip
import hashlib
import zlib
from collections.abc import Generator
from typing import Any, Final, TypeVar

import msgspec

from proxy.model.authorization import TokenProvider
from proxy.model.codec import Malformed, Value, decode, digest_of, encode
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot
from proxy.model.telemetry import Telemetry

COMPRESS_FROM: Final = 64 * 1024
"""Bytes; below it people may want to read the value as it is."""
MAX_PACKED: Final = 512 * 1024
"""Consul's ``kv_max_value_size``."""
MAX_UNPACKED: Final = 32 * 1024 * 1024
"""Some hundred times the policy above; a bomb ends here."""

_GZIP: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31
_LEVEL: Final = 9
_PIECE: Final = 128 * 1024

T = TypeVar("T")


def pack(value: object) -> bytes:
    """Canonical: equal values give equal bytes, in every release with the same defaults."""
    data = encode(_without_defaults(value))
    return gzip.compress(data, _LEVEL, mtime=0) if len(data) >= COMPRESS_FROM else data


def unpack(data: bytes) -> Snapshot:
    """Raises Malformed."""
    return decode(plain(data), Snapshot)


def plain(data: bytes) -> bytes:
    """The JSON in what ``pack`` made. Raises Malformed; never makes more than ``MAX_UNPACKED``."""
    return finish(unpacking(data))


def unpacking(data: bytes) -> Generator[None, None, bytes]:
    """As ``plain``, in pieces below a millisecond."""
    if not data.startswith(_GZIP):
        return data
    stream = zlib.decompressobj(_GZIP_WINDOW)
    parts: list[bytes] = []
    size = 0
    left = data
    while not stream.eof:
        try:
            part = stream.decompress(left, _PIECE)
        except zlib.error as error:
            raise Malformed(f"not gzip: {error}") from error
        left = stream.unconsumed_tail
        size += len(part)
        if size > MAX_UNPACKED:
            raise Malformed(f"more than {MAX_UNPACKED} bytes when unpacked")
        if not part and not left:
            break
        parts.append(part)
        yield
    if not stream.eof or stream.unused_data:
        raise Malformed("not one whole gzip member")
    return b"".join(parts)


def finish(work: Generator[None, None, T]) -> T:
    """All pieces at once."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


class _Parts(Value, frozen=True, kw_only=True):
    """``Policy``, with its services not looked at yet."""

    defaults: ServicePolicy = ServicePolicy()
    services: dict[ServiceName, msgspec.Raw] = {}
    tokens: dict[str, TokenProvider] = {}
    telemetry: Telemetry = Telemetry()


class _Outline(Value, frozen=True, kw_only=True):
    generation: int
    trust_domain: TrustDomain
    policy: msgspec.Raw
    cut_denied: bool = False


class Unpacked:
    """A snapshot whose services are decoded one by one; the first steps take some milliseconds
    for a large one, each ``service`` some microseconds."""

    __slots__ = (
        "_services", "cut_denied", "defaults", "digest", "generation", "telemetry", "tokens",
        "trust_domain",
    )  # fmt: skip

    def __init__(self, data: bytes) -> None:
        """``data`` is what ``plain`` gave. Raises Malformed, also for what is wrong deep inside
        of the defaults, but not of services."""
        finish(self._opening(data))

    @classmethod
    def opening(cls, data: bytes) -> "Generator[None, None, Unpacked]":
        """The same, in pieces; what can be no smaller is one look over all of the text."""
        made = cls.__new__(cls)
        yield from made._opening(data)
        return made

    def _opening(self, data: bytes) -> Generator[None, None, None]:
        outline = decode(data, _Outline)
        yield
        parts = decode(outline.policy, _Parts)
        yield
        self.generation = outline.generation
        self.trust_domain = outline.trust_domain
        self.cut_denied = outline.cut_denied
        self.defaults = parts.defaults
        self.tokens = parts.tokens
        self.telemetry = parts.telemetry
        self._services = parts.services
        text = memoryview(outline.policy)
        hashed = hashlib.sha256()
        for at in range(0, len(text), _PIECE):
            hashed.update(text[at : at + _PIECE])
            yield
        self.digest = digest_of(hashed)

    @property
    def names(self) -> tuple[ServiceName, ...]:
        return tuple(self._services)

    def service(self, name: ServiceName) -> ServicePolicy:
        """Raises Malformed."""
        try:
            return decode(self._services[name], ServicePolicy)
        except Malformed as error:
            raise Malformed(f"services.{name}: {error}") from error

    def snapshot(self, services: dict[ServiceName, ServicePolicy]) -> Snapshot:
        """With these of its services."""
        return Snapshot(
            generation=self.generation,
            trust_domain=self.trust_domain,
            policy=Policy(
                defaults=self.defaults,
                services=services,
                tokens=self.tokens,
                telemetry=self.telemetry,
            ),
            cut_denied=self.cut_denied,
            digest=self.digest,
        )


def _without_defaults(value: Any) -> Any:
    """The same with every field left out that equals its default.

    The codec leaves out those that *are* their default, which depends on how the value was made.
    """
    if isinstance(value, msgspec.Struct):
        kept = {}
        for field in msgspec.structs.fields(value):
            found = getattr(value, field.name)
            if field.default is not msgspec.NODEFAULT and found == field.default:
                continue
            if field.default_factory is not msgspec.NODEFAULT and found == field.default_factory():
                continue
            kept[field.encode_name] = _without_defaults(found)
        return kept
    if isinstance(value, dict):
        return {key: _without_defaults(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_without_defaults(inner) for inner in value]
    return value
