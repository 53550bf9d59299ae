"""What the inner state machines of a group say: who its members are, and whose reign it is.

Both are functions of the group's log alone. Their operations are *inner entries* of a value: they stand in
front of all others, name no incarnation, and are applied in the step that decides them, after the whole
instance: what they say holds from the next instance on. Each names the version that it changes, the
instance of the last operation that changed anything; one that names another version changes nothing, so
an operation that is decided twice counts once.

Bytes that are no operation change nothing either: every replica reads them alike (reference, L5).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Container, Iterable
from typing import Final, NamedTuple

from paxmux.engine.paxos.value import Entry

MEMBERSHIP_SMID: Final = 100_000_000
MASTER_SMID: Final = 100_000_001

OK: Final = 0
GID_NOT_SAME: Final = -501
VERSION_CONFLICT: Final = -502
NOT_A_MEMBER: Final = 17
BAD_MEMBERS: Final = -2
"""Codes of an operation of the membership, as `engine.errors.Code` has them."""

FOUNDED: Final = -1
"""The version of a membership that no operation has changed."""
MEMBERS_MAX: Final = 63
ADDRESS_MAX: Final = 300
LEASE_MAX: Final = 3600 * 10**9
"""ns. Nobody waits longer for a lease, whatever its owner may have asked for."""
TERMS_MAX: Final = 2000
"""So many changes of the term are remembered: it takes 32 KB, and as many elections."""
NO_TERM: Final = -1

Place = tuple[int, str]
"""Of a member: its seat, and `host:port`; no address where no operation has named one."""

_VERSION: Final = 1
_CHANGE: Final = struct.Struct("<BQqH")
_MEMBER: Final = struct.Struct("<QQH")
_REIGN_OP: Final = struct.Struct("<BBQQqQ")
_REIGN: Final = struct.Struct("<QQqqQI")
_TERM: Final = struct.Struct("<qq")
_LEASE: Final = 1
_RELEASE: Final = 2


class Change(NamedTuple):
    """An operation of the membership: the whole list that is to be."""

    cluster: int
    version: int
    """Of the membership that it changes."""
    members: dict[int, Place]


class Membership(NamedTuple):
    """Who decides, from the instance after `version` on."""

    version: int
    members: dict[int, Place]


class ReignOp(NamedTuple):
    """An operation of the master: its node takes or keeps the group for `lease` ns, or gives it back."""

    node: int
    incarnation: int
    """Of the node's process: a new one begins a new reign."""
    version: int
    lease: int
    fresh: bool = False
    """Begin a new reign, since the last lease had ended before this was proposed."""
    release: bool = False
    heir: int = 0
    """Of a release: the node that is to be the next master, if it wants; 0: whoever."""


class Reign(NamedTuple):
    """Who had the lease last."""

    node: int = 0
    """0: nobody."""
    incarnation: int = 0
    version: int = FOUNDED
    term: int = NO_TERM
    """The instance of the first operation of an unbroken reign."""
    lease: int = 0
    """In ns, from when its operation was proposed, or learned."""


NO_REIGN: Final = Reign()

Terms = list[tuple[int, int]]
"""(instance, term): from that instance on this was the term, ascending."""


class SystemState(NamedTuple):
    """All of it: what a log keeps of a group."""

    membership: Membership
    reign: Reign
    terms: Terms


# Membership


def encode_change(change: Change) -> bytes:
    """The payload of an operation."""
    head = _CHANGE.pack(_VERSION, change.cluster, change.version, len(change.members))
    return head + _encode_members(change.members)


def decode_change(payload: bytes) -> Change | None:
    """The operation; None if the bytes are none that may be applied."""
    if len(payload) < _CHANGE.size:
        return None
    kind, cluster, version, count = _CHANGE.unpack_from(payload)
    read = _decode_members(payload, _CHANGE.size, count)
    if kind != _VERSION or read is None or read[1] != len(payload):
        return None
    members = read[0]
    return Change(cluster, version, members) if may_be(members) else None


def may_be(members: dict[int, Place]) -> bool:
    """Whether these can be the members of a group: some, but not too many, each node and seat once."""
    seats = {seat for seat, _ in members.values()}
    return (
        0 < len(members) <= MEMBERS_MAX
        and len(seats) == len(members)
        and all(0 < node < 1 << 64 for node in members)
        and all(0 < seat < 1 << 64 for seat in seats)
        and all(len(address.encode()) <= ADDRESS_MAX for _, address in members.values())
    )


def _encode_members(members: dict[int, Place]) -> bytes:
    parts: list[bytes] = []
    for node, (seat, address) in sorted(members.items()):
        text = address.encode()
        parts += (_MEMBER.pack(node, seat, len(text)), text)
    return b"".join(parts)


def _decode_members(data: bytes, at: int, count: int) -> tuple[dict[int, Place], int] | None:
    members: dict[int, Place] = {}
    for _ in range(count):
        if at + _MEMBER.size > len(data):
            return None
        node, seat, size = _MEMBER.unpack_from(data, at)
        at += _MEMBER.size
        if at + size > len(data) or node in members:
            return None
        try:
            members[node] = seat, data[at : at + size].decode()
        except UnicodeDecodeError:
            return None
        at += size
    return members, at


# Master


def encode_reign_op(op: ReignOp) -> bytes:
    """The payload of an operation."""
    kind, last = (_RELEASE, op.heir) if op.release else (_LEASE, op.lease)
    return _REIGN_OP.pack(kind, op.fresh, op.node, op.incarnation, op.version, last)


def decode_reign_op(payload: bytes) -> ReignOp | None:
    """The operation; None if the bytes are none."""
    if len(payload) != _REIGN_OP.size:
        return None
    kind, fresh, node, incarnation, version, last = _REIGN_OP.unpack(payload)
    if (
        kind not in (_LEASE, _RELEASE)
        or fresh > 1
        or not node
        or (kind == _LEASE and not 0 < last <= LEASE_MAX)
    ):
        return None
    if kind == _LEASE:
        return ReignOp(node, incarnation, version, last, fresh=bool(fresh))
    return ReignOp(node, incarnation, version, 0, release=True, heir=last)


def heir_of(payload: bytes) -> int:
    """Who is to be the next master, if an operation says so; else 0."""
    op = decode_reign_op(payload)
    return op.heir if op is not None else 0


def after(reign: Reign, op: ReignOp, instance: int) -> Reign | None:
    """The reign after an operation that `instance` has decided; None if it changes nothing."""
    if op.version != reign.version:
        return None
    if op.release:
        return Reign(version=instance) if op.node == reign.node else None
    same = reign.node == op.node and reign.incarnation == op.incarnation and not op.fresh
    term = reign.term if same else instance
    return Reign(op.node, op.incarnation, instance, term, op.lease)


# What values do to it


def changed_by(membership: Membership, cluster: int, payload: bytes, instance: int) -> tuple[int, Membership]:
    """(code, what it is then) of an operation that `instance` has decided."""
    change = decode_change(payload)
    if change is None:
        return BAD_MEMBERS, membership
    if change.cluster != cluster:
        return GID_NOT_SAME, membership
    if change.version != membership.version:
        return VERSION_CONFLICT, membership
    # A second one in this instance names a version that is not any more.
    return OK, Membership(instance, change.members)


def reign_by(reign: Reign, members: Container[int], payload: bytes, instance: int) -> Reign | None:
    """The reign after an operation that `instance` has decided; None if it changes nothing."""
    op = decode_reign_op(payload)
    return None if op is None or op.node not in members else after(reign, op, instance)


def note_term(terms: Terms, before: Reign, now: Reign, instance: int) -> None:
    """Remember which term it is after `instance`."""
    if now.term != before.term:
        terms.append((instance + 1, now.term))
        if len(terms) > TERMS_MAX:
            del terms[0]


def replayed(state: SystemState, cluster: int, inner: Iterable[Entry], instance: int) -> SystemState:
    """The state after a decided value with these inner entries."""
    membership, reign, terms = state
    for _, _, _, _, smid, payload in inner:
        if smid == MEMBERSHIP_SMID:
            _, membership = changed_by(membership, cluster, payload, instance)
        elif (
            smid == MASTER_SMID
            and (found := reign_by(reign, membership.members, payload, instance)) is not None
        ):
            terms = list(terms)
            note_term(terms, reign, found, instance)
            reign = found
    return SystemState(membership, reign, terms)


def term_in(terms: Terms, unclear_before: int, instance: int) -> int | None:
    """The term that holds in an instance, -1 if there is none; None before what `terms` tells of."""
    if instance < unclear_before:
        return None
    at = bisect_right(terms, (instance, 1 << 63)) - 1
    return terms[at][1] if at >= 0 else NO_TERM


# The whole


def encode_state(state: SystemState) -> bytes:
    """As it lies in the log."""
    version, members = state.membership
    reign = state.reign
    return b"".join(
        (
            _CHANGE.pack(_VERSION, 0, version, len(members)),
            _encode_members(members),
            _REIGN.pack(
                reign.node, reign.incarnation, reign.version, reign.term, reign.lease, len(state.terms)
            ),
            *[_TERM.pack(*each) for each in state.terms],
        )
    )


def decode_state(data: bytes) -> SystemState:
    """The state. Raises ValueError: it is none."""
    try:
        kind, _, version, count = _CHANGE.unpack_from(data)
        read = _decode_members(data, _CHANGE.size, count)
        if kind != _VERSION or read is None or not may_be(read[0]):
            raise ValueError("no membership that a group can have")
        members, at = read
        node, incarnation, since, term, lease, terms = _REIGN.unpack_from(data, at)
        at += _REIGN.size
        if len(data) - at != terms * _TERM.size:
            raise ValueError(f"{len(data) - at} bytes for {terms} terms")
    except struct.error as error:
        raise ValueError(str(error)) from None
    each = [(first, second) for first, second in _TERM.iter_unpack(data[at:])]
    return SystemState(Membership(version, members), Reign(node, incarnation, since, term, lease), each)
