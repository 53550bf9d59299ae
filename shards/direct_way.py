"""A worker's own way to the peers, past its ring and the router, for what fits into a datagram."""

from __future__ import annotations

from paxmux.engine import plugin
from paxmux.engine.address import parse_member
from paxmux.engine.network import Direct, OpenDirect
from paxmux.shards.boot import WorkerBoot


def open_direct(boot: WorkerBoot) -> Direct | None:
    """The way that the boot message names; None if all frames go through the router."""
    if boot.direct is None:
        return None
    opened: OpenDirect = plugin.load(boot.direct)
    direct = opened(sockets_of(boot.peers, boot.node_id), boot.options.network)
    if boot.keys:
        direct.set_keys(boot.keys)
    return direct


def sockets_of(peers: dict[int, str], own: int) -> dict[int, tuple[str, int]]:
    """Host and port of every node but the own one."""
    members = [parse_member(address, node) for node, address in peers.items() if node != own]
    return {member.node_id: (member.host, member.port) for member in members}
