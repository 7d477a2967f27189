"""systemd's notification protocol (sd_notify(3)): silent when nobody listens."""

import os
import socket

PATIENCE_S = 0.2


def notify(message: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(PATIENCE_S)
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            return  # systemd gone or its queue full: no reason to stop signing
