"""What identifies a cluster: a hash of who founded it, in which seats, with how many groups.

Two clusters that differ in any of these have different ids, so frames of one never count in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from paxmux.shards.boot import Founding

_U64_MAX = 2**64 - 1


def is_u64(number: int) -> bool:
    """Whether a node id, seat or incarnation is one: 1 .. 2^64-1, as 0 means "none" on the wire."""
    return 1 <= number <= _U64_MAX


def cluster_id(seats: Mapping[int, int], groups: int) -> int:
    """The 64-bit id of the cluster founded by these nodes in these seats; never 0, which means "none"."""
    text = ",".join(f"{node}:{seat}" for node, seat in sorted(seats.items()))
    digest = blake2b(f"{groups};{text}".encode("ascii"), digest_size=8, person=b"paxmux.cluster").digest()
    return int.from_bytes(digest, "little") or 1


def make_founding(seats: Mapping[int, int], groups: int) -> Founding:
    """The founding by these nodes in these seats."""
    return Founding(cluster=cluster_id(seats, groups), seats=dict(sorted(seats.items())))


def is_sound(founding: Founding, groups: int) -> bool:
    """Whether a founding that was read or received can be one: ids in range, and the hash agrees."""
    return (
        bool(founding.seats)
        and all(is_u64(node) and is_u64(seat) for node, seat in founding.seats.items())
        and founding.cluster == cluster_id(founding.seats, groups)
    )
