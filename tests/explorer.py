"""Every run of a tiny cluster: production groups under each order of messages, crashes and timers.

Nobody chooses what happens next: all of it is followed, breadth first, until there is no new state.
Messages stay in the network for ever, so each of them may be lost, late, repeated or overtaken. What a
node does depends on that node and one input, so it is computed once, by the real code, and looked up from
then on: that is what makes millions of states of the whole affordable.

Judged from outside: two values for one instance or for one ballot, a proposal decided twice, a read that
misses what was decided before it began; within a step: see `explorer_node`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.messages import KINDS
from tests.explorer_node import Bounds, Breach, Message, Node, Outcome, Steps

ACCEPTS = KINDS.index("accepts")
REPLIES = (KINDS.index("prepare_replies"), KINDS.index("accept_replies"))
OLD_KINDS = tuple(KINDS.index(kind) for kind in ("prepares", "accepts", "chosen", "learned"))

State = tuple[int, int, int, int, int, int, int, int]
"""(node 1, node 2, node 3, messages, decided, instances that a read must show, crashes, bids): the nodes
and what is decided as numbers in their tables, the messages as a bit set."""
Move = tuple[int, int, int, bool, int]
"""(node after, messages sent, event, died, bids)"""


class Found(NamedTuple):
    """What an exploration came to."""

    states: int
    moves: int
    """Steps from one state to another; what changes nothing, or goes beyond a bound, is none."""
    steps: int
    """Steps of single nodes that the production code computed."""
    decided: int
    """The most instances decided in any run."""
    reads: int
    """Answers to reads that were judged."""
    complete: bool
    """Every state within the bounds was reached."""


class Explorer:
    """One exploration."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.steps = Steps(bounds)
        self.computed = 0
        self._nodes: list[Node] = []
        self._numbers: dict[Any, int] = {}
        self._chosen: list[list[tuple[str, Move]] | None] = []
        """Node -> what it may do without a message, once that is computed."""
        self._heard: list[dict[int, list[Move]]] = []
        """Node -> message -> what becomes of it; without those that change nothing."""
        self._settled: list[int] = []
        """Node -> messages whose arrival has been computed."""
        self._matters: list[int] = []
        """Node -> messages whose arrival changes something."""
        self._dead: list[int] = []
        """Node -> messages for it that can never change anything again."""
        self._messages: list[Message] = []
        self._message_numbers: dict[Message, int] = {}
        self._for = [0, 0, 0]
        """Messages by destination."""
        self._rivals: list[int] = []
        """Message -> the Accepts of the same ballot and instance with another value."""
        self._events: list[tuple[tuple[tuple[int, bytes], ...], tuple[int, ...], bool]] = [((), (), False)]
        self._event_numbers = {self._events[0]: 0}
        self._decided: list[tuple[bytes, ...]] = [()]
        self._decided_numbers: dict[tuple[bytes, ...], int] = {(): 0}
        self.reads = 0

    # Tables

    def _node(self, node: Node) -> int:
        key = node.key()
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._nodes)
            self._nodes.append(node)
            self._heard.append({})
            self._settled.append(0)
            self._matters.append(0)
            self._dead.append(self._dead_for(node))
            self._chosen.append(None)
        return number

    def _choices(self, node: int) -> list[tuple[str, Move]]:
        """What a node may do without a message."""
        known = self._chosen[node]
        if known is None:
            known = []
            for what in self.steps.choices(self._nodes[node]):
                outcomes = self.steps.choose(self._nodes[node], what)
                self.computed += 1
                known += [(what, self._move(outcome, what == "read")) for outcome in outcomes]
            self._chosen[node] = known
        return known

    def _dead_for(self, node: Node) -> int:
        """Answers to rounds that it has left, and, where positions do not travel, messages of instances
        that its disk says are over: they change nothing, also after a crash."""
        dead = 0
        for number, (_, destination, kind, fields) in enumerate(self._messages):
            if destination == node.me and self._is_dead(node, kind, fields):
                dead |= 1 << number
        return dead

    def _is_dead(self, node: Node, kind: int, fields: tuple[Any, ...]) -> bool:
        if kind in REPLIES:
            return bool(fields[2] < node.group.proposer.round)
        return not self.bounds.catch_up and kind in OLD_KINDS and fields[1] < node.disk.state.instance

    def _message(self, message: Message) -> int:
        number = self._message_numbers.get(message)
        if number is None:
            number = self._message_numbers[message] = len(self._messages)
            self._messages.append(message)
            sender, destination, kind, fields = message
            self._for[destination - 1] |= 1 << number
            self._rivals.append(0)
            if kind == ACCEPTS:
                for other, (by, _, kind_too, them) in enumerate(self._messages):
                    if kind_too == ACCEPTS and by == sender and them[:3] == fields[:3] and them != fields:
                        self._rivals[number] |= 1 << other
                        self._rivals[other] |= 1 << number
            for place, node in enumerate(self._nodes):
                if node.me == destination and self._is_dead(node, kind, fields):
                    self._dead[place] |= 1 << number
        return number

    def _move(self, outcome: Outcome, asked: bool = False) -> Move:
        sent = 0
        for message in outcome.sent:
            sent |= 1 << self._message(message)
        event = (tuple(outcome.decided), tuple(outcome.readable), asked)
        number = self._event_numbers.get(event)
        if number is None:
            number = self._event_numbers[event] = len(self._events)
            self._events.append(event)
        return self._node(outcome.node), sent, number, outcome.died, outcome.bids

    def _hear(self, node: int, message: int) -> None:
        """Compute what a message does to a node, once."""
        outcomes = self.steps.hear(self._nodes[node], self._messages[message])
        self.computed += 1
        moves = [move for move in map(self._move, outcomes) if move[0] != node or move[1] or move[2]]
        self._settled[node] |= 1 << message
        if moves:
            self._heard[node][message] = moves
            self._matters[node] |= 1 << message

    # The whole

    def first(self) -> State:
        """Nothing has happened."""
        a, b, c = (self._node(self.steps.newborn(me)) for me in (1, 2, 3))
        return a, b, c, 0, 0, -1, 0, 0

    def next(self, state: State) -> Iterator[tuple[int, str | int, State]]:
        """(node, what happened to it, state after), for everything that may happen next.

        Raises:
            Breach: something must not.
        """
        messages = state[3]
        for place in range(3):
            node = state[place]
            for what, move in self._choices(node):
                yield place, what, self._after(state, place, move)
            here = messages & self._for[place]
            unknown = here & ~self._settled[node]
            while unknown:
                bit = unknown & -unknown
                unknown ^= bit
                self._hear(node, bit.bit_length() - 1)
            here &= self._matters[node]
            heard = self._heard[node]
            while here:
                bit = here & -here
                here ^= bit
                number = bit.bit_length() - 1
                for move in heard[number]:
                    yield place, number, self._after(state, place, move)

    def _after(self, state: State, place: int, move: Move) -> State:
        node, sent, event, died, bid = move
        a, b, c, messages, decided, floor, crashes, bids = state
        crashes += died
        bids += bid
        if crashes > self.bounds.crashes or bids > self.bounds.bids:
            return state
        if place == 0:
            a = node
        elif place == 1:
            b = node
        else:
            c = node
        new = sent & ~messages
        messages |= sent
        while new:
            bit = new & -new
            new ^= bit
            if self._rivals[bit.bit_length() - 1] & messages:
                raise Breach(f"two values under one ballot: {self.words(bit.bit_length() - 1)}")
        if event:
            executed, readable, asked = self._events[event]
            if asked:
                floor = len(self._decided[decided])
            for target in readable:
                self.reads += 1
                if target + 1 < floor:
                    raise Breach(f"a read shows {target + 1} instances; {floor} were decided before it began")
                floor = -1
            for instance, value in executed:
                decided = self._decide(decided, instance, value)
        messages &= ~(self._dead[a] | self._dead[b] | self._dead[c])
        return a, b, c, messages, decided, floor, crashes, bids

    def _decide(self, number: int, instance: int, value: bytes) -> int:
        known = self._decided[number]
        if instance < len(known):
            if known[instance] != value:
                raise Breach(f"two values for instance {instance}: {known[instance]!r} and {value!r}")
            return number
        if instance > len(known):
            raise Breach(f"instance {instance} is decided before the one below")
        known = (*known, value)
        entries = [entry[:3] for part in known for entry in values.decode(part)]
        if len(set(entries)) < len(entries):
            raise Breach(f"a proposal is decided twice: {entries}")
        number = self._decided_numbers.setdefault(known, len(self._decided))
        if number == len(self._decided):
            self._decided.append(known)
        return number

    def explore(self, states_max: int, *, deep: bool = False) -> Found:
        """Follow everything, up to so many states.

        Args:
            states_max: give up beyond so many.
            deep: each run to its end first, which finds mistakes late in long runs sooner.

        Raises:
            Breach: with a run that leads to it: the shortest one, unless `deep`.
        """
        first = self.first()
        before: dict[State, State | None] = {first: None}
        waiting = deque([first])
        moves = 0
        while waiting and len(before) < states_max:
            state = waiting.pop() if deep else waiting.popleft()
            try:
                for _, _, after in self.next(state):
                    moves += after != state
                    if after not in before:
                        before[after] = state
                        waiting.append(after)
            except Breach as breach:
                run = "\n".join(self._run(state, before))
                raise Breach(f"{breach}\nafter\n{run}") from breach
        decided = max(len(self._decided[state[4]]) for state in before)
        return Found(len(before), moves, self.computed, decided, self.reads, not waiting)

    # Words

    def words(self, number: int) -> str:
        """A message, readable."""
        sender, destination, kind, fields = self._messages[number]
        return f"{KINDS[kind]} {sender}->{destination} {fields[1:]}"

    def _run(self, state: State | None, before: dict[State, State | None]) -> Iterator[str]:
        run = []
        while state is not None:
            run.append(state)
            state = before[state]
        run.reverse()
        for one, two in pairwise(run):
            for place, what, after in self.next(one):
                if after == two:
                    died = " and dies" if two[6] > one[6] and what != "die" else ""
                    yield f"  node {place + 1}: {self.words(what) if isinstance(what, int) else what}{died}"
                    break
