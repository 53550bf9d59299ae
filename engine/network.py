"""The contract of a network: how frames get from node to node.

The router owns exactly one network object and calls it from its event loop only. Implementations
live in `plugins/network` and are named in the options by dotted path; the same contract tests run
over each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

Frame = bytes | bytearray
"""One that arrived; nobody writes to it any more."""

OnFrame = Callable[[Frame], None]
"""Called in the event loop for each frame that arrived whole. Bytes are unchecked but for their
length; must not block and must not raise."""

OnPeer = Callable[[int, bool], None]
"""Called when the connection to a peer (node id) is made (True) or lost (False). What is sent to that
peer within the call that says True, with `reliable`, goes first on the connection: the hello."""


class Network(Protocol):
    """Moves frames. Best effort: a frame may be lost, doubled, delayed or overtaken, never altered
    without the CRC showing it."""

    async def start(self) -> None:
        """Bind and listen; raises OSError with address and reason. Frames arrive from here on."""
        ...

    def send(self, dest: int, frame: bytes, *, reliable: bool = False) -> bool:
        """Queue or send one frame without blocking.

        Small frames may go by datagram unless `reliable`. False if the peer is unknown or its queue
        is full: the frame is dropped and counted.
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
