"""The reading end of `paxmux bench ring`: a process that takes messages and forgets them.

`python -m paxmux.tools.part_ring_sink RING OWN_BELL PRODUCERS_BELL`, all descriptors. It sleeps as a worker
does, and ends with the tool.
"""

from __future__ import annotations

import sys

from paxmux.shards.channel import Receiver
from paxmux.shards.doorbell import Doorbell
from paxmux.tools.driven_node import die_with_parent
from paxmux.tools.part_rig import rest

LOOK_S = 1.0


def main() -> None:
    """Entry of the process; it is killed in the end."""
    die_with_parent()
    ring, own, producers = map(int, sys.argv[1:])
    bell = Doorbell(own)
    inbox = Receiver(ring, Doorbell(producers))
    while True:
        if not inbox.receive():
            rest(bell, [inbox], LOOK_S)


if __name__ == "__main__":
    main()
