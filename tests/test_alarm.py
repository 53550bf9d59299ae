"""The alarm: rings once for each setting, never early, and not after its end."""

from __future__ import annotations

import asyncio
import os
import select
from time import monotonic_ns

from paxmux.shards.event_loop import new_loop
from paxmux.tools.alarm import Alarm
from tests.event_loop import in_loop, until


@in_loop
async def test_it_rings_once_and_not_early() -> None:
    rung: list[int] = []
    alarm = Alarm(asyncio.get_running_loop(), lambda: rung.append(monotonic_ns()))
    at_ns = monotonic_ns() + 3_000_000
    alarm.set(at_ns)
    await until(lambda: rung)
    assert rung[0] >= at_ns
    await asyncio.sleep(0.01)
    assert len(rung) == 1
    assert select.select([alarm._fd], [], [], 0)[0] == [], "the loop would be woken for ever"
    alarm.set(0)
    await until(lambda: len(rung) == 2)
    alarm.close()
    alarm.close()


@in_loop
async def test_the_last_setting_counts() -> None:
    rung: list[int] = []
    alarm = Alarm(asyncio.get_running_loop(), lambda: rung.append(monotonic_ns()))
    alarm.set(monotonic_ns() - 1)
    # Due already, but the loop has not looked yet.
    later_ns = monotonic_ns() + 20_000_000
    alarm.set(later_ns)
    await until(lambda: rung)
    assert rung[0] >= later_ns
    alarm.set(monotonic_ns() - 1)
    alarm.close()
    await asyncio.sleep(0.01)
    assert len(rung) == 1


def test_it_leaves_no_descriptor() -> None:
    loop = new_loop()
    before = len(os.listdir("/proc/self/fd"))
    alarm = Alarm(loop, lambda: None)
    assert len(os.listdir("/proc/self/fd")) > before
    alarm.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # what the loop watches with
    loop.close()
