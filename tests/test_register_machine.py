"""The registers that chaos writes to: what they answer, what they refuse, how replicas compare."""

from __future__ import annotations

import pytest

from paxmux.engine.errors import Refused
from paxmux.tools.register_machine import (
    ASK_MARK,
    Registers,
    cas,
    delete,
    get,
    put,
    read_found,
    read_mark,
)


def done(machine: Registers, command: bytes, instance: int = 0) -> str | None:
    answer = machine.execute(instance, command, None)
    assert answer is not None
    return read_found(answer)


def test_each_command_answers_what_was_there() -> None:
    machine = Registers(0)
    assert read_found(machine.query(get("k"))) is None
    assert done(machine, cas("k", "a", "b")) is None
    assert done(machine, cas("k", None, "a")) is None
    assert done(machine, put("k", "b")) == "a"
    assert done(machine, cas("k", "a", "c")) == "b"
    assert done(machine, cas("k", "b", "c")) == "b"
    assert read_found(machine.query(get("k"))) == "c"
    assert read_found(machine.query(get("other"))) is None
    assert done(machine, delete("k")) == "c"
    assert done(machine, delete("k")) is None
    assert read_found(machine.query(get("k"))) is None


@pytest.mark.parametrize(
    "command", [b"", b"\xc1", b"\x93\xa3put\xa1k", put("k", "v")[:-1] + b"\xff", b"\x90", b"\x92\xa3put\xa1k"]
)
def test_what_is_no_command_is_refused_and_changes_nothing(command: bytes) -> None:
    machine = Registers(0)
    done(machine, put("k", "v"))
    with pytest.raises(Refused, match="no command of a register"):
        machine.execute(1, command, None)
    assert read_found(machine.query(get("k"))) == "v"


def test_replicas_that_executed_the_same_have_the_same_mark() -> None:
    one, two, three = Registers(0), Registers(0), Registers(0)
    for instance, command in enumerate((put("k", "a"), cas("k", "b", "c"), delete("k"))):
        done(one, command, instance)
        done(two, command, instance)
        done(three, command, instance + 1)
    marks = [read_mark(machine.query(ASK_MARK)) for machine in (one, two, three)]
    assert marks[0] == marks[1]
    assert [count for count, _ in marks] == [3, 3, 3]
    assert marks[0] != marks[2], "where a value was executed counts"
