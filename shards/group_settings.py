"""What a server may set for single groups while its node runs: how values are gathered, how many may wait.

Decides what such a setting may be; batches and bounds themselves are elsewhere (`Batcher`, `WaitLocks`). The
node's settings hold until it stops, in its own process alone.
"""

from __future__ import annotations

from paxmux.engine.bounds import BOUNDS
from paxmux.engine.errors import GroupWrong, InvalidRequest, NodeStopped
from paxmux.shards.admission import Admission
from paxmux.shards.batcher import Batcher


class GroupSettings:
    """The part of a `Node` that is about them."""

    _admission: Admission
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
