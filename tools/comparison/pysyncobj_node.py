"""One node of PySyncObj, embedded as its users embed it, with the callers inside the leader's process.

`python pysyncobj_node.py SPEC`, SPEC as JSON: `addresses`, `index`, `journal`, `options`. Says a line of
JSON once it knows a leader, and then one for each request on its standard input; ends with it. Callers are
callbacks of the replicated call, the cheapest that PySyncObj has: each sends the next value from within.
Runs where paxmux is not installed.
"""

from __future__ import annotations

import json
import struct
import sys
import time
import zlib
from array import array
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated

LOOK_EVERY_S = 0.01
_NUMBERS = struct.Struct(">IQI")


class Chain(SyncObj):  # type: ignore[misc]
    """Counts values, and keeps a checksum over all of them in order."""

    def __init__(self, address: str, others: list[str], options: SyncObjConf) -> None:
        super().__init__(address, others, options)
        self.count = 0
        self.checksum = 0

    @replicated  # type: ignore[untyped-decorator]
    def put(self, value: bytes) -> None:
        """One value."""
        self.count += 1
        self.checksum = zlib.crc32(value, self.checksum)


class Load:
    """Closed-loop callers at one node."""

    def __init__(self, chain: Chain, work: dict[str, Any]) -> None:
        self._put = chain.put
        self._rest = bytes(work["size"] - _NUMBERS.size)
        self._callers = work["callers"]
        self._from_ns = perf_counter_ns() + int(work["warmup_s"] * 1e9)
        self._until_ns = self._from_ns + int(work["seconds"] * 1e9)
        self.window_s = work["seconds"]
        self.latencies = array("Q")
        self.errors = 0
        self.left = self._callers

    def run(self, timeout_s: float) -> None:
        """Returns when each caller has its last answer."""
        for number in range(self._callers):
            self._caller(number)()
        deadline_ns = self._until_ns + int(timeout_s * 1e9)
        while self.left:
            if perf_counter_ns() > deadline_ns:
                raise SystemExit(f"{self.left} callers have no answer after {timeout_s} s")
            time.sleep(LOOK_EVERY_S)

    def _caller(self, number: int) -> Callable[[], None]:
        start = calls = 0

        def ask() -> None:
            nonlocal start, calls
            calls += 1
            start = perf_counter_ns()
            self._put(_NUMBERS.pack(number, calls, 0) + self._rest, callback=answered)

        def answered(result: object, error: int) -> None:
            now = perf_counter_ns()
            if error:
                self.errors += 1
            elif self._from_ns <= now <= self._until_ns:
                self.latencies.append(now - start)
            if now < self._until_ns:
                ask()
            else:
                self.left -= 1

        return ask


def answer(chain: Chain, request: dict[str, Any]) -> dict[str, Any]:
    """What a request comes to."""
    if request["op"] == "leader":
        return {"leader": bool(chain._isLeader())}
    if request["op"] == "applied":
        return {"count": chain.count, "checksum": chain.checksum}
    load = Load(chain, request["work"])
    load.run(request["timeout_s"])
    with open(request["latencies"], "wb") as file:
        load.latencies.tofile(file)
    return {"window_s": load.window_s, "errors": load.errors, "latencies": request["latencies"]}


def main() -> None:
    """Entry of the process."""
    spec = json.loads(sys.argv[1])
    address = spec["addresses"].pop(spec["index"])
    chain = Chain(address, spec["addresses"], SyncObjConf(**spec["options"]))
    while not chain.isReady() or chain._getLeader() is None:
        time.sleep(LOOK_EVERY_S)
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(chain, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
