"""A server that embeds a node and has a handler that blocks: run as a program by test_blocking_host.py.

Reads commands from standard input: `block` stops the event loop, as a bad handler does, until the
next line comes; `count` prints how many instances of group 0 are decided; end of input ends it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from paxmux.engine.options import Options
from paxmux.shards.node import Node


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main(config: str) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    loop = asyncio.get_running_loop()
    async with Node(Options.from_yaml(config)) as node:
        say("ready")
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = line.strip()
            if command == "block":
                say("blocked")
                sys.stdin.readline()  # the whole event loop stands still here
                time.sleep(0.5)  # and, however short the test was, for longer than the warning asks for
                say("unblocked")
            elif command == "count":
                say(f"count {await node.now_instance_id(0)}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
