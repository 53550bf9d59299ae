"""The members of a group as worker and node say them to each other, and as callers see them.

Decides nothing: who is a member is a function of the group's log (`engine.paxos.system`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from paxmux.engine.address import node_text

AS_FOUNDED = -1
"""The version of a membership that no operation has changed."""


class Member(NamedTuple):
    """A voter of a group: a node in its seat."""

    node_id: int
    seat: int
    address: str
    """`host:port`; empty where no operation has told it, and the options have none."""

    @property
    def name(self) -> str:
        """The node as people read it."""
        return node_text(self.node_id)


Seats = Mapping[int, tuple[int, str]]
"""Node id -> (seat, address)."""


class Membership(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The members of one group, by one version; or what they are to become."""

    cluster: int
    version: int
    """The instance that decided them, or `AS_FOUNDED`. Of a change: what it is to be applied to."""
    members: dict[int, tuple[int, str]]
    """Node id -> (seat, address)."""
    silent_ms: dict[int, int] = {}
    """Node id -> for how long the worker has heard nothing from it in this seat; of this node 0."""


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Membership).decode
