"""Who may do what in a managed Consul: a token for each agent, proxy, operator, observer. Pure.

Each token has one policy, the least that its owner can work with; the tests in ``tests/contract``
show on a real Consul that it suffices and that nothing more is allowed. What a grant cannot
prevent: whoever has a host's token can report that host's own services as he likes.
"""

import hashlib
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from proxy.model.codec import encode
from proxy.model.names import HostName, ServiceName
from proxy.model.registration import SERVICE_PREFIX, SNAPSHOT_KEY, catalogue_name

POLICY_PREFIX = "meshctl-"
"""Of the names of our policies; others in the same Consul are left alone."""
TOKEN_MARK = "meshctl: "  # noqa: S105 - a description
"""What the descriptions of our tokens begin with."""
KEY_PREFIX = "meshctl/"
"""Below it is all that the mesh keeps in Consul's store."""


@dataclass(frozen=True, slots=True)
class Token:
    secret: str = field(repr=False)
    """A UUID in lower case: what Consul's API takes."""

    @property
    def accessor(self) -> str:
        """The public name. Made from the secret, which it does not give away: 122 random bits."""
        seen = hashlib.sha256(b"accessor:" + self.secret.encode()).digest()
        return str(uuid.UUID(bytes=seen[:16], version=4))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTokens:
    agent: Token
    """Of Consul's own agent: its node, and nothing else."""
    proxy: Token
    """Registers the services of the host, reads the mesh's services and policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acl:
    """What a plan has to know of the access control of a managed Consul."""

    hosts: Mapping[HostName, HostTokens]
    """Every host of the inventory."""
    operator: Token
    observer: Token | None = None
    """For Prometheus, to find the proxies; None: there is none."""
    applied: str = ""
    """Digest of the grants that Consul was brought to last; empty: never."""
    is_enforced: bool = True
    """False: the agents let in whoever has no token, as all did before there were any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A policy, and the one token that has it."""

    name: str
    """Of the policy. Consul takes letters, digits, ``-`` and ``_``, at most 128."""
    about: str
    rules: str
    """HCL, valid for Consul 1.8 and for the current version alike."""
    token: Token

    @property
    def mark(self) -> str:
        """The policy's description, by which one that is already as it should be is known."""
        return TOKEN_MARK + hashlib.sha256(self.rules.encode()).hexdigest()[:32]


def grants(acl: Acl, services: Mapping[HostName, Collection[ServiceName]]) -> tuple[Grant, ...]:
    """``services``: those that each host may register; a host without an entry has none."""
    observer = (_observer(acl.observer),) if acl.observer is not None else ()
    return (*_hosts(acl, services), _operator(acl.operator), *observer)


def digest(grants: Collection[Grant]) -> str:
    """Equal for equal access. Secrets go in by their accessors only."""
    entries = sorted((grant.name, grant.rules, grant.token.accessor) for grant in grants)
    return hashlib.sha256(encode(entries)).hexdigest()


def _hosts(acl: Acl, services: Mapping[HostName, Collection[ServiceName]]) -> Iterator[Grant]:
    for host, tokens in sorted(acl.hosts.items()):
        yield Grant(
            name=f"{POLICY_PREFIX}agent-{host}",
            about=f"agent of {host}",
            rules=agent_rules(host),
            token=tokens.agent,
        )
        yield Grant(
            name=f"{POLICY_PREFIX}proxy-{host}",
            about=f"proxy of {host}",
            rules=proxy_rules(services.get(host, ())),
            token=tokens.proxy,
        )


def _operator(token: Token) -> Grant:
    return Grant(
        name=f"{POLICY_PREFIX}operator", about="operator", rules=OPERATOR_RULES, token=token
    )


def _observer(token: Token) -> Grant:
    return Grant(
        name=f"{POLICY_PREFIX}observer", about="observer", rules=OBSERVER_RULES, token=token
    )


def _rule(kind: str, name: str, policy: str) -> str:
    return f'{kind} "{name}" {{ policy = "{policy}" }}\n'


def agent_rules(host: HostName) -> str:
    """Its node, for what it reports; itself, to leave; and to see which services of the mesh the
    catalogue has under its node, or it would register them anew for ever."""
    return (
        _rule("node", host, "write")
        + _rule("agent", host, "write")
        + _rule("service_prefix", SERVICE_PREFIX, "read")
    )


def proxy_rules(services: Collection[ServiceName]) -> str:
    """Reads the policy but no other key, and writes no service but the host's own."""
    names = [catalogue_name(service) for service in sorted(services)]
    own = "".join(_rule("service", name, "write") for name in names)
    return (
        own
        + _rule("service_prefix", SERVICE_PREFIX, "read")
        + _rule("node_prefix", "", "read")
        + _rule("key", SNAPSHOT_KEY, "read")
    )


OPERATOR_RULES = (
    _rule("key_prefix", KEY_PREFIX, "write")
    + _rule("service_prefix", SERVICE_PREFIX, "read")
    + _rule("node_prefix", "", "read")
)

OBSERVER_RULES = _rule("service_prefix", SERVICE_PREFIX, "read") + _rule("node_prefix", "", "read")
"""Where the mesh's services are, and so where their metrics are read. Nothing is written."""
