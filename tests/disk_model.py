"""What a process had a disk do to one folder, call by call, and what a kill or a power cut leaves of it.

The disk is a strict one. Of a file, what a sync covered is durable; of what was written since, any sectors
are there. Of a folder, the names are durable that a sync of the folder covered; of the changes since, any
first ones are there. A kill takes nothing: what was written is there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Of what is not durable, so much survives a power cut, one of them by chance."""


class Event(NamedTuple):
    """One call that changed something, or a word of the process. Paths are relative to the folder."""

    kind: str
    """`write`, `durable` (a write that is synced by itself), `length`, `sync`, `make`, `mkdir`, `rename`,
    `remove`, `sync folder` or `said`."""
    path: str = ""
    offset: int = 0
    data: bytes = b""
    length: int = 0
    to: str = ""


@dataclass(eq=False)
class File:
    """Bytes that are durable, and changes that are not."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)

    def sync(self) -> None:
        self.durable = self.image(random.Random(0), 1.0)
        self.pending.clear()

    def cut(self, rng: random.Random) -> bytes:
        """The bytes that a power cut may leave."""
        return bytes(self.image(rng, rng.choice(SHARES)))

    def image(self, rng: random.Random, share: float) -> bytearray:
        """The bytes after a power cut that spares a `share` of the sectors under way."""
        image = bytearray(self.durable)
        for event in self.pending:
            if event.kind == "length":
                if rng.random() < share:
                    _resize(image, event.length)
                continue
            start = event.offset
            stop = event.offset + len(event.data)
            while start < stop:
                end = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, stop)
                if rng.random() < share:
                    put(image, start, event.data[start - event.offset : end - event.offset])
                start = end
        return image


Change = dict[str, "File | Folder | None"]
"""Names that change together, and what they mean from then on; None: nothing."""


@dataclass(eq=False)
class Folder:
    """Names that are durable, and changes of names that are not, in order."""

    durable: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        self.durable = self.names(len(self.pending))
        self.pending.clear()

    def names(self, changes: int) -> dict[str, File | Folder]:
        """What the names mean after so many of the pending changes."""
        names = dict(self.durable)
        for change in self.pending[:changes]:
            for name, node in change.items():
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
        return names

    def now(self) -> dict[str, File | Folder]:
        return self.names(len(self.pending))


class Disk:
    """A folder that events happen to, from empty on."""

    def __init__(self) -> None:
        self.root = Folder()

    def apply(self, event: Event) -> None:
        """One event happens, and everything before it has."""
        kind = event.kind
        if kind == "said":
            return
        if kind == "sync folder":
            folder = self._find(event.path)
            assert isinstance(folder, Folder)
            folder.sync()
            return
        parent, name = self._parent(event.path)
        if kind in ("make", "mkdir"):
            if name not in parent.now():
                parent.pending.append({name: File() if kind == "make" else Folder()})
            return
        if kind == "remove":
            parent.pending.append({name: None})
            return
        if kind == "rename":
            to, new = self._parent(event.to)
            assert to is parent, "names move within their folder"
            parent.pending.append({name: None, new: parent.now()[name]})
            return
        file = parent.now()[name]
        assert isinstance(file, File)
        if kind == "sync":
            file.sync()
        elif kind == "durable":
            put(file.durable, event.offset, event.data)
        else:
            assert kind in ("write", "length"), kind
            file.pending.append(event)

    def killed(self, to: Path) -> None:
        """Write what a kill leaves into a new folder."""
        _write(self.root, to, random.Random(0), 1.0)

    def cut(self, to: Path, rng: random.Random) -> None:
        """Write what a power cut may leave into a new folder."""
        _write(self.root, to, rng, None)

    def _find(self, path: str) -> File | Folder:
        node: File | Folder = self.root
        for part in Path(path).parts:
            assert isinstance(node, Folder), path
            node = node.now()[part]
        return node

    def _parent(self, path: str) -> tuple[Folder, str]:
        folder = self._find(str(Path(path).parent))
        assert isinstance(folder, Folder), path
        return folder, Path(path).name


def _write(folder: Folder, to: Path, rng: random.Random, share: float | None) -> None:
    to.mkdir()
    # Of the changes that are under way the first ones are there: a journal keeps their order.
    kept = len(folder.pending) if share is not None else rng.randint(0, len(folder.pending))
    for name, node in folder.names(kept).items():
        if isinstance(node, Folder):
            _write(node, to / name, rng, share)
        else:
            (to / name).write_bytes(node.cut(rng) if share is None else node.image(rng, share))


def put(image: bytearray, offset: int, data: bytes) -> None:
    """Write into bytes that grow as a file does."""
    image.extend(bytes(max(0, offset - len(image))))
    image[offset : offset + len(data)] = data


def _resize(image: bytearray, length: int) -> None:
    del image[length:]
    image.extend(bytes(length - len(image)))
