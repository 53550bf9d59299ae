"""The machine that works: it costs what it should, and says what the one that does not work says."""

from __future__ import annotations

from time import thread_time_ns

import pyarrow
import pytest

from paxmux.engine.errors import ConfigError
from paxmux.tools.bench_machine import Chain
from paxmux.tools.bench_run import BUSY_MACHINE, MACHINE, BenchOptions, machines
from paxmux.tools.busy_machine import BusyChain


def test_it_burns_its_time_and_changes_nothing_else() -> None:
    plain, busy = Chain(0), BusyChain(0, 300)
    before = thread_time_ns()
    for machine in (plain, busy):
        machine.execute(0, b"one", None)
        machine.execute_many(1, pyarrow.array([b"two", b"three"], pyarrow.binary()), None)
    assert thread_time_ns() - before >= 900_000
    assert busy.query(b"") == plain.query(b"")
    assert busy.smid == plain.smid


def test_it_works_in_the_groups_that_were_named() -> None:
    def made(work_us: int, work_on: str) -> list[tuple[str, str]]:
        options = BenchOptions(groups=4, work_us=work_us, work_on=work_on)
        return [(each["class"], each["groups"]) for each in machines(options)]

    assert made(0, "all") == made(0, "1") == [(MACHINE, "0,1,2,3")]
    assert made(5, "all") == [(BUSY_MACHINE, "0,1,2,3")]
    assert made(5, "1-2") == [(BUSY_MACHINE, "1,2"), (MACHINE, "0,3")]
    assert machines(BenchOptions(groups=1, work_us=5))[0]["args"] == {"work_us": 5}
    with pytest.raises(ConfigError):
        made(5, "9")
