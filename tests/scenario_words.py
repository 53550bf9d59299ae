"""How scenarios write messages, records and values: one short line each, the same at every run.

Nothing here is random or counts lives of a process: incarnations and checksums are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.messages import KINDS, Batch, Body
from paxmux.engine.paxos.system import MEMBERSHIP_SMID, decode_change, decode_reign_op, decode_state
from paxmux.engine.storage import Record, RecordKind
from paxmux.shards.codec import decode_sections

Message = tuple[Any, ...]

NAMES = {
    "learned": "Learned",
    "chosen": "Chosen",
    "prepares": "Prepare",
    "prepare_replies": "PrepareReply",
    "accepts": "Accept",
    "accept_replies": "AcceptReply",
    "positions": "Position",
    "asks": "Ask",
    "top_asks": "TopAsk",
    "top_replies": "TopReply",
    "forwards": "Forward",
    "forward_refusals": "ForwardRefusal",
    "chain_asks": "ChainAsk",
    "chain_replies": "ChainReply",
    "vow_asks": "VowAsk",
    "vow_replies": "VowReply",
    "mend_asks": "MendAsk",
    "inner_forwards": "InnerForward",
    "recall_asks": "RecallAsk",
    "recall_replies": "RecallReply",
}
"""Kind as in a batch -> its name in a scenario."""
OF_NO_INSTANCE = frozenset(
    {"top_asks", "top_replies", "forwards", "vow_asks", "vow_replies", "inner_forwards", "recall_asks"}
)
KIND_OF = {name: kind for kind, name in NAMES.items()}


def messages_in(frame: bytes) -> list[tuple[str, Message]]:
    """(kind, message) of everything in a frame, in the order in which a receiver handles it."""
    found: list[tuple[str, Message]] = []
    for body in decode_sections(frame, HEADER_BYTES):
        found += messages_of(body)
    return found


def messages_of(body: Body) -> list[tuple[str, Message]]:
    """(kind, message) of one batch."""
    return [(kind, message) for kind, items in zip(KINDS, body, strict=True) for message in items]


def batch_of(messages: list[tuple[str, Message]]) -> Batch:
    """A batch with these messages."""
    batch = Batch()
    for kind, message in messages:
        getattr(batch, kind).append(message)
    return batch


def instance_of(kind: str, message: Message) -> int | None:
    """The instance that a message is about; None for those that are about none."""
    without = (
        "top_asks",
        "top_replies",
        "forwards",
        "vow_asks",
        "vow_replies",
        "inner_forwards",
        "recall_asks",
    )
    return None if kind in without else message[1]


def ballot(round: int, node: int) -> str:
    """`b(5,1)`: round 5 of node 1."""
    return f"b({round},{node})" if round or node else "nothing"


def value_text(value: bytes) -> str:
    """The payloads of a value, in their order: `[x y]`; `[no-op]` if it has none. What is in it for the inner
    state machines stands in brackets: `[<members 1 2> x]`."""
    entries = values.decode(value)
    inner = [_inner_text(entry[4], entry[5]) for entry in values.inner_of(value, entries)]
    return _shown(inner + [entry[5].decode() for entry in entries[len(inner) :]])


def _inner_text(smid: int, payload: bytes) -> str:
    if smid == MEMBERSHIP_SMID:
        change = decode_change(payload)
        return "<members, but none>" if change is None else f"<members {_names(change.members)}>"
    op = decode_reign_op(payload)
    if op is None:
        return "<lease, but none>"
    heir = f" for {op.heir}" if op.heir else ""
    return f"<{op.node} gives back{heir}>" if op.release else f"<lease of {op.node}>"


def _names(nodes: Iterable[int]) -> str:
    return " ".join(map(str, sorted(nodes)))


def entries_text(payloads: list[bytes]) -> str:
    """The payloads of a value: as many as a reader can take in."""
    return _shown([payload.decode() for payload in payloads])


def _shown(texts: list[str]) -> str:
    if len(texts) > 8:
        texts = [*texts[:2], "...", texts[-1], f"({len(texts)} values)"]
    return f"[{' '.join(texts) if texts else 'no-op'}]"


def _prepare(src: int, dst: int, m: Message) -> str:
    return f"i{m[1]} {ballot(m[2], src)}"


def _prepare_reply(src: int, dst: int, m: Message) -> str:
    _, instance, round, rejected_by, accepted_round, accepted_node, value = m
    head = f"i{instance} {ballot(round, dst)}"
    if rejected_by:
        return f"{head} rejected, {ballot(accepted_round, accepted_node)} is promised"
    if not accepted_round:
        return f"{head} promised, accepted nothing"
    return f"{head} promised, accepted {ballot(accepted_round, accepted_node)} {value_text(value)}"


def _accept(src: int, dst: int, m: Message) -> str:
    return f"i{m[1]} {ballot(m[2], src)} {value_text(m[3])}"


def _accept_reply(src: int, dst: int, m: Message) -> str:
    head = f"i{m[1]} {ballot(m[2], dst)}"
    return f"{head} rejected, {ballot(m[3], m[4])} is promised" if m[3] else f"{head} accepted"


def _position(src: int, dst: int, m: Message) -> str:
    return f"i{m[1]}"


def _ask(src: int, dst: int, m: Message) -> str:
    return f"from i{m[1]} on"


def _learned(src: int, dst: int, m: Message) -> str:
    return f"i{m[1]} {ballot(m[2], m[3])} {value_text(m[4])}"


def _top_ask(src: int, dst: int, m: Message) -> str:
    return ""


def _top_reply(src: int, dst: int, m: Message) -> str:
    return f"top i{m[2]}" if m[2] >= 0 else "top none"


def _forward(src: int, dst: int, m: Message) -> str:
    return f"{value_text(m[2])} born at i{m[1]}"


def _forward_refusal(src: int, dst: int, m: Message) -> str:
    return f"i{m[1]}, the highest known is {ballot(m[2], m[3])}"


def _chain(src: int, dst: int, m: Message) -> str:
    return f"below i{m[1]}"


def _vow_ask(src: int, dst: int, m: Message) -> str:
    return ""


def _vow_reply(src: int, dst: int, m: Message) -> str:
    return f"{ballot(m[2], m[3])} is promised, no vote from i{m[4]} on"


def _mend_ask(src: int, dst: int, m: Message) -> str:
    return f"i{m[1]} and {m[2] - 1} more"


def _recall_reply(src: int, dst: int, m: Message) -> str:
    return f"from i{m[1]} on, members {_names(decode_state(m[2]).membership.members)}"


def _inner_forward(src: int, dst: int, m: Message) -> str:
    return value_text(m[1])


_WORDS: dict[str, Callable[[int, int, Message], str]] = {
    "learned": _learned,
    "chosen": _prepare,
    "prepares": _prepare,
    "prepare_replies": _prepare_reply,
    "accepts": _accept,
    "accept_replies": _accept_reply,
    "positions": _position,
    "asks": _ask,
    "top_asks": _top_ask,
    "top_replies": _top_reply,
    "forwards": _forward,
    "forward_refusals": _forward_refusal,
    "chain_asks": _chain,
    "chain_replies": _chain,
    "vow_asks": _vow_ask,
    "vow_replies": _vow_reply,
    "mend_asks": _mend_ask,
    "inner_forwards": _inner_forward,
    "recall_asks": _vow_ask,
    "recall_replies": _recall_reply,
}
assert _WORDS.keys() == NAMES.keys() == set(KINDS), "a kind of message has no words"


def message_text(kind: str, src: int, dst: int, message: Message) -> str:
    """`Accept g0 i3 b(5,1) [x]`."""
    return f"{NAMES[kind]} g{message[0]} {_WORDS[kind](src, dst, message)}".rstrip()


def record_text(record: Record) -> str:
    """A record of the log: `Promise g0 i3 b(5,1)`."""
    kind, group, instance, round, node, value = record
    name = RecordKind(kind).name.capitalize()
    head = f"{name} g{group} i{instance}"
    if kind == RecordKind.DECIDED:
        return head
    if kind == RecordKind.SYSTEM:
        state = decode_state(value)
        lease = f", lease of {state.reign.node}, term i{state.reign.term}" if state.reign.node else ""
        return f"{head} members {_names(state.membership.members)}{lease}"
    head += f" {ballot(round, node)}"
    return head if kind == RecordKind.PROMISE else f"{head} {value_text(value)}"
