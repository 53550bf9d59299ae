"""The messages of the protocol: plain tuples, kept in one list per kind.

A worker handles 100,000 of them a second, and a tuple display costs a quarter of a named tuple, so
the field names live here, in the type aliases, and in the signatures of the handlers.

The sender is not part of a message: the frame that carries it names node and seat, both checked
before any handler runs. The node of a Prepare's, Accept's or Chosen's ballot *is* the sender.
Groups are indices, rounds and instances are unsigned 64-bit integers.
"""

from __future__ import annotations

from typing import Final

Prepare = tuple[int, int, int]
"""(group, instance, round)"""

PrepareReply = tuple[int, int, int, int, int, int, bytes]
"""(group, instance, round, rejected_by, ballot_round, ballot_node, value)

A promise has `rejected_by` 0, and the ballot and value that were accepted, if any. A rejection has the
round of the higher promise there, and that promise as its ballot."""

Accept = tuple[int, int, int, bytes]
"""(group, instance, round, value)"""

AcceptReply = tuple[int, int, int, int, int]
"""(group, instance, round, rejected_by, node): `rejected_by` and `node` are the higher promise; both 0 if
the value was accepted."""

Chosen = tuple[int, int, int]
"""(group, instance, round): the value accepted under (round, sender) is decided."""

Position = tuple[int, int, int]
"""(group, instance, chain): the sender's current instance, and the chain of what it has decided below.
A hint to ask, never a proof."""

Ask = tuple[int, int]
"""(group, instance): send me decided values from here on."""

Learned = tuple[int, int, int, int, bytes]
"""(group, instance, round, node, value): a decided value."""

TopAsk = tuple[int, int]
"""(group, read): which is the highest instance you may have voted in?"""

TopReply = tuple[int, int, int, int]
"""(group, read, top, members_from): the answer, under the membership valid from `members_from`."""
Forward = tuple[int, int, bytes]
"""(group, born, batch): proposals of the sender for whoever holds the ballot, encoded as a value. None of
them is decided in an instance below `born`."""

ForwardRefusal = tuple[int, int, int, int]
"""(group, instance, round, node): the sender does not hold the ballot; this is the highest that it knows."""

ChainAsk = tuple[int, int, int]
"""(group, instance, chain): that is the sender's chain below this instance; what is yours?"""

ChainReply = tuple[int, int, int]
"""(group, instance, chain)"""

VowAsk = tuple[int, int]
"""(group, nonce): the sender may have forgotten promises; what have you promised, and voted in?"""

VowReply = tuple[int, int, int, int, int]
"""(group, nonce, round, node, free): what the sender has promised, and the first instance without a vote of
its own."""

MendAsk = tuple[int, int, int]
"""(group, first, count): the sender's log has lost the values of these decided instances; send them."""

InnerForward = tuple[int, bytes]
"""(group, batch): operations of inner state machines, of the sender, for whoever holds the ballot."""

RecallAsk = tuple[int]
"""(group): the sender's log has lost who the members are, and whose reign it is."""

RecallReply = tuple[int, int, bytes]
"""(group, instance, state): what they are at the sender, from `instance` on."""

KINDS: Final = (
    "learned",
    "chosen",
    "prepares",
    "prepare_replies",
    "accepts",
    "accept_replies",
    "positions",
    "asks",
    "top_asks",
    "top_replies",
    "forwards",
    "forward_refusals",
    "chain_asks",
    "chain_replies",
    "vow_asks",
    "vow_replies",
    "mend_asks",
    "inner_forwards",
    "recall_asks",
    "recall_replies",
)
"""Order in a frame, and the order in which a receiver handles them: what decides comes first, so
that an Accept for the next instance finds the group already there."""

Body = tuple[
    list[Learned],
    list[Chosen],
    list[Prepare],
    list[PrepareReply],
    list[Accept],
    list[AcceptReply],
    list[Position],
    list[Ask],
    list[TopAsk],
    list[TopReply],
    list[Forward],
    list[ForwardRefusal],
    list[ChainAsk],
    list[ChainReply],
    list[VowAsk],
    list[VowReply],
    list[MendAsk],
    list[InnerForward],
    list[RecallAsk],
    list[RecallReply],
]
"""One batch of messages as it travels: the lists in the order of `KINDS`."""


class Batch:
    """Messages for one destination, by kind."""

    __slots__ = KINDS

    def __init__(self) -> None:
        self.learned: list[Learned] = []
        self.chosen: list[Chosen] = []
        self.prepares: list[Prepare] = []
        self.prepare_replies: list[PrepareReply] = []
        self.accepts: list[Accept] = []
        self.accept_replies: list[AcceptReply] = []
        self.positions: list[Position] = []
        self.asks: list[Ask] = []
        self.top_asks: list[TopAsk] = []
        self.top_replies: list[TopReply] = []
        self.forwards: list[Forward] = []
        self.forward_refusals: list[ForwardRefusal] = []
        self.chain_asks: list[ChainAsk] = []
        self.chain_replies: list[ChainReply] = []
        self.vow_asks: list[VowAsk] = []
        self.vow_replies: list[VowReply] = []
        self.mend_asks: list[MendAsk] = []
        self.inner_forwards: list[InnerForward] = []
        self.recall_asks: list[RecallAsk] = []
        self.recall_replies: list[RecallReply] = []

    def body(self) -> Body:
        """The lists, in wire order; not copied."""
        return (
            self.learned,
            self.chosen,
            self.prepares,
            self.prepare_replies,
            self.accepts,
            self.accept_replies,
            self.positions,
            self.asks,
            self.top_asks,
            self.top_replies,
            self.forwards,
            self.forward_refusals,
            self.chain_asks,
            self.chain_replies,
            self.vow_asks,
            self.vow_replies,
            self.mend_asks,
            self.inner_forwards,
            self.recall_asks,
            self.recall_replies,
        )

    def __bool__(self) -> bool:
        return any(self.body())
