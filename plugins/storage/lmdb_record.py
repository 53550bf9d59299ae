"""What an LMDB log stores: keys, entries with their CRCs, and what records make of a group's state.

Numbers in keys are big-endian, so that a group's instances lie in order; those in entries little-endian.

    values: group u16, instance u64 -> crc u32 | round u64 | node u64 | value
    states: group u16               -> crc u32 | instance u64 | promised: round, node | accepted: round, node
                                       | first u64 | suspect u8 | SYSTEM records so far u64
    about:  b"log"                  -> crc u32 | version u32 | cluster u64 | node u64 | seat u64 | log u32
            b"groups"               -> crc u32 | every group that has a state, u16 each
            b"starts"               -> crc u32 | how often the log was recovered, u64
            b"system", group u16    -> crc u32 | SYSTEM records so far u64
                                       | of the last one: from u64, lost u8, value

Each CRC covers the key too: an entry under another key never verifies.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from paxmux.engine.checksum import crc32
from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import (
    NULL_BALLOT,
    SYSTEM_MAX_BYTES,
    Ballot,
    LogIdentity,
    Record,
    RecordKind,
    StorageDamaged,
)

VERSION: Final = 1
STAMP_KEY: Final = b"log"
GROUPS_KEY: Final = b"groups"
STARTS_KEY: Final = b"starts"
BATCH_MAX_BYTES: Final = 2**31
"""Values of one call of `append`."""

VALUE_KEY: Final = struct.Struct(">HQ")
GROUP_KEY: Final = struct.Struct(">H")
_CRC = struct.Struct("<I")
_VALUE_HEAD = struct.Struct("<IQQ")
_BALLOT = struct.Struct("<QQ")
_STATE = struct.Struct("<QQQQQQ?Q")
_STAMP = struct.Struct("<IQQQI")
_COUNT = struct.Struct("<Q")
_SYSTEM_HEAD = struct.Struct("<QQ?")
_SYSTEM_KEY = struct.Struct(">6sH")

_KINDS: Final = frozenset(map(int, RecordKind))
_WITH_BALLOT: Final = frozenset({int(RecordKind.PROMISE), int(RecordKind.ACCEPT), int(RecordKind.CLEARED)})
_WITH_VALUE: Final = frozenset({int(RecordKind.ACCEPT), int(RecordKind.LEARNED)})
_ACCEPT: Final = int(RecordKind.ACCEPT)
_FORGOTTEN: Final = int(RecordKind.FORGOTTEN)
_CLEARED: Final = int(RecordKind.CLEARED)
_SUSPECT: Final = int(RecordKind.SUSPECT)
_SYSTEM: Final = int(RecordKind.SYSTEM)

Value = tuple[int, int, bytes]
"""(round, node, value)."""


class GroupState(NamedTuple):
    """A group's hard state, but for the accepted value, which is among the values, and `System`."""

    instance: int
    promised: Ballot
    accepted: Ballot
    first: int
    suspect: bool = False
    systems: int = 0
    """How many SYSTEM records it has had: the entry of the last one says the same."""


class System(NamedTuple):
    """What the last SYSTEM record of a group says."""

    begin: int
    lost: bool
    value: bytes


NO_SYSTEM: Final = System(0, False, b"")
LOST_SYSTEM: Final = System(0, True, b"")
NEW_STATE: Final = GroupState(0, NULL_BALLOT, NULL_BALLOT, 0)


def check_records(records: Sequence[Record]) -> None:
    """Raise a `ValueError` if a log cannot hold these records."""
    total = 0
    for kind, group, instance, round_, node, value in records:
        if kind not in _KINDS or group >> 16 or instance >> 63 or round_ >> 64 or node >> 64:
            raise ValueError(f"record of kind {kind}, group {group}, instance {instance} cannot be stored")
        if kind == _SYSTEM and len(value) > SYSTEM_MAX_BYTES:
            raise ValueError(f"record of kind {kind} with {len(value)} bytes cannot be stored")
        total += len(value)
    if total > BATCH_MAX_BYTES:
        raise ValueError(f"values of {total} bytes cannot be stored; at most {BATCH_MAX_BYTES} go together")


def has_value(record: Record) -> bool:
    """Whether a record is the newest value of its instance, when it comes."""
    return record[0] in _WITH_VALUE


def state_after(state: GroupState, record: Record) -> GroupState:
    """A group's state after one more of its records, but for the one that releases it."""
    kind, _, instance, round_, node, _ = record
    current, promised, accepted, first, suspect, systems = state
    if kind == _FORGOTTEN:
        return state._replace(first=max(first, instance))
    if kind == _SUSPECT:
        return state._replace(suspect=True)
    if kind == _SYSTEM:
        return state._replace(systems=systems + 1)
    if kind in _WITH_BALLOT:
        promised = max(promised, (round_, node))
    else:
        instance += 1
    if instance > current:
        current, accepted = instance, NULL_BALLOT
    if kind == _ACCEPT and instance == current:
        accepted = (round_, node)
    return GroupState(current, promised, accepted, first, suspect and kind != _CLEARED, systems)


def seal_value(key: bytes, value: Value) -> bytes:
    """An entry of `values`."""
    round_, node, content = value
    crc = crc32(content, crc32(_BALLOT.pack(round_, node), crc32(key)))
    return _VALUE_HEAD.pack(crc, round_, node) + content


def open_value(key: bytes, data: memoryview, where: str) -> Value:
    """What `seal_value` got.

    Args:
        key: under which the entry was found.
        data: the entry.
        where: the file, for the message.

    Raises:
        StorageDamaged: names file, group and instance.
    """
    group, instance = VALUE_KEY.unpack(key)
    body = _opened(key, data, f"{where}: value of group {group}, instance {instance}")
    if len(body) < _BALLOT.size:
        raise StorageDamaged(f"{where}: value of group {group}, instance {instance}: too short")
    round_, node = _BALLOT.unpack_from(body)
    return round_, node, bytes(body[_BALLOT.size :])


def seal_state(key: bytes, state: GroupState) -> bytes:
    """An entry of `states`."""
    ballots = (*state.promised, *state.accepted)
    return _sealed(key, _STATE.pack(state.instance, *ballots, state.first, state.suspect, state.systems))


def open_state(key: bytes, data: memoryview, where: str) -> tuple[int, GroupState]:
    """(group, state) of an entry of `states`.

    Raises:
        StorageDamaged: names file and group.
    """
    if len(key) != GROUP_KEY.size:
        raise StorageDamaged(f"{where}: a state under the key {key.hex()}, which no group has")
    (group,) = GROUP_KEY.unpack(key)
    what = f"{where}: state of group {group}"
    body = _opened(key, data, what)
    if len(body) != _STATE.size:
        raise StorageDamaged(f"{what}: {len(body)} bytes")
    instance, promised_round, promised_node, accepted_round, accepted_node, *more = _STATE.unpack(body)
    promised, accepted = (promised_round, promised_node), (accepted_round, accepted_node)
    return group, GroupState(instance, promised, accepted, *more)


def system_key(group: int) -> bytes:
    """Under which a group's last SYSTEM record is."""
    return _SYSTEM_KEY.pack(b"system", group)


def seal_system(group: int, count: int, system: System) -> tuple[bytes, bytes]:
    """Key and entry of a group's last SYSTEM record, the `count`th that it has had."""
    key = system_key(group)
    return key, _sealed(key, _SYSTEM_HEAD.pack(count, system.begin, system.lost) + system.value)


def open_system(group: int, count: int, data: memoryview | None, where: str) -> System:
    """What `seal_system` got.

    Raises:
        StorageDamaged: it is not there, damaged, or not the `count`th.
    """
    what = f"{where}: inner machines of group {group}"
    if data is None:
        raise StorageDamaged(f"{what}: missing")
    body = _opened(system_key(group), data, what)
    found, begin, lost = _SYSTEM_HEAD.unpack_from(body)
    if found != count:
        raise StorageDamaged(f"{what}: of record {found}, the last was {count}")
    return System(begin, lost, bytes(body[_SYSTEM_HEAD.size :]))


def seal_stamp(identity: LogIdentity) -> bytes:
    """The entry that says whose log it is."""
    return _sealed(STAMP_KEY, _STAMP.pack(VERSION, *identity))


def check_stamp(data: memoryview | None, identity: LogIdentity, where: str) -> None:
    """Make sure that the log has this format and this owner.

    Raises:
        DataDirError: it has not; names the file and the difference.
        StorageDamaged: it does not say.
    """
    if data is None or len(data) < 2 * _CRC.size:
        raise StorageDamaged(f"{where}: the entry that says whose log it is is missing")
    (version,) = _CRC.unpack_from(data, _CRC.size)
    if version > VERSION:
        raise DataDirError(
            f"{where}: format version {version}, this program reads up to {VERSION}; use the newer program"
        )
    body = _opened(STAMP_KEY, data, f"{where}: the entry that says whose log it is")
    _, *found = _STAMP.unpack(body)
    for name, theirs, ours in zip(LogIdentity._fields, found, identity, strict=True):
        if theirs != ours:
            raise DataDirError(f"{where}: belongs to {name} {theirs:#x}, this is {name} {ours:#x}")


def seal_groups(groups: Sequence[int]) -> bytes:
    """The entry that lists the groups that have a state."""
    return _sealed(GROUPS_KEY, struct.pack(f"<{len(groups)}H", *groups))


def open_groups(data: memoryview | None, where: str) -> list[int]:
    """What `seal_groups` got. Raises `StorageDamaged`."""
    if data is None:
        raise StorageDamaged(f"{where}: the list of groups is missing")
    body = _opened(GROUPS_KEY, data, f"{where}: the list of groups")
    return list(struct.unpack(f"<{len(body) // 2}H", body))


def seal_starts(count: int) -> bytes:
    """The entry that counts recoveries."""
    return _sealed(STARTS_KEY, _COUNT.pack(count))


def open_starts(data: memoryview | None, where: str) -> int:
    """What `seal_starts` got. Raises `StorageDamaged`."""
    if data is None:
        raise StorageDamaged(f"{where}: the count of starts is missing")
    return int(_COUNT.unpack(_opened(STARTS_KEY, data, f"{where}: the count of starts"))[0])


def _sealed(key: bytes, body: bytes) -> bytes:
    return _CRC.pack(crc32(body, crc32(key))) + body


def _opened(key: bytes, data: memoryview, what: str) -> memoryview:
    body = data[_CRC.size :]
    if len(data) < _CRC.size or _CRC.unpack_from(data)[0] != crc32(body, crc32(key)):
        raise StorageDamaged(f"{what}: the CRC does not match")
    return body
