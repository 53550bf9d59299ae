"""The exchange of hellos: drives the founding of the cluster, then goes on telling peers who we are.

Decides when a hello is sent: to each peer as soon as it is connected, to all of them again and again
(often until this node is active, then rarely, so that guests stay and addresses get around), and as an
answer to whoever asks, at most every `ANSWER_PAUSE_S` for each peer. What a hello means is decided in
shards/founding.py; each step is durable before it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from paxmux.engine.address import node_text
from paxmux.engine.errors import PaxmuxError
from paxmux.engine.frame_header import Header
from paxmux.shards.boot import Founding
from paxmux.shards.founding import Founder
from paxmux.shards.hello import Hello, OtherVersion, pack_hello, parse_hello
from paxmux.shards.identity import FoundingStore

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
ANSWER_PAUSE_S = 0.05
ACTIVE_PAUSE_S = 20.0
"""Between hellos to everybody, once this node is active: a third of what a guest may be silent."""

_log = logging.getLogger("paxmux.founding")

SendTo = Callable[[int, bytes], bool]
OnFounded = Callable[[Founding], None]
OnFailed = Callable[[PaxmuxError], None]


class Greeter:
    """One node's hellos. Used in one event loop only."""

    def __init__(
        self,
        founder: Founder,
        store: FoundingStore,
        *,
        send: SendTo,
        reachable: Callable[[], Iterable[int]],
        addresses: Callable[[], dict[int, str]],
        on_founded: OnFounded,
        on_failed: OnFailed,
    ) -> None:
        """
        Args:
            founder: knows what `store` has recorded.
            store: where steps are made durable.
            send: queues one frame for a node.
            reachable: the members and guests that are connected now.
            addresses: what to tell of others, see `Hello`.
            on_founded: called once, when this node is active.
            on_failed: called at most once, when a step could not be made durable; nothing more is
                said to anybody then.
        """
        self._founder = founder
        self._store = store
        self._send = send
        self._reachable = reachable
        self._addresses = addresses
        self._on_founded = on_founded
        self._on_failed = on_failed
        self._pause_s = FIRST_PAUSE_S
        self._timer: asyncio.TimerHandle | None = None
        self._answer_at: dict[int, float] = {}
        self._told: dict[int, str] = {}
        self._told_waiting: str | None = None
        self._told_active = False
        self._running = False
        self.answers_dropped = 0
        """Questions not answered, since the last answer to that peer was a moment ago."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Greet from here on. The callbacks are called from here, too."""
        self._loop = loop
        self._running = True
        self._advance()
        self._again()

    def stop(self) -> None:
        """Say nothing more."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()

    def connected(self, peer: int) -> None:
        """A connection to a peer is made: it learns first who is speaking."""
        if self._running:
            self._say(peer, ask=not self._founder.active)

    def read(self, header: Header, body: bytes | memoryview) -> Hello:
        """The hello in a frame of a member or guest; the frame is checked.

        Raises:
            FrameError: it is no hello that this node can use.
        """
        try:
            return parse_hello(header, body)
        except OtherVersion as error:
            self._founder.refuse(error.node_id, error.detail)
            self._report()
            raise

    def heard(self, hello: Hello) -> None:
        """Take in what a member or guest says."""
        if not self._running:
            return
        self._founder.heard(hello)
        self._advance()
        if hello.ask:
            self._answer(hello.node_id)

    def forget(self, peer: int) -> None:
        """A guest has gone."""
        self._founder.forget(peer)
        self._answer_at.pop(peer, None)

    def say_all(self) -> None:
        """Tell everybody now: what this node says of itself has changed."""
        if self._running:
            self._say_all()

    def status(self) -> dict[str, Any]:
        """What `Router.status` says about the founding."""
        founder = self._founder
        return {
            "active": founder.active,
            "role": founder.role,
            "unseated": founder.unseated,
            "cluster": founder.founding and f"{founder.founding.cluster:#018x}",
            "waiting_for": founder.waiting_for(),
            "answers_dropped": self.answers_dropped,
        }

    def _advance(self) -> None:
        founder = self._founder
        moved = False
        while self._running and (step := founder.wanted()) is not None:
            try:
                self._store.record(step.founding, active=step.active)
            except PaxmuxError as error:
                self.stop()
                self._on_failed(error)
                return
            founder.recorded(step)
            moved = True
            _log.info("founding %#018x is %s", step.founding.cluster, "active" if step.active else "recorded")
        self._report()
        if moved:
            self._pause_s = FIRST_PAUSE_S
            self._say_all()
        if founder.active and not self._told_active and founder.founding is not None:
            self._told_active = True
            self._on_founded(founder.founding)

    def _again(self) -> None:
        """Ask all, and come back."""
        if not self._running:
            return
        self._say_all()
        if self._founder.active:
            self._timer = self._loop.call_later(ACTIVE_PAUSE_S, self._again)
            return
        if self._pause_s >= MAX_PAUSE_S:
            waiting = self._founder.waiting_for()
            if waiting != self._told_waiting:
                self._told_waiting = waiting
                _log.warning("this node is not part of a founded cluster yet: %s", waiting)
        self._timer = self._loop.call_later(self._pause_s, self._again)
        self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)

    def _say_all(self) -> None:
        for peer in self._reachable():
            self._say(peer, ask=not self._founder.active)

    def _answer(self, peer: int) -> None:
        now = self._loop.time()
        if now < self._answer_at.get(peer, 0.0):
            self.answers_dropped += 1
            return
        self._answer_at[peer] = now + ANSWER_PAUSE_S
        self._say(peer, ask=False)

    def _say(self, peer: int, *, ask: bool) -> None:
        # A hello that is dropped is sent again: by the timer here, or since the peer asks again.
        hello = self._founder.hello(ask=ask, addresses=self._addresses())
        self._send(peer, pack_hello(hello, peer))

    def _report(self) -> None:
        """Log what is wrong with a peer, once for each new text, and once if this node lost its seat."""
        founder = self._founder
        now = {**founder.notices, **founder.refusals}
        if founder.lost_seat:
            now[founder.node_id] = (
                f"node {node_text(founder.node_id)} runs in another data directory than the one that the "
                "cluster was founded with: it learns, but neither votes nor proposes. Bring the old "
                "directory back, or have the node seated anew by a membership operation"
            )
        if now != self._told:
            for node, text in now.items():
                if self._told.get(node) != text:
                    _log.warning("%s", text)
            self._told = now
