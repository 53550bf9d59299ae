"""`rejoin: auto`: a member that has lost its data directory gets its place back by itself, in its new seat.

Decides when this node proposes that. Only for who says in its hello that it wants a seat, only in the place
of its own old one, and never while that one is heard: two directories that claim one node id would else take
turns. One change of a node's seat is followed by another one only after `AGAIN_S`. Members take their turn by
their ids, so that mostly one of them proposes; if all do, the version in the operation lets one of them pass.

It is safe whatever this decides: who is seated anew is a new voter, and nobody counts the old seat any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from paxmux.engine.address import node_text
from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import PaxmuxError
from paxmux.shards.heard import Heard
from paxmux.shards.member_changes import Listen, MemberChanges
from paxmux.shards.member_intents import Move
from paxmux.shards.memberships import Memberships

LOOK_S: Final = 1.0
TURN_S: Final = 2.0
"""The member with the n-th smallest id proposes what has been asked for n times as long."""
SILENT_MS: Final = 5_000
"""The old seat must not have been heard for so long."""
AGAIN_S: Final = 600.0
FAILED_FIRST_S: Final = 5.0
"""Pause after a change that did not pass; doubles, up to `AGAIN_S`."""
CHANGE_S: Final = 30.0

log = logging.getLogger("paxmux")


class Rejoin:
    """Of one node that seats others anew. Used in its event loop only."""

    def __init__(
        self,
        node_id: int,
        changes: MemberChanges,
        listen: Listen,
        memberships: Memberships,
        clock: Callable[[], int] = clock_ns,
    ) -> None:
        """`node_id`: this node's. `clock`: in ns."""
        self._node_id = node_id
        self._changes = changes
        self._listen = listen
        self._memberships = memberships
        self._clock = clock
        self._asked: dict[tuple[int, int], float] = {}
        """Since when each (node, seat) that asks now has done so, in s."""
        self._pauses: dict[int, tuple[float, float]] = {}
        """Node id -> (not before, the pause that led to it), in s."""

    async def run(self) -> None:
        """Look again and again; ends by being cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("whether a node is to be seated anew cannot be told")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Do what is to be done now."""
        now_s = self._clock() / 1e9
        asking = [heard for heard in (await self._listen()).values() if heard.rejoin]
        self._asked = {
            (heard.node_id, heard.seat): self._asked.get((heard.node_id, heard.seat), now_s)
            for heard in asking
        }
        for heard in asking:
            stale = self._memberships.in_other_seat(heard.node_id, heard.seat)
            if stale and self._may(heard, sorted(stale)[0], now_s) and await self._gone(heard, stale):
                await self._seat(heard, stale, now_s)

    def _may(self, heard: Heard, group: int, now_s: float) -> bool:
        """Whether it is this node's turn, and not too soon."""
        ids = [member.node_id for member in self._memberships.members(group) or ()]
        ids = [node for node in ids if node != heard.node_id]
        if self._node_id not in ids:
            return False
        turn = ids.index(self._node_id) + 1
        if now_s - self._asked[heard.node_id, heard.seat] < turn * TURN_S:
            return False
        last = self._memberships.reseated.get(heard.node_id)
        if last is not None and last[0] != heard.seat and now_s - last[1] / 1e9 < AGAIN_S:
            return False
        return now_s >= self._pauses.get(heard.node_id, (0.0, 0.0))[0]

    async def _gone(self, heard: Heard, stale: dict[int, int]) -> bool:
        """Whether no worker has heard the old seat for long enough."""
        deadline_ns = self._clock() + int(CHANGE_S * 1e9)
        try:
            for group in sorted(stale):
                said = await self._changes.read(group, deadline_ns)
                if said.silent_ms.get(heard.node_id, SILENT_MS) < SILENT_MS:
                    return False
        except PaxmuxError as error:
            log.debug("whether node %s is still heard is not known: %s", node_text(heard.node_id), error)
            return False
        return True

    async def _seat(self, heard: Heard, stale: dict[int, int], now_s: float) -> None:
        name = node_text(heard.node_id)
        deadline_ns = self._clock() + int(CHANGE_S * 1e9)
        try:
            for old in sorted(set(stale.values())):
                groups = [group for group, seat in sorted(stale.items()) if seat == old]
                move = Move(heard.node_id, heard.seat, heard.address, only_from=old)
                changed = await self._changes.carry_out(groups, move, deadline_ns, strict=False)
                log.warning(
                    "node %s is seated anew (%#x in place of %#x) in %d groups, as it had asked for",
                    name,
                    heard.seat,
                    old,
                    len(changed),
                )
        except PaxmuxError as error:
            pause_s = min(max(self._pauses.get(heard.node_id, (0.0, 0.0))[1] * 2, FAILED_FIRST_S), AGAIN_S)
            self._pauses[heard.node_id] = now_s + pause_s, pause_s
            log.warning("node %s asks to be seated anew, which fails for now: %s", name, error)
        else:
            self._pauses.pop(heard.node_id, None)
