"""Who has said hello to this node, read from what its router says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Heard(NamedTuple):
    """A node, by its last hello."""

    node_id: int
    seat: int
    address: str
    """As it says itself."""
    rejoin: bool
    """It asks for the place of the seat that its node id had."""


def heard_of(status: Mapping[str, Any] | None) -> dict[int, Heard]:
    """By node id. `status`: of the router; None if it did not answer."""
    rows: Mapping[str, Mapping[str, Any]] = (status or {}).get("peers") or {}
    return {
        int(node): Heard(int(node), int(row["seat"], 16), row["announced"], row["rejoin"])
        for node, row in rows.items()
        if row["seat"] is not None
    }
