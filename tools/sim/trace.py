"""What happened in a run: a digest of everything, and on request words that a human can follow.

The digest is cheap and always made; two runs with the same digest did the same. Words cost as much
as the run itself, so only a run that is known to fail, or that somebody wants to read, makes them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from paxmux.engine.frame import parse_header
from paxmux.engine.paxos.messages import KINDS
from paxmux.shards.codec import decode_sections

_MARK = struct.Struct("<qHHI")
NAMES = dict(
    zip(
        KINDS,
        (
            "Learned", "Chosen", "Prepare", "PrepareReply", "Accept", "AcceptReply", "Position", "Ask",
            "TopAsk", "TopReply", "Forward", "ForwardRefusal", "ChainAsk", "ChainReply",
        ),
        strict=False,
    )
)  # fmt: skip
BYTES_SHOWN = 40
BODIES_MAX = 6
"""Messages of one frame that are spelled out."""


class Trace:
    """The record of one run."""

    __slots__ = ("_hash", "events", "lines", "now", "wordy")

    def __init__(self, keep: int = 0) -> None:
        """`keep`: so many of the last events are kept as words."""
        self.wordy = keep > 0
        self.lines: deque[str] = deque(maxlen=keep)
        self.events = 0
        self.now = 0
        self._hash = blake2b(digest_size=8)

    @property
    def digest(self) -> str:
        """Of everything so far."""
        return self._hash.hexdigest()

    def mark(self, now: int, what: int, who: int, detail: int) -> None:
        """Something happened; `detail` below 2**32."""
        self.events += 1
        self._hash.update(_MARK.pack(now, what, who, detail))

    def say(self, text: str) -> None:
        """For humans; only where `wordy`."""
        self.lines.append(f"{self.now / 1e6:12.3f} ms  {text}")


MARK_TURN, MARK_FRAME, MARK_FAULT, MARK_REPLY, MARK_BOOT = range(1, 6)


def spell(frame: bytes) -> str:
    """The messages of a frame."""
    header = parse_header(frame)
    words: list[str] = []
    bodies: list[Sequence[Sequence[Any]]] = list(decode_sections(frame, header.start))
    for body in bodies:
        for kind, messages in zip(KINDS, body, strict=True):
            words += [_message(kind, header.sender, header.dest, message) for message in messages]
    more = f" and {len(words) - BODIES_MAX} more" if len(words) > BODIES_MAX else ""
    return "; ".join(words[:BODIES_MAX]) + more


def _message(kind: str, sender: int, dest: int, message: Sequence[Any]) -> str:
    name = NAMES.get(kind, kind)
    group, *rest = message
    match kind, rest:
        case ("prepares" | "chosen", [instance, round]):
            return f"{name} g{group} i{instance} b({round},{sender})"
        case "prepare_replies", [instance, round, rejected, at_round, at_node, value]:
            if rejected:
                return f"PrepareReject g{group} i{instance} b({round},{dest}) for b({at_round},{at_node})"
            held = f" with b({at_round},{at_node}) {shown(value)}" if at_round else ""
            return f"Promise g{group} i{instance} b({round},{dest}){held}"
        case "accepts", [instance, round, value]:
            return f"Accept g{group} i{instance} b({round},{sender}) {shown(value)}"
        case "accept_replies", [instance, round, rejected, node]:
            if rejected:
                return f"AcceptReject g{group} i{instance} b({round},{dest}) for b({rejected},{node})"
            return f"Accepted g{group} i{instance} b({round},{dest})"
        case "learned", [instance, round, node, value]:
            return f"Learned g{group} i{instance} b({round},{node}) {shown(value)}"
        case (("positions" | "asks" | "chain_asks"), [instance, *_]):
            return f"{name} g{group} i{instance}"
        case "forwards", [born, value]:
            return f"Forward g{group} born i{born} {shown(value)}"
    parts = (shown(part) if isinstance(part, bytes) else str(part) for part in rest)
    return f"{name} g{group} {' '.join(parts)}"


def shown(value: object) -> str:
    """A value's size and its last bytes: the first ones are its header."""
    if not isinstance(value, bytes):
        return str(value)
    return f"{len(value)} B …{value[-BYTES_SHOWN:]!r}" if value else "nothing"
