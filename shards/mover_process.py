"""The process that moves groups between logs while no worker runs.

It has the logs open as their owner would, so that no other process can, and holds up no event loop. What
is copied, and why it may be cut off anywhere, is in shards/moving.py. It never touches the map of the data
directory: its parent does, once the last word from here says that everything is durable.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path

from paxmux.engine import plugin
from paxmux.engine.errors import ExitCode, PaxmuxError, StorageFailed
from paxmux.engine.storage import EMPTY_STATE, HardState, Log, LogIdentity, OpenLog, StorageDamaged
from paxmux.shards.boot import Copied, Failed, MoverBoot, Stop
from paxmux.shards.child import ControlError, Parent, ParentGone, be_child
from paxmux.shards.log_directories import LOGS, make_log_directory
from paxmux.shards.moving import copy_groups, moves_between
from paxmux.shards.sync_mark import SyncMark

TELL_EVERY_S = 0.5

log = logging.getLogger("paxmux.mover")


class Stopped(Exception):
    """The parent wants no more."""


class Mover:
    """The logs of all groups that move."""

    def __init__(self, boot: MoverBoot, parent: Parent) -> None:
        self._boot = boot
        self._parent = parent
        self._moves = moves_between(boot.hosts, boot.wanted)
        self._told_s = time.monotonic()
        self._done = self._values = self._bytes = 0

    def run(self) -> None:
        """Copy everything; on return it is durable, and the parent was told.

        Raises:
            StorageDamaged, StorageFailed: as shards/moving.py says, or a log cannot be opened.
            DataDirError: a log is in use, or another one's.
            Stopped, ParentGone: nobody wants it any more.
        """
        logs: dict[int, Log] = {}
        states: dict[int, dict[int, HardState]] = {}
        with ExitStack() as stack:
            for number in sorted({number for move in self._moves for number in (move.source, move.target)}):
                logs[number] = self._open(number)
                # After a failure a log is left as a crash would leave it.
                stack.callback(logs[number].close, clean=False)
                states[number] = logs[number].recover()
                self._note_lost(number, states[number])
                self._look()
            for copy in copy_groups(self._moves, logs, states):
                self._values += copy.values
                self._bytes += copy.bytes
                self._done += copy.done
                self._look()
            for each in logs.values():
                each.close(clean=True)
        self._parent.send(self._copied(complete=True))

    def _note_lost(self, number: int, states: dict[int, HardState]) -> None:
        """Groups that were not synced when the machine stopped are suspect wherever they go."""
        path = Path(self._boot.options.data_dir) / LOGS / str(number)
        for group in SyncMark(path, self._identity(number)).lost:
            states[group] = states.get(group, EMPTY_STATE)._replace(suspect=True)

    def _identity(self, number: int) -> LogIdentity:
        boot = self._boot
        return LogIdentity(boot.founding.cluster, boot.node_id, boot.seat, number)

    def _open(self, number: int) -> Log:
        boot = self._boot
        open_log: OpenLog = plugin.load(boot.options.storage.plugin)
        path = make_log_directory(Path(boot.options.data_dir), number)
        identity = self._identity(number)
        # A log that has no group by the map holds nothing that must not be missed.
        create = number not in boot.hosts or not boot.logs_made
        # Without `max_bytes`: what is copied is on the disk already, and its old logs are removed; a node
        # must not fail to start for a limit. Its worker then refuses until enough is forgotten.
        return open_log(path, identity, segment_bytes=boot.options.storage.segment_bytes, create=create)

    def _look(self) -> None:
        """Hear whether to go on, and say now and then how far it is."""
        if any(isinstance(message, Stop) for message in self._parent.receive_all()):
            raise Stopped
        now_s = time.monotonic()
        if now_s >= self._told_s + TELL_EVERY_S:
            self._told_s = now_s
            try:
                self._parent.send(self._copied(complete=False))
            except ControlError as error:
                log.debug("not told how far it is: %s", error)

    def _copied(self, *, complete: bool) -> Copied:
        return Copied(
            groups=len(self._moves),
            groups_done=self._done,
            values=self._values,
            bytes=self._bytes,
            complete=complete,
        )


def main() -> None:
    """Entry of the process."""
    parent, boot, fds = be_child()
    if fds or not isinstance(boot, MoverBoot):
        raise TypeError(f"a mover cannot boot as {type(boot).__name__} with {len(fds)} descriptors")
    raise SystemExit(_serve(boot, parent))


def _serve(boot: MoverBoot, parent: Parent) -> ExitCode:
    try:
        Mover(boot, parent).run()
    except Stopped:
        return ExitCode.OK
    except ParentGone:
        return ExitCode.PARENT_GONE
    except (StorageFailed, StorageDamaged) as error:
        parent.send(Failed(reason=str(error), kind="storage"))
        return ExitCode.STORAGE_FAILED
    except (PaxmuxError, OSError) as error:
        parent.send(Failed(reason=str(error), kind="cannot_boot"))
        return ExitCode.CANNOT_BOOT
    return ExitCode.OK
