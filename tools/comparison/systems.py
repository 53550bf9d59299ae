"""The systems that are compared, and what each promises with the settings that it runs with here.

Decides the words of the table about guarantees. Each statement is one that its documentation or source
makes: of etcd that the leader and a follower have written and synced their logs before an entry is applied,
of PySyncObj that its journal is a file mapped into memory (`journal.py`), which is flushed when the object
is destroyed and at no other time.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

import paxmux
from paxmux.engine.errors import PaxmuxError
from paxmux.tools.comparison import etcd_cluster, own_cluster, pysyncobj_cluster
from paxmux.tools.comparison.environment import PACKAGES, python_of
from paxmux.tools.comparison.work import Outcome, Work
from paxmux.tools.progress import Steps

Run = Callable[[Work, Path, str, Steps], Awaitable[Outcome]]
"""One run in an empty folder; all processes carry the mark (but paxmux's own, which has one itself)."""


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is said of one line of the table."""

    name: str
    """One of SYSTEMS."""
    title: str
    """Of the line of figures; what follows is the same for all lines of a name."""
    version: str
    synced: str
    """Where a value is when its caller has the answer."""
    order: str
    reads: str
    callers: str
    """Where they run, and how they call."""


class Ready(msgspec.Struct, frozen=True):
    """A system that can run here."""

    system: System
    run: Run


SYSTEMS = ("paxmux", "etcd", "pysyncobj")


async def find(names: list[str], environment: Path) -> tuple[list[Ready], dict[str, str]]:
    """(those that can run, why the others cannot). paxmux has two lines: 100 groups, and one, as the others
    have.

    Args:
        names: of SYSTEMS.
        environment: the folder of the other systems' environment, which is made if it is needed.
    """
    ready: list[Ready] = []
    missing: dict[str, str] = {}
    if "paxmux" in names:
        ready += [_own(groups) for groups in (100, 1)]
    binary = shutil.which(etcd_cluster.BINARY)
    if "etcd" in names and binary is None:
        missing["etcd"] = (
            "the program is not in PATH; Debian and Ubuntu have it in the package etcd-server (or etcd), "
            "to be installed as root with: apt-get install etcd-server"
        )
    try:
        if "etcd" in names and binary is not None:
            ready.append(_etcd(binary, await python_of(environment)))
        if "pysyncobj" in names:
            ready.append(_pysyncobj(await python_of(environment)))
    except PaxmuxError as error:
        for name in {"etcd", "pysyncobj"} & set(names) - set(missing):
            missing[name] = str(error)
    return ready, missing


def _own(groups: int) -> Ready:
    async def run(work: Work, folder: Path, mark: str, steps: Steps) -> Outcome:
        return await own_cluster.run(work, folder, groups, steps)

    return Ready(
        System(
            name="paxmux",
            title=f"paxmux, {groups} group{'s' if groups > 1 else ''}",
            version=paxmux.__version__,
            synced="on 2 of 3 disks (`fdatasync`)",
            order="one in each group",
            reads="linearizable on request",
            callers="tasks in the process that embeds node 1",
        ),
        run,
    )


def _etcd(binary: str, python: Path) -> Ready:
    async def run(work: Work, folder: Path, mark: str, steps: Steps) -> Outcome:
        return await etcd_cluster.run(work, folder, mark, python, binary)

    return Ready(
        System(
            name="etcd",
            title="etcd",
            version=etcd_cluster.version_of(binary),
            synced="on 2 of 3 disks (`fdatasync`)",
            order="one for all values",
            reads="linearizable by default",
            callers="gRPC from a process of its own to the leader, one connection, a key for each caller",
        ),
        run,
    )


def _pysyncobj(python: Path) -> Ready:
    async def run(work: Work, folder: Path, mark: str, steps: Steps) -> Outcome:
        return await pysyncobj_cluster.run(work, folder, mark, python)

    (version,) = (each.split("==")[1] for each in PACKAGES if each.startswith("pysyncobj=="))
    return Ready(
        System(
            name="pysyncobj",
            title="PySyncObj",
            version=version,
            synced=(
                "in the memory of 2 of 3 machines, on no disk for sure (journals are written, never synced),"
            ),
            order="one for all values",
            reads="local only",
            callers=(
                "callbacks in the leader's process; commands leave each "
                f"{pysyncobj_cluster.PERIOD_S * 1000:g} ms (100 ms by default, which is slower)"
            ),
        ),
        run,
    )
