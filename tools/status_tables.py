"""What a node says about itself, as tables for a terminal.

Decides nothing but looks: every figure is one that `paxmux status --json` has too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from paxmux.engine.address import node_text

Status = dict[str, Any]
_CALM_LAG_MS = 50.0


def tables(
    status: Status, *, groups: bool, rates: dict[int, float] | None = None
) -> Iterator[RenderableType]:
    """All that is shown.

    Args:
        status: what `Node.status` returns.
        groups: whether each group gets a row.
        rates: values executed per second by worker, if known.
    """
    yield _heading(status)
    yield _workers(status, rates)
    yield _logs(status)
    yield _peers(status)
    yield _rings(status)
    yield _pending(status)
    if groups:
        yield _groups(status)
    else:
        yield _group_summary(status)
    for worker in status["groups_unknown_of_workers"]:
        yield Text(f"worker {worker} does not answer: its groups are not shown", style="yellow")


def _table(title: str, *columns: str) -> Table:
    """A column whose name ends in `:` is text, the others are figures."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in columns:
        text = name.endswith(":")
        table.add_column(name.rstrip(":"), justify="left" if text else "right", overflow="fold")
    return table


def _heading(status: Status) -> RenderableType:
    node, router = status["node"], status["router"]
    text = Text()
    text.append(f"node {node['address']}", style="bold")
    text.append(
        f"  id {node['node_id']}  seat {node['seat']}\n"
        f"process {node['pid']}, up {_span(node['uptime_s'])}{', compiled' if node['compiled'] else ''}\n"
    )
    founding = router.get("founding") or {}
    waiting = founding.get("waiting_for")
    text.append(f"cluster {node['cluster'] or 'not founded'}")
    if waiting:
        text.append(f", waits for {waiting}", style="yellow")
    if founding.get("role") in ("joining", "follower"):
        text.append(f", {founding['role']}: the node only learns", style="yellow")
    text.append(f"\nrouter {router['mode']}")
    if router["mode"] == "process":
        text.append(f", process {router['pid']}, generation {router['generation']}")
    if not router["answered"]:
        text.append(", does not answer", style="red")
    loop = status["loop"]
    text.append(f"\nevent loop lag {loop['lag_ms']:.1f} ms, at most {loop['lag_max_ms']:.1f} ms")
    if loop["late_ticks"]:
        text.append(
            f", {loop['late_ticks']} times above {_CALM_LAG_MS:.0f} ms: something in it blocks", "yellow"
        )
    return text


def _workers(status: Status, rates: dict[int, float] | None) -> RenderableType:
    table = _table(
        "workers",
        "worker",
        "pid",
        "life",
        "groups",
        "beat",
        "phase:",
        "values",
        "values/s",
        "syncs",
        "state:",
    )
    hosted = {row["worker"]: len(row["groups"]) for row in status["layout"]["workers"]}
    for row in status["workers"]:
        number, counters = row["worker"], row["counters"] or {}
        good = row["state"] == "serving"
        state = Text(row["state"] if good else f"{row['state']}: {row['reason']}", "green" if good else "red")
        if good and counters.get("no_room"):
            state = Text("no room in the log: refuses", "red")
        table.add_row(
            str(number),
            str(row["pid"] or "-"),
            str(row["generation"]),
            str(hosted.get(number, 0)),
            "-" if row["heartbeat_age_s"] is None else f"{row['heartbeat_age_s'] * 1000:.0f} ms",
            row["phase"],
            _count(counters.get("values_applied")),
            "-" if rates is None or number not in rates else f"{rates[number]:,.0f}",
            _count(counters.get("syncs")),
            state,
        )
    return table


def _logs(status: Status) -> RenderableType:
    table = _table("logs", "worker", "lives", "on disk", "limit", "segments", "removed", "cleaner:")
    for row in status["workers"]:
        counters = row["counters"] or {}
        table.add_row(
            str(row["worker"]),
            _size(counters.get("live_bytes")),
            _size(counters.get("disk_bytes")),
            _size(status["log_max_bytes"]),
            _count(counters.get("segments")),
            _count(counters.get("removed_segments")),
            Text("runs", "green") if status["cleaning"] else Text("paused", "yellow"),
        )
    return table


def _peers(status: Status) -> RenderableType:
    peers = status["peers"]
    if peers is None:
        return Text("peers: not known, the router does not answer", style="yellow")
    table = _table("peers", "peer:", "address:", "role:", "connected:", "seat:", "remark:")
    for row in peers.values():
        table.add_row(
            row["name"],
            row["address"] or "-",
            f"{row['role'] or '-'}{', guest' if row['guest'] else ''}",
            Text("yes", "green") if row["connected"] else Text("no", "red"),
            row["seat"] or "-",
            row["refused"] or row["notice"] or "",
        )
    return table


def _rings(status: Status) -> RenderableType:
    table = _table(
        "rings", "worker:", "to it: fill", "messages", "drops", "waiting bytes", "from it: fill", "messages"
    )
    for kind in ("client", "network"):
        for worker, pair in (status["rings"][kind] or {}).items():
            if pair is None:
                continue
            to_it, from_it = pair["to_worker"], pair["from_worker"]
            table.add_row(
                f"{worker} {kind}",
                f"{to_it['fill']:.0%}",
                _count(to_it["messages"]),
                _count(to_it["drops"]),
                _count(to_it["backlog_bytes"]),
                f"{from_it['fill']:.0%}",
                _count(from_it["messages"]),
            )
    return table


def _pending(status: Status) -> RenderableType:
    pending, router = status["pending"], status["router"]
    refused = {reason: count for reason, count in pending["refused"].items() if count}
    drops = {reason: count for reason, count in (router.get("drops") or {}).items() if count}
    text = Text(
        f"requests: {pending['waiting']} wait, {pending['owed']} given up and still owed, "
        f"{_count(pending['admitted'])} admitted, {pending['timeouts']} timeouts"
    )
    if refused:
        text.append(f"; refused: {_pairs(refused)}", "yellow")
    if drops:
        text.append(f"\nframes dropped: {_pairs(drops)}", "yellow")
    return text


def _group_summary(status: Status) -> RenderableType:
    rows = status["groups"]
    stopped = [row["group"] for row in rows if row["stopped"]]
    behind = sum(1 for row in rows if row["applied"] < row["instance"])
    held = sum(1 for row in rows if row["holds_ballot"])
    text = Text(
        f"groups: {len(rows)}, {_count(sum(row['instance'] for row in rows))} instances decided, "
        f"{held} ballots held here, {sum(row['waiting'] for row in rows)} proposals wait"
    )
    if any(row["master"]["wanted"] for row in rows):
        text.append(f", master of {sum(row['master']['own'] for row in rows)}")
    if behind:
        text.append(f", {behind} groups still execute", "yellow")
    if stopped:
        text.append(f", state machines stopped in groups {stopped}", "red")
    slow = [row["group"] for row in rows if row["slow"]]
    if slow:
        text.append(f", state machines were slow in groups {slow}", "yellow")
    unsynced = [row["group"] for row in rows if not row["durable"]]
    suspect = [row["group"] for row in rows if row["suspect"] is not None]
    for words, found in (("not synced", unsynced), ("promises may be lost in", suspect)):
        if found:
            text.append(f", {words} groups {found}", "yellow")
    return text


def _groups(status: Status) -> RenderableType:
    names = ["group", "worker", "first", "instance", "applied", "round", "promised to:", "phase:", "wait"]
    masters = any(row["master"]["wanted"] or row["master"]["master"] for row in status["groups"])
    names += ["master:", "remark:"] if masters else ["remark:"]
    table = _table("groups", *names)
    own = status["node"]["node_id"]
    for row in status["groups"]:
        round_, holder = row["promised"]
        remark = Text("ballot held", "green") if row["holds_ballot"] else Text("")
        if not row["voter"]:
            remark = Text("only learns", "yellow")
        elif not row["durable"]:
            remark.append(", not synced" if remark else "not synced", "yellow")
        for lacking in (row["repairing"], row["suspect"]):
            if lacking is not None:
                remark = Text(lacking, "yellow" if row["voter"] else "red")
        if row["slow"]:
            slow = row["slow"]
            remark = Text(f"{slow['machines']} took up to {slow['longest_ms']:.0f} ms in a turn", "yellow")
        for reason in row["stopped"].values():
            remark = Text(reason, "red")
        table.add_row(
            str(row["group"]),
            str(row["worker"]),
            _count(row["first"]),
            _count(row["instance"]),
            _count(row["applied"]),
            str(round_),
            "-" if not holder else "this node" if holder == own else node_text(holder),
            row["phase"],
            str(row["waiting"]),
            *([_master(row["master"])] if masters else []),
            remark,
        )
    return table


def _master(master: dict[str, Any]) -> Text:
    if not master["master"]:
        return Text("nobody" if master["wanted"] else "-", "yellow" if master["wanted"] else "")
    if master["own"]:
        return Text(f"this node, {master['left_ms'] / 1000:.1f} s", "green")
    return Text(node_text(master["master"]))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.1f} MB"


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
