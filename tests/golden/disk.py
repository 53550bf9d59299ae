"""Formats of a data directory: segments, batches, index, marks, identity, and the log in plain LMDB."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import lmdb

from paxmux.engine.storage import LogIdentity, Record
from paxmux.plugins.storage import index as index_module
from paxmux.plugins.storage import lmdb_record, segment_file, stop_mark
from paxmux.plugins.storage.group_table import GroupState
from paxmux.plugins.storage.index import Index
from paxmux.plugins.storage.record import (
    ACCEPT,
    BATCH_BYTES,
    CARRIED,
    CLEARED,
    DECIDED,
    DOUBT,
    FORGOTTEN,
    HARD_STATE,
    LEARNED,
    OPENING,
    OPENS_SEGMENT,
    PROMISE,
    RELEASED,
    SUSPECT,
    SYSTEM,
    UPKEEP,
    decode_header,
    decode_records,
    position,
)
from paxmux.shards import identity as identity_module
from paxmux.shards import sync_mark
from paxmux.shards.cluster import make_founding
from tests.batches import encode_batch
from tests.golden.format import Fields, Format, cut

OWNER = LogIdentity(0x8182838485868788, 0x9192939495969798, 0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4)
OWNED = (("cluster", 8), ("node", 8), ("seat", 8), ("log", 4))
MOST = 2**64 - 1

# The header of a segment

_SEGMENT = (7, 0x10000, 0xC1C2C3C4C5C6C7C8)
"""number, size, random"""


def _encode_segment(_: Path) -> dict[str, Fields]:
    number, size, random = _SEGMENT
    stamp, _salt = segment_file.encode_stamp(OWNER, number, size, random)
    start = (("magic", 8), ("version", 4), ("number", 4), ("size", 8))
    end = (("reserved", 4), ("random", 8), ("crc, the salt of every other", 4))
    return {"stamp": cut(stamp, (*start, *OWNED, *end))}


def _decode_segment(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    path = Path(segment_file.segment_name(_SEGMENT[0]))
    found = segment_file.decode_stamp(cases["stamp"], path, _SEGMENT[1], OWNER)
    return {"stamp": (str(found.path), found.number, found.size, f"salt {found.salt:#x}")}


SEGMENT = Format(
    "segment",
    "what a segment starts with; zeros follow, up to offset 4096 (plugins/storage/segment_file.py)",
    "VERSION in plugins/storage/segment_file.py",
    lambda: segment_file.VERSION,
    _encode_segment,
    _decode_segment,
    {
        "stamp": (
            segment_file.segment_name(7),
            7,
            0x10000,
            f"salt {segment_file.encode_stamp(OWNER, *_SEGMENT)[1]:#x}",
        )
    },
)

# Batches, at offset 8192 of segment 3

SALT = 0xA1A2A3A4
OFFSET = 8192
_SYNCED = position(2, 0x9000)
SYSTEMS = 0x506
_HEAD = (
    ("magic", 4),
    ("length", 4),
    ("records", 4),
    ("synced: segment", 4),
    ("synced: offset", 4),
    ("flags", 2),
    ("systems", 2),
    ("crc", 4),
)
_RECORD = (
    ("crc", 4),
    ("length", 4),
    ("kind", 1),
    ("reserved", 1),
    ("group", 2),
    ("instance", 8),
    ("round", 8),
    ("node", 8),
)
_BATCHES: dict[str, tuple[int, list[Record]]] = {
    "promise": (0, [(PROMISE, 1, 2, 3, 4, b"")]),
    "accept": (0, [(ACCEPT, 1, 2, 3, 4, b"value")]),
    "learned": (0, [(LEARNED, 1, 2, 3, 4, b"value")]),
    "decided": (0, [(DECIDED, 1, 2, 0, 0, b"")]),
    "forgotten": (0, [(FORGOTTEN, 1, 2, 0, 0, b"")]),
    "released": (0, [(RELEASED, 1, 0, 0, 0, b"")]),
    "cleared and suspect": (0, [(CLEARED, 1, 2, 3, 4, b""), (SUSPECT, 5, 0, 0, 0, b"")]),
    "inner machines": (0, [(SYSTEM, 1, 2, 0, 0, b"state"), (SYSTEM, 5, 2, 1, 0, b"older")]),
    "upkeep": (UPKEEP, [(LEARNED, 1, 2, 3, 4, b"moved"), (OPENING, 0, 2, 0, 0, b"")]),
    "largest numbers": (0, [(ACCEPT, 2**16 - 1, 2**63 - 1, MOST, MOST, b"")]),
    "several groups": (
        0,
        [(ACCEPT, 0, 9, 1, 1, b"a"), (PROMISE, 1, 5, 2, 2, b""), (ACCEPT, 2, 0, 1, 1, b"bc")],
    ),
    "opening of a segment": (
        OPENS_SEGMENT,
        [
            (OPENING, 0, 1, 0, 0, b""),
            (DOUBT, 0, 0, 0, 0, b""),
            (ACCEPT, 0, 7, 2, 3, b"copied"),
            (HARD_STATE, 0, 7, 5, 6, CARRIED.pack(2, 3, 0)),
            (HARD_STATE, 1, 8, 5, 6, CARRIED.pack(2, 3, position(1, 0x5000))),
            (FORGOTTEN, 1, 4, 0, 0, b""),
            (SYSTEM, 1, 3, 1, 0, b"older"),
        ],
    ),
}


def _encode_batches(_: Path) -> dict[str, Fields]:
    cases: dict[str, Fields] = {}
    for name, (flags, records) in _BATCHES.items():
        data, _ = encode_batch(records, 3, SALT, OFFSET, _SYNCED, flags, SYSTEMS)
        layout = [(f"batch: {field}", size) for field, size in _HEAD]
        for number, record in enumerate(records):
            layout += [(f"record {number}: {field}", size) for field, size in _RECORD]
            layout.append((f"record {number}: value", len(record[5])))
        cases[name] = cut(data, layout)
    return cases


def _decode_batches(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, data in cases.items():
        header = decode_header(data, 0, SALT, OFFSET)
        if header is None:
            found[name] = None
            continue
        at = position(3, OFFSET + BATCH_BYTES)
        decoded = decode_records(data, BATCH_BYTES, header, SALT, at)
        right = (header.synced, header.systems) == (_SYNCED, SYSTEMS)
        found[name] = (header.flags, decoded[0]) if decoded and right else None
    return found


BATCHES = Format(
    "batch",
    "batches of records at offset 8192 of segment 3, salt 0xa1a2a3a4 (plugins/storage/record.py)",
    "VERSION in plugins/storage/segment_file.py",
    lambda: segment_file.VERSION,
    _encode_batches,
    _decode_batches,
    _BATCHES,
)

# The index

_META, _STATE, _CHUNK = "meta: log", "states: group 1", "chunks: group 1, chunk 2"
_INDEX = {
    _META: (position(3, 0x5000), position(3, 0x6000), 2, True, 0x708),
    _STATE: {1: (0x101, 2, 3, 4, 5, position(3, 0x4100), 0x81, 0x1234, 2, 0xF1, True, b"system")},
    _CHUNK: (1, 2, {0: position(3, 0x4000), 1: position(3, 0x4100), 5: position(3, 0x4200)}),
}
_DATABASES = {_META: (b"meta", 3), _STATE: (b"states", 2), _CHUNK: (b"chunks", 10)}
"""Name of the database, and bytes of the key."""


def _state(state: GroupState) -> tuple[Any, ...]:
    return (
        state.instance,
        state.promised_round,
        state.promised_node,
        state.accepted_round,
        state.accepted_node,
        state.accepted_at,
        state.first,
        state.live_bytes,
        state.standing,
        state.system_from,
        state.system_lost,
        state.system,
    )


def _encode_index(folder: Path) -> dict[str, Fields]:
    index = Index(folder, OWNER)
    group, number, places = _INDEX[_CHUNK]
    positions = array("Q", bytes(8 * 128))
    for place, at in places.items():
        positions[place] = at
    states = [(each, GroupState(*fields)) for each, fields in _INDEX[_STATE].items()]
    index.write([(group, number, positions)], states, *_INDEX[_META])
    index.close()
    layouts = {
        _META: (
            ("version", 4),
            *OWNED,
            ("everything before is stored", 8),
            ("proven durable", 8),
            ("oldest segment", 8),
            ("digest of all chunks", 4),
            ("digest of all states", 4),
            ("in doubt", 1),
            ("SYSTEM records", 2),
        ),
        _STATE: (
            ("instance", 8),
            ("promised: round", 8),
            ("promised: node", 8),
            ("accepted: round", 8),
            ("accepted: node", 8),
            ("accepted: position", 8),
            ("first", 8),
            ("live bytes", 8),
            ("standing", 1),
            ("system: from", 8),
            ("system: a later one may be lost", 1),
            ("system: value", 6),
        ),
        _CHUNK: tuple((f"position of instance {256 + i}", 8) for i in range(6)),
    }
    keys = {
        _META: (("key", 3),),
        _STATE: (("key: group", 2),),
        _CHUNK: (("key: group", 2), ("key: chunk", 8)),
    }
    cases: dict[str, Fields] = {}
    with lmdb.open(str(folder / index_module.DIRECTORY), max_dbs=3) as env:
        for name, (database, _) in _DATABASES.items():
            with env.begin(db=env.open_db(database)) as txn:
                entries = list(txn.cursor())
            assert len(entries) == 1, entries
            cases[name] = cut(b"".join(entries[0]), (*keys[name], ("crc", 4), *layouts[name]))
    return cases


def _decode_index(cases: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    with lmdb.open(str(folder / index_module.DIRECTORY), max_dbs=3, map_size=1 << 20) as env:
        for name, (database, key) in _DATABASES.items():
            with env.begin(write=True, db=env.open_db(database)) as txn:
                txn.put(cases[name][:key], cases[name][key:])
    index = Index(folder, OWNER)
    group, number, _ = _INDEX[_CHUNK]
    positions = index.chunk(group, number)
    found = {
        _META: (index.position, index.proven, index.oldest, index.doubt, index.systems),
        _STATE: {group: _state(state) for group, state in index.states.items()},
        _CHUNK: (group, number, {i: at for i, at in enumerate(positions or ()) if at}),
    }
    index.close()
    return found


INDEX = Format(
    "index",
    "keys and entries of the three databases of the index (plugins/storage/index.py)",
    "VERSION in plugins/storage/index.py",
    lambda: index_module.VERSION,
    _encode_index,
    _decode_index,
    _INDEX,
)

# The mark of a clean stop


def _encode_mark(folder: Path) -> dict[str, Fields]:
    stop_mark.write_mark(folder, OWNER, position(3, 0x5000))
    data = (folder / stop_mark.FILE).read_bytes()
    return {"mark": cut(data, (("magic", 7), ("version", 1), *OWNED, ("end of the log", 8), ("crc", 4)))}


def _decode_mark(cases: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    (folder / stop_mark.FILE).write_bytes(cases["mark"])
    return {"mark": stop_mark.read_mark(folder, OWNER)}


MARK = Format(
    "clean",
    "CLEAN, of either log; that of LmdbLog has the fingerprint of its file (plugins/storage/stop_mark.py)",
    "VERSION in plugins/storage/stop_mark.py",
    lambda: stop_mark.VERSION,
    _encode_mark,
    _decode_mark,
    {"mark": position(3, 0x5000)},
)

# The mark of a log that is not synced


def _encode_unsynced(folder: Path) -> dict[str, Fields]:
    mark = sync_mark.SyncMark(folder, OWNER)
    mark._boot = _BOOT
    mark.lost = frozenset((1, 255))
    mark.write((0, 9))
    layout = (("magic", 7), ("version", 1), *OWNED, ("boot", 16), ("unsynced groups", 32))
    data = (folder / sync_mark.FILE).read_bytes()
    return {"mark": cut(data, (*layout, ("groups that lost their promise", 32), ("crc", 4)))}


def _decode_unsynced(cases: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    (folder / sync_mark.FILE).write_bytes(cases["mark"])
    found = sync_mark.SyncMark(folder, OWNER)._stored
    if found is None:
        return {"mark": None}
    boot, unsynced, lost = found
    return {"mark": (str(boot), sorted(unsynced), sorted(lost))}


def _encode_wide_unsynced(folder: Path) -> dict[str, Fields]:
    mark = sync_mark.SyncMark(folder, OWNER)
    mark._boot = _BOOT
    mark.lost = frozenset((1, 1023))
    mark.write((0, 256))
    layout = (("magic", 7), ("version", 1), *OWNED, ("boot", 16), ("unsynced groups", 128))
    data = (folder / sync_mark.FILE).read_bytes()
    return {"mark": cut(data, (*layout, ("groups that lost their promise", 128), ("crc", 4)))}


_BOOT = UUID("01234567-89ab-cdef-0123-456789abcdef")
UNSYNCED = Format(
    "unsynced",
    "UNSYNCED, beside a log that is not synced in every turn (shards/sync_mark.py)",
    "VERSION in shards/sync_mark.py",
    lambda: sync_mark.VERSION,
    _encode_unsynced,
    _decode_unsynced,
    {"mark": (str(_BOOT), [0, 9], [1, 255])},
)
WIDE_UNSYNCED = Format(
    "wide-unsynced",
    "the same with groups above 255",
    "WIDE_VERSION in shards/sync_mark.py",
    lambda: sync_mark.WIDE_VERSION,
    _encode_wide_unsynced,
    _decode_unsynced,
    {"mark": (str(_BOOT), [0, 256], [1, 1023])},
)

# The log in plain LMDB

_KEYS = {"values": (("key: group", 2), ("key: instance", 8)), "states": (("key: group", 2),)}
_LMDB: dict[str, Any] = {
    "values: group 1, instance 2": (3, 4, b"value"),
    "states: group 1": (1, lmdb_record.GroupState(2, (3, 4), (5, 6), 1, True, 7)),
    "about: log": None,
    "about: groups": [0, 1, 255],
    "about: starts": 9,
    "about: system, group 1": lmdb_record.System(2, True, b"system"),
}


def _encode_lmdb(_: Path) -> dict[str, Fields]:
    value_key, group_key = lmdb_record.VALUE_KEY.pack(1, 2), lmdb_record.GROUP_KEY.pack(1)
    sealed = {
        "values: group 1, instance 2": (
            value_key,
            lmdb_record.seal_value(value_key, (3, 4, b"value")),
            (("round", 8), ("node", 8), ("value", 5)),
        ),
        "states: group 1": (
            group_key,
            lmdb_record.seal_state(group_key, _LMDB["states: group 1"][1]),
            (
                ("instance", 8),
                ("promised: round", 8),
                ("promised: node", 8),
                ("accepted: round", 8),
                ("accepted: node", 8),
                ("first", 8),
                ("suspect", 1),
                ("SYSTEM records so far", 8),
            ),
        ),
        "about: log": (lmdb_record.STAMP_KEY, lmdb_record.seal_stamp(OWNER), (("version", 4), *OWNED)),
        "about: groups": (
            lmdb_record.GROUPS_KEY,
            lmdb_record.seal_groups(_LMDB["about: groups"]),
            (("group", 2),) * 3,
        ),
        "about: starts": (lmdb_record.STARTS_KEY, lmdb_record.seal_starts(9), (("starts", 8),)),
        "about: system, group 1": (
            *lmdb_record.seal_system(1, 7, _LMDB["about: system, group 1"]),
            (("SYSTEM records so far", 8), ("from", 8), ("a later one may be lost", 1), ("value", 6)),
        ),
    }
    return {
        name: cut(key, _KEYS.get(name.split(":")[0], (("key", len(key)),))) + cut(data, (("crc", 4), *layout))
        for name, (key, data, layout) in sealed.items()
    }


def _decode_lmdb(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    where = "data.mdb"
    entries = {name: memoryview(data) for name, data in cases.items()}
    value = entries["values: group 1, instance 2"]
    state = entries["states: group 1"]
    lmdb_record.check_stamp(entries["about: log"][3:], OWNER, where)
    return {
        "values: group 1, instance 2": lmdb_record.open_value(bytes(value[:10]), value[10:], where),
        "states: group 1": lmdb_record.open_state(bytes(state[:2]), state[2:], where),
        "about: log": None,
        "about: groups": lmdb_record.open_groups(entries["about: groups"][6:], where),
        "about: starts": lmdb_record.open_starts(entries["about: starts"][6:], where),
        "about: system, group 1": lmdb_record.open_system(1, 7, entries["about: system, group 1"][8:], where),
    }


LMDB_LOG = Format(
    "lmdb-log",
    "keys and entries of the log in plain LMDB (plugins/storage/lmdb_record.py)",
    "VERSION in plugins/storage/lmdb_record.py",
    lambda: lmdb_record.VERSION,
    _encode_lmdb,
    _decode_lmdb,
    _LMDB,
)

# identity.json

_SEATS = {0x7F00000100002B67: 11, 0x7F00000100002B68: MOST}
_IDENTITIES = {
    "new": identity_module.Identity(
        format=identity_module.FORMAT,
        node_id=0x7F00000100002B67,
        seat=11,
        groups=100,
        hosts=None,
        epoch=0,
        founding=None,
        active=False,
        logs=False,
    ),
    "serving": identity_module.Identity(
        format=identity_module.FORMAT,
        node_id=0x7F00000100002B67,
        seat=11,
        groups=100,
        hosts=tuple(group % 2 for group in range(100)),
        epoch=3,
        founding=make_founding(_SEATS, 100),
        active=True,
        logs=True,
    ),
}


def _encode_identity(folder: Path) -> dict[str, Fields]:
    cases: dict[str, Fields] = {}
    for name, identity in _IDENTITIES.items():
        identity_module._write_identity(folder, identity)
        data = (folder / identity_module.IDENTITY_FILE).read_bytes()
        cases[name] = cut(data, (), "JSON")
    return cases


def _decode_identity(cases: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, data in cases.items():
        (folder / identity_module.IDENTITY_FILE).write_bytes(data)
        found[name] = identity_module.read_identity(folder)
    return found


IDENTITY = Format(
    "identity",
    "identity.json (shards/identity.py)",
    "FORMAT in shards/identity.py",
    lambda: identity_module.FORMAT,
    _encode_identity,
    _decode_identity,
    _IDENTITIES,
)

FORMATS = (SEGMENT, BATCHES, INDEX, MARK, UNSYNCED, WIDE_UNSYNCED, LMDB_LOG, IDENTITY)
