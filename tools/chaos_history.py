"""The history of a run of `paxmux chaos --linearizable`: what was called, kept, written down, read again.

Decides what of a call goes into the history, and what a killed node's clients may have called without
telling. The file has a line for each operation, in JSON, with the fields of
`paxmux.tools.linear_operation.Operation`; it is complete once the run has ended.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic_ns

import msgspec

from paxmux.engine.errors import Code, ConfigError
from paxmux.tools.chaos_ledger import EXPECTED
from paxmux.tools.linear import Operation
from paxmux.tools.linear_operation import Kind
from paxmux.tools.register_clients import Called, read_value

_SECOND_NS = 1_000_000_000


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operation in the file."""

    client: int
    kind: Kind
    key: str
    argument: str | tuple[str | None, str | None] | None
    result: str | None
    invoked_ns: int
    returned_ns: int | None


class _Life:
    """One client."""

    __slots__ = ("ended", "told", "told_ns")

    def __init__(self, since_ns: int) -> None:
        self.told = 0
        """Number of the last call that it told of."""
        self.told_ns = since_ns
        self.ended = False
        """Its node is gone."""


class History:
    """One run's. Knows no process."""

    def __init__(self, violate: Callable[[str], None]) -> None:
        self._violate = violate
        self._lives: dict[int, _Life] = {}
        self._reads = itertools.count(-1, -1)
        self.operations: list[Operation] = []
        self.outcomes: Counter[int] = Counter()
        """Code -> calls."""
        self.refused = 0
        """Calls without effect, which are no operations."""

    def new_clients(self, count: int) -> int:
        """The number of the first of `count` clients that begin now."""
        first = len(self._lives)
        now_ns = monotonic_ns()
        self._lives |= {first + number: _Life(now_ns) for number in range(count)}
        return first

    def take(self, called: Called) -> None:
        """A call has ended."""
        life = self._lives[called.client]
        life.told, life.told_ns = called.number, called.returned_ns
        self.outcomes[called.code] += 1
        if called.code not in EXPECTED:
            self._violate(
                f"a {called.kind} on {called.key} ended with code {called.code}, which nothing should cause"
            )
        if called.no_effect:
            self.refused += 1
            return
        self.operations.append(
            Operation(
                called.client,
                called.kind,
                called.key,
                (called.expected, called.value) if called.kind == "cas" else called.value,
                called.found if called.code == Code.OK else None,
                called.invoked_ns,
                called.returned_ns if called.code == Code.OK else None,
            )
        )

    def take_read(self, key: str, found: str | None, invoked_ns: int, returned_ns: int) -> None:
        """The tool itself has read a register."""
        self.operations.append(Operation(next(self._reads), "get", key, None, found, invoked_ns, returned_ns))

    def gone(self, first_client: int, count: int) -> None:
        """The node of these clients was killed: what they had called last may be unknown."""
        for client in range(first_client, first_client + count):
            self._lives[client].ended = True

    def complete(self) -> int:
        """All is told: add what killed clients wrote without telling, as far as anybody saw it. Returns
        how many operations these are.

        Nobody knows what such a call was, but its value was written if it was seen, and not before
        the call before it had ended. A put is the least that can be said.
        """
        written = {
            one.argument[1] if isinstance(one.argument, tuple) else one.argument
            for one in self.operations
            if one.kind != "get"
        }
        added = []
        for one in self.operations:
            value = one.result
            if not isinstance(value, str) or value in written:
                continue
            written.add(value)
            try:
                client, number = read_value(value)
            except ValueError:
                continue  # the check will say that nobody wrote it
            life = self._lives.get(client)
            if life is not None and life.ended and number > life.told:
                added.append(Operation(client, "put", str(one.key), value, None, life.told_ns, None))
        self.operations += added
        return len(added)


def longest_silence_s(operations: list[Operation]) -> float:
    """The longest time in which no operation succeeded, from the first call to the last answer."""
    if not operations:
        return 0.0
    answers = sorted(one.returned_ns for one in operations if one.returned_ns is not None)
    moments = [min(one.invoked_ns for one in operations), *answers]
    return max((after - before for before, after in itertools.pairwise(moments)), default=0) / _SECOND_NS


def unknown(operations: list[Operation]) -> int:
    """Operations without an answer."""
    return sum(one.returned_ns is None for one in operations)


def write_history(file: Path, operations: list[Operation]) -> None:
    """Write a history down, in the order of calls."""
    encode = msgspec.json.Encoder().encode
    with open(file, "wb") as out:
        for one in sorted(operations, key=lambda one: one.invoked_ns):
            out.write(encode(one._asdict()) + b"\n")


def read_history(file: Path) -> Iterator[Operation]:
    """What `write_history` wrote.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no operation.
    """
    decode = msgspec.json.Decoder(_Line).decode
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    one = decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise ConfigError(f"{file}:{number}: expected an operation: {error}") from None
                yield Operation(
                    one.client,
                    one.kind,
                    one.key,
                    one.argument,
                    one.result,
                    one.invoked_ns,
                    one.returned_ns,
                )
    except OSError as error:
        raise ConfigError(f"{file}: expected a history: {error.strerror}") from None
