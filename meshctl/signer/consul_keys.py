"""``python -m meshctl.signer.consul_keys``: makes, installs and shows a Consul server's key.

The key is made where the server runs and never leaves; the operator's CA for Consul certifies it
from afar: what leaves is a request on stdout, what enters is a certificate on stdin, put in force
only if it is for exactly that key, under the server's name.

Started by root, it first becomes the owner of the directory. Exit code 0, or 1 with one sentence
on stderr.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.backends import default_backend
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy import chains, keyfiles, keypairs
from proxy.keyfiles import Refused


def request(directory: Path) -> bytes:
    """A new pending key, replacing an earlier one; the request for its certificate, PEM."""
    with _locked(directory):
        return keypairs.make(directory)  # the CA names it


def install(directory: Path, name: str, chain: bytes, *, now: datetime) -> dict[str, str]:
    """Puts the certificate in force with the pending key. Raises Refused; then nothing changed.

    Doing it again with the same one is not an error, so that an interrupted deploy converges.
    """
    certificate = _only(chains.certificates(chain, "the certificate"), "the certificate")
    _check(certificate, name, now)
    with _locked(directory):
        keypairs.put_in_force(directory, certificate, chain, "the certificate")
    return _status(certificate)


def show(directory: Path) -> dict[str, str]:
    """What is in force. Raises Refused when nothing is, or its key is not there."""
    chain, _ = keypairs.in_force(directory, f"{directory} has no certificate in force")
    return _status(_only(chain, "what is in force"))


def _only(found: Sequence[x509.Certificate], what: str) -> x509.Certificate:
    if len(found) != 1:
        raise Refused(f"{what} has to be one certificate, not {len(found)}")
    return found[0]


def _check(certificate: x509.Certificate, name: str, now: datetime) -> None:
    chains.check_time(certificate, "the certificate", now)
    if chains.is_ca(certificate):
        raise Refused("the certificate is a CA's")
    if name not in _names(certificate):
        raise Refused(f"the certificate is not for {name}")
    usage = chains.extension(certificate, x509.ExtendedKeyUsage)
    if usage is None or ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise Refused("the certificate is not a server's")


def _names(certificate: x509.Certificate) -> list[str]:
    names = chains.extension(certificate, x509.SubjectAlternativeName)
    return [] if names is None else names.get_values_for_type(x509.DNSName)


def _status(certificate: x509.Certificate) -> dict[str, str]:
    return {
        "serial": f"{certificate.serial_number:x}",
        "names": ",".join(_names(certificate)),
        "not_before": chains.rfc3339(certificate.not_valid_before_utc),
        "not_after": chains.rfc3339(certificate.not_valid_after_utc),
    }


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    if not directory.is_dir():
        raise Refused(f"{directory} is not a directory")
    with keyfiles.locked(directory, "the certificate of this Consul server"):
        yield


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m meshctl.signer.consul_keys")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("request", "install", "show"):
        command = commands.add_parser(name)
        command.add_argument("--directory", type=Path, required=True)
        if name == "install":
            command.add_argument("--name", required=True)
    chosen = parser.parse_args(argv)
    return keyfiles.told(lambda: _run(chosen), chosen.directory)


def _run(chosen: argparse.Namespace) -> bytes:
    default_backend()  # imported lazily, perhaps from where the owner cannot read
    keyfiles.become_owner(chosen.directory)
    match chosen.command:
        case "request":
            return request(chosen.directory)
        case "install":
            chain = keyfiles.read_chain()
            status = install(chosen.directory, chosen.name, chain, now=datetime.now(UTC))
        case _:
            status = show(chosen.directory)
    return json.dumps(status).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(main())
