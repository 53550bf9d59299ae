"""Which plugin's log lies in a directory, told by the names in it alone.

A log that is opened by another plugin than the one that made it would look like no log at all, and a new
one in its place would break every promise of the old one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from paxmux.engine.errors import DataDirError

SEGMENTS: Final = "paxmux.plugins.storage.segment:SegmentLog"
LMDB: Final = "paxmux.plugins.storage.lmdb_log:LmdbLog"

LMDB_DIRECTORY: Final = "lmdb"
SEGMENT_SUFFIX: Final = ".seg"


def plugin_of(directory: Path) -> str | None:
    """Dotted path of the plugin whose log is there; None if there is none, or one of an unknown plugin.

    Raises:
        OSError: the directory cannot be read.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return None
    if LMDB_DIRECTORY in names:
        return LMDB
    return SEGMENTS if any(name.endswith(SEGMENT_SUFFIX) for name in names) else None


def refuse_other(directory: Path, plugin: str) -> None:
    """Make sure that no other plugin's log is there.

    Raises:
        DataDirError: there is; names it.
        OSError: the directory cannot be read.
    """
    found = plugin_of(directory)
    if found not in (None, plugin):
        raise DataDirError(
            f"{directory}: the log there was made by another storage plugin, {found}; this is {plugin}"
        )
