"""The stages of a process that embeds a node with an inline router; see `shards/stages.py`."""

from __future__ import annotations

from paxmux.plugins.network.incoming import Incoming
from paxmux.plugins.network.outgoing import Outgoing
from paxmux.plugins.network.udp import UdpPort
from paxmux.shards.link import Link
from paxmux.shards.pending import Pending
from paxmux.shards.router import Router
from paxmux.shards.stages import RING, Stages

REST = "callers"
"""Callers, what they call of the node, and the event loop under both."""
STAGES = (REST, "requests", "ring", "replies", "resolve", "router", "receive", "send")


def watch_host() -> list[int]:
    """From now on what is returned has the time of each of `STAGES`, in ns. To be called before a node is
    made."""
    slots = [0] * len(STAGES)
    stages = Stages(slots, {name: at for at, name in enumerate(STAGES)}, REST)
    stages.watch(
        (
            (Link, "flush", "requests"),
            *RING,
            (Link, "receive", "replies"),
            (Pending, "resolve", "resolve"),
            (Router, "_on_frame", "router"),
            (Router, "_commit", "router"),
            (Router, "_drain", "router"),
            (UdpPort, "_readable", "receive"),
            (Incoming, "_readable", "receive"),
            (UdpPort, "send", "send"),
            (Outgoing, "send", "send"),
        )
    )
    return slots
