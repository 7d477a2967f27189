"""The scalar values of the inventory: text to value, or ``Invalid`` with what would be right."""

import ipaddress
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from meshctl.inventory.shape import Invalid, Text, clip
from proxy.model import names

T = TypeVar("T")

_DNS_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_UNIX_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# Directory services bring dots, capitals, domains; a leading hyphen would read as an option.
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@\\-]{0,63}")
_JUMP = re.compile(
    r"(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:@\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
)
_CONSUL = re.compile(r"http://(?P<host>\[[^\]]+\]|[^:/@\[\]]+):(?P<port>[0-9]{1,5})/?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_DATACENTER = re.compile(r"[a-z0-9_-]{1,64}")  # Consul's own rule, lower case since 1.10
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_PATH = re.compile(r"/[!-~]*")
# Any name may be registered with a health service; those of services have dots and letters.
_GRPC_SERVICE = re.compile(r"[!-~]{1,256}")


def _named(parse: Callable[[str], T], rule: str) -> Callable[[str], T]:
    def convert(text: str) -> T:
        try:
            return parse(text)
        except names.InvalidName as error:
            raise Invalid(f"{clip(text)!r} is not a valid name", f"use {rule}") from error

    return convert


def _matching(pattern: re.Pattern[str], what: str, rule: str) -> Text:
    def convert(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise Invalid(f"{clip(text)!r} is not {what}", f"use {rule}")
        return text

    return Text(convert, f"^{pattern.pattern}$")


def is_dns_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    # A last label of digits is a mistyped address, never a top-level domain.
    return (
        len(text) <= 253
        and all(_DNS_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )


def as_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether ``host`` is surely this machine."""
    address = as_ip(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def host_address(text: str) -> str:
    """Where a host can be dialled."""
    address = as_ip(text)
    if address is None:
        if not is_dns_name(text):
            raise Invalid(
                f"{clip(text)!r} is neither an IP address nor a DNS name",
                "use an address such as 10.0.0.11, without port and scheme",
            )
        return text.lower()
    if address.is_unspecified or address.is_multicast:
        raise Invalid(f"{text!r} is not the address of one host", "use the host's own address")
    return str(address)


def listen_address(text: str) -> str:
    """Where a program on the host listens: an IP address, all of them included."""
    address = as_ip(text)
    if address is None:
        raise Invalid(f"{clip(text)!r} is not an IP address", "use 127.0.0.1, 0.0.0.0 or the like")
    return str(address)


def network(text: str) -> str:
    """Addresses that are let in, as CIDR; one address is a network of its own."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        hint = "use a network such as 10.0.0.0/24 or fd00:1::/64, or one address"
        with suppress(ValueError):
            hint = f"did you mean {ipaddress.ip_network(text, strict=False)}? {hint}"
        raise Invalid(f"{clip(text)!r} is not a network", hint) from error


def app_address(text: str) -> str:
    """Where an application is dialled on its own host."""
    address = as_ip(text)
    if address is None or address.is_unspecified or address.is_multicast:
        raise Invalid(
            f"{clip(text)!r} is not an IP address that can be dialled",
            "use 127.0.0.1, which also reaches an application that listens on all addresses",
        )
    return str(address)


def jump(text: str) -> str:
    match = _JUMP.fullmatch(text)
    hint = "use [user@]host[:port], such as ops@bastion.example.com:22"
    if match is None:
        raise Invalid(f"{clip(text)!r} is not a jump host", hint)
    host, user, port = match["host"], match["user"], match["port"]
    if not (_is_host(host) and (user is None or _LOGIN.fullmatch(user)) and _is_port(port, "22")):
        raise Invalid(f"{clip(text)!r} is not a jump host", hint)
    return text


def consul_address(text: str) -> str:
    match = _CONSUL.fullmatch(text)
    if match is None or not _is_host(match["host"]) or not _is_port(match["port"], ""):
        raise Invalid(
            f"{clip(text)!r} is not the address of a Consul agent",
            "use http://127.0.0.1:8500: http, host and port, nothing behind",
        )
    return text.removesuffix("/")


def consul_host_port(url: str) -> tuple[str, int]:
    """The parts of what ``consul_address`` has accepted."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host.strip("[]"), int(port)


def file_name(text: str) -> str:
    """A path on this machine; resolved later, against the inventory's folder."""
    if "\0" in text or not text.strip() or len(text) > 4096:
        raise Invalid(f"{clip(text)!r} is not a path", "use a path, such as ./files/consul")
    return text


def remote_path(text: str) -> str:
    if "\0" in text or not text.startswith("/") or len(text) > 4096:
        raise Invalid(f"{clip(text)!r} is not an absolute path", "it is a path on the hosts")
    return text


def sha256(text: str) -> str:
    if _SHA256.fullmatch(text) is None:
        raise Invalid(f"{clip(text)!r} is not a SHA-256 sum", "use its 64 hexadecimal digits")
    return text.lower()


def label_value(text: str) -> str:
    if not 1 <= len(text) <= 256 or not text.isprintable():
        raise Invalid(f"{clip(text)!r} is not a label", "use 1 to 256 printable characters")
    return text


def _is_host(text: str) -> bool:
    if text.startswith("["):
        address = as_ip(text[1:-1])
        return address is not None and address.version == 6
    return as_ip(text) is not None or is_dns_name(text)


def _is_port(text: str | None, default: str) -> bool:
    return 1 <= int(text or default or 0) <= 65535


SERVICE = Text(_named(names.parse_service, names.LABEL_RULE), r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
HOST = Text(_named(names.parse_host, names.LABEL_RULE), r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
ZONE = Text(_named(names.parse_zone, names.LABEL_RULE), r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
HOST_ADDRESS = Text(host_address)
LISTEN_ADDRESS = Text(listen_address)
APP_ADDRESS = Text(app_address)
NETWORK = Text(network)
JUMP = Text(jump)
CONSUL_ADDRESS = Text(consul_address, "^http://")
FILE_NAME = Text(file_name)
REMOTE_PATH = Text(remote_path, "^/")
SHA256 = Text(sha256, f"^{_SHA256.pattern}$")
LABEL_VALUE = Text(label_value)
UNIX_USER = _matching(_UNIX_USER, "a unix user", "lower-case letters, digits, '_' and '-'")
LOGIN = _matching(_LOGIN, "a login name", "letters, digits and any of . _ @ \\ -")
VERSION = _matching(_VERSION, "a version", "letters, digits and any of . _ + -, such as v1")
LABEL_KEY = _matching(_LABEL_KEY, "a label's name", "letters, digits and any of . _ / -")
DATACENTER = _matching(
    _DATACENTER, "a datacenter's name", "lower-case letters, digits, '_' and '-'"
)
GRPC_SERVICE = _matching(
    _GRPC_SERVICE, "the name of a gRPC service", "a name such as orders.v1.Orders, or true"
)
URL_PATH = _matching(_PATH, "a path of a URL", "a path that begins with /, such as /healthz")
