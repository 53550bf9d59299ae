"""Checksums of large values, for those who store and send them: see `engine/paxos/checksum.py`."""

from __future__ import annotations

from paxmux.engine.paxos.checksum import LARGE_BYTES, checksum, join

__all__ = ["LARGE_BYTES", "checksum", "join"]
