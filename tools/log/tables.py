"""What a data directory holds, as tables for a terminal and as a document for JSON.

Decides nothing but looks: every figure of a table is in the document too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from paxmux.engine.address import node_text
from paxmux.tools.log.directory import DataDirectory
from paxmux.tools.log.fault import ballot_text
from paxmux.tools.log.group import GroupLog
from paxmux.tools.log.lines import ballot_document
from paxmux.tools.log.read import LogReading


def document(directory: DataDirectory, holder: int | None, readings: Sequence[LogReading]) -> dict[str, Any]:
    """What `show --json` prints."""
    identity = directory.identity
    return {
        "data_dir": str(directory.path),
        "cluster": directory.cluster,
        "node": identity.node_id,
        "seat": identity.seat,
        "groups": identity.groups,
        "format": identity.format,
        "running": holder,
        "logs": [_log_document(reading) for reading in readings],
    }


def tables(
    directory: DataDirectory, holder: int | None, readings: Sequence[LogReading]
) -> Iterator[RenderableType]:
    """What `show` prints."""
    identity = directory.identity
    cluster = f"{directory.cluster:016x}" if directory.cluster is not None else "none yet"
    logs = "1 log" if len(readings) == 1 else f"{len(readings)} logs"
    state = f"running as process {holder}" if holder is not None else "not running"
    heading = Text()
    heading.append(f"node {node_text(identity.node_id)}", style="bold")
    heading.append(
        f"  id {identity.node_id}, seat {identity.seat:016x}, cluster {cluster}, {identity.groups} groups,"
        f" {logs}, {state}"
    )
    yield heading
    for reading in readings:
        yield from _log(reading, holder)


def _log(reading: LogReading, holder: int | None) -> Iterator[RenderableType]:
    number = reading.log.identity.log
    groups = sorted(reading.groups.groups.items())
    segments = _table(
        f"log {number}: {'ends with a clean stop' if reading.clean else 'no mark of a clean stop'}",
        "segment", "size", "used", "batches", "records", "instances:",
    )  # fmt: skip
    for use in reading.segments:
        spread = f"{use.lowest} .. {use.highest}" if use.lowest is not None else ""
        segments.add_row(
            str(use.segment.number),
            f"{use.segment.size:,}",
            f"{use.used:,}" if use.used else "reserved",
            f"{use.batches:,}",
            f"{use.records:,}",
            spread,
        )
    yield segments
    if groups:
        table = _table(
            f"groups of log {number}",
            "group", "instance", "promised:", "accepted:", "first", "last",
            "forgotten", "moved", "records", "bytes",
        )  # fmt: skip
        for index, group in groups:
            table.add_row(
                str(index),
                str(group.instance),
                ballot_text(group.promised),
                ballot_text(group.accepted),
                str(group.first),
                "-" if group.last_value is None else str(group.last_value),
                f"{group.forgotten:,}",
                f"{group.moved:,}",
                f"{group.records:,}",
                f"{group.bytes:,}",
            )
        yield table
    for tail in reading.tails:
        what = "being written" if holder else "torn: the next start cuts them"
        yield Text(f"tail: {tail.path}, offset {tail.offset}: {tail.length} bytes, {what}", style="yellow")
    for removed in reading.removed:
        yield Text(f"note: segments {removed.first} .. {removed.last} were removed meanwhile", style="yellow")
    suspect = [str(index) for index, group in groups if group.suspect]
    if suspect or reading.groups.doubt:
        of_groups = (
            f": groups {', '.join(suspect)} may have lost some" if suspect else ", of no group that is here"
        )
        yield Text(f"doubt: promises may be lost{of_groups}", style="yellow")
    unknown = [str(index) for index, group in groups if group.system is not None and group.system.lost]
    if unknown:
        words = f"what membership and master of groups {', '.join(unknown)} are now may be lost"
        yield Text(f"doubt: {words}", style="yellow")
    for words in reading.damage:
        yield Text(f"damage: {words}", style="red")


def _log_document(reading: LogReading) -> dict[str, Any]:
    return {
        "log": reading.log.identity.log,
        "clean": reading.clean,
        "doubt": reading.groups.doubt,
        "segments": [
            {
                "segment": use.segment.number,
                "size": use.segment.size,
                "used": use.used,
                "batches": use.batches,
                "records": use.records,
                "lowest_instance": use.lowest,
                "highest_instance": use.highest,
            }
            for use in reading.segments
        ],
        "groups": [_group_document(group) for _, group in sorted(reading.groups.groups.items())],
        "tails": [
            {"file": str(tail.path), "offset": tail.offset, "bytes": tail.length} for tail in reading.tails
        ],
        "damage": reading.damage,
    }


def _group_document(group: GroupLog) -> dict[str, Any]:
    system = group.system
    return {
        "group": group.index,
        "instance": group.instance,
        "promised": ballot_document(group.promised),
        "accepted": ballot_document(group.accepted),
        "first": group.first,
        "first_value": group.first_value,
        "last_value": group.last_value,
        "values": group.values,
        "suspect": group.suspect,
        "system": system and {"from": system.begin, "bytes": system.size, "lost": system.lost},
        "forgotten": group.forgotten,
        "moved": group.moved,
        "records": group.records,
        "bytes": group.bytes,
    }


def _table(title: str, *columns: str) -> Table:
    """A column whose name ends in `:` is text, the others are figures."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in columns:
        text = name.endswith(":")
        table.add_column(name.rstrip(":"), justify="left" if text else "right", overflow="fold")
    return table
