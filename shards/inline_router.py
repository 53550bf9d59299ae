"""The router in the node's own event loop (`router: inline`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from paxmux.engine.errors import PaxmuxError
from paxmux.engine.options import Options
from paxmux.engine.secret_file import Keys
from paxmux.shards.boot import Founding, MemberPlace
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.identity import FoundingStore
from paxmux.shards.router import Router, left_to_peer
from paxmux.shards.router_host import OnBroken, OnPeers


class InlineRouter:
    """Keeps `RouterHost`. Used in the node's event loop only."""

    def __init__(
        self,
        options: Options,
        store: FoundingStore,
        incarnation: int,
        on_broken: OnBroken,
        on_peers: OnPeers,
        keys: Sequence[Keys] = (),
    ) -> None:
        """`keys`: of the cluster's secrets; none: nothing is authenticated."""
        self.bell = Doorbell.create()
        self._backlog_bytes = options.limits.ring_backlog_bytes
        self._generations: dict[int, int] = {}
        self._report_broken = on_broken
        self._founded: asyncio.Future[Founding] = asyncio.get_running_loop().create_future()
        try:
            self._router = Router(
                options,
                store,
                incarnation=incarnation,
                bell=self.bell,
                counters={},
                on_founded=self._on_founded,
                on_failed=self._on_failed,
                on_broken=self._on_broken,
                on_peers=on_peers,
                keys=keys,
            )
        except BaseException:
            self.bell.close()
            raise

    async def start(self) -> None:
        """See `RouterHost`."""
        await self._router.start()

    async def founded(self) -> Founding:
        """See `RouterHost`."""
        return await asyncio.shield(self._founded)

    def attach_worker(
        self,
        worker: int,
        generation: int,
        groups: list[int],
        from_worker: int,
        to_worker: int,
        bell: Doorbell,
    ) -> None:
        """See `RouterHost`."""
        self._generations[worker] = generation
        receiver = Receiver(from_worker, bell, intact=left_to_peer)
        sender = Sender(to_worker, bell, backlog_max_bytes=self._backlog_bytes, small_first=True)
        self._router.attach_worker(worker, generation, groups, receiver, sender)

    def set_groups(self, worker: int, generation: int, groups: list[int]) -> None:
        """See `RouterHost`."""
        self._router.set_groups(worker, generation, groups)

    def hold_frames(self, group: int) -> None:
        """See `RouterHost`."""
        self._router.hold_frames(group)

    def release_frames(self, worker: int) -> None:
        """See `RouterHost`."""
        self._router.release_frames(worker)

    def set_members(self, members: Mapping[int, MemberPlace]) -> None:
        """See `RouterHost`."""
        self._router.set_members(members)

    def detach_worker(self, worker: int) -> None:
        """See `RouterHost`."""
        self._router.detach_worker(worker)

    def set_keys(self, keys: Sequence[Keys]) -> bool:
        """See `RouterHost`."""
        self._router.set_keys(keys)
        return True

    def describe(self) -> dict[str, Any]:
        """See `RouterHost`."""
        return {"mode": "inline"}

    async def status(self, timeout_s: float) -> dict[str, Any] | None:
        """See `RouterHost`."""
        return self._router.status()

    async def stop(self) -> None:
        """See `RouterHost`."""
        await self._router.stop()
        if not self._founded.cancel():
            # Whoever waited for it may have left before; then nobody has seen the error.
            self._founded.exception()
        self.bell.close()

    def _on_founded(self, founding: Founding) -> None:
        if not self._founded.done():
            self._founded.set_result(founding)

    def _on_broken(self, worker: int, reason: str) -> None:
        self._report_broken(worker, self._generations[worker], reason)

    def _on_failed(self, error: PaxmuxError) -> None:
        if not self._founded.done():
            self._founded.set_exception(error)
