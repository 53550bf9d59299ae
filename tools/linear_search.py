"""Decides whether the operations on one register are linearizable.

Wing and Gong's search in Lowe's order, "just in time": events are taken by time, and an operation is
given its moment only when its answer forces one. A configuration is the register's value and which
of the calls under way have had their moment; all configurations that are possible are kept, so that
the search is a loop over events without recursion, and what it keeps depends on how many calls
overlap, not on how long the history is.

What makes it fast where each value is written once, as tests do:

- Operations of unknown outcome are settled first: one whose value nobody saw might as well not have
  been, one whose value was seen took effect before the first answer that shows it.
- Reads take their moment as soon as the register has their value: they change nothing.
- A value that somebody is yet to see cannot be overwritten, if it cannot come again.
- Values that nobody is yet to see are all the same. A write of one costs nothing, and neither does a
  write together with all that build on it, once all of these are under way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

from paxmux.tools.linear_operation import Kind, Operation, Value


class _Token:
    """A value that no register has."""


ANY = _Token()
"""As `pre`: whatever the register holds."""
KEEP = _Token()
"""As `post`: the register keeps its value."""
DEAD = _Token()
"""Stands for each value that nobody is yet to see."""
NEVER_NS = 1 << 200

_KINDS = frozenset(get_args(Kind))

_Used = tuple[int, ...]
_Config = tuple[Value, int, _Used]
"""(value, bits of the calls under way that had their moment, open operations used by class)"""


class Step(NamedTuple):
    """What an operation asks of the register, and does to it."""

    pre: Value
    post: Value
    invoked_ns: int
    returned_ns: int
    """NEVER_NS: it need not happen."""


def step(operation: Operation) -> Step:
    """An operation as a step; for an unknown outcome, as one that takes effect.

    Raises:
        ValueError: it cannot have been observed so.
    """
    _, kind, _, argument, result, invoked_ns, returned_ns = operation
    known = returned_ns is not None
    until_ns = NEVER_NS if returned_ns is None else returned_ns
    if until_ns < invoked_ns:
        raise ValueError(f"returned before it was called: {operation}")
    if kind not in _KINDS:
        raise ValueError(f"no operation of a register: {operation}")
    if kind == "get":
        return Step(result if known else ANY, KEEP, invoked_ns, until_ns)
    if kind == "put":
        return Step(ANY, argument, invoked_ns, until_ns)
    if kind == "delete":
        return Step(ANY, None, invoked_ns, until_ns)
    if not isinstance(argument, tuple) or len(argument) != 2:
        raise ValueError(f"no operation of a register: {operation}")
    expected, new = argument
    if not known or result == expected:
        return Step(expected, new, invoked_ns, until_ns)
    return Step(result, KEEP, invoked_ns, until_ns)


def linearizable(operations: Iterable[Operation]) -> bool:
    """Whether the operations, all on one key, are linearizable.

    Raises:
        ValueError: one of them makes no sense.
    """
    settled = _Settling([step(operation) for operation in operations]).run()
    return settled is not None and _Search(*settled).run()


class _Settling:
    """Settles what became of operations of unknown outcome, as far as that can be told."""

    def __init__(self, steps: list[Step]) -> None:
        self._known = [one for one in steps if one.returned_ns != NEVER_NS]
        self._open = {number: one for number, one in enumerate(steps) if one.returned_ns == NEVER_NS}
        self._writers: Counter[Value] = Counter(one.post for one in steps if one.post is not KEEP)
        self._writers[None] += 1  # the register began empty
        self._first_seen: dict[Value, int] = {}
        self._last_seen: dict[Value, int] = {}
        self._may_see: Counter[Value] = Counter()
        """Value -> open operations that would take it."""
        self._open_writers: dict[Value, set[int]] = defaultdict(set)
        for one in self._known:
            self._seen(one)
        for number, one in list(self._open.items()):
            if one.post is KEEP:
                del self._open[number]
                continue
            self._open_writers[one.post].add(number)
            if one.pre is not ANY:
                self._may_see[one.pre] += 1

    def run(self) -> tuple[list[Step], list[Step]] | None:
        """(steps that happened, steps that may have happened); None if there is a contradiction."""
        changed: list[Value] = list(self._open_writers)
        while changed:
            value = changed.pop()
            for number in sorted(self._open_writers[value]):
                one = self._open[number]
                useful = self._may_see[value] or self._last_seen.get(value, -1) >= one.invoked_ns
                forced = self._writers[value] == 1 and value in self._first_seen
                if useful and not forced:
                    continue
                del self._open[number]
                self._open_writers[value].discard(number)
                if not useful:
                    self._writers[value] -= 1
                else:
                    if self._first_seen[value] < one.invoked_ns:
                        return None  # seen before it was written
                    one = one._replace(returned_ns=self._first_seen[value])
                    self._known.append(one)
                    self._seen(one)
                if one.pre is not ANY:
                    self._may_see[one.pre] -= 1
                    changed.append(one.pre)
                changed.append(value)
                break
        return self._known, list(self._open.values())

    def _seen(self, one: Step) -> None:
        if one.pre is not ANY:
            at_ns = one.returned_ns
            self._first_seen[one.pre] = min(at_ns, self._first_seen.get(one.pre, at_ns))
            self._last_seen[one.pre] = max(at_ns, self._last_seen.get(one.pre, at_ns))


class _Search:
    """One search."""

    def __init__(self, known: Sequence[Step], optional: Sequence[Step]) -> None:
        self._steps = [one for one in known if one.pre is not ANY or one.post is not KEEP]
        writers: Counter[Value] = Counter(one.post for one in (*known, *optional))
        writers[None] += 1
        self._once = {value for value, count in writers.items() if count == 1}
        self._ahead: Counter[Value] = Counter(one.pre for one in self._steps)
        """Value -> steps not yet called that see it."""
        self._wanted = {one.pre for one in optional}
        """Values that an optional step would take, so that they are never all the same."""
        self._observed = self._ahead.keys() | self._wanted
        kinds: dict[tuple[Value, Value], list[int]] = defaultdict(list)
        for one in optional:
            kinds[one.pre, one.post].append(one.invoked_ns)
        self._classes = list(kinds)
        """Optional steps that do the same are used in the order of their calls."""
        self._class_calls = list(kinds.values())
        self._called = [0] * len(self._classes)
        # What is under way, as bits: one for each call, given again once it has returned.
        self._seeing: dict[Value, int] = defaultdict(int)
        """Value -> calls that see it."""
        self._reading: dict[Value, int] = defaultdict(int)
        """Value -> calls of these that keep it."""
        self._taking: dict[Value, dict[int, Value]] = defaultdict(dict)
        """Value -> calls of these that replace it -> by what."""
        self._writing: dict[int, Value] = {}
        """Calls that write whatever there was -> a value that is seen."""
        self._origins: dict[Value, tuple[int, Value]] = {}
        """Value that is seen -> the call that writes it, and what that call sees."""
        self._burying = 0
        """Calls that cost nothing once nobody is yet to see the register's value: they leave it so."""

    def run(self) -> bool:
        """Whether at least one order of the steps fits."""
        configs = {self._settled(None, 0, (0,) * len(self._classes))}
        free: list[int] = []
        slots = 0
        bits: dict[int, int] = {}
        events = [(one.invoked_ns, 0, number) for number, one in enumerate(self._steps)]
        events += [(one.returned_ns, 1, number) for number, one in enumerate(self._steps)]
        events += [(at, -1, kind) for kind, calls in enumerate(self._class_calls) for at in calls]
        # Calls come before answers of the same moment: they may have overlapped.
        events.sort()
        for _, what, number in events:
            if what < 0:
                self._called[number] += 1
                continue
            one = self._steps[number]
            if what == 0:
                if not free:
                    free.append(1 << slots)
                    slots += 1
                bit = bits[number] = free.pop()
                self._call(one, bit)
                configs = {self._settled(*config) for config in configs}
            else:
                bit = bits.pop(number)
                configs = self._answered(configs, bit)
                if not configs:
                    return False
                self._forget(one, bit)
                free.append(bit)
        return True

    def _call(self, one: Step, bit: int) -> None:
        if one.post is not KEEP and one.post in self._observed:
            self._origins[one.post] = (bit, one.pre)
        if one.pre is not ANY:
            self._ahead[one.pre] -= 1
            self._seeing[one.pre] |= bit
            if one.post is KEEP:
                self._reading[one.pre] |= bit
            else:
                self._taking[one.pre][bit] = one.post
            self._bury(one.pre)
        elif one.post in self._observed:
            self._writing[bit] = one.post
            self._bury(one.post)
        else:
            self._burying |= bit

    def _forget(self, one: Step, bit: int) -> None:
        self._burying &= ~bit
        if one.post is not KEEP and self._origins.get(one.post) == (bit, one.pre):
            del self._origins[one.post]
        if one.pre is ANY:
            self._writing.pop(bit, None)
            return
        self._seeing[one.pre] &= ~bit
        self._reading[one.pre] &= ~bit
        self._taking[one.pre].pop(bit, None)

    def _bury(self, value: Value) -> None:
        """If the write that leads to this value, and all that build on it, are under way, they are free."""
        passed = set()
        while value in self._origins and value in self._once and value not in passed:
            passed.add(value)
            bit, pre = self._origins[value]
            if pre is ANY:
                after = self._built_on(value)
                if after is not None:
                    self._writing.pop(bit, None)
                    self._burying |= bit | after
                return
            value = pre

    def _built_on(self, value: Value) -> int | None:
        """The calls that see a value or what they made of it; None if there are more to come."""
        bits = 0
        passed = set()
        while value in self._observed:
            if value in passed:
                return None  # calls that build on each other in a ring
            passed.add(value)
            if value not in self._once or value in self._wanted or self._ahead[value]:
                return None
            bits |= self._seeing[value]
            takers = self._taking[value]
            if len(takers) > 1:
                return None
            if not takers:
                break
            (value,) = takers.values()
        return bits

    def _awaited(self, value: Value, mask: int) -> bool:
        """Whether a step that sees this value is yet to have its moment."""
        return self._ahead[value] > 0 or self._seeing[value] & ~mask != 0

    def _settled(self, value: Value, mask: int, used: _Used) -> _Config:
        """With all that costs nothing."""
        if value is not DEAD:
            mask |= self._reading[value]
            if value in self._wanted or self._awaited(value, mask):
                return value, mask, used
        return DEAD, mask | self._burying, used

    def _answered(self, configs: set[_Config], bit: int) -> set[_Config]:
        """The configurations in which the call `bit` has had its moment, without it."""
        done: set[_Config] = set()
        seen: set[_Config] = set()
        todo = list(configs)
        while todo:
            config = todo.pop()
            value, mask, used = config
            if mask & bit:
                done.add((value, mask & ~bit, used))
            elif config not in seen:
                seen.add(config)
                todo += self._moves(value, mask, used)
        return _undominated(done) if self._classes else done

    def _moves(self, value: Value, mask: int, used: _Used) -> list[_Config]:
        """The configurations one moment further."""
        settled = self._settled
        moves = []
        if value is not DEAD:
            for bit, post in self._taking[value].items():
                # A value that cannot come again is taken by whoever sees it last.
                if not mask & bit and not (value in self._once and self._awaited(value, mask | bit)):
                    moves.append(settled(post, mask | bit, used))
            if value in self._once and self._awaited(value, mask):
                return moves
        for bit, post in self._writing.items():
            if not mask & bit:
                moves.append(settled(post, mask | bit, used))
        if self._burying & ~mask:
            moves.append((DEAD, mask | self._burying, used))
        for number, (pre, post) in enumerate(self._classes):
            if used[number] < self._called[number] and (pre is ANY or pre == value):
                after = (*used[:number], used[number] + 1, *used[number + 1 :])
                moves.append(settled(post, mask, after))
        return moves


def _undominated(configs: set[_Config]) -> set[_Config]:
    """Without those that differ from another only in having used more optional steps."""
    groups: dict[tuple[Value, int], list[_Used]] = defaultdict(list)
    for value, mask, used in configs:
        groups[value, mask].append(used)
    return {
        (value, mask, used)
        for (value, mask), ways in groups.items()
        for used in ways
        if not any(other != used and all(a <= b for a, b in zip(other, used, strict=True)) for other in ways)
    }
