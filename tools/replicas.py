"""Whether all nodes of a cluster have executed the same sequence.

Decides it by count and hash of what each replica of each group has executed (machines that answer
so: tools/bench_machine.py, tools/journal_machine.py), once all of them stand at the same instances.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.tools.node_handle import NodeHandle

LOOK_EVERY_S = 0.1
QUERY_S = 10.0
SETTLE_S = 30.0

Mark = tuple[int, str]
"""(values executed, hash of them)"""


class Comparison(NamedTuple):
    """The verdict on all groups."""

    consistent: bool
    differences: list[str]
    """In words, one for each group or node that stands out."""
    positions: list[int]
    """First undecided instance of each group, if they agree."""
    marks: list[Mark]
    """Of each group, if they agree."""


async def compare(
    nodes: Sequence[NodeHandle],
    groups: int,
    *,
    smid: int,
    request: bytes,
    read: Callable[[bytes], Mark],
    settle_s: float = SETTLE_S,
) -> Comparison:
    """Wait until all nodes stand at the same instances, then compare what they have executed there.

    Args:
        nodes: all of them serve.
        groups: number of groups.
        smid: the state machine that is asked.
        request: what its `query` gets.
        read: count and hash from its answer.
        settle_s: after so long, nodes that do not catch up are a difference.
    """
    deadline = time.monotonic() + settle_s
    while True:
        last = time.monotonic() >= deadline
        try:
            found = await _look(nodes, groups, smid, request, read, last)
        except PaxmuxError as error:
            # A worker that is just being restarted refuses; it must be back within the time.
            passing = error.retryable or error.code == Code.TIMEOUT
            found = Comparison(False, [str(error)], [], []) if last or not passing else None
        if found is not None:
            return found
        await asyncio.sleep(LOOK_EVERY_S)


async def _look(
    nodes: Sequence[NodeHandle],
    groups: int,
    smid: int,
    request: bytes,
    read: Callable[[bytes], Mark],
    last: bool,
) -> Comparison | None:
    """A verdict; None if the nodes still move."""
    before = await _positions(nodes)
    if any(row != before[0] for row in before):
        return _apart(nodes, before) if last else None
    answers = await asyncio.gather(
        *(
            node.ask("query", groups=list(range(groups)), request=request, smid=smid, timeout_s=QUERY_S)
            for node in nodes
        )
    )
    if await _positions(nodes) != before and not last:
        return None
    marks = [[read(answer) for answer in row] for row in answers]
    differences = [
        f"group {group}: "
        + ", ".join(
            f"{node.name} has executed {count} values with hash {digest}"
            for node, (count, digest) in zip(nodes, column, strict=True)
        )
        for group, column in enumerate(zip(*marks, strict=True))
        if len(set(column)) > 1
    ]
    return Comparison(not differences, differences, before[0], marks[0])


async def _positions(nodes: Sequence[NodeHandle]) -> list[list[int]]:
    return list(await asyncio.gather(*(node.ask("positions", timeout_s=QUERY_S) for node in nodes)))


def _apart(nodes: Sequence[NodeHandle], positions: list[list[int]]) -> Comparison:
    differences = [
        f"group {group}: "
        + ", ".join(
            f"{node.name} stands at instance {instance}" for node, instance in zip(nodes, column, strict=True)
        )
        for group, column in enumerate(zip(*positions, strict=True))
        if len(set(column)) > 1
    ]
    return Comparison(False, differences, [], [])
