"""Hostile certificates: each is one thing away from the identity that it pretends to be.

Most are signed by an issuing CA that the mesh trusts and that signs whatever it is asked to: what
is refused then is refused by the peer itself, not by the CA's good manners. ``HOSTILE`` are for
both sides, as a client's and as a server's; ``CONTROLS`` are sound and must be let in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hostile import der
from hostile.der import BOTH, CA, NOT_CA, SIGNS_CERTIFICATES, SIGNS_DATA, Draft, Issuer

from meshctl.pki import authority
from proxy.model.names import TrustDomain

DOMAIN = TrustDomain("mesh.test")
HOUR = timedelta(hours=1)
YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a peer shows: leaf first, DER, and the leaf's private key."""

    chain: tuple[bytes, ...]
    key: Any


Case = Callable[["World", str], Shown]
"""``service``: whom it pretends to be; the key and the CAs are the world's."""


class World:
    """The CAs of one mesh, and a stranger's. ``bundle`` is what every proxy of it trusts."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self.self_signed("mesh.test root", _new(), der.constraints(_TRUE, _ONE))
        self.issuing = self.issue_ca("mesh.test issuing")
        self.stranger = self.self_signed("mesh.test root", _new(), der.constraints(_TRUE, _ONE))
        """Of the same name as the root."""
        now = datetime.now(UTC)
        self._real_root = authority.create_root(DOMAIN, now)
        real = authority.create_issuing(self._real_root, now)
        self.real = Issuer(
            subject=real.certificate.subject.public_bytes(),
            key=real.key,
            der=real.certificate.public_bytes(Encoding.DER),
        )
        """As ``meshctl init`` makes it, with its constraints on names."""

    @property
    def bundle(self) -> tuple[bytes, ...]:
        return (self.root.der, self._real_root.certificate.public_bytes(Encoding.DER))

    @cached_property
    def rsa(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def self_signed(self, name: str, key: Any, *extensions: bytes) -> Issuer:
        subject = der.name(name)
        draft = Draft(
            key=key,
            subject=subject,
            ends_in=YEAR,
            extensions=(*extensions, SIGNS_CERTIFICATES),
        )
        made = Issuer(subject=subject, key=key)
        return Issuer(subject=subject, key=key, der=draft.signed(made))

    def issue_ca(self, name: str, by: Issuer | None = None, key: Any = None, **but: Any) -> Issuer:
        """By the root, of path length 0 and without constraints on names, if nothing is said."""
        key = key or _new()
        subject = der.name(name)
        draft = Draft(
            key=key,
            subject=subject,
            ends_in=YEAR,
            extensions=(der.constraints(_TRUE, _ZERO), SIGNS_CERTIFICATES),
        ).but(**but)
        return Issuer(subject=subject, key=key, der=draft.signed(by or self.root))

    def draft(self, service: str, key: Any = None) -> Draft:
        """A sound leaf, as meshctl makes it: its subject is the host that it was made for."""
        return Draft(
            key=key or self.key,
            subject=der.seq(der.tlv(0x31, der.seq(der.oid("2.5.4.11"), der.tlv(0x0C, b"near")))),
            extensions=(NOT_CA, SIGNS_DATA, BOTH, der.san(der.uri(identity(service)))),
        )

    def by(self, issuer: Issuer, draft: Draft, *above: Issuer) -> Shown:
        chain = (draft.signed(issuer), *(each.der for each in (issuer, *above)))
        return Shown(chain=chain, key=draft.key)


def identity(service: str) -> str:
    return f"spiffe://{DOMAIN}/svc/{service}"


def _new() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


_TRUE = der.boolean(0xFF)
_ZERO = der.integer(0)
_ONE = der.integer(1)


# How cases are made: what is wrong with the leaf that a trusted CA signs.


def _names(*make: Callable[[str], bytes], critical: int | None = 0xFF) -> Case:
    def case(world: World, service: str) -> Shown:
        names = der.san(*(each(service) for each in make), critical=critical)
        leaf = world.draft(service).but(extensions=(NOT_CA, SIGNS_DATA, BOTH, names))
        return world.by(world.issuing, leaf)

    return case


def _uri(pattern: str | bytes) -> Case:
    """One URI: ``{}`` in the pattern is the service."""
    return _names(lambda service: der.uri(_filled(pattern, service)))


def _filled(pattern: str | bytes, service: str) -> bytes:
    raw = pattern if isinstance(pattern, bytes) else pattern.encode()
    return raw.replace(b"{}", service.encode())


def _but(**changes: Any) -> Case:
    """Another draft."""
    return lambda world, service: world.by(world.issuing, world.draft(service).but(**changes))


def _extensions(*first: bytes) -> Case:
    """In the place of basic constraints and usages; the name follows."""

    def case(world: World, service: str) -> Shown:
        names = der.san(der.uri(identity(service)))
        return world.by(world.issuing, world.draft(service).but(extensions=(*first, names)))

    return case


def _key(make: Callable[[], Any]) -> Case:
    return lambda world, service: world.by(world.issuing, world.draft(service, make()))


def _subject(pattern: str | bytes, *names: bytes) -> Case:
    """The identity in the subject, and no URI."""

    def case(world: World, service: str) -> Shown:
        leaf = world.draft(service).but(
            subject=der.name(_filled(pattern, service)),
            extensions=(NOT_CA, SIGNS_DATA, BOTH, *((der.san(*names),) if names else ())),
        )
        return world.by(world.issuing, leaf)

    return case


def _below(make: Callable[[World], tuple[Issuer, ...]]) -> Case:
    """A sound leaf by the first of these issuers, the others in the chain above it."""

    def case(world: World, service: str) -> Shown:
        issuer, *above = make(world)
        return world.by(issuer, world.draft(service), *above)

    return case


def _ca_but(**changes: Any) -> Case:
    return _below(lambda world: (world.issue_ca("mesh.test other", **changes),))


def _alone(world: World, service: str) -> Shown:
    return Shown(chain=(world.draft(service).signed(world.issuing),), key=world.key)


def _self_signed(world: World, service: str, subject: bytes | None = None) -> Shown:
    subject = subject if subject is not None else der.name(service)
    draft = world.draft(service).but(subject=subject)
    return Shown(chain=(draft.signed(Issuer(subject=subject, key=world.key)),), key=world.key)


def _by_a_leaf(world: World, service: str) -> Shown:
    subject, key = der.name("leaf"), _new()
    leaf = world.draft("other", key).but(subject=subject).signed(world.issuing)
    return world.by(Issuer(subject=subject, key=key, der=leaf), world.draft(service), world.issuing)


def _the_ca_itself(issuer: Callable[[World], Issuer]) -> Case:
    def case(world: World, service: str) -> Shown:
        shown = issuer(world)
        return Shown(chain=(shown.der, world.root.der), key=shown.key)

    return case


def _wrong_issuer_name(world: World, service: str) -> Shown:
    pretended = Issuer(subject=der.name("somebody"), key=world.issuing.key, der=world.issuing.der)
    return world.by(pretended, world.draft(service))


def _stolen_name(world: World, service: str) -> Shown:
    """The issuing CA's name and certificate, but signed by another key."""
    pretended = Issuer(subject=world.issuing.subject, key=_new(), der=world.issuing.der)
    return world.by(pretended, world.draft(service))


def _usage_in_subject(world: World, service: str) -> Shown:
    """The bytes of the usages stand in the certificate, but not where they mean anything."""
    usages = der.oid(der.SERVER) + der.oid(der.CLIENT)
    names = der.san(der.uri(identity(service)))
    leaf = world.draft(service).but(
        subject=der.name(usages), extensions=(NOT_CA, SIGNS_DATA, names)
    )
    return world.by(world.issuing, leaf)


def _usage_in_extension(world: World, service: str) -> Shown:
    """The same, in an extension that nobody knows."""
    unknown = der.extension("1.3.6.1.4.1.99999.1", BOTH)
    names = der.san(der.uri(identity(service)))
    code = der.uses(der.CODE)
    leaf = world.draft(service).but(extensions=(NOT_CA, SIGNS_DATA, code, unknown, names))
    return world.by(world.issuing, leaf)


def _long_length(world: World, service: str) -> Shown:
    """BER, not DER: the name's length in more octets than it needs."""
    name = identity(service).encode()
    raw = b"\x86\x81" + bytes((len(name),)) + name
    names = der.extension("2.5.29.17", der.seq(raw), 0xFF)
    leaf = world.draft(service).but(extensions=(NOT_CA, SIGNS_DATA, BOTH, names))
    return world.by(world.issuing, leaf)


def _constrained(*names: bytes) -> Case:
    """By the issuing CA as ``meshctl init`` makes it."""

    def case(world: World, service: str) -> Shown:
        made = names or (der.uri(identity(service)),)
        leaf = world.draft(service).but(extensions=(NOT_CA, SIGNS_DATA, BOTH, der.san(*made)))
        return world.by(world.real, leaf)

    return case


def _weak_signature(algorithm: bytes) -> Case:
    def case(world: World, service: str) -> Shown:
        rsa_key = algorithm in (der.RSA_SHA1, der.RSA_MD5)
        issuer = world.issue_ca("mesh.test rsa", key=world.rsa) if rsa_key else world.issuing
        return world.by(issuer, world.draft(service).but(algorithm=algorithm))

    return case


def _weak_ca(world: World) -> tuple[Issuer, ...]:
    return (world.issue_ca("mesh.test weak", key=rsa.generate_private_key(65537, 1024)),)


def _deep(world: World) -> tuple[Issuer, ...]:
    chain = [world.root]
    free = (CA, SIGNS_CERTIFICATES)
    for number in range(12):
        chain.insert(0, world.issue_ca(f"ca {number}", by=chain[0], extensions=free))
    return tuple(chain)


def _strange_root(world: World) -> tuple[Issuer, ...]:
    return (world.issue_ca("mesh.test issuing", by=world.stranger), world.stranger)


_TWO = _names(lambda _: der.uri(identity("web")), lambda _: der.uri(identity("api")))


def _right(service: str) -> bytes:
    return der.uri(identity(service))


HOSTILE: dict[str, Case] = {
    # The name
    "no alternative name": _subject("nobody"),
    "an empty alternative name": _names(),
    "two URIs, equal": _names(_right, _right),
    "two URIs, both ours": _TWO,
    "two URIs, one foreign": _names(_right, lambda _: der.uri("https://example.com/")),
    "URI and DNS": _names(_right, lambda _: der.dns("api.mesh.test")),
    "URI and IP": _names(_right, lambda _: der.ip(b"\x7f\0\0\1")),
    "URI and e-mail": _names(_right, lambda _: der.email("root@mesh.test")),
    "URI and other name": _names(_right, der.other_name),
    "the identity as DNS": _names(lambda service: der.dns(identity(service))),
    "the identity as e-mail": _names(lambda service: der.email(identity(service))),
    "the identity as other name": _names(lambda service: der.other_name(identity(service))),
    "the identity as common name": _subject("spiffe://mesh.test/svc/{}"),
    "the identity as common name, DNS beside": _subject(
        "spiffe://mesh.test/svc/{}", der.dns("api.mesh.test")
    ),
    "an embedded NUL before a foreign end": _uri(b"spiffe://mesh.test/svc/{}\0.evil.test"),
    "an embedded NUL after a foreign start": _uri(b"spiffe://evil.test\0spiffe://mesh.test/svc/{}"),
    "a NUL at the end": _uri(b"spiffe://mesh.test/svc/{}\0"),
    "a newline at the end": _uri("spiffe://mesh.test/svc/{}\n"),
    "a blank at the end": _uri("spiffe://mesh.test/svc/{} "),
    "a blank at the start": _uri(" spiffe://mesh.test/svc/{}"),
    "an empty URI": _uri(""),
    "no path": _uri("spiffe://mesh.test"),
    "an empty path": _uri("spiffe://mesh.test/"),
    "no service": _uri("spiffe://mesh.test/svc/"),
    "a slash at the end": _uri("spiffe://mesh.test/svc/{}/"),
    "a double slash": _uri("spiffe://mesh.test//svc/{}"),
    "a double slash before the service": _uri("spiffe://mesh.test/svc//{}"),
    "dots in the path": _uri("spiffe://mesh.test/svc/x/../{}"),
    "a dot in the path": _uri("spiffe://mesh.test/svc/./{}"),
    "dots that leave another domain": _uri("spiffe://evil.test/../mesh.test/svc/{}"),
    "a longer path": _uri("spiffe://mesh.test/svc/{}/x"),
    "another path": _uri("spiffe://mesh.test/ns/{}"),
    "a percent-encoded letter": _uri("spiffe://mesh.test/svc/%77eb"),
    "a percent-encoded slash": _uri("spiffe://mesh.test/svc%2F{}"),
    "a query": _uri("spiffe://mesh.test/svc/{}?x=1"),
    "an empty query": _uri("spiffe://mesh.test/svc/{}?"),
    "a fragment": _uri("spiffe://mesh.test/svc/{}#x"),
    "path parameters": _uri("spiffe://mesh.test/svc/{};x"),
    "a port": _uri("spiffe://mesh.test:443/svc/{}"),
    "an empty port": _uri("spiffe://mesh.test:/svc/{}"),
    "a user": _uri("spiffe://mesh.test@evil.test/svc/{}"),
    "a user before our domain": _uri("spiffe://evil@mesh.test/svc/{}"),
    "a backslash": _uri("spiffe://mesh.test\\svc\\{}"),
    "another domain": _uri("spiffe://other.test/svc/{}"),
    "our domain as a prefix": _uri("spiffe://mesh.test.evil.test/svc/{}"),
    "our domain as a suffix": _uri("spiffe://evil.mesh.test/svc/{}"),
    "our domain without its dot": _uri("spiffe://evilmesh.test/svc/{}"),
    "our domain with a dot at the end": _uri("spiffe://mesh.test./svc/{}"),
    "our domain in capitals": _uri("spiffe://MESH.TEST/svc/{}"),
    "the scheme in capitals": _uri("SPIFFE://mesh.test/svc/{}"),
    "the path in capitals": _uri("spiffe://mesh.test/SVC/{}"),
    "another scheme": _uri("https://mesh.test/svc/{}"),
    "no scheme": _uri("mesh.test/svc/{}"),
    "no authority": _uri("spiffe:/mesh.test/svc/{}"),
    "an empty authority": _uri("spiffe:///mesh.test/svc/{}"),
    "a look-alike domain (Cyrillic)": _uri("spiffe://m\u0435sh.test/svc/{}"),
    "a look-alike domain (full width)": _uri("spiffe://mesh\uff0etest/svc/{}"),
    "a look-alike domain (punycode)": _uri("spiffe://xn--msh-nlc.test/svc/{}"),
    "a look-alike service": _uri("spiffe://mesh.test/svc/w\u0435b"),
    "not UTF-8": _uri(b"spiffe://mesh.test/svc/{}\xff"),
    "a URI of 8 KiB": _uri("spiffe://mesh.test/svc/{}" + "a" * 8192),
    "the probe's identity": _uri("spiffe://mesh.test/mesh/probe"),
    "a signer's identity": _uri("spiffe://mesh.test/mesh/signer"),
    "a signing CA's identity": _uri("spiffe://mesh.test"),
    # What it may be used for
    "a CA as leaf": _extensions(CA, SIGNS_DATA, BOTH),
    "a CA as leaf, not critical": _extensions(
        der.constraints(_TRUE, critical=None), SIGNS_DATA, BOTH
    ),
    "a CA as leaf, TRUE as BER": _extensions(der.constraints(der.boolean(1)), SIGNS_DATA, BOTH),
    "a CA as leaf, critical as BER": _extensions(
        der.constraints(_TRUE, critical=1), SIGNS_DATA, BOTH
    ),
    "a CA as leaf, by its path length": _extensions(der.constraints(_ZERO), SIGNS_DATA, BOTH),
    "the issuing CA itself": _the_ca_itself(lambda world: world.issuing),
    "the root itself": _the_ca_itself(lambda world: world.root),
    "no extended usage": _extensions(NOT_CA, SIGNS_DATA),
    "an empty extended usage": _extensions(NOT_CA, SIGNS_DATA, der.uses()),
    "any extended usage": _extensions(NOT_CA, SIGNS_DATA, der.uses(der.ANY)),
    "for code signing": _extensions(NOT_CA, SIGNS_DATA, der.uses(der.CODE)),
    "the usages as text of the subject": _usage_in_subject,
    "the usages in an unknown extension": _usage_in_extension,
    "no key usage": _extensions(NOT_CA, BOTH),
    "for signing certificates": _extensions(NOT_CA, SIGNS_CERTIFICATES, BOTH),
    "for signing both": _extensions(NOT_CA, der.key_usage(0x84, 2), BOTH),
    "for signing revocation lists too": _extensions(NOT_CA, der.key_usage(0x82, 1), BOTH),
    "for key agreement only": _extensions(NOT_CA, der.key_usage(0x08, 3), BOTH),
    "an empty key usage": _extensions(NOT_CA, der.key_usage(0x00, 7), BOTH),
    "an unknown critical extension": _extensions(
        NOT_CA, SIGNS_DATA, BOTH, der.extension("1.3.6.1.4.1.99999.1", b"\x05\0", 0xFF)
    ),
    # When
    "expired": _but(starts_in=-2 * HOUR, ends_in=-HOUR),
    "expired a second ago": _but(starts_in=-HOUR, ends_in=timedelta(seconds=-1)),
    "not yet valid": _but(starts_in=HOUR, ends_in=2 * HOUR),
    "of the far future": _but(starts_in=100 * YEAR, ends_in=101 * YEAR),
    "ends before it starts": _but(starts_in=HOUR, ends_in=-HOUR),
    # Who signed it
    "self-signed": _self_signed,
    "self-signed, named as the root": lambda world, service: _self_signed(
        world, service, world.root.subject
    ),
    "by an unknown root of the same name": _below(lambda world: (world.stranger,)),
    "by an unknown root's issuing CA": _below(_strange_root),
    "by another key in the issuing CA's name": _stolen_name,
    "by an issuer of another name": _wrong_issuer_name,
    "by a leaf": _by_a_leaf,
    "by an intermediate beyond the path length": _below(
        lambda world: (world.issue_ca("mesh.test sub", by=world.issuing), world.issuing)
    ),
    "by an intermediate that is no CA": _ca_but(extensions=(NOT_CA, SIGNS_CERTIFICATES)),
    "by an intermediate without basic constraints": _ca_but(extensions=(SIGNS_CERTIFICATES,)),
    "by an intermediate that may not sign": _ca_but(extensions=(CA, SIGNS_DATA)),
    "by an intermediate of version 1": _ca_but(extensions=None, version=b""),
    "by an intermediate that has expired": _ca_but(starts_in=-2 * HOUR, ends_in=-HOUR),
    "by an intermediate not yet valid": _ca_but(starts_in=HOUR, ends_in=2 * HOUR),
    "by an intermediate for another usage": _ca_but(
        extensions=(CA, SIGNS_CERTIFICATES, der.uses(der.CODE))
    ),
    "by an intermediate with an unknown critical extension": _ca_but(
        extensions=(
            CA,
            SIGNS_CERTIFICATES,
            der.extension("1.3.6.1.4.1.99999.1", b"\x05\0", 0xFF),
        )
    ),
    "without its intermediate": _alone,
    "a chain of a dozen CAs": _below(_deep),
    "outside of the CA's names": _constrained(der.uri("spiffe://other.test/svc/web")),
    "DNS against the CA's names": _constrained(der.dns("api.mesh.test")),
    "DNS beside, against the CA's names": _constrained(
        der.uri(identity("web")), der.dns("api.mesh.test")
    ),
    "IP against the CA's names": _constrained(der.ip(b"\x7f\0\0\1")),
    # With what
    "an RSA key of 1024 bits": _key(lambda: rsa.generate_private_key(65537, 1024)),
    "an RSA key of 2048 bits": _key(lambda: rsa.generate_private_key(65537, 2048)),
    "a P-384 key": _key(lambda: ec.generate_private_key(ec.SECP384R1())),
    "a P-521 key": _key(lambda: ec.generate_private_key(ec.SECP521R1())),
    "a secp256k1 key": _key(lambda: ec.generate_private_key(ec.SECP256K1())),
    "an Ed25519 key": _key(ed25519.Ed25519PrivateKey.generate),
    "signed with SHA-1": _weak_signature(der.ECDSA_SHA1),
    "signed with RSA and SHA-1": _weak_signature(der.RSA_SHA1),
    "signed with RSA and MD5": _weak_signature(der.RSA_MD5),
    "by a CA of RSA 1024": _below(_weak_ca),
    "one bit of the signature flipped": _but(flip=True),
    "two algorithms of the signature": _but(outer_algorithm=der.ED25519),
    # How it is written
    "version 1": _but(version=b"", extensions=None),
    "version 1 with extensions": _but(version=b""),
    "version 2 with extensions": _but(version=der.tlv(0xA0, der.integer(1))),
    "version 4": _but(version=der.tlv(0xA0, der.integer(3))),
    "two basic constraints, CA second": _extensions(NOT_CA, CA, SIGNS_DATA, BOTH),
    "two basic constraints, CA first": _extensions(CA, NOT_CA, SIGNS_DATA, BOTH),
    "two alternative names": _extensions(
        NOT_CA, SIGNS_DATA, BOTH, der.san(der.uri("spiffe://mesh.test/svc/other"))
    ),
    "two extended usages": _extensions(NOT_CA, SIGNS_DATA, der.uses(der.CODE), BOTH),
    "two unknown extensions of a kind": _extensions(
        NOT_CA, SIGNS_DATA, BOTH, *[der.extension("1.3.6.1.4.1.99999.1", b"\x05\0")] * 2
    ),
    "a length that is not DER": _long_length,
    "something behind a usage": _extensions(
        NOT_CA, SIGNS_DATA, der.extension("2.5.29.37", der.seq(der.oid(der.CLIENT)) + b"\x05\0")
    ),
}
"""Refused on both sides before a byte of the application."""

ONE_WAY: dict[str, dict[str, Case]] = {
    "client": {"only for servers": _extensions(NOT_CA, SIGNS_DATA, der.uses(der.SERVER))},
    "server": {
        "only for clients": _extensions(NOT_CA, SIGNS_DATA, der.uses(der.CLIENT)),
        "another service of the mesh": lambda world, _: world.by(
            world.issuing, world.draft("other")
        ),
    },
}
"""Wrong in one role only."""


def _sound(world: World, service: str) -> Shown:
    return world.by(world.issuing, world.draft(service))


def _out_of_order(world: World, service: str) -> Shown:
    leaf = world.draft(service).signed(world.issuing)
    return Shown(chain=(leaf, world.root.der, world.issuing.der), key=world.key)


def _with_a_stranger(world: World, service: str) -> Shown:
    leaf = world.draft(service).signed(world.issuing)
    return Shown(chain=(leaf, world.stranger.der, world.issuing.der), key=world.key)


CONTROLS: dict[str, Case] = {
    "sound": _sound,
    "sound, by the constrained CA of meshctl init": _constrained(),
    "sound, its name not critical": _names(_right, critical=None),
    "sound, with an unknown extension that is not critical": _extensions(
        NOT_CA, SIGNS_DATA, BOTH, der.extension("1.3.6.1.4.1.99999.1", b"\x05\0")
    ),
    "sound, chain out of order": _out_of_order,
    "sound, an unused certificate in the chain": _with_a_stranger,
}
"""Let in: RFC 8446, section 4.4.2, lets a chain be out of order and have more than it needs."""
