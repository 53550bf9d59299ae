"""The router: frames from the node's port to its workers' rings, and back.

Decides where a frame goes, by its fixed header alone, and drops and counts what is no frame for this
node. It must never decode a protocol message, never block, and never let what arrives raise: every
byte that comes from the port is hostile until the checks here are done.

It costs O(frames): the doorbell of a worker is rung once for all that arrived together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from paxmux.engine import plugin
from paxmux.engine.errors import ConfigError, PaxmuxError
from paxmux.engine.frame import (
    MAX_BODY_BYTES,
    FrameKind,
    header_bytes,
    parse_route,
    read_label,
    set_bytes,
    version_for,
)
from paxmux.engine.frame_header import HEADER_BYTES, FrameError
from paxmux.engine.network import Frame, Network
from paxmux.engine.options import LimitOptions, Options
from paxmux.engine.secret_file import Keys
from paxmux.shards.boot import Founding, MemberPlace
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.held_frames import HeldFrames
from paxmux.shards.identity import FoundingStore
from paxmux.shards.reception import Reception
from paxmux.shards.ring import RingCorrupt
from paxmux.shards.router_host import OnPeers

RECEIVE_BYTES: Final = 1 << 20
"""Taken from a worker's ring before the next one and the sockets have their turn."""
SEALED_FROM_BYTES: Final = 32 * 1024
"""Frames from this size on have no second checksum in a worker's ring."""
LOOK_EVERY_S: Final = 0.25
"""Rings are looked at so often also without a bell: damaged memory can swallow one."""
_BODY_MIN_BYTES: Final = 32 * 1024 * 1024
"""Accepted whatever this node's own limits are, so that members whose limits differ, such as while
they are being changed, go on together."""
_BODY_SLACK_BYTES: Final = 4 * 1024 * 1024
"""What a frame holds beside its largest value."""
_TARGETS_MAX: Final = 1024
"""Group sets whose workers are remembered; senders have few, a hostile one may have many."""
_NO_CLUSTER: Final = -1

_log: Final = logging.getLogger("paxmux.router")

OnBroken = Callable[[int, str], None]
"""(worker, reason): the rings of that worker make no sense; it was detached and must be replaced."""


class _Link(NamedTuple):
    """One worker's rings."""

    worker: int
    generation: int
    mask: int
    receiver: Receiver
    sender: Sender


class _Hold(NamedTuple):
    """What stands beside the workers' links while a group is between two of them."""

    mask: int
    sender: HeldFrames


def left_to_peer(frame: bytes) -> bool:
    """What a router says of a large frame that its own worker has made: the peer's router checks it."""
    return True


def max_body_bytes(limits: LimitOptions) -> int:
    """The largest body of a frame that is accepted: it bounds what a stranger can make a node hold."""
    largest = max(limits.max_value_bytes, limits.batch_max_bytes, limits.catch_up_max_bytes)
    return min(MAX_BODY_BYTES, max(_BODY_MIN_BYTES, 2 * largest + _BODY_SLACK_BYTES))


class Router:
    """The router of one node. Used in one event loop only."""

    def __init__(
        self,
        options: Options,
        store: FoundingStore,
        *,
        incarnation: int,
        bell: Doorbell,
        counters: dict[str, int],
        on_founded: Callable[[Founding], None],
        on_failed: Callable[[PaxmuxError], None],
        on_broken: OnBroken,
        on_peers: OnPeers,
        keys: Sequence[Keys] = (),
    ) -> None:
        """
        Args:
            options: validated.
            store: the data directory's identity; node id, seat and founding are taken from it.
            incarnation: random bits of this start of the node.
            bell: rung by workers; stays the caller's.
            counters: filled by the router, for whoever reports it.
            on_founded: called once, in the loop, as soon as the cluster's founding is active; from
                within `start` if it already is.
            on_failed: the founding could not be made durable: the node must stop.
            on_broken: see `OnBroken`.
            on_peers: see `router_host.OnPeers`.
            keys: of the cluster's secrets; none: nothing is authenticated.

        Raises:
            ConfigError: the network plugin cannot be loaded, or addresses are wrong.
        """
        identity = store.identity
        own = options.own_member()
        self._node_id = identity.node_id
        self._groups = identity.groups
        version = version_for(identity.groups)
        self._set_bytes = set_bytes(version)
        self._max_body_bytes = max_body_bytes(options.limits)
        self._counters = counters
        for name in ("frames_in", "bytes_in", "frames_out", "bytes_out", "hellos_in", "delivered"):
            counters.setdefault(name, 0)
        self._reception = Reception(
            options,
            store,
            incarnation=incarnation,
            on_founded=self._on_active,
            on_failed=on_failed,
            on_peers=on_peers,
        )
        self._members = self._reception.peers.members
        self._guests = self._reception.peers.guests
        self._network: Network = plugin.load(options.network.plugin)(
            node_id=identity.node_id,
            listen=(own.host, own.port),
            peers=self._reception.sockets(),
            options=options.network,
            max_frame_bytes=header_bytes(version) + self._max_body_bytes,
            on_frame=self._on_frame,
            on_peer=self._reception.on_peer,
        )
        if keys:
            if not hasattr(self._network, "set_keys"):
                raise ConfigError(
                    f"network.plugin: {options.network.plugin} cannot authenticate peers, as "
                    "network.secret_file asks for"
                )
            self._network.set_keys(keys)
        self._on_founded = on_founded
        self._on_broken = on_broken
        self._bell = bell
        self._cluster = _NO_CLUSTER
        self._links: dict[int, _Link] = {}
        self._targets: dict[bytes, tuple[_Link | _Hold, ...]] = {}
        self._hold: _Hold | None = None
        self._commit_due = False
        self._drain_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    def set_keys(self, keys: Sequence[Keys]) -> None:
        """The secrets have changed: the first one seals from now on, all are accepted."""
        self._network.set_keys(keys)

    async def start(self) -> None:
        """Open the port and begin to greet.

        Raises:
            OSError: the port cannot be had; names address and reason.
        """
        self._loop = asyncio.get_running_loop()
        self._running = True
        await self._network.start()
        self._loop.add_reader(self._bell.fileno(), self._on_bell)
        self._look()
        self._reception.start(self._loop, self._network)

    async def stop(self) -> None:
        """Send what workers left in their rings, then close the port and every link."""
        if not self._running:
            return
        self._drain()
        self._running = False
        self._reception.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._bell.fileno())
        await self._network.stop()
        for worker in list(self._links):
            self.detach_worker(worker)

    def attach_worker(
        self, worker: int, generation: int, groups: list[int], receiver: Receiver, sender: Sender
    ) -> None:
        """A worker serves these groups from now on; its rings belong to the router until detached.

        An earlier life of the same worker is detached first.
        """
        self.detach_worker(worker)
        mask = sum(1 << group for group in groups)
        self._links[worker] = _Link(worker, generation, mask, receiver, sender)
        self._targets.clear()
        self._drain_soon()

    def set_groups(self, worker: int, generation: int, groups: list[int]) -> None:
        """This life of a worker hosts these groups from now on; nothing changes if it is over."""
        link = self._links.get(worker)
        if link is not None and link.generation == generation:
            self._links[worker] = link._replace(mask=sum(1 << group for group in groups))
            self._targets.clear()

    def hold_frames(self, group: int) -> None:
        """The group is between two workers: keep what comes for it until `release_frames`."""
        self._hold = _Hold(1 << group, HeldFrames())
        self._targets.clear()

    def release_frames(self, worker: int) -> None:
        """This worker has the group now: it gets what was kept. Where that was for other groups of it too,
        they get it twice, as the network may do at any time."""
        hold, self._hold = self._hold, None
        self._targets.clear()
        link = self._links.get(worker)
        if hold is not None and link is not None:
            for data in hold.sender.frames:
                self._deliver(link, data)

    def set_members(self, members: Mapping[int, MemberPlace]) -> None:
        """These are the members of all groups from now on, with this node if it is one; see `RouterHost`."""
        self._reception.set_members(members)

    def detach_worker(self, worker: int) -> None:
        """The worker is dead, or never was attached: forget it and unmap its rings."""
        link = self._links.pop(worker, None)
        self._targets.clear()
        if link is not None:
            link.receiver.close()
            link.sender.close()

    def status(self) -> dict[str, Any]:
        """Everything for the operator; JSON-able."""
        drops = {
            name.removeprefix("drop_"): count
            for name, count in self._counters.items()
            if name.startswith("drop_")
        }
        return {
            "node_id": self._node_id,
            "founding": self._reception.status_of_founding(),
            "peers": self._reception.status_of_peers(),
            "counters": {name: n for name, n in self._counters.items() if not name.startswith("drop_")},
            "drops": drops,
            "network": dict(self._network.counters()),
            "workers": {
                str(link.worker): {
                    "generation": link.generation,
                    "groups": link.mask.bit_count(),
                    "to_worker": {"fill": round(link.sender.fill, 4), **link.sender.counters()},
                    "from_worker": {"fill": round(link.receiver.fill, 4), **link.receiver.counters()},
                }
                for link in self._links.values()
            },
        }

    # From the port to the workers

    def _on_frame(self, data: Frame) -> None:
        counters = self._counters
        counters["frames_in"] += 1
        counters["bytes_in"] += len(data)
        try:
            kind, cluster, sender, dest, groups = parse_route(data, self._max_body_bytes)
        except FrameError as error:
            self._drop(error.reason)
            return
        if kind != FrameKind.PAXOS:
            self._on_other_kind(kind, sender, dest, data)
            return
        if dest != self._node_id:
            self._drop("dest")
        elif cluster != self._cluster:
            self._drop("cluster")
        elif sender not in self._members and not self._is_guest(sender):
            self._drop("sender")
        else:
            targets = self._targets.get(groups)
            if targets is None:
                targets = self._resolve(groups)
                if targets is None:
                    return
            for link in targets:
                self._deliver(link, data)

    def _is_guest(self, sender: int) -> bool:
        """Whether it is one, which has been heard from just now."""
        guest = self._guests.get(sender)
        if guest is None:
            return False
        guest.heard_at = self._loop.time()
        return True

    def _deliver(self, link: _Link | _Hold, data: Frame) -> None:
        try:
            if len(data) < SEALED_FROM_BYTES:
                taken = link.sender.send(data, droppable=True)
            else:
                # Its CRC was right a moment ago, and the worker checks it again.
                taken = link.sender.send_pieces((data,), droppable=True, sealed=True)
            if not taken:
                self._drop("ring_full")
                return
        except RingCorrupt as error:
            assert isinstance(link, _Link), "what is kept is in no ring"
            self._break(link, error)
            return
        self._counters["delivered"] += 1
        if not self._commit_due:
            self._commit_due = True
            self._loop.call_soon(self._commit)

    def _resolve(self, groups: bytes) -> tuple[_Link | _Hold, ...] | None:
        """The workers of a set of groups; None, and counted, if the frame is for nobody here."""
        if len(groups) != self._set_bytes:
            self._drop("version")
            return None
        asked = int.from_bytes(groups, "little")
        if not asked or asked >> self._groups:
            self._drop("group")
            return None
        targets: tuple[_Link | _Hold, ...]
        targets = tuple(link for link in self._links.values() if link.mask & asked)
        if self._hold is not None and self._hold.mask & asked:
            targets = (*targets, self._hold)
        if not targets:
            self._drop("no_worker")
            return None
        if len(self._targets) >= _TARGETS_MAX:
            self._targets.clear()
        self._targets[groups] = targets
        return targets

    def _commit(self) -> None:
        """Once for all frames that arrived together: ring the bells of workers that sleep."""
        self._commit_due = False
        for link in list(self._links.values()):
            try:
                link.sender.commit()
            except RingCorrupt as error:
                self._break(link, error)

    def _on_other_kind(self, kind: int, sender: int, dest: int, data: Frame) -> None:
        if kind != FrameKind.HELLO:
            self._drop("kind")
        elif dest != self._node_id:
            self._drop("dest")
        else:
            try:
                self._reception.on_hello(sender, data)
            except FrameError as error:
                self._drop(error.reason)
            else:
                self._counters["hellos_in"] += 1

    def _on_active(self, founding: Founding) -> None:
        self._cluster = founding.cluster
        self._on_founded(founding)

    def _drop(self, reason: str) -> None:
        name = "drop_" + reason
        self._counters[name] = self._counters.get(name, 0) + 1

    # From the workers to the port

    def _on_bell(self) -> None:
        for link in self._links.values():
            link.receiver.wake()
        self._bell.clear()
        self._drain()

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        self._drain()

    def _drain_soon(self) -> None:
        if self._running and not self._drain_due:
            self._drain_due = True
            self._loop.call_soon(self._drain_again)

    def _drain_again(self) -> None:
        self._drain_due = False
        self._drain()

    def _drain(self) -> None:
        """Take frames from each ring and send them; then sleep, or come again after the sockets."""
        if not self._running:
            return
        asleep = True
        send = self._network.send
        for link in list(self._links.values()):
            try:
                frames = link.receiver.receive(RECEIVE_BYTES)
                if frames:
                    self._send(link.generation, frames, send)
                if not link.receiver.prepare_sleep():
                    asleep = False
                if link.sender.backlog_bytes:
                    # The bell may have rung because its worker has made space.
                    link.sender.commit()
            except RingCorrupt as error:
                self._break(link, error)
        if not asleep:
            self._drain_soon()

    def _send(self, generation: int, frames: list[bytes], send: Callable[[int, bytes], bool]) -> None:
        sent = size = 0
        for frame in frames:
            if len(frame) < HEADER_BYTES:
                self._drop("own_short")
                continue
            made_by, dest = read_label(frame)
            if made_by != generation:
                self._drop("own_generation")
            elif send(dest, frame):
                sent += 1
                size += len(frame)
            else:
                self._drop("not_sent")
        self._counters["frames_out"] += sent
        self._counters["bytes_out"] += size

    def _break(self, link: _Link, error: RingCorrupt) -> None:
        if self._links.get(link.worker) is not link:
            return
        _log.error("the rings of worker %d are damaged: %s", link.worker, error)
        self._drop("ring_corrupt")
        self.detach_worker(link.worker)
        # Later, so that whoever replaces the worker is not called from within a frame.
        self._loop.call_soon(self._tell_broken, link.worker, str(error))

    def _tell_broken(self, worker: int, reason: str) -> None:
        # Attached again since then: the worker was replaced for another reason.
        if worker not in self._links:
            self._on_broken(worker, reason)
