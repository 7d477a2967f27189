"""``meshctl init``: from an empty folder to a mesh that can be deployed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from meshctl.cli import console
from meshctl.cli.console import Output
from meshctl.cli.options import OutputFormat
from meshctl.errors import InvalidInput
from meshctl.pki import passphrase as passphrases
from meshctl.pki.authority import CA_WARN_S
from meshctl.pki.passphrase import Passphrase
from meshctl.pki.store import CaStore
from meshctl.setup import DEFAULT_TRUST_DOMAIN, Initialised, initialise
from meshctl.state import NAME, StateDir
from proxy.model.names import TRUST_DOMAIN_RULE, InvalidName, TrustDomain, parse_trust_domain
from proxy.model.violation import Violation


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; made if missing.")] = Path(),
    trust_domain: Annotated[
        str | None,
        typer.Option(
            help=f"The mesh's name, part of every identity; by default {DEFAULT_TRUST_DOMAIN}.",
            show_default=False,
        ),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            help="Encrypt the CA's keys with the first line of this file; also: the variable "
            f"{passphrases.VARIABLE}. Without either you are asked.",
            show_default=False,
        ),
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Keep the CA's keys unencrypted.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write the starting files anew, after a backup; never an existing CA."
        ),
    ] = False,
    renew_issuing: Annotated[
        bool,
        typer.Option(
            "--renew-issuing", help="Give an existing mesh a new issuing CA under the same root."
        ),
    ] = False,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Make a mesh: a CA, the state directory, a starting inventory.yaml and mesh.yaml.

    Running it again makes what is missing and changes nothing else.
    """
    with console.errors():
        now = datetime.now(UTC)
        wanted = _arguments(trust_domain, passphrase_file, no_passphrase)
        if renew_issuing:
            _renew(folder, passphrase_file, now, output)
            return

        def decide() -> Passphrase | None:
            return _decide_passphrase(passphrase_file, no_passphrase)

        done = initialise(folder, trust_domain=wanted, passphrase=decide, force=force, now=now)
        if output is Output.JSON:
            console.emit_json(_document(done))
        else:
            _show(done, now)


def _arguments(
    trust_domain: str | None, passphrase_file: Path | None, no_passphrase: bool
) -> TrustDomain | None:
    violations = []
    parsed = None
    if trust_domain is not None:
        try:
            parsed = parse_trust_domain(trust_domain)
        except InvalidName:
            violations.append(
                Violation(
                    path="--trust-domain",
                    message=f"{trust_domain!r} is not a trust domain",
                    hint=f"use {TRUST_DOMAIN_RULE}",
                )
            )
    if passphrase_file is not None and no_passphrase:
        violations.append(
            Violation(
                path="--no-passphrase",
                message="it contradicts --passphrase-file",
                hint="use one of the two",
            )
        )
    if violations:
        raise InvalidInput("the command line", violations)
    return parsed


def _decide_passphrase(file: Path | None, no_passphrase: bool) -> Passphrase | None:
    if no_passphrase:
        return None
    given = passphrases.from_options(file)
    if given is not None:
        return given
    if passphrases.can_prompt():
        return passphrases.prompt_new()
    console.err.print(
        "[bold yellow]warning:[/] no passphrase was given and there is no terminal to ask: "
        "the CA's private keys are NOT encrypted"
    )
    return None


def _renew(folder: Path, passphrase_file: Path | None, now: datetime, output: Output) -> None:
    state = StateDir.open(folder / NAME)
    with state.lock():
        ca = CaStore.open(state).renew_issuing(passphrases.source(passphrase_file), now)
    ends = _day(ca.issuing.not_valid_after_utc)
    if output is Output.JSON:
        console.emit_json({"trust_domain": ca.trust_domain, "issuing_not_after": ends})
        return
    console.out.print(f"The issuing CA of {ca.trust_domain} is new and lives until {ends}.")
    console.err.print("[bold]next:[/] meshctl certs rotate, which gives every host a new identity")


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _document(done: Initialised) -> dict[str, object]:
    return {
        "folder": str(done.folder.absolute()),
        "state": str(done.state.path.absolute()),
        "trust_domain": done.state.trust_domain,
        "changed": bool(done.made),
        "made": done.made,
        "kept": done.kept,
        "backups": done.backups,
        "ca": {
            "encrypted": done.ca.is_encrypted,
            "root_sha256": done.ca.root_fingerprint,
            "root_not_after": _day(done.ca.root.not_valid_after_utc),
            "issuing_not_after": _day(done.ca.issuing.not_valid_after_utc),
        },
    }


def _show(done: Initialised, now: datetime) -> None:
    out = console.out
    where = done.folder.absolute()
    if not done.made:
        out.print(f"Nothing to do: {where} holds the mesh {done.state.trust_domain} already.")
    else:
        out.print(f"The mesh [bold]{done.state.trust_domain}[/] is in {where}")
    secrecy = "encrypted" if done.ca.is_encrypted else "NOT encrypted"
    notes = {
        f"{NAME}/": f"state and CA, keys {secrecy}: keep a backup, keep it to yourself",
        "inventory.yaml": "the hosts and what runs on them: edit this",
        "mesh.yaml": "traffic policy: routes, retries, limits",
        ".gitignore": "keeps the state out of version control",
    }
    for name in (*done.made, *done.kept):
        verb = "made" if name in done.made else "kept"
        out.print(f"  {verb}  {name:16}{notes[name]}")
    for name in done.backups:
        out.print(f"What was there before is in {name}")
    out.print(f"Root CA: sha256 {done.ca.root_fingerprint}")
    left_s = (done.ca.issuing.not_valid_after_utc - now).total_seconds()
    if left_s < CA_WARN_S:
        console.err.print(
            f"[bold yellow]warning:[/] the issuing CA ends on "
            f"{_day(done.ca.issuing.not_valid_after_utc)}: meshctl init --renew-issuing"
        )
    if done.made:
        console.err.print(
            "[bold]next:[/] edit inventory.yaml, then run meshctl deploy -i inventory.yaml"
        )
