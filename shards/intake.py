"""What comes from peers: frames taken apart, and their messages handed to the groups that they are for.

Decides which messages a group hears: votes, bids and what belongs to them of whoever sits in the seat that
its members name; of anybody else what is a hint, a question or a proof: positions, questions and decided
values. So who has lost its seat, or has none yet, can learn and be learned from. It answers nobody itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from paxmux.engine.frame import parse_header
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.messages import Body
from paxmux.shards.codec import BodyError, decode_sections
from paxmux.shards.rare_messages import take_rare
from paxmux.shards.repairs import Repairs


class Intake:
    """Of one worker."""

    __slots__ = ("_groups", "_repairs", "bad_frames", "heard", "learned", "messages")

    def __init__(self, groups: dict[int, Group], repairs: Repairs) -> None:
        """`groups`: that are hosted here; they may change."""
        self._groups = groups
        self._repairs = repairs
        self.messages = 0
        self.learned = 0
        self.bad_frames = 0
        self.heard: dict[tuple[int, int], int] = {}
        """When, in ns, each (node, seat) that is a member of a group was last heard; of no others."""

    def expect(self, seats: Iterable[tuple[int, int]], now: int) -> None:
        """These are the members' seats from now on. One that was none before counts as heard now."""
        known = self.heard.copy()
        self.heard.clear()
        for each in seats:
            self.heard[each] = known.get(each, now)

    def frame(self, frame: bytes, now: int, fx: Effects) -> None:
        """Hand on what a frame brought whose header the router has checked. No body: counted and dropped."""
        header = parse_header(frame)
        if (header.sender, header.seat) in self.heard:
            self.heard[header.sender, header.seat] = now
        try:
            bodies = decode_sections(frame, header.start)
        except BodyError:
            self.bad_frames += 1
            return
        for body in bodies:
            self._body(header.sender, header.seat, body, now, fx)

    def _body(self, sender: int, seat: int, body: Body, now: int, fx: Effects) -> None:
        groups = self._groups
        learned, chosen, prepares, promises, accepts, accepteds, positions, asks, *rest = body
        self.messages += len(chosen) + len(prepares) + len(promises) + len(accepts) + len(accepteds)
        for index, instance, round, node, value in learned:
            group = groups.get(index)
            if group is not None:
                if instance < group.instance:
                    self._repairs.on_learned(index, instance, round, node, value, now, fx)
                else:
                    group.learner.on_learned(instance, round, node, value, now, fx)
                self.learned += 1
        for index, instance, round in chosen:
            group = groups.get(index)
            if group is None:
                continue
            if group.members.seats.get(sender) == seat:
                group.on_chosen(sender, instance, round, now, fx)
            else:
                group.on_stranger(sender, instance, now, fx)
        for prepare in prepares:
            group = groups.get(prepare[0])
            if group is None:
                continue
            if group.members.seats.get(sender) == seat:
                group.on_prepare(sender, prepare, now, fx)
            else:
                group.on_stranger(sender, prepare[1], now, fx)
        for index, instance, round, rejected_by, accepted_round, accepted_node, value in promises:
            group = groups.get(index)
            if group is not None and group.members.seats.get(sender) == seat:
                group.proposer.on_prepare_reply(
                    sender, instance, round, rejected_by, (accepted_round, accepted_node), value, now, fx
                )
        for accept in accepts:
            group = groups.get(accept[0])
            if group is None:
                continue
            if group.members.seats.get(sender) == seat:
                group.on_accept(sender, accept, now, fx)
            else:
                group.on_stranger(sender, accept[1], now, fx)
        for index, instance, round, rejected_by, node in accepteds:
            group = groups.get(index)
            if group is not None and group.members.seats.get(sender) == seat:
                promised = (rejected_by, node) if rejected_by else NULL
                group.proposer.on_accept_reply(sender, instance, round, promised, now, fx)
        for index, instance, chain in positions:
            group = groups.get(index)
            if group is not None:
                group.learner.sits(sender, seat)
                group.learner.on_position(sender, instance, chain.to_bytes(4, "little"), now, fx)
        for index, instance in asks:
            group = groups.get(index)
            if group is not None:
                group.learner.sits(sender, seat)
                group.learner.on_ask(sender, instance, now, fx)
        for kind in rest:
            if kind:
                take_rare(groups, sender, seat, rest, now, fx)
                break
