"""The kinds of message that most frames have none of: reads, forwards, inquiries, doubts, lost values.

Decides which of them a group hears: those of whoever sits in the seat that its members name, and from
anybody else only questions: how far decisions may have gone, and for decided values. Each costs as much as
any other; they are here so that a frame without them pays for one look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group


def take_rare(
    groups: Mapping[int, Group], sender: int, seat: int, rest: Sequence[Any], now: int, fx: Effects
) -> None:
    """Hand on what came from a peer.

    Args:
        groups: that are hosted here.
        sender: the peer's node id, authenticated.
        seat: that it speaks in.
        rest: the messages by kind, in the order of `messages.Body`, from `top_asks` on.
        now: in ns.
        fx: takes what follows from them.
    """
    top_asks, top_replies, forwards, refusals, chain_asks, chain_replies, *rarer = rest
    for index, read in top_asks:
        group = groups.get(index)
        if group is not None:
            group.on_top_ask(sender, read, fx)
    for index, read, top, since in top_replies:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.reader.on_top_reply(sender, read, top, since, now, fx)
    for index, born, batch in forwards:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.forwarder.on_forward(sender, born, batch, now, fx)
    for index, _instance, round, node in refusals:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.forwarder.on_refusal(sender, (round, node), now, fx)
    for index, instance, chain in chain_asks:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.inquiry.on_ask(sender, instance, chain.to_bytes(4, "little"), now, fx)
    for index, instance, chain in chain_replies:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.inquiry.on_reply(sender, instance, chain.to_bytes(4, "little"), now, fx)
    vow_asks, vow_replies, mend_asks, inner_forwards, recall_asks, recall_replies = rarer
    for index, nonce in vow_asks:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.doubt.on_ask(sender, nonce, fx)
    for index, nonce, round, node, free in vow_replies:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.doubt.on_reply(sender, nonce, (round, node), free, now, fx)
    for index, first, count in mend_asks:
        group = groups.get(index)
        if group is not None:
            group.learner.on_mend_ask(sender, first, count, fx)
    for index, batch in inner_forwards:
        group = groups.get(index)
        if group is not None and group.members.seats.get(sender) == seat:
            group.inner.on_forward(sender, batch, fx)
    for (index,) in recall_asks:
        group = groups.get(index)
        if group is not None:
            group.recall.on_ask(sender, fx)
    for index, instance, state in recall_replies:
        group = groups.get(index)
        if group is not None:
            group.recall.on_reply(sender, seat, instance, state, now, fx)
