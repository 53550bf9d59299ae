"""What became of values that were proposed together: one outcome each, made when it is looked at.

Decides how the reply to a pack is read. Values of one pack share their instance, and stand in it one after
the other; a refusal of one of them leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from paxmux.engine.errors import Code, NotMaster, PaxmuxError, error_for
from paxmux.shards.done import Done
from paxmux.shards.packer import decode_results
from paxmux.shards.requests import Reply


class Outcomes(Sequence[Done | PaxmuxError]):
    """For each value, in the order in which they were passed: `Done`, or the error that `propose` would have
    raised. A sequence; asking for the length, for `failed` or for `raise_first` costs nothing per value."""

    __slots__ = ("_parts", "_starts")

    def __init__(self, parts: Sequence[tuple[int, Reply]]) -> None:
        """`parts`: the packs' counts and replies, in order."""
        self._parts = [_Part(count, reply) for count, reply in parts]
        self._starts: list[int] = []
        start = 0
        for part in self._parts:
            self._starts.append(start)
            start += part.count
        self._starts.append(start)

    @property
    def failed(self) -> int:
        """How many of them are errors."""
        return sum(part.failed for part in self._parts)

    def raise_first(self) -> None:
        """Raise the first of the errors; nothing if there is none."""
        for part in self._parts:
            error = part.first_error()
            if error is not None:
                raise error

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Done | PaxmuxError: ...
    @overload
    def __getitem__(self, index: slice) -> list[Done | PaxmuxError]: ...
    def __getitem__(self, index: int | slice) -> Done | PaxmuxError | list[Done | PaxmuxError]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"{len(self)} outcomes")
        which = 0
        while index >= self._starts[which + 1]:
            which += 1
        return self._parts[which].outcome(index - self._starts[which])

    def __repr__(self) -> str:
        return f"<{len(self)} outcomes, {self.failed} of them errors>"


class _Part:
    """One pack."""

    __slots__ = ("count", "reply", "results", "why")

    def __init__(self, count: int, reply: Reply) -> None:
        self.count = count
        self.reply = reply
        self.results: list[bytes | None] = []
        self.why: dict[int, str] = {}
        if reply[1] == Code.OK and reply[4] is not None:
            self.results, self.why = decode_results(reply[4])

    @property
    def failed(self) -> int:
        return self.count if self.reply[1] else len(self.why)

    def first_error(self) -> PaxmuxError | None:
        if self.reply[1]:
            return error_of(self.reply)
        return error_for(Code.REFUSED, self.why[min(self.why)]) if self.why else None

    def outcome(self, index: int) -> Done | PaxmuxError:
        if self.reply[1]:
            return error_of(self.reply)
        if index in self.why:
            return error_for(Code.REFUSED, self.why[index])
        result = self.results[index] if self.results else None
        return Done(self.reply[2], result, self.reply[3] + index)


def error_of(reply: Reply) -> PaxmuxError:
    """The error that a reply with a code other than OK stands for."""
    words = (reply[4] or b"").decode("utf-8", "replace")
    if reply[1] == Code.NOT_MASTER:
        return NotMaster(words, master=reply[2], version=reply[3] - 1)
    return error_for(reply[1], words)
