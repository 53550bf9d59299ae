"""Packs: many values as one proposal, from the caller's list to `execute_many`."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pytest

from paxmux.engine import pack
from paxmux.engine.errors import Code, InvalidRequest, Refused, ValueTooLarge
from paxmux.engine.options import LimitOptions
from paxmux.engine.pack import PACK
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.applier import Applier
from paxmux.shards.done import Done
from paxmux.shards.outcomes import Outcomes
from paxmux.shards.packer import Packer, decode_contexts
from paxmux.shards.requests import Reply

VALUES = [b"one", b"", b"three", bytes(300), b"\xff"]
Given = Sequence[bytes | Refused | None] | None


def arrow(values: Sequence[bytes]) -> pyarrow.BinaryArray:
    return pyarrow.array(values, pyarrow.binary())


# The bytes


@pytest.mark.parametrize("values", [VALUES, [], [b""], [b"alone"]])
def test_what_is_packed_comes_out_of_it_both_ways(values: list[bytes]) -> None:
    data = pack.encode(values)
    assert data == pack.encode(arrow(values))
    assert pack.count_of(data) == len(values)
    assert pack.decode(data) == values
    assert pack.column(data).to_pylist() == values


def test_a_slice_of_an_array_is_packed_as_its_values_are() -> None:
    array = arrow([b"before", *VALUES, b"behind"])[1:-1]
    assert pack.size_of(array) == pack.size_of(VALUES)
    assert pack.encode(array) == pack.encode(VALUES)


def test_a_column_shares_the_memory_of_the_pack() -> None:
    data = pack.encode([b"a" * 1000])
    buffer = pack.column(data).buffers()[2]
    assert buffer.address + buffer.size == pyarrow.py_buffer(data).address + len(data)


def test_bytes_that_are_no_pack_hold_nothing_either_way() -> None:
    good = pack.encode(VALUES)
    rng = random.Random(7)
    bad = [b"", good[:3], good[:-1], good + b"x", struct.pack("<I", 1 << 31), struct.pack("<Iii", 1, 0, -1)]
    bad.append(struct.pack("<Iiii", 2, 0, 5, 3) + b"abc")
    bad.append(struct.pack("<Iiii", 2, 0, -1, 3) + b"abc")
    bad.append(struct.pack("<Iii", 1, 1, 3) + b"abc")
    bad.append(struct.pack("<Ii", pack.COUNT_MAX + 1, 0) + bytes(4 * (pack.COUNT_MAX + 1)))
    for data in bad:
        assert pack.decode(data) == pack.column(data).to_pylist() == [], data[:20]
    for _ in range(2000):
        broken = bytearray(good)
        broken[rng.randrange(4 * (len(VALUES) + 2))] ^= 1 << rng.randrange(8)
        # It may be a pack of other values, but all replicas have to read the same.
        assert pack.decode(bytes(broken)) == pack.column(bytes(broken)).to_pylist()


@pytest.mark.parametrize("make", [list, arrow])
def test_values_are_cut_into_runs_that_fit(make: type[list[bytes]]) -> None:
    values = [bytes(number % 50) for number in range(1000)]
    runs = pack.cut(make(values), 700)
    assert [value for run in runs for value in (run if make is list else run.to_pylist())] == values
    assert max(pack.size_of(run) for run in runs) <= 700
    assert len(runs) <= 4 * pack.size_of(values) / 700
    huge = pack.cut(make([b"a", bytes(5000), b"b"]), 700)
    assert [len(run) for run in huge] == [1, 1, 1]
    assert max(len(run) for run in pack.cut(make([b""] * 200_000), 700)) <= pack.COUNT_MAX


# What a caller may pass


@pytest.mark.parametrize(
    ("values", "contexts", "error", "words"),
    [
        ([b"a", "text"], None, InvalidRequest, "got str"),
        ([b"a", None], None, InvalidRequest, "got NoneType"),
        (b"abc", None, InvalidRequest, "got bytes"),
        (arrow([b"a", b"b"]).cast(pyarrow.large_binary()), None, InvalidRequest, "LargeBinaryArray"),
        (pyarrow.array([b"a", None], pyarrow.binary()), None, InvalidRequest, "1 nulls"),
        ([b"a", bytes(101)], None, ValueTooLarge, "101 bytes"),
        (arrow([b"a", bytes(101)]), None, ValueTooLarge, "101 bytes"),
        ([b"a"], [], InvalidRequest, "a context for each of 1 values, got 0"),
        ([b"a"], ["x"], InvalidRequest, "as context, got str"),
        ([b"a"], [bytes(101)], ValueTooLarge, "101 bytes of context"),
    ],
)
def test_what_cannot_be_proposed_is_refused_before(
    values: list[bytes], contexts: list[bytes | None] | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Packer(LimitOptions(max_value_bytes=100)).packs(values, contexts)


def test_many_values_that_are_small_are_fine_however_much_they_are_together() -> None:
    packer = Packer(LimitOptions(max_value_bytes=100, batch_max_bytes=200))
    for values in ([bytes(60)] * 10, arrow([bytes(60)] * 10)):
        packs = packer.packs(values, None)
        assert sum(one.count for one in packs) == 10
        assert [value for one in packs for value in pack.decode(one.payload)] == [bytes(60)] * 10


def test_contexts_travel_with_their_values() -> None:
    packer = Packer(LimitOptions(batch_max_bytes=64))
    contexts = [b"%d" % number if number % 3 else None for number in range(10)]
    packs = packer.packs([bytes(20)] * 10, contexts)
    assert len(packs) > 1
    assert [each for one in packs for each in decode_contexts(one.contexts or b"\x90")] == contexts
    assert [one.contexts for one in packer.packs([b"a", b"b"], [None, None])] == [None]


# At the machine


class Recorder(StateMachine):
    smid = 1

    def __init__(self, answer: Given | Exception = None) -> None:
        super().__init__(0)
        self.answer = answer
        self.calls: list[tuple[int, list[bytes], Sequence[bytes | None] | None]] = []
        self.commits: list[int] = []

    def execute_many(
        self,
        instance_id: int,
        values: Sequence[bytes] | pyarrow.BinaryArray,
        contexts: Sequence[bytes | None] | None,
    ) -> Given:
        if self.columnar:
            assert isinstance(values, pyarrow.BinaryArray)
            values = values.to_pylist()
        assert isinstance(values, list)
        self.calls.append((instance_id, values, contexts))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self.calls.append((instance_id, [value], None if context is None else [context]))
        if value == b"no":
            raise Refused("not this one")
        return value

    def commit(self, instance_id: int) -> None:
        self.commits.append(instance_id)


class Columnar(Recorder):
    columnar = True


class OneByOne(Recorder):
    execute_many = StateMachine.execute_many


def run(machine: StateMachine, *payloads: bytes | list[bytes], contexts: bytes | None = None) -> list[Reply]:
    """Instance 0 decides these proposals of this node: values, and packs of values."""
    replies: list[Reply] = []
    applier = Applier(
        0, {1: machine}, MemoryLog(Path(), LogIdentity(7, 1, 11, 0)), replies.append, (9, 3), 1000
    )
    entries = [
        (9, 3, seq, 0, 1, each) if isinstance(each, bytes) else (9, 3, seq, 0, 1 | PACK, pack.encode(each))
        for seq, each in enumerate(payloads)
    ]
    owned = {entry[2]: (0, 0, entry[4], entry[5], contexts) for entry in entries}
    applier.apply(0, entries, owned)
    assert applier.executed == sum(1 if isinstance(each, bytes) else len(each) for each in payloads)
    return replies


def outcomes(reply: Reply, count: int) -> list[object]:
    return [each.result if isinstance(each, Done) else each for each in Outcomes([(count, reply)])]


@pytest.mark.parametrize("kind", [Recorder, Columnar])
def test_a_machine_gets_the_pack_at_once(kind: type[Recorder]) -> None:
    machine = kind([b"r%d" % number for number in range(5)])
    (reply,) = run(machine, VALUES)
    assert machine.calls == [(0, VALUES, None)]
    assert machine.commits == [0]
    assert outcomes(reply, 5) == [b"r0", b"r1", b"r2", b"r3", b"r4"]


def test_places_count_values_not_proposals() -> None:
    machine = Recorder()
    first, second, third, fourth = run(machine, b"a", [b"b", b"c", b"d"], [b"e"], b"f")
    assert [first[3], second[3], third[3], fourth[3]] == [0, 1, 4, 5]
    places = [each.batch_index for each in Outcomes([(3, second), (1, third)]) if isinstance(each, Done)]
    assert places == [1, 2, 3, 4]


def test_nothing_given_is_nothing_sent() -> None:
    for answer in (None, [None] * 5):
        (reply,) = run(Recorder(answer), VALUES)
        assert reply[4] is None
        assert outcomes(reply, 5) == [None] * 5


def test_one_refusal_leaves_the_others() -> None:
    machine = OneByOne()
    (reply,) = run(machine, [b"a", b"no", b"b"])
    assert [call[1] for call in machine.calls] == [[b"a"], [b"no"], [b"b"]]
    a, no, b = outcomes(reply, 3)
    assert (a, b) == (b"a", b"b")
    assert isinstance(no, Refused)
    assert str(no) == "not this one"


def test_contexts_reach_the_machine() -> None:
    contexts = Packer(LimitOptions()).packs([b"a", b"b"], [b"x", None])[0].contexts
    machine = Recorder()
    run(machine, [b"a", b"b"], contexts=contexts)
    assert machine.calls == [(0, [b"a", b"b"], [b"x", None])]
    machine = OneByOne()
    run(machine, [b"a", b"b"], contexts=contexts)
    assert machine.calls == [(0, [b"a"], [b"x"]), (0, [b"b"], None)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([b"too few"], "1 results for 5 values"),
        ([1, None, None, None, None], "returned int"),
        (ValueError("broken"), "ValueError: broken"),
    ],
)
def test_a_machine_that_breaks_its_word_is_stopped(answer: Given | Exception, words: str) -> None:
    machine = Recorder(answer)
    first, second = run(machine, VALUES, [b"later"])
    assert [first[1], second[1]] == [Code.EXECUTE_FAILED] * 2
    assert words in (first[4] or b"").decode()
    assert len(machine.calls) == 1
    assert machine.commits == []


def test_a_refusal_raised_is_one_of_all() -> None:
    (reply,) = run(Recorder(Refused("none of it")), VALUES)
    assert [type(each) for each in outcomes(reply, 5)] == [Refused] * 5


def test_results_too_large_are_named() -> None:
    (reply,) = run(Recorder([bytes(500)] * 5), VALUES)
    assert reply[1] == Code.RESULT_TOO_LARGE
