"""What a server may set for single groups while its node runs: how values are gathered, how many may wait,
and whether they wait for the disk.

Decides what such a setting may be; batches and bounds themselves are elsewhere (`Batcher`, `WaitLocks`,
`LogSync`). The node's settings hold until it stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.bounds import BOUNDS
from paxmux.engine.errors import GroupWrong, InvalidRequest, NodeStopped
from paxmux.shards.admission import Admission
from paxmux.shards.batcher import Batcher
from paxmux.shards.requests import CallKind, Reply

if TYPE_CHECKING:
    from paxmux.shards.assembly import Assembly


class GroupSettings:
    """The part of a `Node` that is about them."""

    _admission: Admission
    _assembly: Assembly | None
    _batcher: Batcher | None
    _worker_of: list[int]

    def set_batch_count(self, group: int, count: int) -> None:
        """How many values of `batch_propose` a group gathers; `proposals.batch_count` at the start."""
        self._check_group(group)
        _check_bound("proposals.batch_count", count)
        self._batches().counts[group] = count

    def set_batch_delay(self, group: int, delay_ms: int) -> None:
        """How long, in ms, the first value of a batch waits for others; `proposals.batch_delay_ms` at the
        start."""
        self._check_group(group)
        _check_bound("proposals.batch_delay_ms", delay_ms)
        self._batches().delays_ms[group] = delay_ms

    def set_max_waiting(self, group: int | None, count: int) -> None:
        """How many proposals of a group may wait beside the one that is being decided; more are refused with
        405. `proposals.max_waiting` at the start.

        Args:
            group: None for each of them.
            count: -1 for no bound of its own.
        """
        if group is not None:
            self._check_group(group)
        _check_bound("proposals.max_waiting", count)
        self._admission.locks.set_max_waiting(group, count)

    def set_wait_time_threshold(self, group: int | None, threshold_ms: int) -> None:
        """While proposals of a group take longer than this on average, a growing share of them is refused
        with 405, up to 98 percent; it is gone within two seconds after they take less.
        `proposals.wait_time_threshold_ms` at the start.

        Args:
            group: None for each of them.
            threshold_ms: in ms; 0 for none.
        """
        if group is not None:
            self._check_group(group)
        _check_bound("proposals.wait_time_threshold_ms", threshold_ms)
        self._admission.locks.set_threshold(group, threshold_ms)

    async def set_log_sync(self, group: int, on: bool, timeout_s: float | None = 5.0) -> None:
        """Have a group's votes wait for this node's disk, as they do by default, or not.

        Switched off, the group's promises, votes and results leave before they are durable here. That
        gives up what the log is for: after a power cut or a crash of the system this node may have
        forgotten them, and what the cluster acknowledged can be undone by it. The group then learns only,
        and never votes again with this data directory. The death of a process loses nothing. Groups of
        one worker share a log: a turn is synced if any group with records in it is.

        Switched on again, everything said so far is durable before the call returns and before anything
        else leaves. It holds until the node stops, also where the worker is restarted; the option
        `storage.sync` is what a start begins with. With `storage.sync_skip_count` above 0, on means as
        that says.

        Raises:
            StorageFailed: it could not be recorded; switched off, nothing has changed.
            Timeout: unknown outcome.
            GroupWrong, NodeStopped, Overloaded: as in `query`; nothing has changed.
        """
        self._check_group(group)
        if not isinstance(on, bool):
            raise InvalidRequest(f"expected True or False, got {on!r}")
        if on and self._assembly is not None:
            # Whatever becomes of the call, a worker that starts from now on is safe.
            self._assembly.log_sync[group] = True
        await self._call(CallKind.SET_LOG_SYNC, group, int(on), b"", timeout_s)
        if self._assembly is not None:
            self._assembly.log_sync[group] = on

    async def _call(
        self, kind: CallKind, group: int, argument: int, payload: bytes, timeout_s: float | None
    ) -> Reply:
        raise NotImplementedError

    def _batches(self) -> Batcher:
        if self._batcher is None:
            raise NodeStopped("the node is not started")
        return self._batcher

    def _check_group(self, group: int) -> None:
        if type(group) is not int or not 0 <= group < len(self._worker_of):
            raise GroupWrong(f"expected a group of 0 .. {len(self._worker_of) - 1}, got {group!r}")


def _check_bound(key: str, value: int) -> None:
    least, most = BOUNDS[key]
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"expected {least} .. {most}, got {value!r}")
