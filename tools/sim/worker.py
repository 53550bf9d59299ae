"""One simulated worker: a production turn, its log, and the loop around it.

The loop is the worker process's: it turns when something came in, when there is work left or when a
timer is due, and stands still while its disk syncs. It can die at every `Point` of a turn. Decides
nothing about faults: they are done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING

from paxmux.engine.errors import StorageFailed
from paxmux.engine.paxos.master import LeaseTerms
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.engine.storage import LogIdentity, StorageDamaged, unknown_state
from paxmux.shards.backlog import SLICE_NS
from paxmux.shards.requests import Batch, CallKind
from paxmux.shards.slice import Identity, build_turn
from paxmux.shards.turn import Turn
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.disk import SimDisk
from paxmux.tools.sim.execution import Execution
from paxmux.tools.sim.ledger import Request
from paxmux.tools.sim.machines import JOURNAL, REGISTER, Journal, Register, Shelf
from paxmux.tools.sim.points import Crash, Doom, Point, WatchedLog, WatchedReplies
from paxmux.tools.sim.records import CLUSTER
from paxmux.tools.sim.trace import MARK_BOOT, MARK_REPLY, MARK_TURN, spell

if TYPE_CHECKING:
    from paxmux.tools.sim.node import SimNode

HOUSEKEEP_NS = 100 * MS
QUERIES = (CallKind.QUERY, CallKind.LINEARIZABLE_QUERY, CallKind.MASTER_QUERY)
DAMAGE_BUDGET = 3
"""After so many deaths of a damaged log nobody starts it again."""
LONG_NS = 100 * MS
"""Who synced for so long stood still."""
EXECUTE_NS = SLICE_NS // 4
"""What an instance takes to be executed, as its turn sees it: some of them wait for the next pass."""
LOOP_NS = 20_000
"""From a doorbell, or the end of a turn, to the next turn."""


class State(Enum):
    """Of a worker process."""

    DOWN = "down"
    IDLE = "idle"
    SYNCING = "syncing"
    REFUSED = "refused"
    """It cannot boot, or dies again and again: its log is damaged."""


class SimWorker:
    """One worker index of a node; its disk outlives its processes."""

    def __init__(self, node: SimNode, index: int, groups: tuple[int, ...]) -> None:
        self.node = node
        self.index = index
        self.groups = groups
        self.mask = sum(1 << group for group in groups)
        self.name = f"n{node.number}.w{index}"
        self.state = State.DOWN
        self.generation = 0
        self.inbox: list[bytes] = []
        self.batch = Batch([], [])
        self.open: dict[int, Request] = {}
        """Requests that this life has yet to answer, by seq."""
        self.paused_until = 0
        self.slow_until = 0
        self.slow_ns = 0
        """A sync of a slow disk takes up to so much longer."""
        self.doom: Doom | None = None
        self.stopping = False
        self.turns = 0
        self.timer_turns = 0
        self.resumed_at = 0
        """Since then it has been able to turn."""
        self.turn: Turn
        self.journals: dict[int, Journal] = {}
        self.registers: dict[int, Register] = {}
        self._run_at = NEVER
        self._housekeep_at = 0
        self._deaths = 0
        self._began = 0
        self._sending = Point.SENDING
        self.make_disk()

    def make_disk(self) -> None:
        """A new, empty disk, and nothing on any shelf."""
        node = self.node
        plan = node.cluster.plan
        self.disk = SimDisk(
            LogIdentity(CLUSTER, node.number, node.seat, self.index),
            segment_bytes=plan.storage.segment_bytes,
            scrub_bytes_per_s=plan.storage.scrub_bytes_per_s,
        )
        self._shelves = {
            (group, smid): Shelf() if plan.durable else None
            for group in self.groups
            for smid in (JOURNAL, REGISTER)
        }

    @property
    def up(self) -> bool:
        """Whether there is a process."""
        return self.state is State.IDLE or self.state is State.SYNCING

    @property
    def still_until(self) -> int:
        """It does nothing before."""
        return max(self.paused_until, self.node.paused_until)

    # Life and death

    def boot(self) -> None:
        """A new process reads the log and serves."""
        node, cluster = self.node, self.node.cluster
        plan = cluster.plan
        self.generation += 1
        cluster.trace.mark(cluster.now, MARK_BOOT, node.number, self.generation)
        self.inbox, self.batch = [], Batch([], [])
        self._shown: dict[int, int] = {}
        self.doom, self.stopping = None, False
        self.replies = WatchedReplies(self.reached)
        machines = {}
        for group in self.groups:
            judges = {}
            for smid in (JOURNAL, REGISTER):
                shelf = self._shelves[group, smid]
                first = 0 if shelf is None or shelf.applied is None else shelf.applied + 1
                judges[smid] = Execution(cluster.witness, node.number, node.incarnation, group, smid, first)
            journal = self.journals[group] = Journal(group, judges[JOURNAL], self._shelves[group, JOURNAL])
            register = self.registers[group] = Register(
                group, judges[REGISTER], self._shelves[group, REGISTER]
            )
            machines[group] = {JOURNAL: journal, REGISTER: register}
        local = node.clock.at(cluster.now)
        try:
            log = WatchedLog(self.disk.open(), self.reached)
            self.turn = build_turn(
                Identity(CLUSTER, node.number, node.seat, node.incarnation, self.index, self.generation),
                machines,
                log,
                self,
                self.replies,
                members=Members(cluster.founders),
                rng=cluster.rng,
                now=local,
                timers=plan.timers,
                proposals=plan.proposals,
                limits=plan.limits,
                storage=plan.storage,
                clock=count(0, EXECUTE_NS).__next__,
                leases={group: self._lease() for group in self.groups},
            )
        except StorageDamaged as error:
            self._refuse(error)
            return
        except StorageFailed as error:
            # Such as a full disk, on which recovery finds no room for a new segment.
            cluster.trace.say(f"{self.name} cannot boot: {error}")
            self.disk.crash(cluster.rng, power=False)
            node.worker_died(self)
            return
        self.turn.calls.masters.clock = lambda: node.clock.at(cluster.now)
        self.state = State.IDLE
        self.resumed_at = cluster.now
        cluster.counts["cut_tail"] += log.stats()["cut_bytes"] > 0
        cluster.witness.synced(node.number, self.index, self.disk)
        unknown = unknown_state(log.doubt())
        states = {group: log.states.get(group, unknown) for group in self.groups}
        for group, state in states.items():
            cluster.witness.recovered(node.number, group, state)
        if cluster.trace.wordy:
            found = [state[:3] for state in states.values()]
            cluster.trace.say(f"{self.name} boots, generation {self.generation}, recovered {found}")
        self.turn.start(local)
        cluster.leases.look(self)
        self._run(cluster.now + LOOP_NS)

    def _lease(self) -> LeaseTerms:
        plan = self.node.cluster.plan
        return LeaseTerms(plan.lease_ms > 0, plan.lease_ms * MS, plan.drift_ppm)

    def die(self, *, power: bool) -> None:
        """The process is gone, or the machine; what nobody answered is lost."""
        cluster = self.node.cluster
        if not self.up:
            return
        if self.state is State.SYNCING and cluster.rng.random() < 0.8:
            self._leave_unsynced()
        self.state = State.DOWN
        self._run_at = NEVER
        self.doom = None
        cluster.ledger.lost(self.open.values())
        self.open.clear()
        before = len(self.disk.batches)
        unsynced = before - self.disk.synced
        self.disk.crash(cluster.rng, power=power)
        if power and unsynced and len(self.disk.batches) < before:
            cluster.counts["lost_write"] += 1
        if cluster.trace.wordy:
            cluster.trace.say(
                f"{self.name} {'loses power' if power else 'dies'}, {unsynced} writes unsynced, "
                f"{before - len(self.disk.batches)} lost"
            )

    def _leave_unsynced(self) -> None:
        """It dies in the midst of a sync: what it wrote is in nobody's hands."""
        try:
            self.turn.log.append(self.turn.fx.records)
        except StorageFailed as error:
            self.node.cluster.trace.say(f"{self.name}: {error}")

    def _lone(self) -> bool:
        """Whether there is nobody who could tell it what it has lost."""
        witness, me = self.node.cluster.witness, self.node.number
        eras = [
            witness.constitution(group).era(witness.disks[me].instance.get(group, 0)) for group in self.groups
        ]
        return any(list(era.seats) == [me] for era in eras)

    def _refuse(self, error: StorageDamaged) -> None:
        cluster = self.node.cluster
        if self.node.hurt and list(cluster.founders) == [self.node.number] and not cluster.faults.ruined:
            # Its log does not say that there is anybody else: it gets a new one, and a new seat.
            cluster.faults.replace(self.node)
            return
        if not (self.node.failed or self._lone()):
            raise Breach("damage is repaired", f"{self.name} refuses to boot: {error}")
        self.state = State.REFUSED
        self.disk.crash(self.node.cluster.rng, power=False)
        self.node.cluster.trace.say(f"{self.name} refuses to boot: {error}")

    def stop(self) -> None:
        """Stop cleanly, as soon as the present turn is over."""
        self.stopping = True
        self.poke()

    def _close(self) -> None:
        cluster, turn = self.node.cluster, self.turn
        cluster.trace.say(f"{self.name} stops cleanly")
        self._sending = Point.REPLYING
        turn.close()
        cluster.witness.synced(self.node.number, self.index, self.disk)
        self._answer()
        if self.open:
            left = [request.words() for request in self.open.values()]
            raise Breach("a stop answers everybody", f"{self.name} stops and owes {left[:3]}")
        turn.log.close(clean=True)
        self.state = State.DOWN
        self._run_at = NEVER
        self.node.worker_died(self)

    # The loop

    def poke(self) -> None:
        """Something came in, or time is another: turn soon."""
        if self.state is State.IDLE:
            self._run(max(self.node.cluster.now + LOOP_NS, self.still_until))

    def retime(self) -> None:
        """The clock was set: the next timer is at another time."""
        if self.state is State.IDLE:
            self._run_at = NEVER
            self._rest()

    def due(self, local: int) -> bool:
        """Whether the loop would turn now."""
        turn, batch = self.turn, self.batch
        return bool(self.inbox or batch.proposals or batch.calls or turn.busy or local >= turn.wake_at)

    def _run(self, at: int) -> None:
        if at < self._run_at:
            self._run_at = at
            self.node.cluster.at(at, self._begin, at)

    def _begin(self, at: int) -> None:
        if at != self._run_at or self.state is not State.IDLE:
            return
        self._run_at = NEVER
        cluster = self.node.cluster
        if cluster.now < self.still_until:
            self._run(self.still_until)
            return
        local = self.node.clock.at(cluster.now)
        doom = self.doom
        if doom is not None:
            doom.turns -= 1
            if doom.turns < 0:
                self._crash(Point.IDLE)
                return
        if not self.due(local):
            if self.stopping:
                self._guard(self._close)
            else:
                self._rest()
            return
        frames, batch = self.inbox, self.batch
        fed = batch.proposals or batch.calls
        if not frames and not fed and not self.turn.busy:
            self.timer_turns += 1
        self.turns += 1
        self.inbox = []
        if fed:
            self.batch = Batch([], [])
        cluster.trace.mark(cluster.now, MARK_TURN, self.node.number * 16 + self.index, len(frames))
        if cluster.trace.wordy:
            cluster.trace.say(f"{self.name} turns: {len(frames)} frames, {len(batch.proposals)} proposals")
        self._guard(self._first_half, local, frames, [batch] if fed else [])

    def _first_half(self, local: int, frames: list[bytes], batches: list[Batch]) -> None:
        cluster, turn = self.node.cluster, self.turn
        turn.step(local, frames, batches)
        cluster.leases.look(self)
        self.reached(Point.STEPPED)
        self._sending = Point.SENDING
        turn.send_now()
        self.reached(Point.SENT)
        if turn.fx.records:
            self.state = State.SYNCING
            self._began = cluster.now
            cluster.at(cluster.now + self._sync_ns(), self._synced, (self.generation, local))
        else:
            self._second_half(local)

    def _sync_ns(self) -> int:
        cluster = self.node.cluster
        took = int(cluster.plan.sync_us * 2000 * cluster.rng.random())
        if cluster.now < self.slow_until:
            took += int(self.slow_ns * cluster.rng.random())
        return took

    def _synced(self, token: tuple[int, int]) -> None:
        generation, local = token
        if generation != self.generation or self.state is not State.SYNCING:
            return
        cluster = self.node.cluster
        if cluster.now < self.still_until:
            cluster.at(self.still_until, self._synced, token)
            return
        self.state = State.IDLE
        if cluster.now - self._began > LONG_NS:
            self.resumed_at = cluster.now
        self._guard(self._second_half, local)

    def _second_half(self, local: int) -> None:
        cluster, turn = self.node.cluster, self.turn
        if turn.fx.records:
            turn.persist()
            cluster.witness.synced(self.node.number, self.index, self.disk)
            self.reached(Point.SYNCED)
        self._sending = Point.REPLYING
        turn.finish(local)
        cluster.leases.look(self)
        if cluster.witness.swallowed is not None:
            raise cluster.witness.swallowed
        self.reached(Point.FINISHED)
        if self.replies:
            self._answer()
        self.reached(Point.ANSWERED)
        if cluster.now >= self._housekeep_at:
            self._housekeep_at = cluster.now + HOUSEKEEP_NS
            turn.housekeep(local)
        self._rest()

    def _rest(self) -> None:
        """Until something comes in, or the next timer."""
        cluster = self.node.cluster
        soon = cluster.now + LOOP_NS
        turn, batch = self.turn, self.batch
        if self.inbox or batch.proposals or batch.calls or turn.busy or self.stopping:
            self._run(soon)
            return
        if turn.fx.after:
            raise Breach("nothing rests", f"{self.name} sleeps with something to send")
        if turn.wake_at < NEVER:
            self._run(max(soon, self.node.clock.when(turn.wake_at)))

    def _answer(self) -> None:
        cluster = self.node.cluster
        for reply in self.replies:
            request = self.open.pop(reply[0], None)
            if request is None:
                raise Breach("each result once", f"{self.name} answers {reply}, which nobody asked")
            cluster.trace.mark(cluster.now, MARK_REPLY, self.node.number, reply[1] & 0xFFFF)
            if cluster.trace.wordy:
                cluster.trace.say(f"{self.name} answers {request.words()}: {reply[1:]}")
            cluster.ledger.answered(request, reply)
            if request.kind in QUERIES and not reply[1]:
                shown = self._shown.get(request.group, 0)
                if reply[2] < shown:
                    raise Breach(
                        "reads go forwards", f"{self.name}: {request.words()}, {shown} was shown before"
                    )
                self._shown[request.group] = reply[2]
        self.replies.clear()

    # Dying

    def reached(self, point: Point) -> None:
        """A turn is there; now and then it is its last moment."""
        doom = self.doom
        if doom is not None and doom.point == point:
            doom.skip -= 1
            if doom.skip < 0:
                raise Crash

    def _guard(self, phase: Callable[..., None], *arguments: object) -> None:
        """Run a part of a turn; the process may not outlive it."""
        try:
            phase(*arguments)
        except Crash:
            assert self.doom is not None
            self._crash(self.doom.point)
        except StorageFailed as error:
            self.node.cluster.trace.say(f"{self.name}: {error}")
            self.node.cluster.faults.sync_failed(self)
            self.die(power=False)
            self.node.worker_died(self)
        except StorageDamaged as error:
            if not (self.node.failed or self._lone()):
                raise Breach("damage is repaired", f"{self.name}: {error}") from error
            self.node.cluster.trace.say(f"{self.name} dies of {error}")
            self.die(power=False)
            self._deaths += 1
            if self._deaths == DAMAGE_BUDGET:
                self.state = State.REFUSED
            self.node.worker_died(self)

    def _crash(self, point: Point) -> None:
        doom = self.doom
        assert doom is not None
        self.node.cluster.faults.crash(self, doom.scope, point)

    # What a turn sends

    def send(self, data: bytes, *, droppable: bool) -> bool:
        """A frame leaves."""
        node = self.node
        cluster = node.cluster
        try:
            cluster.witness.leaves(data)
        except Breach:
            cluster.trace.say(f"{self.name} is about to send: {spell(data)}")
            raise
        cluster.wire.launch(cluster.now, node.number, int.from_bytes(data[56:64], "little"), data)
        self.reached(self._sending)
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        """A large one."""
        return self.send(b"".join(pieces), droppable=droppable)

    def commit(self) -> bool:
        """Nobody sleeps here."""
        return True
