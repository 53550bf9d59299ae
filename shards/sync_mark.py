"""The file that says that a log is not synced, and which groups have lost their promise by that.

While a group's votes leave before they are durable, `UNSYNCED` in the directory of the log names the
boot of the machine in which that began. The death of a process loses nothing: what it wrote is in the
page cache. The end of that boot may have: so whoever finds the file under another one takes what the
groups in it have promised for lost (ARCHITECTURE.md, rule 14). It must never be taken away while anything
is unsynced, nor a lost group be left out of it before a log says durably that the group is suspect.

    file = magic 7s | version u8 | cluster u64 | node u64 | seat u64 | log u32 | boot 16s
           unsynced groups 32s | lost groups 32s | crc u32, all little-endian

Version 2 has sets of 128 bytes; it is written where a group has no place in the smaller ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from paxmux.engine.checksum import crc32
from paxmux.engine.errors import DataDirError
from paxmux.engine.frame import GROUPS_MAX, NARROW_GROUPS, SET_BYTES, WIDE_SET_BYTES
from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.shards.durable_file import replace_file, sync_directory

FILE = "UNSYNCED"
VERSION = 1
WIDE_VERSION = 2
MAGIC = b"PXMSYNC"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_FIELDS = struct.Struct(f"<7sBQQQI16s{SET_BYTES}s{SET_BYTES}s")
_WIDE_FIELDS = struct.Struct(f"<7sBQQQI16s{WIDE_SET_BYTES}s{WIDE_SET_BYTES}s")
_CRC = struct.Struct("<I")


def boot_id() -> UUID:
    """What this boot of the machine is called, and no other one.

    Raises:
        OSError: the system does not say.
    """
    return UUID(BOOT_ID.read_text(encoding="ascii").strip())


class SyncMark:
    """The mark of one log; whoever has the log open, or will open it, is its only user."""

    def __init__(self, directory: Path, identity: LogIdentity) -> None:
        """Read it, and take over what an earlier life has left; nothing is written.

        Args:
            directory: of the log; need not exist.
            identity: whose log it is.

        Raises:
            DataDirError: a newer program made the mark.
            StorageDamaged: it is bad, or belongs to another log.
            OSError: it cannot be read.
        """
        self._path = directory / FILE
        self._identity = identity
        self._boot = boot_id()
        self._stored = self._read()
        """(boot, unsynced, lost) as it is on the disk; None: no file."""
        self.lost: frozenset[int] = frozenset()
        """Groups whose promise is lost."""
        if self._stored is not None:
            boot, unsynced, lost = self._stored
            self.lost = lost if boot == self._boot else lost | unsynced

    def write(self, unsynced: Iterable[int]) -> None:
        """Say, durably, that these groups are not synced from now on, and which have lost their promise.
        Everything that was appended for all others must be durable.

        Raises:
            OSError: the old mark or the new one is there.
        """
        wanted = (self._boot, frozenset(unsynced), self.lost)
        if wanted == self._stored:
            return
        if not wanted[1] and not wanted[2]:
            if self._stored is not None:
                self._path.unlink()
                sync_directory(self._path.parent)
                self._stored = None
            return
        wide = max(wanted[1] | wanted[2]) >= NARROW_GROUPS
        fields, version = (_WIDE_FIELDS, WIDE_VERSION) if wide else (_FIELDS, VERSION)
        body = fields.pack(
            MAGIC, version, *self._identity, self._boot.bytes, _bits(wanted[1], wide), _bits(wanted[2], wide)
        )
        replace_file(self._path, body + _CRC.pack(crc32(body)))
        self._stored = wanted

    def lose(self, groups: Iterable[int]) -> None:
        """These groups have lost their promise: a sync of what they had said already has failed.

        Raises:
            OSError: it could not be recorded.
        """
        self.lost |= frozenset(groups)
        self.write(())

    def _read(self) -> tuple[UUID, frozenset[int], frozenset[int]] | None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        if len(data) <= len(MAGIC) + _CRC.size or _CRC.pack(crc32(data[: -_CRC.size])) != data[-_CRC.size :]:
            raise StorageDamaged(f"{self._path}, offset 0: the mark of an unsynced log is damaged")
        version = data[len(MAGIC)]
        if data[: len(MAGIC)] == MAGIC and version > WIDE_VERSION:
            raise DataDirError(
                f"{self._path}: format version {version}, this program reads up to {WIDE_VERSION};"
                " use the newer program"
            )
        fields = _WIDE_FIELDS if version == WIDE_VERSION else _FIELDS
        if len(data) != fields.size + _CRC.size:
            raise StorageDamaged(f"{self._path}, offset 0: the mark of an unsynced log has {len(data)} bytes")
        magic, version, cluster, node, seat, log, boot, unsynced, lost = fields.unpack_from(data)
        if magic != MAGIC or version == 0 or LogIdentity(cluster, node, seat, log) != self._identity:
            raise StorageDamaged(
                f"{self._path}, offset 0: the mark of an unsynced log belongs to another log"
            )
        return UUID(bytes=boot), _groups(unsynced), _groups(lost)


def _bits(groups: Iterable[int], wide: bool) -> bytes:
    return sum(1 << group for group in groups).to_bytes(WIDE_SET_BYTES if wide else SET_BYTES, "little")


def _groups(bits: bytes) -> frozenset[int]:
    number = int.from_bytes(bits, "little")
    return frozenset(group for group in range(GROUPS_MAX) if number >> group & 1)
