"""Work that is done only while this node is master: `async with node.leadership(group) as term`.

Decides when the body may begin and when it must end. It begins once the lease is held and everything below
the term is executed here. It is cancelled at the end of the lease, as `asyncio.timeout` would do it, and that
shows as `LeadershipLost`. Where the event loop was blocked, or the machine suspended, beyond the lease, the
body is cancelled as soon as the loop turns, and the end of the block raises if it came before. What the body
does must carry the term all the same: nobody can stop what has left already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import LeadershipLost

LOOK_EVERY_S: Final = 0.05
"""A lease that was given back before its end is noticed within so long."""


class Leadership:
    """One use of `Node.leadership`."""

    def __init__(
        self, group: int, begin: Callable[[], Awaitable[int]], held_until: Callable[[int], int]
    ) -> None:
        """`begin` returns the term once the body may begin. `held_until` takes a term, and returns until
        when, on `engine.clock`, the lease of that very reign is held by this node; 0 if it is not."""
        self._group = group
        self._begin = begin
        self._held_until = held_until
        self._term = -1
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False

    async def __aenter__(self) -> int:
        """The term."""
        if self._task is not None:
            raise RuntimeError("a leadership is entered once; ask for another one")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a leadership needs a task")
        self._task = task
        self._term = await self._begin()
        self._cancelling = task.cancelling()
        self._look()
        return self._term

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        assert self._task is not None
        if self._lost:
            by_us_alone = self._task.uncancel() <= self._cancelling
            if kind is None or (by_us_alone and issubclass(kind, asyncio.CancelledError)):
                raise self._loss() from error
        elif kind is None and self._held_until(self._term) <= clock_ns():
            raise self._loss()

    def _look(self) -> None:
        self._timer = None
        left_ns = self._held_until(self._term) - clock_ns()
        if left_ns > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(left_ns / 1e9, LOOK_EVERY_S), self._look)
            return
        self._lost = True
        assert self._task is not None
        self._task.cancel()

    def _loss(self) -> LeadershipLost:
        return LeadershipLost(
            f"this node is no longer the master of group {self._group} in term {self._term}"
        )
