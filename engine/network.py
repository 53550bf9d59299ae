"""The contract of a network: how frames get from node to node.

The router owns exactly one network object and calls it from its event loop only. Implementations
live in `plugins/network` and are named in the options by dotted path; the same contract tests run
over each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from paxmux.engine.options import NetworkOptions
from paxmux.engine.secret_file import Keys

Frame = bytes | bytearray
"""One that arrived; nobody writes to it any more."""

OnFrame = Callable[[Frame], None]
"""Called in the event loop for each frame that arrived whole. Bytes are unchecked but for their
length; must not block and must not raise."""

OnPeer = Callable[[int, bool], None]
"""Called when the connection to a peer (node id) is made (True) or lost (False). What is sent to that
peer within the call that says True, with `reliable`, goes first on the connection: the hello."""


class Direct(Protocol):
    """A worker's own way to the peers, past its ring and the router, for frames that fit into a datagram.

    It saves two changes of process for each frame. Made in the worker as `Direct(peers, options)`, with host
    and port by node id; used by one thread.
    """

    def send(self, dest: int, frame: bytes) -> bool:
        """Send now. False if the frame did not leave: the router is to send it. Never blocks or raises."""
        ...

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        """These are the peers from now on, and no others. What leads to one whose host and port stay the same
        is kept. Must not raise because of a peer."""

    def set_keys(self, keys: Sequence[Keys]) -> None:
        """Seal by the first of these from now on. Called before the first frame if there is a secret, and
        whenever it changes."""
        ...

    def close(self) -> None:
        """Close what it has open; safe to call twice."""
        ...


class OpenDirect(Protocol):
    """How a `Direct` is made; it must not raise because of a peer."""

    def __call__(self, peers: Mapping[int, tuple[str, int]], options: NetworkOptions) -> Direct: ...


class Network(Protocol):
    """Moves frames. Best effort: a frame may be lost, doubled, delayed or overtaken, never altered
    without the CRC showing it.

    A class may have an attribute `direct`: the dotted path (`module:name`) of a `Direct` that workers use
    beside it. Without one, or with None, every frame goes through the router.
    """

    def set_keys(self, keys: Sequence[Keys]) -> None:
        """Authenticate everything, both ways, by these from now on: the first one seals, all are accepted.

        Called before `start` if there is a secret, and whenever it changes; then nothing is lost that was
        sealed by keys that are still accepted. What is not sealed, or by others, must be dropped and counted.
        """
        ...

    async def start(self) -> None:
        """Bind and listen; raises OSError with address and reason. Frames arrive from here on."""
        ...

    def send(self, dest: int, frame: bytes, *, reliable: bool = False) -> bool:
        """Queue or send one frame without blocking.

        Small frames may go by datagram unless `reliable`. False if the peer is unknown or its queue
        is full: the frame is dropped and counted.
        """
        ...

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        """These are the peers from now on, and no others; before `start`, while it runs, and after `stop`.

        The connection to a peer whose host and port stay the same is not touched. A peer that has another
        address is dialled there, and gets what waited for it. Whatever stands to or from a peer that is left
        out is closed, and what waited for it is lost. `OnPeer` is told of each connection that ends so, soon
        after, and not within the call. Not to be called from within `OnFrame` or `OnPeer`.

        Args:
            peers: node id -> host and port; this node's own entry is left out. A host is an IPv4 or IPv6
                literal or a name, which is resolved each time that it is dialled.

        Raises:
            ValueError: a port that cannot be; nothing has changed then.
        """
        ...

    def peers(self) -> Mapping[int, bool]:
        """Node id -> connected, for every known peer."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Counts since the start: packets, bytes, drops by reason, reconnects."""
        ...

    async def stop(self) -> None:
        """Close every socket; returns when the port is free again."""
        ...
