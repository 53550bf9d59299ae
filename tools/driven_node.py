"""A process that embeds a node, as a server would, and does what a tool asks for through a socket.

`python -m paxmux.tools.driven_node FD CONFIG`. Requests are `{"ask": n, "op": name, ...}`, answers
`{"ask": n, "result": ...}` or `{"ask": n, "code": c, "error": text}`; several may be under way.
`{"event": ...}` documents come unasked: `ready`, `failed`, and what writers report.

It never outlives the tool: the end of the socket ends it, and so does the tool's death.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from paxmux.engine.errors import Code, ExitCode, PaxmuxError
from paxmux.engine.options import Options
from paxmux.shards import stages
from paxmux.shards.event_loop import new_loop
from paxmux.shards.node import Node
from paxmux.tools import node_wire
from paxmux.tools.host_stages import watch_host
from paxmux.tools.load import Load, LoadSpec
from paxmux.tools.load_gate import LoadGate
from paxmux.tools.load_socket import LoadServer
from paxmux.tools.main import exit_code
from paxmux.tools.open_load import OpenLoad, OpenSpec
from paxmux.tools.register_clients import RegisterClients, RegisterSpec
from paxmux.tools.term_writers import TermSpec, TermWriters
from paxmux.tools.writers import Writers, WriterSpec

_PR_SET_PDEATHSIG = 1
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class DrivenNode:
    """The operations, over one node."""

    def __init__(
        self, node: Node, groups: int, writer: asyncio.StreamWriter, stages: Sequence[int] = ()
    ) -> None:
        self._node = node
        self._groups = range(groups)
        self._writer = writer
        self._stages = stages
        self._load: Load | OpenLoad | LoadServer | None = None
        self._writers: Writers | RegisterClients | None = None
        self._term_writers: TermWriters | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.drain_s: float | None = None
        """Set once the tool has asked for a stop."""

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Do as asked until the tool asks for a stop or is gone."""
        while (request := await node_wire.receive(reader)) is not None:
            if request["op"] == "stop":
                self.drain_s = float(request["drain_s"])
                break
            task = asyncio.create_task(self._answer(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, document: dict[str, Any]) -> None:
        """Queue a document for the tool."""
        self._writer.write(node_wire.pack(document))

    async def _answer(self, request: dict[str, Any]) -> None:
        ask, op = request.pop("ask"), request.pop("op")
        try:
            result = await getattr(self, f"op_{op}")(**request)
            answer = {"ask": ask, "result": result}
        except PaxmuxError as error:
            answer = {"ask": ask, "code": int(error.code), "error": str(error)}
        except Exception as error:
            logging.getLogger("paxmux.tools").exception("op %s failed", op)
            answer = {
                "ask": ask,
                "code": int(Code.SYSTEM_ERROR),
                "error": f"{type(error).__name__}: {error}",
            }
        self.send(answer)
        await self._writer.drain()

    # Operations

    async def op_status(self) -> dict[str, Any]:
        """What the node says about itself."""
        return await self._node.status()

    async def op_stages(self) -> list[int]:
        """CPU time of this process by stage, in ns; empty unless it is measured (`host_stages.py`)."""
        return list(self._stages)

    async def op_propose(self, group: int, value: bytes, smid: int, timeout_s: float) -> list[Any]:
        """One proposal: [instance, result]."""
        done = await self._node.propose(group, value, smid, None, timeout_s)
        return [done.instance_id, done.result]

    async def op_query(
        self, groups: list[int], request: bytes, smid: int, timeout_s: float, consistency: str = "local"
    ) -> list[bytes]:
        """The same read in several groups."""
        queries = [self._node.query(group, request, smid, consistency, timeout_s) for group in groups]
        return list(await asyncio.gather(*queries))

    async def op_positions(self, timeout_s: float) -> list[int]:
        """The first undecided instance of each group."""
        return list(
            await asyncio.gather(*(self._node.now_instance_id(group, timeout_s) for group in self._groups))
        )

    async def op_instance_value(self, group: int, instance: int, timeout_s: float) -> list[Any]:
        """The decided values of one instance, as the log has them: [[value, smid], ...]."""
        return [list(pair) for pair in await self._node.instance_value(group, instance, timeout_s)]

    async def op_load(self, spec: dict[str, Any]) -> Any:
        """Run closed-loop clients; answers when they are done."""
        load = self._load = Load(self._node, msgspec.convert(spec, LoadSpec))
        return msgspec.to_builtins(await load.run())

    async def op_open_load(self, spec: dict[str, Any], start_ns: int) -> Any:
        """Run an open load in this process; answers when it is done."""
        wanted = msgspec.convert(spec, OpenSpec)
        load = self._load = OpenLoad(wanted)
        gate = LoadGate(self._node, wanted.gate, load.answered)
        return msgspec.to_builtins(await load.run(gate, start_ns))

    async def op_serve_loads(self) -> str:
        """Let loads of other processes in; the name of their socket."""
        server = self._load = LoadServer(self._node)
        return await server.start()

    async def op_load_progress(self) -> dict[str, Any] | None:
        """Counts of the load so far."""
        return self._load.progress() if self._load is not None else None

    async def op_load_halt(self) -> None:
        """End the load's window now."""
        if isinstance(self._load, Load):
            self._load.halt()

    async def op_write(self, spec: dict[str, Any]) -> None:
        """Start writers whose outcomes are reported one by one, as events."""
        await self._end_writers()
        self._writers = Writers(self._node, msgspec.convert(spec, WriterSpec), self.send, self._writer.drain)
        self._writers.start()

    async def op_call_registers(self, spec: dict[str, Any]) -> None:
        """Start clients of registers whose every call is reported, as events; they are writers too."""
        await self._end_writers()
        self._writers = RegisterClients(
            self._node, msgspec.convert(spec, RegisterSpec), self.send, self._writer.drain
        )
        self._writers.start()

    async def op_masters(self) -> list[int]:
        """Node id of the master of each group, as this node knows it; 0: nobody."""
        return [self._node.master(group) for group in self._groups]

    async def op_write_terms(self, spec: dict[str, Any]) -> None:
        """Start to write as master, wherever this node is; reigns and writes are reported, as events."""
        await self._end_term_writers()
        self._term_writers = TermWriters(self._node, msgspec.convert(spec, TermSpec), self.send)
        self._term_writers.start()

    async def op_terms_halt(self) -> None:
        """Let these have their last outcomes; answers once all are reported."""
        await self._end_term_writers()

    async def op_write_halt(self) -> None:
        """Let the writers have their last outcomes; answers once all are reported."""
        await self._end_writers()

    async def close(self) -> None:
        """The node is stopped: let the tool have the last outcomes."""
        if isinstance(self._load, LoadServer):
            self._load.close()
        await self._end_writers()
        await self._end_term_writers()

    async def _end_term_writers(self) -> None:
        writers, self._term_writers = self._term_writers, None
        if writers is not None:
            await writers.halt()

    async def _end_writers(self) -> None:
        writers, self._writers = self._writers, None
        if writers is not None:
            await writers.halt()


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however it ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


async def _run(fd: int, config: str) -> ExitCode:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))
    try:
        options = Options.from_yaml(config)
        measured = watch_host() if stages.wanted() else ()
        code = await _serve(Node(options), options.groups, reader, writer, measured)
    except (PaxmuxError, OSError) as error:
        failed = error if isinstance(error, PaxmuxError) else PaxmuxError(str(error))
        writer.write(node_wire.pack({"event": "failed", "code": int(failed.code), "error": str(error)}))
        code = exit_code(failed)
    if code != ExitCode.PARENT_GONE:
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    return code


async def _serve(
    node: Node,
    groups: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    measured: Sequence[int],
) -> ExitCode:
    """Start the node, and serve the tool meanwhile: it may give up before the node is there."""
    driven = DrivenNode(node, groups, writer, measured)
    serving = asyncio.create_task(driven.serve(reader))
    starting = asyncio.create_task(node.start())
    try:
        await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            driven.send({"event": "ready"})
            await serving
    finally:
        serving.cancel()
        starting.cancel()
        await asyncio.gather(serving, starting, return_exceptions=True)
        await node.stop(driven.drain_s or 0)
    if driven.drain_s is None:
        return ExitCode.PARENT_GONE
    await driven.close()
    return ExitCode.OK


def main() -> None:
    """Entry of the process."""
    die_with_parent()
    # Ctrl-C is the tool's to hear: it stops its nodes in its own way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO, stream=sys.stderr)
    fd, config = int(sys.argv[1]), sys.argv[2]
    os.set_inheritable(fd, False)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        code = runner.run(_run(fd, config))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
