"""What a turn tells those who wait for what will not come, and what it says of it in the log of the node."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from paxmux.engine.errors import Code
from paxmux.engine.paxos.effects import Effects
from paxmux.shards.calls import Calls
from paxmux.shards.member_calls import TOO_LATE

_log: Final = logging.getLogger("paxmux")


def given_up(fx: Effects, calls: Calls) -> Iterator[tuple[int, int, str]]:
    """(seq, code, words) of each; they are no longer in `fx` afterwards, and reads not in `calls`."""
    for seq in fx.conflicts:
        yield seq, Code.CONFLICT, "other values were decided in as many instances as were allowed"
    for seq in fx.expired:
        if calls.drop_read(seq):
            words = "deadline passed before a majority answered and what it told was decided here"
        elif calls.members.drop(seq):
            words = TOO_LATE
        else:
            words = "deadline passed before the value was known to be decided"
        yield seq, Code.TIMEOUT, words
    for group in fx.fenced:
        _log.error("group %d is fenced on this node: %s", group.index, group.inquiry.fenced)
    for seq in fx.abandoned:
        if not calls.drop_read(seq):
            calls.members.drop(seq)
        yield seq, Code.TIMEOUT, "this replica of the group was fenced; its status says why"
    for seq in fx.unseated:
        yield (
            seq,
            Code.TIMEOUT,
            "this node is no member of the group any more; the value may be decided or not",
        )
    fx.conflicts, fx.expired, fx.fenced, fx.abandoned, fx.unseated = [], [], [], [], []
