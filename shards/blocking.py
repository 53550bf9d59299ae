"""The blocking facade: a node for servers without asyncio.

Runs the event loop of one `Node` in a thread of its own. Every method may be called from any thread
and blocks the caller alone. Decides nothing itself: what each call means is said at `Node`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from paxmux.engine import pack
from paxmux.engine.errors import LeadershipLost, NodeStopped
from paxmux.engine.options import Options
from paxmux.shards.deadline import deadline_ns
from paxmux.shards.done import Done
from paxmux.shards.event_loop import new_loop
from paxmux.shards.master_watch import OnChange as OnMasterChange
from paxmux.shards.membership import Member
from paxmux.shards.memberships import OnChange
from paxmux.shards.node import Node
from paxmux.shards.node_members import CHANGE_S
from paxmux.shards.outcomes import Outcomes

if TYPE_CHECKING:
    import pyarrow

Result = TypeVar("Result")

log = logging.getLogger("paxmux")


class BlockingNode:
    """`Node` without `await`: the same methods, thread-safe, and a context manager.

    A program that ends without `stop` stops it at exit, without waiting for open requests.
    """

    def __init__(self, options: Options) -> None:
        """See `Node`."""
        self._node = Node(options)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop, while it takes calls; guarded by the lock."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> BlockingNode:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float | None = None) -> None:
        """Start the node; returns once it serves. See `Node.start`."""
        with self._lock:
            if self._thread is not None:
                raise RuntimeError("a BlockingNode starts once; make a new one")
            loop = new_loop()
            self._thread = threading.Thread(target=self._run, args=(loop,), name="paxmux-node", daemon=True)
            self._loop = loop
            self._thread.start()
        atexit.register(self._stop_at_exit)
        try:
            self._wait(self._node.start(timeout_s))
        except BaseException:
            # Also when the user interrupts: no child may be left behind.
            self.stop(0)
            raise

    def stop(self, drain_s: float = 5.0) -> None:
        """Stop the node; returns once nothing of it is left. See `Node.stop`.

        Callers that are blocked in other threads get `NodeStopped` if what they asked for was not
        proposed, or `Timeout` if that is not known.
        """
        with self._lock:
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        try:
            self._wait(self._node.stop(drain_s))
        except KeyboardInterrupt:
            # Stopping is bounded, and half a stop would leave children: finish, then obey.
            self._wait(self._node.stop(0))
            raise
        finally:
            with self._lock:
                if self._loop is not None:
                    self._loop = None
                    loop.call_soon_threadsafe(loop.stop)
            thread.join()
            atexit.unregister(self._stop_at_exit)

    def propose(
        self,
        group: int,
        value: bytes,
        smid: int = 0,
        context: bytes | None = None,
        timeout_s: float | None = 5.0,
        term: int | None = None,
    ) -> Done:
        """See `Node.propose`."""
        return self._wait(self._node.propose(group, value, smid, context, timeout_s, term))

    def propose_many(
        self,
        group: int,
        values: pack.Values | pyarrow.BinaryArray,
        smid: int = 0,
        contexts: Sequence[bytes | None] | None = None,
        timeout_s: float | None = 5.0,
        term: int | None = None,
    ) -> Outcomes:
        """See `Node.propose_many`."""
        return self._wait(self._node.propose_many(group, values, smid, contexts, timeout_s, term))

    def batch_propose(
        self,
        group: int,
        value: bytes,
        smid: int = 0,
        context: bytes | None = None,
        timeout_s: float | None = 5.0,
    ) -> Done:
        """See `Node.batch_propose`."""
        return self._wait(self._node.batch_propose(group, value, smid, context, timeout_s))

    def set_batch_count(self, group: int, count: int) -> None:
        """See `Node.set_batch_count`."""
        self._node.set_batch_count(group, count)

    def set_batch_delay(self, group: int, delay_ms: int) -> None:
        """See `Node.set_batch_delay`."""
        self._node.set_batch_delay(group, delay_ms)

    def set_max_waiting(self, group: int | None, count: int) -> None:
        """See `Node.set_max_waiting`."""
        self._node.set_max_waiting(group, count)

    def set_wait_time_threshold(self, group: int | None, threshold_ms: int) -> None:
        """See `Node.set_wait_time_threshold`."""
        self._node.set_wait_time_threshold(group, threshold_ms)

    def query(
        self,
        group: int,
        request: bytes,
        smid: int = 1,
        consistency: str = "local",
        timeout_s: float | None = 5.0,
    ) -> bytes:
        """See `Node.query`."""
        return self._wait(self._node.query(group, request, smid, consistency, timeout_s))

    def now_instance_id(self, group: int, timeout_s: float | None = 5.0) -> int:
        """See `Node.now_instance_id`."""
        return self._wait(self._node.now_instance_id(group, timeout_s))

    def instance_value(
        self, group: int, instance_id: int, timeout_s: float | None = 5.0
    ) -> list[tuple[bytes, int]]:
        """See `Node.instance_value`."""
        return self._wait(self._node.instance_value(group, instance_id, timeout_s))

    def set_log_sync(self, group: int, on: bool, timeout_s: float | None = 5.0) -> None:
        """See `Node.set_log_sync`: what it gives up is said there."""
        self._wait(self._node.set_log_sync(group, on, timeout_s))

    def master(self, group: int) -> int:
        """See `Node.master`."""
        return self._node.master(group)

    def master_with_version(self, group: int) -> tuple[int, int]:
        """See `Node.master_with_version`."""
        return self._node.master_with_version(group)

    def is_master(self, group: int) -> bool:
        """See `Node.is_master`."""
        return self._node.is_master(group)

    def term(self, group: int) -> int | None:
        """See `Node.term`."""
        return self._node.term(group)

    def on_master_change(self, callback: OnMasterChange) -> Callable[[], None]:
        """See `Node.on_master_change`. It is called in the node's thread, and must not wait for the node."""

        async def add() -> Callable[[], None]:
            return self._node.on_master_change(callback)

        with self._lock:
            started = self._loop is not None
        off = self._wait(add()) if started else self._node.on_master_change(callback)

        def take_off() -> None:
            with self._lock:
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(off)

        return take_off

    @contextmanager
    def leadership(self, group: int, timeout_s: float | None = None) -> Iterator[int]:
        """As `Node.leadership`; but nobody can cancel a thread: the body has to look at `term` itself. That
        the lease ended before it did shows as `LeadershipLost` behind it."""
        until_ns = deadline_ns(timeout_s)
        term = self._wait(self._node.begin_leadership(group, until_ns))
        yield term
        if self._node.term(group) != term:
            raise LeadershipLost(f"this node was the master of group {group} in term {term}, and is not now")

    def set_master_lease(self, group: int, lease_ms: int, timeout_s: float | None = 5.0) -> None:
        """See `Node.set_master_lease`."""
        self._wait(self._node.set_master_lease(group, lease_ms, timeout_s))

    def drop_master(self, group: int, timeout_s: float | None = 5.0) -> None:
        """See `Node.drop_master`."""
        self._wait(self._node.drop_master(group, timeout_s))

    def transfer_master(self, group: int, node: int, timeout_s: float | None = 5.0) -> int:
        """See `Node.transfer_master`."""
        return self._wait(self._node.transfer_master(group, node, timeout_s))

    def members(self, group: int, timeout_s: float | None = 5.0) -> list[Member]:
        """See `Node.members`."""
        return self._wait(self._node.members(group, timeout_s))

    def add_member(self, group: int | None, node: str | int, timeout_s: float | None = CHANGE_S) -> list[int]:
        """See `Node.add_member`."""
        return self._wait(self._node.add_member(group, node, timeout_s))

    def remove_member(
        self, group: int | None, node: str | int, timeout_s: float | None = CHANGE_S
    ) -> list[int]:
        """See `Node.remove_member`."""
        return self._wait(self._node.remove_member(group, node, timeout_s))

    def change_member(
        self, group: int | None, old: str | int, new: str | int, timeout_s: float | None = CHANGE_S
    ) -> list[int]:
        """See `Node.change_member`."""
        return self._wait(self._node.change_member(group, old, new, timeout_s))

    def on_membership_change(self, callback: OnChange) -> Callable[[], None]:
        """See `Node.on_membership_change`; the callback runs in the node's thread, and must not call the
        node. May be called before `start`."""
        with self._lock:
            loop = self._loop
        if loop is None:
            return self._node.on_membership_change(callback)
        return self._wait(self._watch(callback))

    async def _watch(self, callback: OnChange) -> Callable[[], None]:
        return self._node.on_membership_change(callback)

    def my_node_id(self) -> int:
        """See `Node.my_node_id`."""
        return self._node.my_node_id()

    def set_cleaning(self, on: bool) -> None:
        """See `Node.set_cleaning`."""
        self._wait(self._node.set_cleaning(on))

    def status(self) -> dict[str, Any]:
        """See `Node.status`."""
        return self._wait(self._node.status())

    def reload(self, options: Options) -> dict[str, Any]:
        """See `Node.reload`."""
        return self._wait(self._node.reload(options))

    def _wait(self, call: Coroutine[Any, Any, Result]) -> Result:
        with self._lock:
            if self._loop is None:
                call.close()
                raise NodeStopped("the node is not started, or stopped")
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise NodeStopped("the node stopped") from None
        except BaseException:
            # An interrupted caller waits no more; a proposal that has left goes on.
            future.cancel()
            raise

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            # Calls that came in with the last turns end by themselves: the node refuses them.
            tasks = asyncio.all_tasks(loop)
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=1))
            for task in asyncio.all_tasks(loop):
                task.cancel()
                loop.run_until_complete(asyncio.wait([task]))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _stop_at_exit(self) -> None:
        log.warning("the program ends without having stopped its node; stopping it now")
        self.stop(0)
