"""The folders of a node's logs: `logs/N` in the data directory is the log of worker N.

Decides how a folder comes to be there for good, and how one goes that no group needs any more. What is in
a folder is the storage plugin's alone.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from paxmux.shards.durable_file import sync_directory

LOGS = "logs"
_UNUSED = ".unused"
"""Ends the name of a folder that is being removed: no start takes it for a log."""

log = logging.getLogger("paxmux")


def make_log_directory(data_dir: Path, number: int) -> Path:
    """The folder of a log, made if it is not there, and its name durable.

    Raises:
        OSError: it cannot be made.
    """
    path = data_dir / LOGS / str(number)
    path.mkdir(parents=True, exist_ok=True)
    # Also where it was there: whoever made it may have been killed before this.
    sync_directory(path.parent)
    sync_directory(data_dir)
    return path


def set_unused_aside(data_dir: Path, used: Collection[int]) -> list[Path]:
    """Take the folders of logs that host no group out of the logs, by renaming them.

    Called when it is durable that `used` has every log with a group, and no process has one of the others
    open. A crash leaves each folder whole under its old name, or under the new one; both are found again.

    Returns:
        The folders that are to be removed, those of earlier calls too.

    Raises:
        OSError: a folder cannot be renamed.
    """
    logs = data_dir / LOGS
    if not logs.is_dir():
        return []
    aside: list[Path] = []
    renamed = False
    for path in sorted(logs.iterdir()):
        name = path.name
        if name.endswith(_UNUSED):
            aside.append(path)
        elif name.isascii() and name.isdigit() and str(int(name)) == name and int(name) not in used:
            target = _free(path)
            os.rename(path, target)
            renamed = True
            aside.append(target)
    if renamed:
        sync_directory(logs)
    return aside


def remove(folders: Collection[Path]) -> None:
    """Delete what was set aside. What cannot be deleted now is tried again at the next start."""
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            log.warning("%s hosts no group any more and cannot be removed: %s", folder, error)
        else:
            log.info("%s is removed: it hosts no group any more", folder)


def _free(path: Path) -> Path:
    """A name that no folder has, in case one of the same log is still being removed."""
    target = path.with_name(path.name + _UNUSED)
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.name}.{count}{_UNUSED}")
    return target
