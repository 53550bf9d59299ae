"""One node of an exploration: the production group, and every step that it can take.

Carries the effects of a step out in the turn's order, over a disk that is two tuples. Each step has one
outcome for each point at which the process may die on the way: after what leaves before the sync, after
the sync, and not at all. It never chooses: that is the explorer's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import ACCEPT, LEARNED, PROMISE, Effects, Outbox, Record
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.messages import KINDS
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS, NEVER, Timers
from paxmux.engine.storage import EMPTY_STATE, HardState

NOW = 1_000_000 * MS
FAR = 1 << 62
"""A timer that is set, and fires only where the exploration says so."""
SHARED = frozenset({"rng", "members", "timers", "bounds", "peers"})
"""Parts of a group that never change."""
PREPARES_KIND = KINDS.index("prepares")
LEARNED_KIND = KINDS.index("learned")

Message = tuple[int, int, int, tuple[Any, ...]]
"""(sender, destination, index in KINDS, fields)"""


class Bounds(NamedTuple):
    """How large the world is that is explored."""

    proposals: tuple[int, ...] = (1, 1, 0)
    """For each node, how many values it proposes at most."""
    rounds: int = 2
    """No ballot has a higher round: what would need one is not followed."""
    bids: int = 2
    """So many ballots are prepared, by all nodes together."""
    crashes: int = 0
    mortal: tuple[int, ...] = (1, 2, 3)
    """Nodes that may die."""
    whole: bool = False
    """Whether the node dies, and comes back with another incarnation; else its worker, under the same one."""
    catch_up: bool = False
    """Whether positions and questions travel, and with them decided values."""
    forward: bool = False
    reads: tuple[int, ...] = (0, 0, 0)
    """For each node, how many linearizable reads it begins at most."""
    completers: tuple[int, ...] = (1, 2, 3)
    """Nodes that complete what others have left."""


class Breach(AssertionError):
    """What must never happen has happened; the message tells what."""


class Disk(NamedTuple):
    """What survives a crash: the hard state, and the last value of each instance."""

    state: HardState = EMPTY_STATE
    values: tuple[tuple[int, int, bytes], ...] = ()
    """By instance: (round, node, value)."""

    def after(self, records: Sequence[Record]) -> Disk:
        """With `records` written and synced, by the words of `engine.storage`."""
        (instance, promised, accepted, value), stored = self.state[:4], list(self.values)
        for kind, _, at, round, node, data in records:
            voted = kind in (PROMISE, ACCEPT)
            if voted:
                promised = max(promised, (round, node))
            current = at if voted else at + 1
            if current > instance:
                instance, accepted, value = current, NULL, b""
            if kind == ACCEPT and at == instance:
                accepted, value = (round, node), data
            if kind in (ACCEPT, LEARNED):
                stored[at:] = [(round, node, data), *stored[at + 1 :]]
        return Disk(HardState(instance, promised, accepted, value), tuple(stored))


class First(random.Random):
    """No chance: how long a pause is does not matter where timers fire at any moment. What must differ from
    life to life does; what nobody has thought about is an error."""

    def __init__(self, me: int, life: int) -> None:
        super().__init__(0)
        self._life = (100 * me + life) << 20

    def getrandbits(self, k: int) -> int:
        return self._life

    def randint(self, a: int, b: int) -> int:
        return a

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def random(self) -> float:
        raise NotImplementedError("chance in an exploration")


class Node(NamedTuple):
    """One node between two steps. The group and the effects are never changed in place."""

    me: int
    group: Group
    fx: Effects
    """What the last step left for the next sync."""
    disk: Disk
    life: int
    left: int
    """Values that it may still propose."""
    reads: int

    def key(self) -> Any:
        """All that its further life depends on."""
        return (
            self.me,
            self.life,
            self.left,
            self.reads,
            self.disk,
            frozen(self.group, self.group),
            frozen(self.fx, self.group),
        )


class Outcome(NamedTuple):
    """What a step did to its node, and to the others."""

    node: Node
    sent: list[Message]
    decided: list[tuple[int, bytes]]
    """(instance, value), in order."""
    readable: list[int]
    """Instances up to which a read's answer is to show everything."""
    died: bool

    @property
    def bids(self) -> int:
        """Ballots that it began to prepare: a Prepare goes to both others."""
        return sum(message[2] == PREPARES_KIND for message in self.sent) // 2


def twin(item: Any, done: dict[int, Any]) -> Any:
    """A copy that shares nothing that changes."""
    kind = type(item)
    if kind is list:
        return [twin(part, done) for part in item]
    if kind is dict:
        return {key: twin(part, done) for key, part in item.items()}
    if kind is set:
        return set(item)
    if isinstance(item, (int, bytes, tuple, Members, type(None), random.Random)):
        return item
    if id(item) not in done:
        made = done[id(item)] = object.__new__(kind)
        for name in kind.__slots__:
            part = getattr(item, name)
            setattr(made, name, part if name in SHARED else twin(part, done))
    return done[id(item)]


def frozen(item: Any, group: Group) -> Any:
    """The same as something that can be compared; unknown things are errors, never left out."""
    kind = type(item)
    if kind in (int, bytes, bool) or item is None or isinstance(item, (int, Members)):
        return item
    if kind is str:
        return item
    if isinstance(item, (list, tuple)):
        return tuple([frozen(part, group) for part in item])
    if kind is dict:
        return tuple([(key, frozen(part, group)) for key, part in item.items()])
    if kind is set:
        return tuple(sorted(item))
    if not hasattr(kind, "__slots__"):
        raise TypeError(f"{kind.__name__}: what of it matters?")
    names = [name for name in kind.__slots__ if name not in SHARED and name != "g"]
    if kind is Group:
        if item is not group:
            raise TypeError("another node's group")
        # The group itself once: elsewhere it is only referred to.
        return tuple([frozen(getattr(item, name), group) for name in names])
    return tuple([0 if part is group else _part(part, group) for part in (getattr(item, n) for n in names)])


def _part(part: Any, group: Group) -> Any:
    if type(part) is list and part and part[0] is group:
        return len(part)
    return frozen(part, group)


def on_prepare_reply(group: Group, sender: int, fields: tuple[Any, ...], fx: Effects) -> None:
    _, instance, round, rejected_by, accepted_round, node, value = fields
    group.proposer.on_prepare_reply(
        sender, instance, round, rejected_by, (accepted_round, node), value, NOW, fx
    )


HANDLERS: dict[str, Callable[[Group, int, tuple[Any, ...], Effects], None]] = {
    "learned": lambda group, sender, it, fx: group.learner.on_learned(it[1], it[2], it[3], it[4], NOW, fx),
    "chosen": lambda group, sender, it, fx: group.on_chosen(sender, it[1], it[2], NOW, fx),
    "prepares": lambda group, sender, it, fx: group.on_prepare(sender, it, NOW, fx),
    "prepare_replies": on_prepare_reply,
    "accepts": lambda group, sender, it, fx: group.on_accept(sender, it, NOW, fx),
    "accept_replies": lambda group, sender, it, fx: group.proposer.on_accept_reply(
        sender, it[1], it[2], (it[3], it[4]), NOW, fx
    ),
    "positions": lambda group, sender, it, fx: group.learner.on_position(
        sender, it[1], it[2].to_bytes(4, "little"), NOW, fx
    ),
    "asks": lambda group, sender, it, fx: group.learner.on_ask(sender, it[1], NOW, fx),
    "top_asks": lambda group, sender, it, fx: group.on_top_ask(sender, it[1], fx),
    "top_replies": lambda group, sender, it, fx: group.reader.on_top_reply(
        sender, it[1], it[2], it[3], NOW, fx
    ),
    "forwards": lambda group, sender, it, fx: group.forwarder.on_forward(sender, it[1], it[2], NOW, fx),
    "forward_refusals": lambda group, sender, it, fx: group.forwarder.on_refusal(
        sender, (it[2], it[3]), NOW, fx
    ),
    "chain_asks": lambda group, sender, it, fx: group.inquiry.on_ask(
        sender, it[1], it[2].to_bytes(4, "little"), NOW, fx
    ),
    "chain_replies": lambda group, sender, it, fx: group.inquiry.on_reply(
        sender, it[1], it[2].to_bytes(4, "little"), NOW, fx
    ),
    "vow_asks": lambda group, sender, it, fx: group.doubt.on_ask(sender, it[1], fx),
    "vow_replies": lambda group, sender, it, fx: group.doubt.on_reply(
        sender, it[1], (it[2], it[3]), it[4], NOW, fx
    ),
    "mend_asks": lambda group, sender, it, fx: group.learner.on_mend_ask(sender, it[1], it[2], fx),
    "recall_asks": lambda group, sender, it, fx: group.recall.on_ask(sender, fx),
    "recall_replies": lambda group, sender, it, fx: group.recall.on_reply(
        sender, group.members.seats[sender], it[1], it[2], NOW, fx
    ),
    "inner_forwards": lambda group, sender, it, fx: group.inner.on_forward(sender, it[1], fx),
}
"""As the turn hands them on; the seats are right."""


class Steps:
    """Everything that a node can do, by the production code."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.members = Members({1: 11, 2: 12, 3: 13})
        self.timers = Timers(forward=200 * MS if bounds.forward else 0)
        quiet = () if bounds.catch_up else ("positions", "asks")
        self._kinds = [(index, kind) for index, kind in enumerate(KINDS) if kind not in quiet]

    def newborn(self, me: int) -> Node:
        """A node that has never run."""
        bounds = self.bounds
        group = self._group(me, Disk(), 1)
        return Node(me, group, Effects(), Disk(), 1, bounds.proposals[me - 1], bounds.reads[me - 1])

    def choices(self, node: Node) -> Iterator[str]:
        """What may happen to it beside a message."""
        group = node.group
        if node.left:
            yield "propose"
        if node.reads and not group.reader.waiting and not group.reader.rounds:
            yield "read"
        if node.fx.records or node.fx.after:
            yield "go on"
        if group.proposer.phase:
            yield "phase times out"
        elif group.acceptor.accepted != NULL and node.me in self.bounds.completers:
            yield "leftover is found"
        if group.proposer.backoff_until:
            yield "pause ends"
        if group.forwarder.resend_at != NEVER:
            yield "forward times out"
        if any(round.complete_at != NEVER for round in group.reader.rounds.values()):
            yield "read waits too long"
        if self._may_die(node):
            yield "die"

    def choose(self, node: Node, what: str) -> list[Outcome]:
        """The outcomes of one of those."""
        if what == "die":
            return [self._restarted(node, node.disk, [])]
        if what == "propose":
            seq = 1 + self.bounds.proposals[node.me - 1] - node.left
            payload = b"%d.%d" % (node.me, seq)
            node = node._replace(left=node.left - 1)
            return self._turn(node, lambda group, fx: group.propose(seq, NEVER, 1, payload, None, fx))
        if what == "read":
            node = node._replace(reads=node.reads - 1)
            return self._turn(node, lambda group, fx: group.reader.join(1 << 20, NEVER, fx))
        return self._turn(node, lambda group, fx: _pass_time(group, fx, what))

    def hear(self, node: Node, message: Message) -> list[Outcome]:
        """The outcomes of a message's arrival."""
        sender, _, kind, fields = message
        handle = HANDLERS[KINDS[kind]]
        return self._turn(node, lambda group, fx: handle(group, sender, fields, fx))

    def _turn(self, node: Node, feed: Callable[[Group, Effects], None]) -> list[Outcome]:
        """`shards.turn.Turn.run`, with every death on the way."""
        done: dict[int, Any] = {}
        group: Group = twin(node.group, done)
        fx: Effects = twin(node.fx, done)
        me, before, mortal = node.me, node.disk, self._may_die(node)
        feed(group, fx)
        _open_ready(fx)
        outcomes: list[Outcome] = []
        sent = self._leave(me, fx.now)
        if mortal and sent and fx.records:
            outcomes.append(self._restarted(node, before, sent))
        disk = before.after(fx.records)
        if disk.state.promised < before.state.promised:
            raise Breach(f"node {me}: the durable promise went backwards")
        if mortal and disk != before:
            outcomes.append(self._restarted(node, disk, sent))
        done_fx, fx = fx, Effects()
        for it in dict.fromkeys(done_fx.synced):
            it.proposer.on_synced(NOW, fx)
        decided = done_fx.decided + fx.decided
        readable = [target for _, target, _ in done_fx.readable + fx.readable]
        _open_ready(fx)
        sent = sent + self._leave(me, done_fx.after) + self._leave(me, fx.now)
        for peer, _, first in done_fx.serve:
            found = enumerate(disk.values[first : group.instance], first)
            sent += [(me, peer, LEARNED_KIND, (0, at, *stored)) for at, stored in found]
        if done_fx.suspects or fx.suspects or group.inquiry.fenced is not None:
            raise Breach(f"node {me}: two histories have met")
        executed: list[tuple[int, bytes]] = []
        for _, instance, entries, _ in decided:
            value = disk.values[instance][2]
            if values.decode(value) != entries:
                raise Breach(f"node {me}: instance {instance} is executed with what its log does not say")
            executed.append((instance, value))
        if any(target >= group.instance for target in readable):
            raise Breach(f"node {me}: a read is answered before its instance is decided here")
        # All of it was carried out above; what remains waits for the next sync.
        fx.now, fx.decided, fx.readable = Outbox(), [], []
        fx.timers, fx.eager = [], False
        fx.prepares = fx.rejects = fx.resends = 0
        _still(group)
        node = node._replace(group=group, fx=fx, disk=disk)
        outcomes.append(Outcome(node, sent, executed, readable, False))
        return [outcome for outcome in outcomes if outcome.node.group.proposer.round <= self.bounds.rounds]

    def _may_die(self, node: Node) -> bool:
        return node.me in self.bounds.mortal and node.life <= self.bounds.crashes

    def _restarted(self, node: Node, disk: Disk, sent: list[Message]) -> Outcome:
        """It died, and its next process has begun."""
        fx = Effects()
        group = self._group(node.me, disk, node.life + 1)
        group.start(NOW, fx)
        _still(group)
        node = node._replace(group=group, fx=Effects(), disk=disk, life=node.life + 1)
        return Outcome(node, sent + self._leave(node.me, fx.now), [], [], True)

    def _group(self, me: int, disk: Disk, life: int) -> Group:
        state = disk.state
        chain = values.chain_after(disk.values[state.instance - 1][2]) if state.instance else values.FIRST
        group = Group(
            0,
            me=me,
            seat=10 + me,
            incarnation=100 * me + (life if self.bounds.whole else 1),
            members=self.members,
            rng=First(me, life),
            now=NOW,
            instance=state.instance,
            promised=state.promised,
            accepted=state.accepted,
            value=state.value,
            chain=chain,
            timers=self.timers,
        )
        _still(group)
        return group

    def _leave(self, me: int, box: Outbox) -> list[Message]:
        sent: list[Message] = []
        if box:
            for node in self.members.seats:
                if node != me:
                    for batch in (box.all, box.to.get(node)):
                        for index, kind in self._kinds if batch else ():
                            sent += [(me, node, index, fields) for fields in getattr(batch, kind)]
        return sent


def _pass_time(group: Group, fx: Effects, what: str) -> None:
    """One timer is due; the others are not."""
    if what == "go on":
        return
    if what == "phase times out":
        group.proposer.phase_until = NOW
    elif what == "pause ends":
        group.proposer.backoff_until = NOW
    elif what == "leftover is found":
        group.learner.leftover_at = NOW
    elif what == "forward times out":
        group.forwarder.until = group.forwarder.resend_at = NOW
    elif what == "read waits too long":
        for round in group.reader.rounds.values():
            if round.complete_at != NEVER:
                round.complete_at = NOW
    group.on_timer(NOW, fx)


def _open_ready(fx: Effects) -> None:
    while fx.ready:
        ready, fx.ready = fx.ready, []
        for group in dict.fromkeys(ready):
            group.open(NOW, fx)


def _still(group: Group) -> None:
    """Forget when things are due, since any timer may fire at any time, and what is not read again."""
    proposer, learner, forwarder = group.proposer, group.learner, group.forwarder
    proposer.phase_until = proposer.resend_at = FAR
    proposer.phase_timeout = proposer.resend_after = proposer.losses = 0
    proposer.time_outs = proposer.timeout_least = 0
    proposer.backoff_until = FAR if proposer.backoff_until > NOW else 0
    if not proposer.phase:
        proposer.votes, proposer.rejects = set(), set()
        proposer.value = proposer.best_value = b""
        proposer.best = NULL
    learner.asked_from = learner.asked_peer = -1
    learner.ask_again_at = learner.leftover_after = 0
    learner.position_at = learner.leftover_at = NEVER
    learner.ask_first = False
    group.due = group.expire_at = group.reader.expire_at = NEVER
    group.others_at = 0
    forwarder.patience = forwarder.resend_after = forwarder.sent_at = 0
    forwarder.until = FAR if forwarder.until > NOW else 0
    forwarder.resend_at = FAR if forwarder.resend_at != NEVER else NEVER
    for round in group.reader.rounds.values():
        round.resend_at, round.resend_after = FAR, 0
        round.asked_at = round.complete_after = 0
        round.complete_at = FAR if round.complete_at != NEVER else NEVER
