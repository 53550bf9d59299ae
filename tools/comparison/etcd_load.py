"""Closed-loop callers of etcd, in one process with one connection to the leader.

`python etcd_load.py SPEC`, SPEC as JSON: `ports` of the members for clients, `work`, `timeout_s`,
`latencies` (a file to write). Says one line of JSON: what came of it, and whether all members hold the same.
Each caller puts to a key of its own. One connection for all callers gave more values per second than 4, 10
or one for each. Runs where paxmux is not installed.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from array import array
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paxmux.tools.comparison.http2_calls import CallFailed, Calls
    from paxmux.tools.comparison.protobuf import field, fields
else:
    # This file is run by its path, by another interpreter.
    from http2_calls import CallFailed, Calls
    from protobuf import field, fields

HOST = "127.0.0.1"
LOOK_EVERY_S = 0.05
_NUMBERS = struct.Struct(">IQI")
_PUT = "/etcdserverpb.KV/Put"
_STATUS = "/etcdserverpb.Maintenance/Status"
_HASH = "/etcdserverpb.Maintenance/HashKV"


def one_call(port: int, path: str) -> dict[int, Any]:
    """The answer to a call without arguments."""
    answers: list[bytes] = []
    calls = Calls((HOST, port), path, lambda number, message: answers.append(message))
    with calls.socket:
        calls.call(0, b"")
        while not answers:
            calls.flush()
            calls.receive()
    return fields(answers[0])


def leader_of(ports: list[int], timeout_s: float) -> int:
    """The leader's port, once every member answers and names the same leader."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            found = [one_call(port, _STATUS) for port in ports]
        except (OSError, CallFailed):
            time.sleep(LOOK_EVERY_S)
            continue
        # header = 1 with member_id = 2; leader = 4
        members = [fields(status[1])[2] for status in found]
        leaders = {status.get(4, 0) for status in found}
        if len(leaders) == 1 and (leader := leaders.pop()) in members:
            return ports[members.index(leader)]
        time.sleep(LOOK_EVERY_S)
    raise SystemExit(f"etcd has no leader after {timeout_s} s")


def agree(ports: list[int], timeout_s: float) -> bool:
    """Whether all members come to the same revision and hash of all keys."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = [one_call(port, _HASH) for port in ports]
        # header = 1 with revision = 3; hash = 2
        seen = {(fields(each[1]).get(3), each.get(2)) for each in found}
        if len(seen) == 1:
            return True
        time.sleep(LOOK_EVERY_S)
    return False


class Load:
    """The callers."""

    def __init__(self, port: int, work: dict[str, Any]) -> None:
        self._rest = bytes(work["size"] - _NUMBERS.size)
        self._callers = work["callers"]
        self._calls = Calls((HOST, port), _PUT, self._answered)
        self._counts = [0] * self._callers
        self._starts = [0] * self._callers
        self._from_ns = perf_counter_ns() + int(work["warmup_s"] * 1e9)
        self._until_ns = self._from_ns + int(work["seconds"] * 1e9)
        self._left = self._callers
        self.latencies = array("Q")

    def run(self) -> None:
        """Returns when each caller has its last answer."""
        for number in range(self._callers):
            self._ask(number)
        with self._calls.socket:
            while self._left:
                self._calls.flush()
                self._calls.receive()

    def _ask(self, number: int) -> None:
        self._counts[number] += 1
        value = _NUMBERS.pack(number, self._counts[number], 0) + self._rest
        self._starts[number] = perf_counter_ns()
        self._calls.call(number, field(1, b"%08d" % number) + field(2, value))

    def _answered(self, number: int, message: bytes) -> None:
        now = perf_counter_ns()
        if self._from_ns <= now <= self._until_ns:
            self.latencies.append(now - self._starts[number])
        if now < self._until_ns:
            self._ask(number)
        else:
            self._left -= 1


def main() -> None:
    """Entry of the process."""
    spec = json.loads(sys.argv[1])
    load = Load(leader_of(spec["ports"], spec["timeout_s"]), spec["work"])
    load.run()
    with open(spec["latencies"], "wb") as file:
        load.latencies.tofile(file)
    # A call that fails ends the process: there are no errors to count.
    said = {"window_s": spec["work"]["seconds"], "errors": 0, "latencies": spec["latencies"]}
    print(json.dumps({"load": said, "agree": agree(spec["ports"], spec["timeout_s"])}), flush=True)


if __name__ == "__main__":
    main()
