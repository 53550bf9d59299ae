"""A process of open loads against the nodes of a cluster, for a tool that asks for it.

`python -m paxmux.tools.load_client FD`. The tool says what is to be done:
`{"loads": [{"socket": name, "spec": ...}, ...]}`; the process connects and says `{"event": "ready"}`, or
`{"event": "failed", "error": text}`; the tool says `{"start_ns": t}` (CLOCK_MONOTONIC), and gets
`{"event": "done", "results": [...]}` or a failure. It never outlives the tool.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import msgspec

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.shards.event_loop import new_loop
from paxmux.tools import node_wire
from paxmux.tools.driven_node import die_with_parent
from paxmux.tools.load_socket import SocketGate
from paxmux.tools.open_load import OpenLoad, OpenResult, OpenSpec


async def _run(fd: int) -> ExitCode:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))

    async def say(document: dict[str, Any]) -> None:
        writer.write(node_wire.pack(document))
        await writer.drain()

    try:
        asked = await node_wire.receive(reader)
        if asked is None:
            return ExitCode.PARENT_GONE
        loads = [await _connect(each["socket"], each["spec"]) for each in asked["loads"]]
        await say({"event": "ready"})
        asked = await node_wire.receive(reader)
        if asked is None:
            return ExitCode.PARENT_GONE
        start_ns = int(asked["start_ns"])
        results = await asyncio.gather(*(_one(load, gate, start_ns) for load, gate in loads))
        await say({"event": "done", "results": msgspec.to_builtins(results)})
    except (PaxmuxError, OSError) as error:
        await say({"event": "failed", "error": str(error)})
        return ExitCode.FAILED
    writer.close()
    await writer.wait_closed()
    return ExitCode.OK


async def _connect(name: str, spec: dict[str, Any]) -> tuple[OpenLoad, SocketGate]:
    wanted = msgspec.convert(spec, OpenSpec)
    load = OpenLoad(wanted)
    return load, await SocketGate.connect(name, wanted.gate, load.answered, load.lost)


async def _one(load: OpenLoad, gate: SocketGate, start_ns: int) -> OpenResult:
    try:
        return await load.run(gate, start_ns)
    finally:
        gate.close()


def main() -> None:
    """Entry of the process."""
    die_with_parent()
    # Ctrl-C is the tool's to hear.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        code = runner.run(_run(fd))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
