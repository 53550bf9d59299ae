"""A plain class becomes a replicated one.

    python examples/counter.py CONFIG.yaml        # once for each member, each with its own file

Then type `add 5` on one member and `get` on another. The config names the class of the state machine,
which every worker imports for itself:

    state_machines:
      - class: counter:CounterMachine
"""

from __future__ import annotations

import asyncio
import sys

from paxmux import Node, Options, PaxmuxError, Refused, StateMachine


class Counter:
    """The plain class, as it was before."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, amount: int) -> int:
        self.count += amount
        return self.count


class CounterMachine(StateMachine):
    """The same counter on every member: `execute` gets the same values in the same order everywhere."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self.counter = Counter()

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        try:
            amount = int(value)
        except ValueError:
            raise Refused(f"expected a whole number, got {value!r}") from None
        return b"%d" % self.counter.add(amount)

    def query(self, request: bytes) -> bytes:
        return b"%d" % self.counter.count


async def main(config: str) -> None:
    async with Node(Options.from_yaml(config)) as node:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, _, amount = line.strip().partition(" ")
            try:
                if command == "add":
                    done = await node.propose(0, amount.encode(), smid=1)
                    print(f"{(done.result or b'').decode()} at instance {done.instance_id}", flush=True)
                elif command == "get":
                    print((await node.query(0, b"", smid=1)).decode(), flush=True)
                else:
                    print("expected `add NUMBER` or `get`", flush=True)
            except PaxmuxError as error:
                print(f"{type(error).__name__} ({error.code}): {error}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
