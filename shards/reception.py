"""Who is let in: hellos, members and guests of one router, and the peers that its network has for them.

Decides what becomes of a hello of a stranger, and when the network is told of other peers. What a hello
means is decided in shards/founding.py, where a peer is dialled in shards/peers.py. It must never let what a
stranger sends cost more than a little: few hellos of strangers are read, and few guests are kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from paxmux.engine.address import node_text, parse_member
from paxmux.engine.errors import PaxmuxError
from paxmux.engine.frame import parse_frame
from paxmux.engine.frame_header import FrameError, Header
from paxmux.engine.network import Frame, Network
from paxmux.engine.options import Options
from paxmux.shards.boot import Founding, MemberPlace
from paxmux.shards.founding import Founder
from paxmux.shards.greeter import Greeter
from paxmux.shards.hello import Hello, parse_hello
from paxmux.shards.identity import FoundingStore
from paxmux.shards.peers import Peers
from paxmux.shards.router_host import OnPeers

LOOK_S = 1.0
CHANGE_PAUSE_S = 0.5
"""The network is given other peers at most so often."""
STRANGERS_PER_S: Final = 32
"""Hellos of strangers that are read in each second."""

_log: Final = logging.getLogger("paxmux.peers")


class Reception:
    """Used in one event loop only."""

    def __init__(
        self,
        options: Options,
        store: FoundingStore,
        *,
        incarnation: int,
        on_founded: Callable[[Founding], None],
        on_failed: Callable[[PaxmuxError], None],
        on_peers: OnPeers,
    ) -> None:
        """See `Router`."""
        identity, own = store.identity, options.own_member()
        self._seeds = {member.node_id: member.address for member in options.seed_members()}
        self._node_id = identity.node_id
        self._seat = identity.seat
        self._founds = options.founds
        self.peers = Peers(identity.node_id, self._seeds)
        self._founder = Founder(
            node_id=identity.node_id,
            seat=identity.seat,
            incarnation=incarnation,
            groups=identity.groups,
            members=self._seeds,
            founding=identity.founding,
            active=identity.active,
            address=own.address,
            founds=options.founds,
            follower=options.follower,
            rejoin=options.rejoin == "auto",
        )
        self._greeter = Greeter(
            self._founder,
            store,
            send=self._send_hello,
            reachable=self._reachable,
            addresses=self.peers.hints,
            on_founded=self._on_active,
            on_failed=on_failed,
        )
        self._on_founded = on_founded
        self._on_peers = on_peers
        self._dialled = self.peers.addresses()
        """What the network was told."""
        self._told = self.peers.addresses_of_members()
        """What `on_peers` was told."""
        self._unlike: tuple[list[int], list[int]] = [], []
        self._network: Network
        self._running = False
        self._due: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed_at = float("-inf")
        self._strangers = 0
        """Hellos of strangers that were read since the last look."""

    def sockets(self) -> dict[int, tuple[str, int]]:
        """Node id -> host and port of the peers that the network is to have."""
        members = [parse_member(address, node) for node, address in self._dialled.items()]
        return {member.node_id: (member.host, member.port) for member in members}

    def start(self, loop: asyncio.AbstractEventLoop, network: Network) -> None:
        """Greet from here on, on a network that runs with `sockets` as its peers."""
        self._loop = loop
        self._network = network
        self._running = True
        self._greeter.start(loop)
        self._look()

    def stop(self) -> None:
        """Say nothing more, and leave the network alone."""
        self._running = False
        self._greeter.stop()
        for timer in (self._due, self._timer):
            if timer is not None:
                timer.cancel()

    def on_peer(self, node: int, connected: bool) -> None:
        """See `engine.network.OnPeer`."""
        if connected and self._running:
            self._greeter.connected(node)

    def on_hello(self, sender: int, data: Frame) -> None:
        """A frame of kind HELLO for this node.

        Raises:
            FrameError: nothing follows from it, with the reason.
        """
        if not self._running:
            return
        stranger = sender not in self.peers.members and sender not in self.peers.guests
        if stranger:
            if sender == self._node_id or self._strangers >= STRANGERS_PER_S * LOOK_S:
                raise FrameError("sender", "too many strangers")
            self._strangers += 1
        header = parse_frame(data)
        body = memoryview(data)[header.start :]
        now = self._loop.time()
        if stranger:
            hello = self._read_stranger(header, body)
            if not self.peers.admit(hello, now):
                raise FrameError("guests", f"{len(self.peers.guests)} guests are here already")
            _log.info("node %s at %s is a guest: %s", node_text(sender), hello.address, hello.role)
        else:
            hello = self._greeter.read(header, body)
        self._greeter.heard(hello)
        connected = self._network.peers().get(sender, False)
        if self._founder.heard_from(sender) is hello:
            self.peers.greeted(hello, now, connected=connected)
        self._changed()

    def set_members(self, members: Mapping[int, MemberPlace]) -> None:
        """These are the members of all groups from now on, with this node if it is one."""
        own = members.get(self._node_id)
        seated = own is not None and self._seat in own.seats
        news = seated is not self._founder.seated
        self._founder.seated = seated
        self.peers.set_members(members)
        self._report_unlike()
        self._changed()
        if news:
            self._greeter.say_all()

    def status_of_founding(self) -> dict[str, Any]:
        """What `Router.status` says about the founding."""
        return self._greeter.status()

    def status_of_peers(self) -> dict[str, dict[str, Any]]:
        """What `Router.status` says about members and guests."""
        founder, peers = self._founder, self.peers
        connected = self._network.peers() if self._running else {}
        addresses = peers.addresses()
        rows = {}
        for node in sorted((*peers.members, *peers.guests)):
            hello = founder.heard_from(node)
            rows[str(node)] = {
                "name": node_text(node),
                "address": addresses.get(node),
                "guest": node in peers.guests,
                "role": hello.role if hello is not None else None,
                "announced": hello.address if hello is not None else None,
                "rejoin": hello is not None and hello.rejoin,
                "connected": bool(connected.get(node, False)),
                "seat": None if hello is None else f"{hello.seat:#018x}",
                "refused": founder.refusals.get(node),
                "notice": founder.notices.get(node),
            }
        return rows

    def _read_stranger(self, header: Header, body: memoryview) -> Hello:
        """The hello of a node that may be a guest; raises FrameError if it may not, or if it is none."""
        try:
            hello = parse_hello(header, body)
        except FrameError as error:
            raise FrameError("sender", f"a stranger: {error}") from None
        if not self._founder.admits(hello):
            raise FrameError("sender", "a stranger of no, or another, cluster")
        return hello

    def _reachable(self) -> list[int]:
        return [node for node, connected in self._network.peers().items() if connected]

    def _send_hello(self, dest: int, frame: bytes) -> bool:
        return self._network.send(dest, frame, reliable=True)

    def _on_active(self, founding: Founding) -> None:
        self.peers.set_founding(founding)
        self._report_unlike()
        self._changed()
        self._on_founded(founding)

    def _report_unlike(self) -> None:
        unlike = self.peers.members_unlike()
        # Who joins or follows names others only to begin with.
        if unlike != self._unlike and self._founds and any(unlike):
            _log.warning(
                "the members in the options are not those of the cluster, which count: "
                "not in the options: %s; only in the options: %s",
                *(", ".join(map(node_text, nodes)) or "none" for nodes in unlike),
            )
        self._unlike = unlike

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look)
        self._strangers = 0
        for node in self.peers.look(self._loop.time(), self._network.peers()):
            self._greeter.forget(node)
            _log.info("node %s is no guest any more: it is silent", node_text(node))
        self._changed()

    def _changed(self) -> None:
        """Let the network have the peers as they are now, soon: not from within what it calls."""
        if not self._running or self._due is not None:
            return
        # A guest that has become a member is dialled as before, yet workers are to hear of it.
        if self.peers.addresses() != self._dialled or self.peers.addresses_of_members() != self._told:
            pause_s = max(self._changed_at + CHANGE_PAUSE_S - self._loop.time(), 0.0)
            self._due = self._loop.call_later(pause_s, self._change)

    def _change(self) -> None:
        self._due = None
        self._changed_at = self._loop.time()
        self._dialled = self.peers.addresses()
        self._network.set_peers(self.sockets())
        told = self.peers.addresses_of_members()
        if told != self._told:
            self._told = told
            self._on_peers(told)
