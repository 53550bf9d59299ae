"""What a format has to say about itself to have golden bytes, and how bytes are cut into named fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Fields = list[tuple[str, bytes]]
"""(name, bytes) of each field; joined they are the bytes of a case."""


class Format(NamedTuple):
    """One format with a version of its own, or one that shares the version of another."""

    name: str
    about: str
    version_in: str
    """Where the version is raised: `NAME in FILE`."""
    version: Callable[[], int]
    encode: Callable[[Path], dict[str, Fields]]
    """Every case, encoded by production code from fixed inputs; the folder is empty and may be used."""
    decode: Callable[[Mapping[str, bytes], Path], dict[str, Any]]
    """What production code makes of the bytes of every case; it may raise what a reader raises."""
    inputs: Mapping[str, Any]
    """What `decode` must give for each case."""


def cut(data: bytes, layout: Iterable[tuple[str, int]], rest: str = "") -> Fields:
    """Split bytes by (name, size); what is left goes under `rest`, which may be left out if nothing is."""
    fields: Fields = []
    at = 0
    for name, size in layout:
        fields.append((name, data[at : at + size]))
        at += size
    if at > len(data):
        raise ValueError(f"{len(data)} bytes, the layout has {at}")
    if rest:
        fields.append((rest, data[at:]))
    elif at < len(data):
        raise ValueError(f"{len(data)} bytes, the layout has only {at}")
    return [field for field in fields if field[1]]


def joined(fields: Fields) -> bytes:
    """The bytes of a case."""
    return b"".join(data for _, data in fields)
