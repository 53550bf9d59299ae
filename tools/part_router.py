"""`paxmux bench router`: two router processes, and frames from the one's ring to the other's.

This process stands for the workers on both sides: it writes ready frames into the ring of one router, and
forgets what comes out of the ring of the other. Between them are the real network plugin and the
loopback device. What one router does for a frame that leaves, and for one that comes, is told apart by
process.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from paxmux.engine.errors import PaxmuxError
from paxmux.engine.frame import FrameKind, pack_frame, version_for
from paxmux.engine.options import LayoutOptions, Options
from paxmux.shards import identity
from paxmux.shards.boot import AttachWorker, Founded, Founding, RouterBoot
from paxmux.shards.child import absolute, spawn_child
from paxmux.shards.cluster import make_founding
from paxmux.shards.counters import ROUTER, Block
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.identity import FoundingStore
from paxmux.tools.part_rig import (
    START_S,
    Children,
    Gauge,
    Pair,
    PartOptions,
    Progress,
    close_all,
    rest,
    wait_for,
)
from paxmux.tools.ports import HOST, PortClaims

CASES = ((1000, 1), (1000, 32), (10_000, 1), (10_000, 32), (100_000, 8))
"""(bytes of a frame's body, frames under way)"""
INCARNATION = 1
LOST_S = 0.2
"""A frame that has not come so long after the last one will not: the kernel has dropped it."""
_LOOK_S = 0.05


class RouterRig:
    """One router process, and its worker's ends of the rings."""

    def __init__(self, options: Options, founding: Founding, bell: Doorbell, children: Children) -> None:
        store = FoundingStore(Path(options.data_dir))
        self.node, self.seat = store.identity.node_id, store.identity.seat
        self.founding = founding
        self.groups = options.groups
        self.router_bell = Doorbell.create()
        self.pair = Pair(self.router_bell)
        counters = Block.create(ROUTER)
        child = children.add(spawn_child("paxmux.shards.router_process"))
        self.pid = child.popen.pid
        boot = RouterBoot(
            options=options,
            node_id=self.node,
            seat=self.seat,
            incarnation=INCARNATION,
            workers=1,
            founding=founding,
            sys_path=absolute(sys.path),
        )
        child.send(boot, [counters, self.router_bell.fileno()])
        os.close(counters)
        wait_for(child, Founded, "the router")
        to_router, from_router = self.pair.fds
        child.send(
            AttachWorker(worker=0, generation=1, groups=list(range(options.groups))),
            [to_router, from_router, bell.fileno()],
        )

    def frame(self, dest: int, size: int) -> bytes:
        """As its worker would make it."""
        return pack_frame(
            FrameKind.PAXOS,
            os.urandom(size),
            cluster=self.founding.cluster,
            sender=self.node,
            seat=self.seat,
            incarnation=INCARNATION,
            dest=dest,
            groups=(1 << self.groups) - 1,
            generation=1,
            version=version_for(self.groups),
        )


def run_router(options: PartOptions, folder: Path) -> list[dict[str, Any]]:
    """A row for each case."""
    bell = Doorbell.create()
    with PortClaims() as claims, Children() as children:
        members = [f"{HOST}:{port}" for port in claims.take(2)]
        made = []
        for number, member in enumerate(members):
            made.append(
                Options(
                    node=member,
                    members=members,
                    data_dir=str(folder / f"node{number + 1}"),
                    groups=options.groups,
                    layout=LayoutOptions(workers=1),
                )
            )
        nodes = [each.own_member().node_id for each in made]
        seats = {
            node: identity.create(Path(each.data_dir), node, options.groups).seat
            for node, each in zip(nodes, made, strict=True)
        }
        founding = make_founding(seats, options.groups)
        for each in made:
            FoundingStore(Path(each.data_dir)).record(founding, active=True)
        near, far = (RouterRig(each, founding, bell, children) for each in made)
        try:
            _wait_connected(near, far, bell)
            return [_case(near, far, bell, *case, options.seconds / len(CASES)) for case in CASES]
        finally:
            close_all((near.pair, far.pair), (bell, near.router_bell, far.router_bell))


def _wait_connected(near: RouterRig, far: RouterRig, bell: Doorbell) -> None:
    """Until a frame that is too large for a datagram arrives."""
    until = time.monotonic() + START_S
    frame = near.frame(far.node, 100_000)
    while not far.pair.inbox.receive():
        near.pair.out.send(frame, droppable=True)
        near.pair.out.commit()
        rest(bell, [far.pair.inbox], _LOOK_S)
        if time.monotonic() > until:
            raise PaxmuxError(f"no frame has come through within {START_S:g} s")
    # What was sent too often meanwhile.
    quiet = time.monotonic() + LOST_S
    while time.monotonic() < quiet:
        if far.pair.inbox.receive():
            quiet = time.monotonic() + LOST_S
        rest(bell, [far.pair.inbox], _LOOK_S)


def _case(
    near: RouterRig, far: RouterRig, bell: Doorbell, size: int, window: int, seconds: float
) -> dict[str, Any]:
    frame = near.frame(far.node, size)
    send, receive, commit = near.pair.out.send, far.pair.inbox.receive, near.pair.out.commit
    gauge = Gauge({"sends": near.pid, "receives": far.pid})
    progress = Progress("the routers")
    start = heard = time.monotonic()
    under_way = came = lost = 0
    while heard - start < seconds:
        while under_way < window:
            send(frame, droppable=False)
            under_way += 1
        commit()
        got = len(receive())
        now = time.monotonic()
        if got:
            came += got
            under_way -= got
            heard = now
            progress.made()
            continue
        if now - heard > LOST_S:
            lost += under_way
            under_way, heard = 0, now
            progress.check()
        rest(bell, [far.pair.inbox], _LOOK_S)
    used = gauge.read()
    return {
        "bytes": size,
        "under_way": window,
        "frames": came,
        "per_s": round(came / used.wall_s),
        "mb_per_s": round(came * len(frame) / used.wall_s / 1e6, 1),
        **used.per(came),
        "lost": lost,
    }
