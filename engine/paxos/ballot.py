"""Ballots: (round, node id), ordered as tuples are.

A node only ever makes ballots that carry its own id, and a message's ballot carries its sender's,
so two nodes can never use the same one. Rounds start at 1; (0, 0) is below every real ballot.
"""

from __future__ import annotations

from typing import Final

Ballot = tuple[int, int]

NULL: Final[Ballot] = (0, 0)

MAX_LEAP: Final = 1 << 32
"""A peer's round is believed up to this much above the highest round known here. One message can
thus never use up the number space: one with a larger round is dropped, and makes this much credible."""
