"""A worker that answers at once: a real process with real rings, and no protocol behind it.

What a value says decides its fate: `code:14` is answered with that code, `silent` never, `late:300`
after so many milliseconds, `twice` twice; `exit:71` ends the process with that code, `garbage` sends
bytes that are no replies, `hang` stops the loop for good. `master:7,3,2,500` writes node, version, term
and lease in ms of the group's master on the lease board. Anything else is its own result.

Files in the data directory decide how it boots: `boot_exit` holds an exit code, `ignore_stop` makes it
deaf to `Stop`.
"""

from __future__ import annotations

import heapq
import os
import select
import time
from pathlib import Path

import msgspec

from paxmux.engine import pack
from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import Code, ExitCode
from paxmux.engine.pack import PACK
from paxmux.shards import requests
from paxmux.shards.boot import Failed, Ready, Stop, WorkerBoot
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.child import Parent, ParentGone, be_child
from paxmux.shards.counters import WORKER, Block, Phase
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.lease_board import LeaseBoard, LeaseRow
from paxmux.shards.packer import encode_results
from paxmux.shards.requests import Call, CallKind, Proposal, Reply

SLEEP_S = 0.1


class FakeWorker:
    """One life of it."""

    def __init__(self, boot: WorkerBoot, fds: list[int], parent: Parent) -> None:
        counters, client_in, client_out, _, _, own_bell, node_bell, _, leases = fds
        self.boot = boot
        self.parent = parent
        self.block = Block(counters, WORKER)
        self.board = LeaseBoard(leases, boot.options.groups)
        self.bell = Doorbell(own_bell)
        node = Doorbell(node_bell)
        self.requests = Receiver(client_in, node)
        self.answers = Sender(client_out, node, backlog_max_bytes=boot.options.limits.ring_backlog_bytes)
        self.instances = dict.fromkeys(boot.groups, 0)
        self.decided: dict[tuple[int, int], list[tuple[bytes, int]]] = {}
        self.late: list[tuple[float, Reply]] = []
        self.replies: list[Reply] = []
        self.ignore_stop = (Path(boot.options.data_dir) / "ignore_stop").exists()

    def run(self) -> int:
        poll = select.epoll()
        poll.register(self.bell.fileno(), select.EPOLLIN)
        poll.register(self.parent.fileno(), select.EPOLLIN)
        while True:
            self.beat(Phase.STEP)
            messages = self.requests.receive()
            for data in messages:
                batch = requests.decode_batch(data)
                for proposal in batch.proposals:
                    self.propose(proposal)
                for call in batch.calls:
                    self.call(call)
            now = time.monotonic()
            while self.late and self.late[0][0] <= now:
                self.replies.append(heapq.heappop(self.late)[1])
            if self.replies:
                self.answers.send(requests.encode(requests.Replies(self.replies)), droppable=False)
                self.replies = []
            done = self.answers.commit()
            stop = any(isinstance(message, Stop) for message in self.parent.receive_all())
            if stop and not self.ignore_stop:
                return ExitCode.OK
            if not messages and self.requests.prepare_sleep():
                self.beat(Phase.SLEEP)
                until = min(self.late[0][0] - now, SLEEP_S) if self.late else SLEEP_S
                poll.poll(max(until, 0.0) if done else 0.001)
                self.requests.wake()
                self.bell.clear()

    def beat(self, phase: Phase) -> None:
        self.block.slots[self.block.index["phase"]] = phase
        self.block.slots[self.block.index["heartbeat_ns"]] = clock_ns()

    def propose(self, proposal: Proposal) -> None:
        seq, group, _, smid, value, context = proposal
        instance = self.instances[group]
        values = [value]
        done: Reply = (seq, Code.OK, instance, 0, value if context is None else value + b"|" + context)
        if smid >= PACK:
            assert context is None
            values = pack.decode(value)
            refused = {index: "as asked" for index, each in enumerate(values) if each == b"refused"}
            done = (seq, Code.OK, instance, 0, encode_results((values, refused)))
            value = values[0]
        word, _, argument = value.partition(b":")
        if word == b"code":
            self.replies.append((seq, int(argument), 0, 0, b"as asked"))
        elif word == b"silent":
            return
        elif word == b"late":
            heapq.heappush(self.late, (time.monotonic() + int(argument) / 1000, done))
        elif word == b"exit":
            self.parent.send(Failed(reason="as asked", kind="storage"))
            os._exit(int(argument))
        elif word == b"garbage":
            self.answers.send(b"no replies at all", droppable=False)
        elif word == b"master":
            node, version, term, lease_ms = map(int, argument.split(b","))
            until_ns = clock_ns() + lease_ms * 1_000_000
            row = LeaseRow(node, version, term, until_ns, lease_ms * 1_000_000)
            self.board.write(group, row, self.boot.worker)
            self.replies.append(done)
        elif word == b"hang":
            time.sleep(1000)
        else:
            self.decided[group, instance] = [(each, smid & ~PACK) for each in values]
            self.instances[group] += 1
            self.replies += [done] * (2 if word == b"twice" else 1)

    def as_master(self, call: Call) -> Reply:
        """Goes by the lease board alone; a lease is given back at once."""
        seq, kind, group, _deadline, argument, payload = call
        row = self.board.held(group, clock_ns())
        if row.node != self.boot.node_id:
            return (seq, Code.NOT_MASTER, row.node, row.version + 1, b"as the board says")
        if kind == CallKind.DROP_MASTER:
            given = LeaseRow(argument, row.version + 1, row.version + 1, row.until_ns, row.lease_ns)
            self.board.write(group, given, self.boot.worker)
        return (seq, Code.OK, row.term, row.version + 1, payload[::-1])

    def call(self, call: Call) -> None:
        seq, kind, group, _deadline, argument, payload = call
        reply: Reply
        if kind == CallKind.QUERY:
            reply = (seq, Code.OK, 0, 0, payload[::-1])
            if payload == b"fail":
                reply = (seq, Code.QUERY_FAILED, 0, 0, b"as asked")
            if payload == b"silent":
                return
        elif kind == CallKind.NOW_INSTANCE:
            reply = (seq, Code.OK, self.instances[group], 0, None)
        elif kind == CallKind.INSTANCE_VALUE:
            values = self.decided.get((group, argument))
            if values is None:
                reply = (seq, Code.INSTANCE_NOT_CHOSEN, 0, 0, b"not yet")
            else:
                reply = (seq, Code.OK, argument, 0, msgspec.msgpack.encode(values))
        elif kind in (CallKind.MASTER, CallKind.MASTER_QUERY, CallKind.DROP_MASTER):
            reply = self.as_master(call)
        elif kind == CallKind.SET_MASTER_LEASE:
            reply = (seq, Code.OK, 0, 0, None)
        else:
            rows = [{"group": index, "instance": count} for index, count in self.instances.items()]
            reply = (seq, Code.OK, 0, 0, msgspec.json.encode(rows))
        self.replies.append(reply)


def main() -> None:
    """Entry of the process."""
    parent, boot, fds = be_child()
    assert isinstance(boot, WorkerBoot)
    boot_exit = Path(boot.options.data_dir) / "boot_exit"
    if boot_exit.exists():
        code = int(boot_exit.read_text())
        if code == ExitCode.CANNOT_BOOT:
            parent.send(Failed(reason="no such machine", kind="cannot_boot"))
        os._exit(code)
    worker = FakeWorker(boot, fds, parent)
    parent.send(Ready())
    try:
        code = worker.run()
    except ParentGone:
        code = ExitCode.PARENT_GONE
    raise SystemExit(code)
