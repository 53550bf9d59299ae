"""A node embedded in an asyncio server: a line server that counts, on as many members as you like.

    python examples/asyncio_server.py CONFIG.yaml PORT

A client sends `incr` or `get`; the answer is the count. A server that had a counter of its own becomes
a replicated one by two lines: `async with Node(...)`, and `await node.propose(...)` where it counted.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from paxmux import Node, Options, PaxmuxError


class LineServer:
    """The server as it was, but for where it counts."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def answer(self, command: bytes) -> bytes:
        if command == b"incr":
            done = await self.node.propose(0, b"1", smid=1)
            return done.result or b""
        if command == b"get":
            return await self.node.query(0, b"", smid=1)
        return b"expected incr or get"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    answer = await self.answer(line.strip())
                except PaxmuxError as error:
                    answer = f"error {error.code}: {error}".encode()
                writer.write(answer + b"\n")
                await writer.drain()
        finally:
            writer.close()


async def main(config: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Node(Options.from_yaml(config)) as node:
        server = await asyncio.start_server(LineServer(node).serve, "127.0.0.1", port)
        print("ready", flush=True)
        await stop.wait()
        server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
