"""The process that moves groups between logs (shards/mover_process.py), seen from its node.

Decides nothing but whether it did all of it: the node may switch the map only when `run` has returned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from paxmux.engine.errors import ExitCode, PaxmuxError, StorageFailed
from paxmux.shards.boot import Copied, Failed, FromChild, MoverBoot
from paxmux.shards.child import spawn_child
from paxmux.shards.watched_child import WatchedChild, exit_text

MOVER_MODULE = "paxmux.shards.mover_process"
LOG_EVERY_S = 5.0
STOP_GRACE_S = 2.0

log = logging.getLogger("paxmux")


class MoverChild:
    """One run of it. Used in the node's event loop only."""

    def __init__(self, boot: MoverBoot) -> None:
        self._boot = boot
        self._child: WatchedChild | None = None
        self._failed: Failed | None = None
        self._last: Copied | None = None
        self._started_s = self._logged_s = time.monotonic()
        self.seconds: float | None = None
        """How long it took; None while it runs."""

    async def run(self) -> None:
        """Have all groups copied; on return everything is durable in their new logs.

        Raises:
            StorageFailed: a log cannot be read or written.
            PaxmuxError: it could not be done; the message says why. Nothing has changed.
        """
        child = WatchedChild(
            asyncio.get_running_loop(), spawn_child(MOVER_MODULE), "the mover", self._on_message, _ignore_exit
        )
        self._child = child
        child.boot(self._boot, [])
        code = await asyncio.shield(child.gone)
        self._child = None
        if self._last is None or not self._last.complete or code != ExitCode.OK:
            why = exit_text(code) if self._failed is None else f"{self._failed.reason} ({exit_text(code)})"
            words = f"the layout was not changed, groups stay in their logs: {why}"
            raise (
                StorageFailed(words)
                if self._failed is not None and self._failed.kind == "storage"
                else PaxmuxError(words)
            )
        self.seconds = time.monotonic() - self._started_s

    async def stop(self) -> None:
        """End the process if it runs; nothing is lost but work."""
        if self._child is not None:
            await self._child.end(0, STOP_GRACE_S)
            self._child = None

    def words(self) -> str:
        """How far it is, for the operator."""
        last = self._last
        if last is None:
            return "groups to move between logs, which are being opened"
        return (
            f"groups to move between logs: {last.groups_done} of {last.groups} done, "
            f"{last.values:,} values ({last.bytes >> 20:,} MiB) copied"
        )

    def picture(self) -> dict[str, Any] | None:
        """What was moved; None if nothing was copied yet."""
        last = self._last
        if last is None:
            return None
        return {
            "groups": last.groups,
            "groups_done": last.groups_done,
            "values": last.values,
            "bytes": last.bytes,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
        }

    def _on_message(self, message: FromChild) -> None:
        match message:
            case Copied():
                self._last = message
                now_s = time.monotonic()
                if now_s >= self._logged_s + LOG_EVERY_S:
                    self._logged_s = now_s
                    log.info("this node waits for %s", self.words())
            case Failed():
                self._failed = message
            case _:
                log.debug("the mover said %s", type(message).__name__)


def _ignore_exit(_code: int) -> None:
    """`run` waits for it."""
