"""A process that appends to a log until it is killed, and says what was acknowledged.

Run as a program: DIRECTORY SEED FIRST_BATCH. Each line on standard output is the number of batches
of the workload that are durable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from paxmux.plugins.storage import flusher
from paxmux.plugins.storage.segment import SegmentLog
from tests.storage_model import IDENTITY, workload

SEGMENT_BYTES = 32 << 10


def main() -> None:
    directory, seed, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # The index is written all the time, so that many a kill meets it.
    flusher.DUE_S = 0.001  # type: ignore[misc]
    log = SegmentLog(directory, IDENTITY, segment_bytes=SEGMENT_BYTES)
    log.recover()
    while True:
        for _ in range(1 + batch % 4):
            log.append(workload(seed, batch, large=3000))
            batch += 1
        log.sync()
        os.write(1, b"%d\n" % batch)
        log.housekeep()


if __name__ == "__main__":
    main()
