"""Notices that a group has another master, for callbacks and for whoever waits for that.

Decides when the lease board is looked at: every `LOOK_EVERY_S`, while anybody is interested. A worker only
says in shared memory that something has changed, so a node whose loop is blocked can neither hold up a worker
nor miss the last change. Callbacks run in the node's event loop, outside of any lock; one that raises is
logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from paxmux.engine.clock import clock_ns
from paxmux.shards.lease_board import LeaseBoard

LOOK_EVERY_S: Final = 0.02

OnChange = Callable[[int, int, int], None]
"""Takes (group, node, version): the node that is recorded as the group's master, 0 for none."""

log = logging.getLogger("paxmux")


class MasterWatch:
    """Of one node. Used in its event loop only, but for `add` and `remove` before it is opened."""

    def __init__(self) -> None:
        self._callbacks: list[OnChange] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._board: LeaseBoard | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = b""
        self._nodes: dict[int, int] = {}
        """By group, the master that callbacks were told of last."""

    def open(self, loop: asyncio.AbstractEventLoop, board: LeaseBoard) -> None:
        """Look at this board from now on."""
        self._loop, self._board = loop, board
        self._go_on()

    def close(self) -> None:
        """Look no more; who waits goes on."""
        if self._timer is not None:
            self._timer.cancel()
        self._board = self._loop = self._timer = None
        self._wake()

    def add(self, callback: OnChange) -> None:
        """Have it called with each change."""
        self._callbacks.append(callback)
        if self._board is not None and len(self._callbacks) == 1:
            # What is known now is no change.
            self._nodes = {
                group: row.node
                for group in range(self._board.groups)
                if (row := self._board.look(group)) is not None
            }
        self._go_on()

    def remove(self, callback: OnChange) -> None:
        """Call it no more."""
        with contextlib.suppress(ValueError):
            self._callbacks.remove(callback)

    async def wait(self, until_ns: int) -> bool:
        """Return once something has changed; False if that was not before `until_ns`, or the node stops."""
        if self._loop is None:
            return False
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        self._go_on()
        try:
            left_s = max(until_ns - clock_ns(), 0) / 1e9
            await asyncio.wait([waiter], timeout=left_s)
        finally:
            self._waiters.discard(waiter)
        return waiter.done() and self._loop is not None

    def _go_on(self) -> None:
        if self._timer is None and self._loop is not None and (self._callbacks or self._waiters):
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._timer = None
        board = self._board
        if board is None:
            return
        changes = board.changes()
        if changes != self._seen:
            self._seen = changes
            self._wake()
            if self._callbacks:
                self._tell(board)
        self._go_on()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self, board: LeaseBoard) -> None:
        for group in range(board.groups):
            row = board.look(group)
            # One that is being written will have changed once it is.
            if row is None or row.node == self._nodes.get(group, 0):
                continue
            self._nodes[group] = row.node
            for callback in tuple(self._callbacks):
                try:
                    callback(group, row.node, row.version)
                except Exception:
                    log.exception("a callback failed that was told of the master of group %d", group)
