"""Tells systemd how a service is, if systemd started it and asked for it (`Type=notify`).

Decides nothing: without NOTIFY_SOCKET in the environment nothing happens.
"""

from __future__ import annotations

import logging
import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"

_log = logging.getLogger("paxmux.systemd")


def notify(state: str) -> bool:
    """Send one state; returns whether it was sent. A socket that does not take it is logged: the
    service goes on, since what it serves matters more than who watches."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    # A leading "@" stands for the abstract namespace.
    name = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode("ascii"), name)
    except OSError as error:
        _log.warning("cannot tell systemd %r through %s: %s", state, address, error)
        return False
    return True
