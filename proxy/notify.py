"""systemd's notification protocol (sd_notify(3)): a datagram to the socket systemd names."""

import os
import socket
import time
from collections.abc import Mapping

PATIENCE_S = 0.2
"""How long a message that is sent once waits for room in systemd's queue."""


class Notifier:
    """Silent when nobody listens: started by hand, or a service of another type."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # '@' stands for the NUL of an abstract address; anything else systemd makes is a path.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        if not path.startswith(("/", "@")):
            self._address = ""
        self.watchdog_s = _watchdog_s(environment)
        """How often systemd wants to hear from us, at the latest; None: never."""

    def ready(self, status: str = "") -> None:
        self._send("READY=1" + _status(status))

    def reloading(self) -> None:
        """To be followed by ``ready``. The time stamp is what ``Type=notify-reload`` asks for."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        self._send("STOPPING=1" + _status(status))

    def status(self, status: str) -> None:
        self._send(f"STATUS={_line(status)}")

    def alive(self) -> None:
        self._send("WATCHDOG=1", patience_s=0.0)  # another comes soon

    def _send(self, message: str, *, patience_s: float = PATIENCE_S) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(patience_s)
            try:
                channel.sendto(message.encode(), self._address)
            except OSError:
                return  # systemd gone or its queue full: no reason to stop carrying traffic


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    pid = environment.get("WATCHDOG_PID")
    interval = environment.get("WATCHDOG_USEC", "")
    if not interval.isdecimal() or int(interval) == 0:
        return None
    if pid is not None and pid != str(os.getpid()):
        return None
    return int(interval) / 1e6


def _status(text: str) -> str:
    return f"\nSTATUS={_line(text)}" if text else ""


def _line(text: str) -> str:
    return " ".join(text.split())
