"""``meshctl`` that also writes down every byte it exchanges with hosts over SSH, in clear.

RECORD=FILE recording.py ARGUMENTS OF MESHCTL...
"""

import os
from collections.abc import Sequence

from meshctl.cli import main
from meshctl.transport import Completed
from meshctl.transport.ssh.transport import SshTransport

original = SshTransport.run


async def run(
    self: SshTransport, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
) -> Completed:
    done = await original(self, argv, stdin=stdin, timeout_s=timeout_s)
    with open(os.environ["RECORD"], "ab") as record:
        for part in (*(word.encode() for word in argv), stdin, done.stdout, done.stderr):
            record.write(part + b"\n")
    return done


SshTransport.run = run  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
