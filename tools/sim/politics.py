"""Which seeds have changes of the members, and which have masters; drawn apart from everything else.

So a seed without them means the run that it would mean if there were none at all. Of any five seeds that
follow each other one has changes, one leases, and one both.
"""

from __future__ import annotations

import random
from typing import Final

_SALT: Final = 0x706F6C6974696373
NODES_LEAST: Final = 3
"""Of a cluster that has changes."""
LATENCIES: Final = 40
"""A lease is no shorter than so many times what the slowest frame takes."""
DRIFT_PPM: Final = 200_000
"""Between clocks of which one goes a tenth too fast and the other a tenth too slow."""
SMALL_DRIFT_PPM: Final = 1000


class Politics:
    """Of one seed."""

    def __init__(self, seed: int, changes: bool | None, leases: bool | None) -> None:
        """`changes`, `leases`: whether there are any, if not as the seed has it."""
        rng = random.Random(seed ^ _SALT)
        self._least, self._share = rng.choice((1, 2, 3, 3)), rng.random()
        self.changes = rng.choice((0.05, 0.1, 0.2))
        """Chance of one with each round of the load; 0: there are none."""
        self._lease_ms = rng.choice((600, 1000, 3000))
        self.drops = rng.choice((0.0, 0.02, 0.1))
        """Chance, with each round of the load, that a master gives its lease back."""
        if not (changes if changes is not None else seed % 5 in (2, 4)):
            self.changes = 0.0
        if not (leases if leases is not None else seed % 5 in (3, 4)):
            self._lease_ms = 0
            self.drops = 0.0

    def nodes(self, drawn: int) -> int:
        """How many there are, of which some may never be members."""
        return max(drawn, NODES_LEAST) if self.changes else drawn

    def founders(self, nodes: int) -> int:
        """How many of them are the members at first."""
        if not self.changes or nodes <= self._least:
            return nodes
        return self._least + int(self._share * (nodes - self._least + 1))

    def lease_ms(self, latency_us: int) -> int:
        """Of masters, where the slowest frame takes so long; 0: there are none."""
        return self._lease_ms and max(self._lease_ms, LATENCIES * latency_us // 1000)
