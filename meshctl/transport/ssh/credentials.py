"""How meshctl proves to a host who the operator is: one key file, or the agent and usual files.

Only public keys are offered: meshctl never prompts for a host's password, and never forwards the
agent. A key file named in the inventory is the only one tried with it, so that a host's limit of
attempts is not used up by an agent full of others.
"""

import os
from pathlib import Path
from typing import Any

import asyncssh

from meshctl.errors import Refused

_OTHERS_MAY_READ = 0o077


def options(key: Path | None) -> dict[str, Any]:
    """Keyword arguments for ``asyncssh.connect``. Raises Refused for a key that cannot be used.

    Loaded afresh for each connection: asyncssh keeps the negotiated algorithm in the key pair.
    """
    if key is None:
        return {"preferred_auth": "publickey"}
    key = key.expanduser()
    try:
        mode = key.stat().st_mode
        pairs = asyncssh.load_keypairs([str(key)], ignore_encrypted=True)
    except FileNotFoundError:
        raise Refused(
            f"the SSH key {key} does not exist", hint="correct `ssh.key` in the inventory"
        ) from None
    except OSError as error:
        raise Refused(f"the SSH key {key} cannot be read: {error.strerror or error}") from error
    except asyncssh.KeyImportError as error:
        raise Refused(
            f"{key} is not an SSH private key: {error}",
            hint="`ssh.key` names the private key, not the .pub file",
        ) from error
    if mode & _OTHERS_MAY_READ:
        raise Refused(
            f"the SSH key {key} can be read by others (mode {mode & 0o777:04o})",
            hint=f"chmod 600 {key}",
        )
    if pairs:
        return {"preferred_auth": "publickey", "client_keys": pairs, "agent_path": None}
    if not os.environ.get("SSH_AUTH_SOCK"):
        raise Refused(
            f"the SSH key {key} is encrypted and no SSH agent is running",
            hint=f'eval "$(ssh-agent)" && ssh-add {key}',
        )
    public = key.with_name(key.name + ".pub")
    identities = {"agent_identities": [str(public)]} if public.is_file() else {}
    return {"preferred_auth": "publickey", **identities}
