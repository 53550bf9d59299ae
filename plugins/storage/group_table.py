"""What a log knows in memory about its groups: hard states, and where the newest values are.

Positions are kept in chunks of `CHUNK` consecutive instances. Only chunks that changed since they
were last stored in the index, and the current one of each group, are in memory; so memory does not
grow with the log as long as somebody stores what waits.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from paxmux.engine.storage import Record, StorageDamaged
from paxmux.plugins.storage.record import (
    ACCEPT,
    CARRIED,
    CLEARED,
    DECIDED,
    DOUBT,
    FORGOTTEN,
    HARD_STATE,
    LEARNED,
    OFFSET_BITS,
    OFFSET_MASK,
    OPENING,
    RECORD_BYTES,
    RELEASED,
    SUSPECT,
    SYSTEM,
    SYSTEMS_MASK,
)

CHUNK_BITS: Final = 7
CHUNK: Final = 1 << CHUNK_BITS
"""A full chunk is 1 KiB: small enough to lie within a page of the index, with two others."""
CHUNK_MASK: Final = CHUNK - 1
CACHED_CHUNKS: Final = 64

Positions: TypeAlias = "array[int]"
"""The position of each instance of a chunk; 0: none."""

LoadChunk: TypeAlias = "Callable[[int, int], Positions | None]"
"""(group, chunk number) -> what the index has."""

_WITH_VALUE: Final = frozenset({ACCEPT, LEARNED})
_EMPTY: Final = array("Q", bytes(8 * CHUNK))


AS_THE_LOG: Final = 0
"""A group is suspect if its log is in doubt,"""
SOUND: Final = 1
"""or it is not, since it was cleared,"""
SUSPECTED: Final = 2
"""or it is in any case."""


class GroupState:
    """One group: its hard state, its current chunk, and older chunks that wait to be stored."""

    __slots__ = (
        "accepted_at",
        "accepted_node",
        "accepted_round",
        "changed",
        "first",
        "instance",
        "live_bytes",
        "number",
        "positions",
        "promised_node",
        "promised_round",
        "standing",
        "system",
        "system_from",
        "system_lost",
        "top",
        "waiting",
    )

    def __init__(
        self,
        instance: int = 0,
        promised_round: int = 0,
        promised_node: int = 0,
        accepted_round: int = 0,
        accepted_node: int = 0,
        accepted_at: int = 0,
        first: int = 0,
        live_bytes: int = 0,
        standing: int = AS_THE_LOG,
        system_from: int = 0,
        system_lost: bool = False,
        system: bytes = b"",
    ) -> None:
        self.instance = instance
        self.promised_round = promised_round
        self.promised_node = promised_node
        self.accepted_round = accepted_round
        self.accepted_node = accepted_node
        self.accepted_at = accepted_at
        """Position of the last ACCEPT at `instance`; 0: there is none."""
        self.first = first
        """Everything below is forgotten."""
        self.live_bytes = live_bytes
        """About what the value records from `first` on take."""
        self.standing = standing
        """Whether promises of this group may be lost."""
        self.system_from = system_from
        self.system_lost = system_lost
        self.system = system
        """The last SYSTEM record, and whether a later one may be lost."""
        self.number = -1
        """The current chunk: of instances `number * CHUNK` and up. -1: none yet."""
        self.positions: Positions = _EMPTY
        self.top = instance >> CHUNK_BITS
        """No chunk above this one exists."""
        self.waiting: dict[int, Positions] = {}
        self.changed = False
        """Something here is not in the index yet."""


class GroupTable:
    """All groups of a log."""

    def __init__(self, load: LoadChunk, check: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            load: what the index has of a chunk.
            check: called where something is missing in it that is usually there.
        """
        self.groups: dict[int, GroupState] = {}
        self.doubt = False
        """Promises may be lost that the log had from groups that nothing else is known of."""
        self.systems = -1
        """SYSTEM records so far, modulo 2^16; -1: not known before a batch says so."""
        self.gap = False
        """Records are missing before the next batch."""
        self._unsure = False
        """SYSTEM records are missing since the last opening of a segment, which says them all again."""
        self.oldest = 0
        """The log said that it needs no segment below this one."""
        self.released: set[int] = set()
        """Groups that were released, and of which the index still has something."""
        self.changed: dict[int, None] = {}
        """Groups with something to store, in the order in which they changed first; each once, also where it
        was released and has come back."""
        self.waiting_chunks = 0
        """Full or left chunks that wait to be stored, of all groups."""
        self._load = load
        self._check = check
        self._cache: OrderedDict[tuple[int, int], Positions] = OrderedDict()

    def note(self, records: Sequence[Record], positions: Iterable[int]) -> None:
        """Take in records in the order in which the log has them. Older ones again do no harm."""
        groups = self.groups
        for (kind, group, instance, round_, node, value), at in zip(records, positions, strict=True):
            state = groups.get(group)
            if state is None:
                if kind == OPENING:
                    self.oldest = max(self.oldest, instance)
                    continue
                if kind == DOUBT:
                    self.distrust()
                    continue
                state = groups[group] = GroupState(system_lost=self.doubt or self._unsure)
            if not state.changed:
                state.changed = True
                self.changed[group] = None
            if kind <= ACCEPT:
                if round_ > state.promised_round or (
                    round_ == state.promised_round and node > state.promised_node
                ):
                    state.promised_round = round_
                    state.promised_node = node
                if instance >= state.instance:
                    if instance > state.instance:
                        state.instance = instance
                        state.accepted_round = state.accepted_node = state.accepted_at = 0
                    if kind == ACCEPT:
                        state.accepted_round = round_
                        state.accepted_node = node
                        state.accepted_at = at
            elif kind <= DECIDED:
                if instance >= state.instance:
                    state.instance = instance + 1
                    state.accepted_round = state.accepted_node = state.accepted_at = 0
            elif kind == HARD_STATE:
                self._carry(group, state, instance, round_, node, value)
            elif kind == FORGOTTEN:
                _forget(state, instance)
            elif kind == RELEASED:
                self._release(group)
            elif kind == OPENING:
                self.oldest = max(self.oldest, instance)
            elif kind == CLEARED:
                _clear(state, instance, round_, node)
            elif kind == SUSPECT:
                state.standing = SUSPECTED
            elif kind == SYSTEM:
                state.system_from = instance
                state.system_lost = round_ != 0
                state.system = value
                self.systems = (self.systems + 1) & SYSTEMS_MASK
            elif kind == DOUBT:
                self.distrust()
            else:
                raise StorageDamaged(
                    f"segment {at >> OFFSET_BITS}, offset {at & OFFSET_MASK}: record of unknown kind {kind}"
                )
            if kind in _WITH_VALUE:
                if instance >> CHUNK_BITS != state.number:
                    self._turn(group, state, instance >> CHUNK_BITS)
                if not state.positions[instance & CHUNK_MASK]:
                    # Another one, or the same again, takes the place of what was there.
                    state.live_bytes += RECORD_BYTES + len(value)
                state.positions[instance & CHUNK_MASK] = at

    def distrust(self) -> None:
        """Whatever was promised may be lost, of all groups."""
        self.doubt = True
        for group, state in self.groups.items():
            state.standing = AS_THE_LOG
            self._change(group, state)

    def skip(self) -> None:
        """Records are missing here. The values of open instances may have been among them, and what is known
        instead is not what was decided: better none than a wrong one."""
        self.gap = True
        for group, state in self.groups.items():
            state.accepted_round = state.accepted_node = state.accepted_at = 0
            self._change(group, state)
            if self.find(group, state.instance):
                if state.instance >> CHUNK_BITS != state.number:
                    self._turn(group, state, state.instance >> CHUNK_BITS)
                state.positions[state.instance & CHUNK_MASK] = 0

    def begin(self, systems: int, *, opens: bool) -> None:
        """The next batch is there; `systems` as its header says. `opens`: it begins a segment."""
        if opens:
            self._unsure = False
        elif self.gap and systems != self.systems:
            self.lose_systems()
        self.systems = systems
        self.gap = False

    def lose_systems(self) -> None:
        """SYSTEM records are missing here: what is known stays as what it is, an older state."""
        self._unsure = True
        for group, state in self.groups.items():
            state.system_lost = True
            self._change(group, state)

    def suspect(self, state: GroupState) -> bool:
        """Whether promises of a group may be lost."""
        return state.standing == SUSPECTED or (self.doubt and state.standing == AS_THE_LOG)

    def holders(self, begin: int, end: int) -> Iterator[tuple[int, int] | None]:
        """(group, instance) of each value whose newest record lies in [begin, end), in any order; None after
        each chunk, so that whoever looks can pause."""
        for group in list(self.groups):
            state = self.groups.get(group)
            number = state.first >> CHUNK_BITS if state is not None else 0
            while (state := self.groups.get(group)) is not None and number <= state.top:
                found = state.positions if number == state.number else state.waiting.get(number)
                found = found if found is not None else self._load(group, number)
                for place, at in enumerate(found or ()):
                    if begin <= at < end and (number << CHUNK_BITS) + place >= state.first:
                        yield group, (number << CHUNK_BITS) + place
                number += 1
                yield None

    def _change(self, group: int, state: GroupState) -> None:
        if not state.changed:
            state.changed = True
            self.changed[group] = None

    def find(self, group: int, instance: int) -> int:
        """Position of the newest value record of an instance; 0: there is none, or it is forgotten."""
        state = self.groups.get(group)
        if state is None or instance < state.first:
            return 0
        number = instance >> CHUNK_BITS
        if number == state.number:
            return state.positions[instance & CHUNK_MASK]
        if number > state.top:
            return 0
        found = state.waiting.get(number)
        if found is None:
            found = self._stored(group, number)
        return found[instance & CHUNK_MASK] if found is not None else 0

    def system(self, group: int) -> tuple[int, bytes] | None:
        """See `Log.system`."""
        state = self.groups.get(group)
        if state is None:
            return None if self.doubt else (0, b"")
        return None if state.system_lost else (state.system_from, state.system)

    @property
    def live_bytes(self) -> int:
        """About what all values take that are not forgotten."""
        return sum([state.live_bytes for state in self.groups.values()])

    def stored(self, group: int, number: int) -> None:
        """A chunk that waited is in the index now."""
        state = self.groups.get(group)
        if state is None:
            return
        if number != state.number:
            self._remember(group, number, state.waiting.pop(number))
            self.waiting_chunks -= 1

    def _carry(
        self, group: int, state: GroupState, instance: int, round_: int, node: int, value: bytes
    ) -> None:
        """A hard state at the start of a segment: says again what older segments say. Behind it stands the
        SYSTEM record of the group if it has any."""
        state.system_from, state.system_lost, state.system = 0, False, b""
        if (round_, node) > (state.promised_round, state.promised_node):
            state.promised_round, state.promised_node = round_, node
        if instance < state.instance:
            return
        accepted_round, accepted_node, accepted_at = CARRIED.unpack(value)
        if instance > state.instance:
            state.instance = instance
            state.accepted_round = state.accepted_node = state.accepted_at = 0
        if accepted_at and not state.accepted_at:
            state.accepted_round, state.accepted_node = accepted_round, accepted_node
            state.accepted_at = accepted_at
            if instance >> CHUNK_BITS != state.number:
                self._turn(group, state, instance >> CHUNK_BITS)
            state.positions[instance & CHUNK_MASK] = accepted_at

    def _release(self, group: int) -> None:
        """Nothing is known of the group any more."""
        state = self.groups.pop(group)
        self.waiting_chunks -= len(state.waiting)
        self.changed.pop(group, None)
        for key in [key for key in self._cache if key[0] == group]:
            del self._cache[key]
        self.released.add(group)

    def _turn(self, group: int, state: GroupState, number: int) -> None:
        """Make chunk `number` the current one."""
        if state.number >= 0:
            # The group has changed, or this would not be called: what it had may not be stored yet.
            state.waiting[state.number] = state.positions
            self.waiting_chunks += 1
        found = state.waiting.pop(number, None)
        if found is not None:
            self.waiting_chunks -= 1
        elif number <= state.top:
            found = self._stored(group, number)
        state.number = number
        state.positions = found if found is not None else array("Q", _EMPTY)
        state.top = max(state.top, number)

    def _stored(self, group: int, number: int) -> Positions | None:
        if group in self.released:
            # What the index has is of the time before.
            return None
        key = (group, number)
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return found
        found = self._load(group, number)
        if self._lacks(group, number, found):
            # Values may be missing by right; but a damaged index looks the same.
            self._check()
        if found is not None:
            self._remember(group, number, found)
        return found

    def _lacks(self, group: int, number: int, found: Positions | None) -> bool:
        """There is no position for an instance that is decided and not forgotten."""
        state = self.groups[group]
        first = number << CHUNK_BITS
        begin, end = max(first, state.first), min(first + CHUNK, state.instance)
        return begin < end and (found is None or 0 in found[begin - first : end - first])

    def _remember(self, group: int, number: int, positions: Positions) -> None:
        self._cache[group, number] = positions
        if len(self._cache) > CACHED_CHUNKS:
            self._cache.popitem(last=False)


def _forget(state: GroupState, first: int) -> None:
    if first > state.first:
        kept, before = max(0, state.instance - first), state.instance - state.first
        # Taken for evenly large: exactly what each value takes is nowhere but in the segments.
        state.live_bytes = state.live_bytes * kept // before if before > 0 else 0
        state.first = first


def _clear(state: GroupState, instance: int, round_: int, node: int) -> None:
    """The group's promises are known again."""
    state.standing = SOUND
    if (round_, node) > (state.promised_round, state.promised_node):
        state.promised_round, state.promised_node = round_, node
    if instance > state.instance:
        state.instance = instance
        state.accepted_round = state.accepted_node = state.accepted_at = 0
