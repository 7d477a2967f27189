"""Identities on disk to TLS contexts, tried before they are used.

A new identity first shakes hands with itself in memory. That proves with public means all that
matters: the key fits the certificate, the chain leads to the trust bundle, it is valid now, it
may act as a client and as a server, and it names this workload. Only then does it replace the
one in force; a file that is broken, or half written, changes nothing.
"""

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from proxy.core.peer import identify
from proxy.http.frames import ALPN
from proxy.http.h2.frames import ALPN as HTTP2
from proxy.model.names import InvalidName, ServiceName, TrustDomain, server_name, spiffe_id
from proxy.model.settings import Settings
from proxy.model.status import IdentityStatus


class IdentityUnusable(Exception):
    """Why the files are not an identity, in one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """One workload's identity, in force for new connections."""

    status: IdentityStatus
    client: ssl.SSLContext
    server: ssl.SSLContext
    fingerprint: bytes
    """Of all the files it was made from: equal ones are not loaded again."""


class Identities:
    """Of all workloads of the host, and the context that the inbound listener begins with."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._domain = settings.trust_domain
        self._in_force: dict[ServiceName, Identity] = {}
        self._by_name: dict[str, ServiceName] = {
            server_name(self._domain, workload.service): workload.service
            for workload in settings.workloads
        }
        self._by_context: dict[ssl.SSLContext, ServiceName] = {}
        # Only to read the server name: OpenSSL takes the certificate and the trusted roots from
        # the context that the callback puts in its place, but this setting from the first one.
        self.inbound = _hardened(ssl.PROTOCOL_TLS_SERVER)
        self.inbound.sni_callback = self._select

    def get(self, service: ServiceName) -> Identity | None:
        return self._in_force.get(service)

    def service_of(self, connection: ssl.SSLObject) -> ServiceName | None:
        """The workload that an inbound handshake selected."""
        return self._by_context.get(connection.context)

    def statuses(self) -> dict[ServiceName, IdentityStatus | None]:
        found: dict[ServiceName, IdentityStatus | None] = {}
        for workload in self._settings.workloads:
            identity = self._in_force.get(workload.service)
            found[workload.service] = identity.status if identity else None
        return found

    def reload(self) -> dict[ServiceName, IdentityStatus | str]:
        """Reads all again; a reason in place of a status leaves what is in force as it is."""
        results: dict[ServiceName, IdentityStatus | str] = {}
        for workload in self._settings.workloads:
            service = workload.service
            before = self._in_force.get(service)
            try:
                identity = _load(self._settings, service, before)
            except IdentityUnusable as error:
                results[service] = str(error)
                continue
            self._in_force[service] = identity
            results[service] = identity.status
        # A handshake that has just selected an older context may still be under way.
        recent = {identity.server: service for service, identity in self._in_force.items()}
        kept = list(self._by_context.items())[-4 * len(self._settings.workloads) :]
        self._by_context = {**dict(kept), **recent}
        return results

    def _select(
        self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        service = self._by_name.get(name) if name is not None else None
        identity = self._in_force.get(service) if service is not None else None
        if identity is None:
            return int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
        connection.context = identity.server
        return None


def _hardened(protocol: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # peers are known by their SPIFFE ID, not by a host name
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET
    # Of a chain nothing below 112 bits (RSA 2048, SHA-2), whatever the host's own default is.
    context.set_ciphers("DEFAULT:@SECLEVEL=2")
    # A peer that names none of them speaks HTTP/1.1.
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.set_alpn_protocols([ALPN, "http/1.1"])
    else:
        context.set_alpn_protocols([ALPN, HTTP2, "http/1.1"])
        context.num_tickets = 0  # a resumed session would skip the verification of its peer
    return context


def _load(settings: Settings, service: ServiceName, before: Identity | None) -> Identity:
    directory = os.path.realpath(
        os.path.join(settings.state_dir, "identities", service, "current")
    )  # resolved once: `current` may be switched between two reads
    key = os.path.join(directory, "key.pem")
    chain = os.path.join(directory, "chain.pem")
    bundle = os.path.realpath(settings.trust_bundle)
    hashed = sha256()
    for path in (key, chain, bundle):
        try:
            with open(path, "rb") as file:
                data = file.read(1024 * 1024)
        except OSError as error:
            raise IdentityUnusable(f"cannot read {path}: {error.strerror}") from error
        hashed.update(sha256(data).digest())
    fingerprint = hashed.digest()
    if before is not None and before.fingerprint == fingerprint:
        return before
    contexts = []
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = _hardened(protocol)
        try:
            context.load_verify_locations(bundle)
        except (ssl.SSLError, OSError) as error:
            raise IdentityUnusable(f"{bundle} is not a trust bundle") from error
        try:
            context.load_cert_chain(chain, key)
        except (ssl.SSLError, OSError) as error:
            reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
            raise IdentityUnusable(
                f"{directory} is not a certificate chain with its key: {reason}"
            ) from error
        contexts.append(context)
    client, server = contexts
    status = _prove(client, server, settings.trust_domain, service, directory)
    return Identity(status=status, client=client, server=server, fingerprint=fingerprint)


def _prove(
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    domain: TrustDomain,
    service: ServiceName,
    where: str,
) -> IdentityStatus:
    """A handshake of the identity with itself."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = server_name(domain, service)
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    done = [False, False]
    for _ in range(8):
        for index, end in enumerate(ends):
            try:
                end.do_handshake()
                done[index] = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                raise IdentityUnusable(
                    f"{where}/chain.pem would be refused by peers: {error.verify_message}"
                ) from error
            except ssl.SSLError as error:
                raise IdentityUnusable(f"{where} fails in a handshake: {error.reason}") from error
    if not all(done):
        raise IdentityUnusable(f"{where} fails in a handshake: it does not end")
    found: dict[str, Any] = {}
    for end, is_server in zip(ends, (True, False), strict=True):
        found = end.getpeercert() or {}
        try:
            named = identify(end.getpeercert(True) or b"", domain, is_server=is_server)
        except InvalidName as error:
            raise IdentityUnusable(f"{where}/chain.pem: {error}") from error
        if named != service:
            raise IdentityUnusable(
                f"{where}/chain.pem names {spiffe_id(domain, named)}, "
                f"not {spiffe_id(domain, service)}"
            )
    return IdentityStatus(
        spiffe_id=spiffe_id(domain, service),
        serial=str(found["serialNumber"]).lower().lstrip("0") or "0",
        not_before=_rfc3339(found["notBefore"]),
        not_after=_rfc3339(found["notAfter"]),
    )


def _rfc3339(openssl_time: str) -> str:
    at = datetime.fromtimestamp(ssl.cert_time_to_seconds(openssl_time), UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
