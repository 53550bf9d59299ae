"""One call on a register, as a history has it, and how people read it.

Decides what a history must say of a call; nothing about whether it could have happened.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, NamedTuple

VALUE_MAX = 60
"""Characters of a value that are shown."""

Kind = Literal["get", "put", "delete", "cas"]
Value = Hashable
"""None: the register is empty. Anything else that can be compared and hashed, such as str or bytes."""


class Operation(NamedTuple):
    """One call, as its caller saw it. What is known to have had no effect does not belong in a history."""

    client: int
    """Who called."""
    kind: Kind
    key: Hashable
    argument: Value
    """put: the value. cas: the pair (expected, new). get, delete: None."""
    result: Value
    """get: the value found. cas: the value found; new was written if that is what was expected.
    put, delete, and whatever has an unknown outcome: None."""
    invoked_ns: int
    """When the call was made; one clock for all clients."""
    returned_ns: int | None
    """When the answer came. None: none did, so it may have taken effect at any later time, or never."""


def describe(one: Operation) -> str:
    """What was called, and what it answered."""
    known = one.returned_ns is not None
    if one.kind == "cas" and isinstance(one.argument, tuple):
        expected, new = one.argument
        call = f"cas {_show(expected)} -> {_show(new)}"
        outcome = "done" if one.result == expected else f"found {_show(one.result)}"
    elif one.kind == "get":
        call, outcome = "get", f"found {_show(one.result)}"
    else:
        call = f"put {_show(one.argument)}" if one.kind == "put" else one.kind
        outcome = "done"
    return f"{call}: {outcome}" if known else f"{call}: outcome unknown"


def _show(value: Value) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}..."
