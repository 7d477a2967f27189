"""Every key that ``inventory.yaml`` may have: the one table behind parser and JSON Schema."""

from itertools import combinations

from meshctl.inventory import words
from meshctl.inventory.model import (
    Become,
    ConsulMode,
    HostKeyPolicy,
    Role,
    SignerMode,
    TransportKind,
)
from meshctl.inventory.shape import (
    Choice,
    Duration,
    Entry,
    Exactly,
    Findings,
    Integer,
    Key,
    ListOf,
    MapOf,
    NumberOr,
    Record,
    Schema,
    Shape,
    Size,
    TrueOr,
    closest,
)
from meshctl.yamltree import MappingNode, Node, ScalarNode, join
from proxy.core.validation import CONNECTIONS, MEMORY_BYTES
from proxy.model.endpoint import MAX_WEIGHT
from proxy.model.settings import MAX_WORKERS

PORT = Integer(1, 65535, "a port")
PROXY_PORT = Integer(
    1024, 65535, "a port of the proxy", "use 1024 to 65535: the proxy runs without privileges"
)


class _Upstream(Shape):
    """``{service: api, port: 9001}`` or, shorter, ``api: 9001``; without a port ``api``."""

    long = Record(
        (
            Key("service", words.SERVICE, "The service that is called.", True),
            Key("port", PROXY_PORT, "The loopback port to reach it on, if it is to have its own."),
        )
    )

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        names = [key.name for key in self.long.keys]
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            alone = words.SERVICE.read(node, path, findings)
            return Entry({"service": alone}, path, node.line) if alone else None
        if not isinstance(node, MappingNode) or any(node.get(name) for name in names):
            return self.long.read(node, path, findings)
        if len(node.items) != 1:
            wanted = "write each upstream as an item of its own: '- api: 9001'"
            findings.add(path, node.line, f"it has {len(node.items)} keys", wanted)
            return None
        name, port = node.items[0]
        if not isinstance(port, ScalarNode) and (guess := closest(name.text, names)):
            findings.add(path, name.line, f"{name.text!r} is not known", f"did you mean {guess!r}?")
            return None
        service = words.SERVICE.read(name, join(path, name.text), findings)
        number = PROXY_PORT.read(port, join(path, name.text), findings)
        read = {"service": service, "port": number}
        return Entry({k: v for k, v in read.items() if v is not None}, path, node.line)

    def schema(self) -> Schema:
        short = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": words.SERVICE.schema() | {"not": {"enum": ["service", "port"]}},
            "additionalProperties": PROXY_PORT.schema(),
        }
        return {"anyOf": [words.SERVICE.schema(), self.long.schema(), short]}


SSH = Record(
    (
        Key("user", words.LOGIN, "Who to log in as.", default="root"),
        Key("port", PORT, "The SSH port.", default=22),
        Key("key", words.FILE_NAME, "A private key file; without it the agent and ~/.ssh."),
        Key("jump", words.JUMP, "A host to go through: [user@]host[:port]."),
        Key(
            "become",
            Choice(tuple(Become)),
            "How a user other than root gets root's rights.",
            default="sudo",
        ),
        Key(
            "host_keys",
            Choice(tuple(HostKeyPolicy)),
            "Whether a host's key has to be known, or is recorded on first contact.",
            default="strict",
        ),
        Key("known_hosts", words.FILE_NAME, "A known-hosts file other than the mesh's own."),
        Key("connect_timeout", Duration(0.1, 300), "How long a connect may take.", default="10s"),
    )
)

PROXY = Record(
    (
        Key("inbound_address", words.LISTEN_ADDRESS, "Where mTLS is accepted.", default="0.0.0.0"),  # noqa: S104
        Key("inbound_port", PROXY_PORT, "The port for mTLS.", default=15006),
        Key("admin_port", PROXY_PORT, "The admin port, on loopback.", default=15000),
        Key("drain", Duration(0, 3600), "How long a stop waits for requests.", default="60s"),
        Key(
            "workers",
            NumberOr(Integer(1, MAX_WORKERS, "a number of processes"), "auto"),
            "Processes that share the ports; auto: as many as the host has cores.",
            default=1,
        ),
        Key(
            "max_connections",
            Integer(*CONNECTIONS, "a number of connections"),
            "Accepted at once, on each side; beyond it they are refused.",
            default=10_000,
        ),
        Key(
            "max_memory",
            Size(*MEMORY_BYTES),
            "Of each worker; beyond it new requests are refused.",
            default="512MiB",
        ),
    )
)

METRICS = Record(
    (
        Key("port", PROXY_PORT, "Where each proxy answers /metrics.", default=15090),
        Key(
            "from",
            ListOf(words.NETWORK, is_set=True),
            "The networks of those that scrape, such as 10.0.0.5/32; all others are refused. "
            "Without any there is no such port.",
            default=[],
        ),
    )
)

HEALTH = Record(
    (
        Key("http", words.URL_PATH, "A path that answers 2xx or 3xx while the service is well."),
        Key(
            "grpc",
            TrueOr(words.GRPC_SERVICE),
            "It is well while grpc.health.v1.Health/Check says SERVING: true for the server as a "
            "whole, or the name of one of its services.",
        ),
        Key(
            "tcp",
            Exactly(True, "write 'tcp: true', or 'http: /path', or 'grpc: true'"),
            "Connecting is enough; what is asked without any of the three, also with protocol "
            "grpc: not every gRPC server has a health service.",
        ),
        Key("interval", Duration(0.1, 3600), "Time between two checks.", default="5s"),
        Key(
            "timeout",
            Duration(0.01, 300),
            "How long an answer may take; at most the interval.",
            default="2s",
        ),
        Key(
            "unhealthy_after",
            Integer(1, 100),
            "Failures in a row before it counts as ill.",
            default=2,
        ),
    ),
    rules=tuple(
        {"not": {"required": list(pair)}} for pair in combinations(("http", "grpc", "tcp"), 2)
    ),
)

_SERVICE_DEFAULTS = (
    Key(
        "protocol",
        Choice(("http", "http2", "grpc", "tcp")),
        "What the application speaks, the same on all hosts: HTTP/1.1, HTTP/2 (with prior "
        "knowledge), gRPC, or anything. Callers may speak either version of HTTP to the first "
        "three.",
        default="tcp",
    ),
    Key("address", words.APP_ADDRESS, "Where it listens on its host.", default="127.0.0.1"),
    Key("version", words.VERSION, "Which version this instance is.", default="v1"),
    Key(
        "user",
        words.UNIX_USER,
        "The unix user that the service runs as: only its processes may call as the service.",
    ),
    Key("health", HEALTH, "How the proxy asks whether the service can serve."),
)

DEFAULTS = Record(_SERVICE_DEFAULTS)

SERVICE = Record(
    (
        Key("name", words.SERVICE, "The service's name, which is its identity.", True),
        Key("port", PORT, "Where the application listens, in plain text.", True),
        *_SERVICE_DEFAULTS,
        Key("upstreams", ListOf(_Upstream()), "The services that it calls."),
        Key(
            "outbound_port",
            NumberOr(PROXY_PORT, "none"),
            "One loopback port for all its upstreams but those that speak tcp, told apart by "
            "Host; or none. By default 15001 for the only service with such on a host, if the "
            "port is free.",
        ),
        Key(
            "weight",
            Integer(0, MAX_WEIGHT, "a weight"),
            "This instance's share of the requests; 0: only while there is no other.",
            default=1,
        ),
        Key(
            "plaintext_port",
            PROXY_PORT,
            "Where the proxy serves callers outside the mesh, in plain text, while the service's "
            "mode in mesh.yaml is permissive.",
        ),
    )
)

_LOCAL = {"required": ["transport"], "properties": {"transport": {"const": "local"}}}

HOST = Record(
    (
        Key("name", words.HOST, "The host's name in the mesh.", True),
        Key(
            "address",
            words.HOST_ADDRESS,
            "Dialled over SSH and by the other hosts (local: 127.0.0.1).",
        ),
        Key(
            "roles",
            ListOf(Choice(tuple(Role)), least=1, is_set=True),
            "What the host is for.",
            default=["workload"],
        ),
        Key(
            "zone",
            words.ZONE,
            "Where the host stands; callers prefer their own zone. By default the label zone.",
        ),
        Key("labels", MapOf(words.LABEL_KEY, words.LABEL_VALUE), "Words of your own."),
        Key(
            "transport",
            Choice(tuple(TransportKind)),
            "How it is reached; local is this machine, without root.",
            default="ssh",
        ),
        Key("root", words.FILE_NAME, "Local only: the folder that holds everything of the host."),
        Key("ssh", SSH, "What differs from the inventory's own ssh."),
        Key("proxy", PROXY, "What differs from the inventory's own proxy."),
        Key("metrics", METRICS, "What differs from the inventory's own metrics."),
        Key("services", ListOf(SERVICE), "What runs there."),
    ),
    rules=(
        {
            "if": _LOCAL,
            "then": {"required": ["root"], "properties": {"ssh": False}},
            "else": {"required": ["address"], "properties": {"root": False}},
        },
    ),
)

PACKAGE = Record(
    (
        Key("binary", words.FILE_NAME, "The consul program for the hosts."),
        Key("archive", words.FILE_NAME, "A release archive (.zip) with it."),
        Key("sha256", words.SHA256, "The archive's published SHA-256 sum."),
    ),
    rules=(
        {"oneOf": [{"required": ["binary"]}, {"required": ["archive"]}]},
        {"dependentRequired": {"archive": ["sha256"], "sha256": ["archive"]}},
    ),
)


def _if_mode(mode: ConsulMode, then: Schema, otherwise: Schema) -> Schema:
    condition = {"required": ["mode"], "properties": {"mode": {"const": str(mode)}}}
    return {"if": condition, "then": then, "else": otherwise}


CONSUL = Record(
    (
        Key(
            "mode",
            Choice(tuple(ConsulMode)),
            "Where Consul comes from: inside meshctl (one machine), there already, or installed.",
            True,
        ),
        Key(
            "address",
            words.CONSUL_ADDRESS,
            "The agent's HTTP API as each host sees it.",
            default="http://127.0.0.1:8500",
        ),
        Key("datacenter", words.DATACENTER, "Consul's datacenter.", default="dc1"),
        Key("token_file", words.REMOTE_PATH, "Existing only: a file on the hosts with a token."),
        Key(
            "operator_token_file",
            words.FILE_NAME,
            "Existing only: a file on this machine with meshctl's own token.",
        ),
        Key("package", PACKAGE, "Managed only: the Consul to install."),
    ),
    rules=(
        _if_mode(ConsulMode.MANAGED, {"required": ["package"]}, {"properties": {"package": False}}),
        _if_mode(
            ConsulMode.EXISTING,
            {},
            {"properties": {"token_file": False, "operator_token_file": False}},
        ),
    ),
)

CERTIFICATES = Record(
    (
        Key(
            "signer",
            Choice(tuple(SignerMode)),
            "Who renews identities: signers on the control hosts, or none but `certs rotate`.",
            default="auto",
        ),
        Key("signer_port", PROXY_PORT, "Where signers listen, for mTLS.", default=15008),
        Key(
            "leaf_life",
            Duration(60, 365 * 86400),
            "How long an identity lives. By default 24h with signers, 720h without.",
        ),
    )
)

INVENTORY = Record(
    (
        Key("version", Exactly(1, "write 'version: 1'"), "The format of this file.", True),
        Key("ssh", SSH, "How hosts are reached, unless they say otherwise."),
        Key("consul", CONSUL, "The registry of the mesh.", True),
        Key("proxy", PROXY, "Where proxies listen, unless a host says otherwise."),
        Key("metrics", METRICS, "Who reads the proxies' figures, unless a host says otherwise."),
        Key("certificates", CERTIFICATES, "How long identities live, and who renews them."),
        Key("defaults", DEFAULTS, "For every service, unless it says otherwise."),
        Key("hosts", ListOf(HOST, least=1), "The machines of the mesh.", True),
    )
)
