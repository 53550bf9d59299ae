"""Records as lines of text and as documents for JSON.

Decides nothing but looks; checksums and chains are eight hexadecimal digits in both, so that the chain
of one value is found as the checksum of the one before.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from paxmux.engine.address import node_text
from paxmux.engine.pack import expand
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.value import Entry, chain_after, chain_in, decode
from paxmux.engine.storage import Record
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
    PROMISE,
    RELEASED,
    SUSPECT,
    SYSTEM,
)
from paxmux.tools.log.fault import ballot_text, chain_text
from paxmux.tools.log.find import Found, FoundValue
from paxmux.tools.log.read import WITHOUT_INSTANCE
from paxmux.tools.log.rows import is_no_op

KINDS = {
    PROMISE: "promise",
    ACCEPT: "accept",
    LEARNED: "learned",
    DECIDED: "decided",
    FORGOTTEN: "forgotten",
    RELEASED: "released",
    CLEARED: "cleared",
    SUSPECT: "suspect",
    SYSTEM: "system",
    OPENING: "opening",
    HARD_STATE: "hard_state",
    DOUBT: "doubt",
}
WITHOUT_BALLOT = frozenset({DECIDED, FORGOTTEN, RELEASED, SUSPECT, SYSTEM})
WITH_VALUE = frozenset({ACCEPT, LEARNED})
PREVIEW_BYTES = 48


def record_document(log: int, at: int, record: Record, *, upkeep: bool) -> dict[str, Any]:
    """A record as `dump --json` has it. `upkeep`: the log wrote it by itself."""
    kind, group, instance, round_, node, value = record
    document: dict[str, Any] = {
        "log": log,
        "segment": at >> OFFSET_BITS,
        "offset": at & OFFSET_MASK,
        "kind": KINDS.get(kind, kind),
    }
    if kind == OPENING:
        return document | {"oldest_needed": instance}
    if kind == DOUBT:
        return document
    document["group"] = group
    if kind not in WITHOUT_INSTANCE:
        document["instance"] = instance
    if kind not in WITHOUT_BALLOT:
        document |= {"round": round_, "node": node}
    if kind in WITH_VALUE:
        document |= value_document(value)
        if upkeep:
            document["moved"] = True
    elif kind == SYSTEM:
        document |= {"size": len(value), "lost": round_ != 0}
    elif kind == HARD_STATE and len(value) == CARRIED.size:
        accepted_round, accepted_node, place = CARRIED.unpack(value)
        document |= {"accepted_round": accepted_round, "accepted_node": accepted_node}
        if place:
            document |= {"accepted_segment": place >> OFFSET_BITS, "accepted_offset": place & OFFSET_MASK}
    return document


def record_line(log: int, at: int, record: Record, *, upkeep: bool) -> str:
    """A record as `dump` prints it; `upkeep` as in `record_document`."""
    kind, group, instance, round_, node, value = record
    place = f"{log} {at >> OFFSET_BITS}:{at & OFFSET_MASK:<10} {KINDS.get(kind, kind):<10}"
    if kind == OPENING:
        return f"{place} oldest segment needed {instance}"
    if kind == DOUBT:
        return f"{place} promises before this may be lost"
    text = f"{place} group {group}"
    if kind not in WITHOUT_INSTANCE:
        text += f" instance {instance}"
    if kind not in WITHOUT_BALLOT:
        text += f" ballot {ballot_text((round_, node))}"
    if kind in WITH_VALUE:
        text += f" {value_text(value)}{', moved' if upkeep else ''}"
    elif kind == SYSTEM:
        text += f" {len(value)} bytes{', a later one may be lost' if round_ else ''}"
    elif kind == HARD_STATE and len(value) == CARRIED.size:
        accepted_round, accepted_node, at = CARRIED.unpack(value)
        text += f" accepted {ballot_text((accepted_round, accepted_node))}"
        if at:
            text += f" at {at >> OFFSET_BITS}:{at & OFFSET_MASK}"
    return text


def value_document(value: bytes) -> dict[str, Any]:
    """What there is to say about a value but for its bytes."""
    return {
        "size": len(value),
        "checksum": chain_text(chain_after(value)),
        "chain": chain_text(chain_in(value)),
        "entries": len(expand(decode(value))),
    }


def value_text(value: bytes) -> str:
    """The same in words."""
    count = len(expand(decode(value)))
    what = f"{count} entries" if count != 1 else "1 entry"
    if not count:
        what = "no-op" if is_no_op(value) else "not a value"
    checksum, chain = chain_text(chain_after(value)), chain_text(chain_in(value))
    return f"checksum {checksum} chain {chain} {len(value)} bytes, {what}"


def found_document(group: int, instance: int, found: Found) -> dict[str, Any]:
    """What `get --json` prints."""
    return {
        "group": group,
        "instance": instance,
        "decided": found.decided,
        "stands_at": found.stands_at,
        "records": [_found_value(each) for each in found.values],
    }


def found_lines(group: int, instance: int, found: Found) -> list[str]:
    """What `get` prints: every record, and the entries of the last one."""
    state = "decided" if found.decided else "accepted, not known to be decided"
    lines = [f"group {group}, instance {instance}: {state}"]
    for each in found.values:
        copied = ", copied to the start of a segment" if each.copied else ""
        copied += ", moved out of an older segment" if each.moved else ""
        lines += [
            f"  {KINDS[each.kind]} under ballot {ballot_text((each.round, each.node))}"
            f" in log {each.log}, segment {each.segment}, offset {each.offset}{copied}",
            f"    {value_text(each.value)}",
        ]
    entries = expand(decode(found.values[-1].value))
    lines += [line for position, entry in enumerate(entries) for line in _entry_lines(position, entry)]
    return lines


def _entry_lines(position: int, entry: Entry) -> list[str]:
    origin, incarnation, seq, born, smid, payload = entry
    shown = repr(payload[:PREVIEW_BYTES])[1:]
    more = " …" if len(payload) > PREVIEW_BYTES else ""
    return [
        f"  entry {position}: state machine {smid}, {len(payload)} bytes,"
        f" proposed at {node_text(origin)} as {incarnation:016x}/{seq}, born at instance {born}",
        f"    {shown}{more}",
    ]


def _found_value(each: FoundValue) -> dict[str, Any]:
    document: dict[str, Any] = {
        "log": each.log,
        "segment": each.segment,
        "offset": each.offset,
        "kind": KINDS[each.kind],
        "copied": each.copied,
        "moved": each.moved,
        "round": each.round,
        "node": each.node,
        **value_document(each.value),
    }
    document["entries"] = [
        {
            "position": position,
            "smid": smid,
            "origin": origin,
            "incarnation": incarnation,
            "seq": seq,
            "born": born,
            "size": len(payload),
            "value": b64encode(payload).decode("ascii"),
        }
        for position, (origin, incarnation, seq, born, smid, payload) in enumerate(expand(decode(each.value)))
    ]
    return document


def ballot_document(ballot: tuple[int, int]) -> list[int] | None:
    """[round, node]; None for none."""
    return list(ballot) if ballot != NULL else None
