"""Where the router runs, as the node sees it.

The contract of both places: `inline_router.py` keeps it in the node's event loop, `router_child.py`
in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from paxmux.engine.secret_file import Keys
from paxmux.shards.boot import Founding, MemberPlace
from paxmux.shards.doorbell import Doorbell

OnBroken = Callable[[int, int, str], None]
"""(worker, generation, reason): the network rings of that life of a worker make no sense."""

OnPeers = Callable[[dict[int, str]], None]
"""Node id -> `host:port`: where the members are dialled from now on; first it is what the options say."""


class RouterHost(Protocol):
    """Used in the node's event loop only."""

    bell: Doorbell
    """What workers ring for frames; the same for the node's whole life."""

    async def start(self) -> None:
        """Own the port; greet the other members.

        Raises:
            OSError: the port is taken.
            PaxmuxError: the router process cannot boot; the message has its reason.
        """
        ...

    async def founded(self) -> Founding:
        """Wait until the founding is known and durable here.

        Raises:
            PaxmuxError: the router failed meanwhile, such as by a disk that refused the record.
        """
        ...

    def attach_worker(
        self,
        worker: int,
        generation: int,
        groups: list[int],
        from_worker: int,
        to_worker: int,
        bell: Doorbell,
    ) -> None:
        """A worker (again) exists. The descriptors of its fresh network rings stay the caller's."""
        ...

    def set_groups(self, worker: int, generation: int, groups: list[int]) -> None:
        """This life of a worker hosts these groups from now on."""
        ...

    def hold_frames(self, group: int) -> None:
        """The group is between two workers: keep frames that come for it, within bounds."""
        ...

    def release_frames(self, worker: int) -> None:
        """The worker has the group that frames were kept for: it gets them."""
        ...

    def set_members(self, members: Mapping[int, MemberPlace]) -> None:
        """These are the members of all groups together from now on, with this node if it is one, in whatever
        seat: who may talk to it, and what it is to the others. Until the first call the founders count."""
        ...

    def detach_worker(self, worker: int) -> None:
        """The worker is dead: its rings are not touched any more."""
        ...

    def set_keys(self, keys: Sequence[Keys]) -> bool:
        """The secrets have changed: the first one seals from now on, all are accepted. False: it has to be
        told again later."""
        ...

    def describe(self) -> dict[str, Any]:
        """Where the router runs; of a process: its id, restarts, heartbeat and counters."""
        ...

    async def status(self, timeout_s: float) -> dict[str, Any] | None:
        """Peers, network and rings; None if the router does not answer in time."""
        ...

    async def stop(self) -> None:
        """Free the port; nothing of the router is left then."""
        ...
