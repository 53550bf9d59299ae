"""Who has said hello to this node, read from what its router says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Heard(NamedTuple):
    """A node, by its last hello."""

    node_id: int
    seat: int
    address: str
    """As it says itself; empty if it does not."""
    guest: bool
    """It is no member of any group, in this seat."""
    wants_seat: bool
    """It asks to be seated anew by itself (`rejoin: auto`)."""


def heard_of(status: Mapping[str, Any] | None) -> dict[int, Heard]:
    """By node id; a guest goes before a member, whose seat it would have. `status`: of the router."""
    if status is None:
        return {}
    found: dict[int, Heard] = {}
    for name, guest in (("peers", False), ("guests", True)):
        for heard in _read(status.get(name) or {}, guest):
            found[heard.node_id] = heard
    return found


def _read(rows: Mapping[str, Mapping[str, Any]], guest: bool) -> Iterator[Heard]:
    for node, row in rows.items():
        seat = row.get("seat")
        if seat is not None:
            wants = guest and bool(row.get("wants_seat"))
            yield Heard(int(node), int(seat, 16), row.get("address") or "", guest, wants)
