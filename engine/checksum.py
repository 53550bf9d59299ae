"""Checksums, for those who store and send: see `engine/paxos/checksum.py`."""

from __future__ import annotations

from paxmux.engine.paxos.checksum import LARGE_BYTES, checksum, crc32, join

__all__ = ["LARGE_BYTES", "checksum", "crc32", "join"]
