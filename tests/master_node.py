"""One node of a campaign about masters: whenever it is master it says so in a file, and writes its term.

    python -m tests.master_node NUMBER PORT,PORT,... FOLDER LEASE_MS

Each line of `FOLDER/claims.NUMBER` is `TERM CLOCK_NS`: at that moment, of the clock that all processes of the
machine share, this node counted on being master. Ended by SIGTERM, it leaves what its state machine has in
`FOLDER/journal.NUMBER`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TextIO

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import NotMaster, PaxmuxError
from paxmux.engine.options import (
    LayoutOptions,
    MachineOptions,
    MasterOptions,
    NetworkOptions,
    Options,
    WorkerOptions,
)
from paxmux.shards.node import Node

CLAIM_EVERY_S = 0.005
QUERY_S = 30.0


def options_of(number: int, ports: list[str], folder: Path, lease_ms: int) -> Options:
    """Options of one of the campaign's nodes."""
    members = [f"127.0.0.1:{port}" for port in ports]
    return Options(
        node=members[number],
        members=members,
        data_dir=str(folder / f"data.{number}"),
        bootstrap=True,
        layout=LayoutOptions(workers=1),
        state_machines=[MachineOptions(class_="tests.term_journal:TermJournal")],
        network=NetworkOptions(plugin="paxmux.tools.cuttable_network:CuttableNetwork"),
        # A worker that is stopped for longer than its lease is to go on, not to be replaced.
        worker=WorkerOptions(crash_budget=1_000_000, hang_kill_ms=0),
        master=MasterOptions(groups="all", lease_ms=lease_ms),
    )


async def _claim(node: Node, term: int, file: TextIO) -> None:
    while True:
        # The clock first: what is believed after that was so at that time as well, or had begun since.
        now = clock_ns()
        if node.term(0) == term and node._masters.own_until(0, term) > now:
            file.write(f"{term} {now}\n")
            file.flush()
        await asyncio.sleep(CLAIM_EVERY_S)


async def _write(node: Node, term: int) -> None:
    while True:
        await node.propose(0, b"%d" % term, smid=1, term=term, timeout_s=1.0)


async def _reign(node: Node, file: TextIO) -> None:
    term = -1
    try:
        async with node.leadership(0) as term, asyncio.TaskGroup() as tasks:
            tasks.create_task(_claim(node, term, file))
            tasks.create_task(_write(node, term))
    except* (NotMaster, PaxmuxError):
        pass
    # Too late, and it must not count.
    if term >= 0:
        try:
            await node.propose(0, b"%d" % term, smid=1, term=term, timeout_s=1.0)
        except PaxmuxError as error:
            sys.stderr.write(f"as it should be: {error}\n")


async def main(number: int, ports: list[str], folder: Path, lease_ms: int) -> None:
    """Run until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Node(options_of(number, ports, folder, lease_ms)) as node:
        with open(folder / f"claims.{number}", "a", encoding="ascii") as file:
            ending = asyncio.create_task(ended.wait())
            while not ended.is_set():
                reigning = asyncio.create_task(_reign(node, file))
                await asyncio.wait([reigning, ending], return_when=asyncio.FIRST_COMPLETED)
                if not reigning.done():
                    reigning.cancel()
                    await asyncio.wait([reigning])
                elif not reigning.cancelled():
                    reigning.result()
        journal = await node.query(0, b"", consistency="linearizable", timeout_s=QUERY_S)
        (folder / f"journal.{number}").write_bytes(journal)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3]), int(sys.argv[4])))
