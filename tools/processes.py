"""Which processes belong to a node that a tool has started, whoever their parent is by now.

Decides it by a mark in their environment, which children inherit: so a worker is found also after its
node was killed. Never touches a process without the mark.
"""

from __future__ import annotations

import asyncio
import os
import time

import psutil

MARK = "PAXMUX_TOOL_MARK"
LOOK_EVERY_S = 0.02


def marked(mark: str) -> list[psutil.Process]:
    """Every living process whose mark is `mark` or begins with `mark/`; zombies are dead."""
    found = []
    for pid in psutil.pids():
        if pid == os.getpid():
            continue
        try:
            process = psutil.Process(pid)
            value = process.environ().get(MARK, "")
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except psutil.Error:
            continue  # gone meanwhile, or another user's
        if value == mark or value.startswith(f"{mark}/"):
            found.append(process)
    return found


async def wait_gone(mark: str, timeout_s: float) -> list[psutil.Process]:
    """Wait until no process has the mark; returns those that are still there after the time."""
    deadline = time.monotonic() + timeout_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY_S)
    return left


def kill_marked(mark: str) -> None:
    """SIGKILL to every process with the mark."""
    for process in marked(mark):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
