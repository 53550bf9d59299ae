"""What a caller wants proposed together, checked and made into packs.

Decides what may be in a pack, and where one ends; says no before anything is noted. Nothing here is done for
each value in Python: a call may hold a hundred thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from paxmux.engine import pack
from paxmux.engine.errors import InvalidRequest, ValueTooLarge
from paxmux.engine.options import LimitOptions
from paxmux.shards.requests import TOGETHER_MAX_BYTES

if TYPE_CHECKING:
    import pyarrow

Contexts = list[bytes | None]
"""Of a pack's values, one by one."""
Results = tuple[list[bytes | None], dict[int, str]]
"""What a pack's values gave, one by one, and why single ones were refused."""

_encode_contexts = msgspec.msgpack.Encoder().encode
decode_contexts = msgspec.msgpack.Decoder(Contexts).decode
encode_results = msgspec.msgpack.Encoder().encode
decode_results = msgspec.msgpack.Decoder(Results).decode


class Packed(msgspec.Struct, frozen=True, gc=False):
    """One pack, ready to be proposed."""

    count: int
    payload: bytes
    contexts: bytes | None
    size: int
    """What it takes of the bounds on bytes."""


class Packer:
    """For one node."""

    def __init__(self, limits: LimitOptions) -> None:
        self.max_bytes = limits.batch_max_bytes
        self._max_value_bytes = limits.max_value_bytes

    def packs(
        self, values: pack.Values | pyarrow.BinaryArray, contexts: Sequence[bytes | None] | None
    ) -> list[Packed]:
        """The packs of these values, in their order; none without any.

        Raises:
            InvalidRequest: something is not bytes, or there are not as many contexts as values.
            ValueTooLarge: a value, or the contexts that travel with a pack.
        """
        self._check(values)
        if contexts is not None and len(contexts) != len(values):
            raise InvalidRequest(f"expected a context for each of {len(values)} values, got {len(contexts)}")
        packs: list[Packed] = []
        start = 0
        for run in pack.cut(values, self.max_bytes) if len(values) else ():
            count = len(run)
            payload = pack.encode(run)
            beside = None if contexts is None else self._contexts(contexts[start : start + count])
            size = len(payload) + len(beside or b"")
            if size > TOGETHER_MAX_BYTES:
                raise ValueTooLarge(f"{size} bytes of a pack and its contexts, at most {TOGETHER_MAX_BYTES}")
            packs.append(Packed(count, payload, beside, size))
            start += count
        return packs

    def _check(self, values: pack.Values | pyarrow.BinaryArray) -> None:
        if isinstance(values, list | tuple):
            kinds = set(map(type, values)) - {bytes}
            if kinds:
                raise InvalidRequest(f"expected bytes, got {kinds.pop().__name__}")
            largest = max(map(len, values), default=0)
        else:
            largest = self._largest(values)
        if largest > self._max_value_bytes:
            raise ValueTooLarge(f"{largest} bytes, at most {self._max_value_bytes} (limits.max_value_bytes)")

    def _largest(self, values: object) -> int:
        """Bytes of the largest value of an Arrow array, or of all if those are few."""
        import pyarrow
        import pyarrow.compute

        if not isinstance(values, pyarrow.BinaryArray):
            raise InvalidRequest(
                f"expected a list of bytes or a pyarrow.BinaryArray, got {type(values).__name__}"
            )
        if values.null_count:
            raise InvalidRequest(f"expected bytes, got {values.null_count} nulls")
        size = pack.size_of(values)
        if size <= self._max_value_bytes:
            return size
        return int(pyarrow.compute.max(pyarrow.compute.binary_length(values)).as_py())

    def _contexts(self, contexts: Sequence[bytes | None]) -> bytes | None:
        kinds = set(map(type, contexts)) - {bytes, type(None)}
        if kinds:
            raise InvalidRequest(f"expected bytes or None as context, got {kinds.pop().__name__}")
        if not any(contexts):
            return None
        largest = max([len(context) for context in contexts if context is not None])
        if largest > self._max_value_bytes:
            raise ValueTooLarge(
                f"{largest} bytes of context, at most {self._max_value_bytes} (limits.max_value_bytes)"
            )
        return _encode_contexts(list(contexts))
