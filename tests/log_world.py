"""Data directories with real logs and true chains, for the tests of `paxmux log`."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path

import msgspec

from paxmux.engine.address import pack_node_id
from paxmux.engine.paxos.value import FIRST, Entry, chain_after, encode
from paxmux.engine.storage import LogIdentity, Record
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.shards.cluster import make_founding
from paxmux.shards.identity import FoundingStore, create, read_identity
from paxmux.shards.log_directories import LOGS
from paxmux.tools.log.directory import LogDirectory
from paxmux.tools.log.walk import Event, Walk
from tests.event_loop import DEADLINE_S
from tests.storage_model import ACCEPT, DECIDED, FORGOTTEN, LEARNED, PROMISE, RELEASED

SEGMENT_BYTES = 16 << 10
SMID = 7


def node_id(number: int) -> int:
    return pack_node_id("127.0.0.1", 11_111 + number)


class Replica:
    """A data directory whose groups decide what it is told; a group's log is group % logs."""

    def __init__(self, path: Path, number: int = 0, *, groups: int = 3, logs: int = 1) -> None:
        self.path = path
        self.number = number
        self.groups = groups
        self.logs = logs
        self.node = node_id(number)
        create(path, self.node, groups)
        self.chains = [FIRST] * groups
        self.instances = [0] * groups
        self.first = [0] * groups
        self.decided: dict[tuple[int, int], bytes] = {}
        """What a reader must find decided once the groups have gone past it, unless it is forgotten."""
        self.open: list[SegmentLog] = []

    @property
    def seat(self) -> int:
        return read_identity(self.path).seat

    def found(self, cluster: Sequence[Replica] = ()) -> Replica:
        """Record the founding by this and the other replicas, and make the logs."""
        seats = {each.node: each.seat for each in (self, *cluster)}
        founding = make_founding(seats, self.groups)
        store = FoundingStore(self.path)
        store.record(founding, active=True)
        hosts = tuple(group % self.logs for group in range(self.groups))
        store._write(msgspec.structs.replace(store.reload(), hosts=hosts, logs=True))
        self.identities = [
            LogIdentity(founding.cluster, self.node, self.seat, number) for number in range(self.logs)
        ]
        self.start()
        return self

    def start(self, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open the logs."""
        for number, identity in enumerate(self.identities):
            log = SegmentLog(self.path / LOGS / str(number), identity, segment_bytes=segment_bytes)
            log.recover()
            self.open.append(log)

    def value(self, group: int, payloads: Sequence[bytes], origin: int | None = None) -> bytes:
        """The next value of a group, that decides `payloads`."""
        instance = self.instances[group]
        entries: list[Entry] = [
            (origin or node_id(0), 0xABC, instance * 100 + index, instance, SMID, payload)
            for index, payload in enumerate(payloads)
        ]
        return encode(entries, self.chains[group])

    def decide(self, group: int, value: bytes, kind: int = ACCEPT, round_: int = 1) -> Record:
        """The record of a group's next value, which will be decided."""
        instance = self.instances[group]
        self.decided[group, instance] = value
        self.chains[group] = chain_after(value)
        self.instances[group] += 1
        return (kind, group, instance, round_, node_id(0), value)

    def write(self, records: Sequence[Record], *, sync: bool = True) -> None:
        """Append records to the logs that they belong to."""
        for number, log in enumerate(self.open):
            mine = [record for record in records if record[1] % self.logs == number]
            if mine:
                log.append(mine)
                if sync:
                    log.sync()

    def fill(self, turns: int, *, size: int = 100, seed: int = 1, sync: bool = True) -> Replica:
        """So many turns in which most groups decide something; the same of the same seed."""
        rng = random.Random(seed)
        for _ in range(turns):
            records: list[Record] = []
            for group in range(self.groups):
                if rng.random() < 0.2:
                    continue
                payloads = [rng.randbytes(rng.randrange(size)) for _ in range(rng.randrange(4))]
                kind = LEARNED if rng.random() < 0.2 else ACCEPT
                records.append(self.decide(group, self.value(group, payloads), kind))
            self.write(records, sync=sync)
        return self

    def settle(self, *but: int) -> Replica:
        """Say that everything so far is decided, of all groups but these."""
        mine = [(g, i) for g, i in enumerate(self.instances) if i and g not in but]
        self.write([(DECIDED, group, instance - 1, 0, 0, b"") for group, instance in mine])
        return self

    @property
    def kept(self) -> dict[tuple[int, int], bytes]:
        """What of it is not forgotten."""
        return {key: value for key, value in self.decided.items() if key[1] >= self.first[key[0]]}

    def forget(self, group: int, first: int) -> None:
        """Values below `first` are not needed any more."""
        self.first[group] = max(self.first[group], first)
        self.write([(FORGOTTEN, group, first, 0, 0, b"")])

    def release(self, group: int) -> None:
        """The group leaves its log."""
        self.write([(RELEASED, group, 0, 0, 0, b"")])
        self.first[group] = self.instances[group]

    def come_back(self, group: int, first: int) -> None:
        """The group is in its log again, and keeps what is from `first` on."""
        values = [(i, self.decided[group, i]) for i in range(first, self.instances[group])]
        self.write([(LEARNED, group, i, 1, node_id(0), value) for i, value in values])
        self.write(
            [
                (PROMISE, group, self.instances[group], 1, node_id(0), b""),
                (FORGOTTEN, group, first, 0, 0, b""),
            ]
        )
        self.first[group] = first

    def clean(self) -> None:
        """Upkeep of the logs until nothing is left to do."""
        deadline = time.monotonic() + DEADLINE_S
        for log in self.open:
            while (pause := log.housekeep()) is not None:
                assert time.monotonic() < deadline
                time.sleep(min(pause, 0.01))
            while log._place.discarding_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.001)

    def wear(self, turns: int, *, busy: int | None = None, forget: bool = True) -> Replica:
        """So many turns in which group 0 decides little and keeps all, the others much, of which they keep
        little: old segments go, and what group 0 has is moved again and again. Or nobody forgets. The groups
        from `busy` on do nothing."""
        groups = self.groups if busy is None else busy
        for turn in range(turns):
            records = [
                self.decide(group, self.value(group, [b"%d" % self.instances[group] * 30]))
                for group in range(groups)
                if group or turn % 25 == 0
            ]
            self.write(records)
            if forget and turn % 25 == 24:
                for group in range(1, groups):
                    self.forget(group, max(0, self.instances[group] - 5))
                self.clean()
        return self

    def promise(self, group: int, round_: int) -> None:
        self.write([(PROMISE, group, self.instances[group], round_, self.node, b"")])

    def close(self, *, clean: bool = True) -> Replica:
        while self.open:
            log = self.open.pop()
            # The segment that is reserved too: whoever counts them must not depend on a thread's pace.
            until = time.monotonic() + DEADLINE_S
            while log.healthy() is None and not log._place.reserved_bytes() and time.monotonic() < until:
                time.sleep(0.001)
            log.close(clean=clean)
        return self

    def copy(self, path: Path) -> Replica:
        """The same, closed, at another place."""
        assert not self.open
        shutil.copytree(self.path, path)
        other = copy(self)
        other.path = path
        other.open = []
        return other

    def log(self, number: int = 0) -> LogDirectory:
        return LogDirectory(self.path / LOGS / str(number), self.identities[number], True)

    def segments(self, number: int = 0) -> list[Path]:
        return sorted((self.path / LOGS / str(number)).glob("*.seg"))


def replica(path: Path, **more: int) -> Replica:
    """A replica that is a cluster of its own."""
    return Replica(path, **more).found()


def replicas(folder: Path, count: int, **more: int) -> list[Replica]:
    """Replicas of one cluster: `folder`/node1 and so on."""
    made = [Replica(folder / f"node{number + 1}", number, **more) for number in range(count)]
    for each in made:
        each.found([other for other in made if other is not each])
    return made


def walked(log: LogDirectory) -> list[Event]:
    """All events of a walk."""
    with Walk(log) as walk:
        return list(walk.events())


def snapshot(path: Path) -> dict[str, tuple[int, int, int, str]]:
    """Everything below a folder: if any of it is created, changed or touched, this differs."""
    return dict(_entries(path))


def _entries(path: Path) -> Iterator[tuple[str, tuple[int, int, int, str]]]:
    for entry in sorted(path.rglob("*")):
        about = entry.lstat()
        content = hashlib.sha256(entry.read_bytes()).hexdigest() if entry.is_file() else ""
        yield str(entry.relative_to(path)), (about.st_ino, about.st_mtime_ns, about.st_ctime_ns, content)
