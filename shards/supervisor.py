"""The supervisor: all worker processes of a node.

Decides when the node's workers start and stop together, and watches that their loops turn. One
worker's death concerns its own slice only (shards/post.py); the death of a router process ends all
workers, since network rings have one life and cannot be taken over: they begin again with the next
router.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import NodeStopped
from paxmux.shards.boot import ToChild
from paxmux.shards.post import Post
from paxmux.shards.standstill import WATCH_S

log = logging.getLogger("paxmux")


class Supervisor:
    """Used in the node's event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, posts: list[Post]) -> None:
        self.posts = posts
        self._loop = loop
        self._watch: asyncio.TimerHandle | None = None
        self._wanted = False
        self._blocked = False

    async def start(self) -> None:
        """Start all workers; returns once each has served.

        Raises:
            PaxmuxError: a worker cannot boot, or died too often; the message has its reason.
            NodeStopped: the node was stopped meanwhile.
        """
        self._watch = self._loop.call_later(WATCH_S, self._look)
        self._wanted = True
        self._start_posts()
        waiting = {post.settled for post in self.posts}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for settled in done:
                if settled.cancelled():
                    raise NodeStopped("the node was stopped before it had started")
                error = settled.result()
                if error is not None:
                    raise type(error)(f"the node cannot start: {error}") from error

    async def add(self, post: Post) -> None:
        """Start one more worker; returns once it serves.

        Raises:
            PaxmuxError: it cannot boot, with the reason; its post stays, and is down.
            NodeStopped: the node was stopped meanwhile.
        """
        self.posts.append(post)
        if self._wanted and not self._blocked:
            post.start()
        await asyncio.wait([post.settled])
        if post.settled.cancelled():
            raise NodeStopped("the node was stopped")
        error = post.settled.result()
        if error is not None:
            raise type(error)(f"{post.name} cannot start: {error}") from error

    async def stop(self, drain_s: float) -> None:
        """Stop all workers at once; returns when their processes are gone."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await asyncio.gather(*(post.stop(drain_s) for post in self.posts))

    def tell(self, message: ToChild) -> None:
        """Say something to every worker that runs; see `Post.tell`."""
        for post in self.posts:
            post.tell(message)

    def replace(self, worker: int, generation: int, reason: str) -> None:
        """The rings of this life of a worker are broken: another process takes its post."""
        self.posts[worker].replace(generation, reason)

    def hold_all(self, reason: str) -> None:
        """No worker can run now: the router process is gone."""
        self._blocked = True
        for post in self.posts:
            post.hold(reason)

    def resume_all(self) -> None:
        """A router process serves again."""
        self._blocked = False
        self._start_posts()

    def status(self) -> list[dict[str, Any]]:
        """One entry for each worker."""
        now_ns = clock_ns()
        return [
            {
                "worker": post.worker,
                "pid": post.pid,
                "state": post.state,
                "reason": post.reason if post.state != "serving" else "",
                "generation": post.generation,
                "restarts": post.policy.restarts,
                "recent_deaths": post.policy.recent(now_ns / 1e9),
                "next_start_s": post.next_start_s(),
                "last_exit": post.last_exit,
                "heartbeat_age_s": _rounded(post.heartbeat_age_s(now_ns)),
                "phase": post.phase(),
                "hung": post.hung(),
                "counters": post.counters(),
            }
            for post in self.posts
        ]

    def _start_posts(self) -> None:
        if self._wanted and not self._blocked:
            for post in self.posts:
                post.start()

    def _look(self) -> None:
        now_ns = clock_ns()
        for post in self.posts:
            post.check_heartbeat(now_ns)
        self._watch = self._loop.call_later(WATCH_S, self._look)


def _rounded(age_s: float | None) -> float | None:
    return None if age_s is None else round(age_s, 3)
