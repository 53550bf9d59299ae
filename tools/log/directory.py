"""A data directory as a reader sees it: whose it is, which logs it has, and who uses it.

It takes no lock and creates nothing; what it cannot read it refuses in words. Whether a node runs is
asked of the kernel's table of locks: asking the lock itself would mean to take it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.kind import SEGMENTS, plugin_of
from paxmux.shards.identity import IDENTITY_FILE, LOCK_FILE, Identity, read_identity
from paxmux.shards.log_directories import LOGS

LOCK_TABLE: Final = Path("/proc/locks")


class LogDirectory(NamedTuple):
    """The log of one worker."""

    path: Path
    identity: LogIdentity
    expected: bool
    """It was made once: if it is not there, it was lost."""
    groups: frozenset[int] | None = None
    """The groups that are here; what the log has of others was left behind when they moved, or is a copy
    that was cut off. None: whatever it has."""


class DataDirectory(NamedTuple):
    """A node's data, at one moment."""

    path: Path
    identity: Identity
    logs: list[LogDirectory]
    """By number; none before the cluster is founded."""

    @property
    def cluster(self) -> int | None:
        """Cluster id; None before the cluster is founded."""
        return self.identity.founding.cluster if self.identity.founding is not None else None

    def holder(self) -> int | None:
        """Pid of the process that holds the data directory's lock; None if none is seen to."""
        return lock_holder(self.path / LOCK_FILE)


def read_directory(path: Path) -> DataDirectory:
    """Look at a data directory.

    Raises:
        DataDirError: it is none, cannot be read, is damaged, or is of another version or storage plugin.
    """
    try:
        names = os.listdir(path)
        if IDENTITY_FILE not in names:
            what = f"it has no {IDENTITY_FILE}" if names else "it is empty"
            raise DataDirError(f"{path} is not the data directory of a node: {what}")
        found = os.listdir(path / LOGS) if LOGS in names else []
    except NotADirectoryError as error:
        raise DataDirError(f"{error.filename} is not a directory") from error
    except OSError as error:
        raise DataDirError(f"cannot read {error.filename}: {error.strerror}") from error
    identity = read_identity(path)
    numbers = {int(name) for name in found if name.isascii() and name.isdigit() and str(int(name)) == name}
    hosts = identity.hosts or ()
    expected = set(hosts) if identity.logs else set()
    logs: list[LogDirectory] = []
    if identity.founding is not None:
        for number in sorted(numbers | expected):
            _check_plugin(path / LOGS / str(number))
            whose = LogIdentity(identity.founding.cluster, identity.node_id, identity.seat, number)
            here = frozenset(group for group, log in enumerate(hosts) if log == number)
            logs.append(LogDirectory(path / LOGS / str(number), whose, number in expected, here))
    elif numbers:
        raise DataDirError(
            f"{path / LOGS} has logs, but {path / IDENTITY_FILE} has no cluster that they could belong to"
        )
    return DataDirectory(path, identity, logs)


def _check_plugin(log: Path) -> None:
    try:
        plugin = plugin_of(log)
    except OSError as error:
        raise DataDirError(f"cannot read {log}: {error.strerror}") from error
    if plugin not in (None, SEGMENTS):
        raise DataDirError(f"{log}: this log is of another storage plugin, {plugin}; segments are expected")


def lock_holder(path: Path) -> int | None:
    """Pid of the process that holds the `flock` of a file and has written its pid into it; else None."""
    try:
        pid = int(path.read_text(encoding="ascii", errors="replace").strip() or -1)
        inode = path.stat().st_ino
        table = LOCK_TABLE.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    for line in table:
        # 1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK" or words[4] != str(pid):
            continue
        if words[5].rpartition(":")[2] == str(inode):
            return pid
    return None
