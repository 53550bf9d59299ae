"""A process that appends to a log in plain LMDB until it is killed, and says what was acknowledged.

Run as a program: DIRECTORY SEED FIRST_BATCH [SYNCS]. Each line on standard output is the number of batches
of the workload that are durable. With SYNCS it stops cleanly after so many, opens the log again, and does
the same once more.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from paxmux.plugins.storage import lmdb_open
from paxmux.plugins.storage.lmdb_log import LmdbLog
from tests.storage_model import IDENTITY, workload

STEP_BYTES = 64 << 10
MOST_UNSYNCED = 4
"""It syncs after at most so many batches."""


def main() -> None:
    directory, seed, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    left = int(sys.argv[4]) if len(sys.argv) > 4 else -1
    # Full all the time, so that many a kill meets its growth.
    lmdb_open.MAP_BYTES = 64 << 10  # type: ignore[misc]
    lives = 2 if left > 0 else 1
    for _ in range(lives):
        batch = live(directory, seed, batch, left)


def live(directory: Path, seed: int, batch: int, left: int) -> int:
    log = LmdbLog(directory, IDENTITY, segment_bytes=STEP_BYTES)
    log.recover()
    while left:
        left -= 1
        for _ in range(1 + batch % MOST_UNSYNCED):
            log.append(workload(seed, batch, large=9000))
            batch += 1
        log.sync()
        os.write(1, b"%d\n" % batch)
        log.housekeep()
    log.close(clean=True)
    return batch


if __name__ == "__main__":
    main()
