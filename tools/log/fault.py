"""How it is said that records contradict each other, and how ballots and chains are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paxmux.engine.address import node_text
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.value import FIRST, Chain
from paxmux.plugins.storage.record import OFFSET_BITS, OFFSET_MASK


class Fault(NamedTuple):
    """Records that are intact and contradict each other, or the protocol."""

    group: int
    instance: int
    at: int
    """Position of the record that shows it."""
    words: str

    def text(self) -> str:
        """In one line."""
        place = f"segment {self.at >> OFFSET_BITS}, offset {self.at & OFFSET_MASK}"
        return f"group {self.group}, instance {self.instance}: {self.words} ({place})"


def ballot_text(ballot: Sequence[int]) -> str:
    """`round@node`; `-` for none."""
    round_, node = ballot
    return f"{round_}@{node_text(node)}" if (round_, node) != NULL else "-"


def chain_text(chain: Chain) -> str:
    """A checksum or chain as eight hexadecimal digits; `-` for one that no value has."""
    return f"{int.from_bytes(chain, 'little'):08x}" if len(chain) == len(FIRST) else "-"
