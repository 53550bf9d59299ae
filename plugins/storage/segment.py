"""`SegmentLog`: the log of a worker on disk.

What it does is in `segmented.py`, how the disk does it in `directory.py`; this only joins the two.
"""

from __future__ import annotations

import time
from pathlib import Path

from paxmux.engine.storage import CLEAN_BYTES_PER_S, LogIdentity
from paxmux.plugins.storage.directory import Directory
from paxmux.plugins.storage.segment_file import check_segment_bytes
from paxmux.plugins.storage.segmented import SegmentedLog


class SegmentLog(SegmentedLog):
    """A log in a directory of its own; implements `paxmux.engine.storage.Log`."""

    def __init__(
        self,
        path: Path,
        identity: LogIdentity,
        *,
        segment_bytes: int,
        create: bool = True,
        max_bytes: int = 0,
        clean_bytes_per_s: int = CLEAN_BYTES_PER_S,
        scrub_bytes_per_s: int = 0,
    ) -> None:
        """Lock the directory, make it if it is missing, and check every segment's header.

        Args:
            path: directory of this log alone.
            identity: whose log it is; stamped into new files, required of existing ones.
            segment_bytes: size of a segment; a larger batch gets a larger one.
            create: whether `recover` makes the log if it is not there.
            max_bytes, clean_bytes_per_s, scrub_bytes_per_s: as `OpenLog` says.

        Raises:
            ValueError: `segment_bytes` out of range.
            DataDirError: in use (names the pid), of another owner, or of a newer format.
            StorageDamaged: a segment is missing or its header is bad.
        """
        check_segment_bytes(segment_bytes)
        place = Directory(path, identity)
        super().__init__(
            path,
            place,
            segment_bytes=segment_bytes,
            create=create,
            clock=time.monotonic,
            max_bytes=max_bytes,
            clean_bytes_per_s=clean_bytes_per_s,
            scrub_bytes_per_s=scrub_bytes_per_s,
        )
