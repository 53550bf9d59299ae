"""One pass of a worker: drain, step, send, one write and one sync, send, apply.

The turn carries out what the pure protocol asks for, in the only safe order (see
`engine.paxos.effects`). It knows no socket, ring or clock: frames and requests come in as
arguments, time too; the log, the outlet and the machines are objects it was given. So the
simulator runs this very code.

Everything that a turn decides is durable here before it is executed, and whatever came in while the
last sync was running shares the next one: that is the whole of group commit, with no timer.

Where the log has no room for the records of a turn, the turn is *held*: nothing that rests on it is done, and
nothing is taken in, until the log takes these very records. So a full disk costs answers alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from paxmux.engine.errors import Code
from paxmux.engine.options import StorageOptions
from paxmux.engine.pack import MARKS, PACK, count_in
from paxmux.engine.paxos.effects import Decided, Effects, Outbox, Record
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.messages import Chosen
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.engine.state_machine import NO_STATE_MACHINE
from paxmux.engine.storage import Log, NoRoom
from paxmux.shards.alarms import Alarms
from paxmux.shards.applier import STOPPED, Applier
from paxmux.shards.backlog import Backlog, no_time
from paxmux.shards.calls import Calls
from paxmux.shards.given_up import given_up
from paxmux.shards.held_turn import NO_ENDS, HeldTurn
from paxmux.shards.intake import Intake
from paxmux.shards.log_sync import LogSync
from paxmux.shards.member_calls import MemberCalls
from paxmux.shards.member_peers import MemberPeers
from paxmux.shards.outlet import Outlet
from paxmux.shards.pace import Pace
from paxmux.shards.repairs import Repairs
from paxmux.shards.requests import Batch, Call, Proposal, Reply
from paxmux.shards.retention import Retention
from paxmux.shards.serving import Serving

MARK_EVERY: Final = 200 * MS
"""A group that has decided nothing for so long gets a mark in the log: it saves questions after a restart."""
MARK_BUSY_LOOKS: Final = 5
"""One that goes on deciding needs none, since its next record says as much; but it can forget nothing before
one, and gets it after so many looks."""
RECHECK_EVERY: Final = 100 * MS
"""How soon a turn looks again whether a full disk has room."""
EAGER_ENTRIES: Final = 256
"""With more values decided than this in one turn, their notices leave at once."""
DEFAULT_STORAGE: Final = StorageOptions()

_log: Final = logging.getLogger("paxmux")


class Turn:
    """All groups of one worker, and everything a pass over them needs."""

    def __init__(
        self,
        groups: Mapping[int, Group],
        appliers: Mapping[int, Applier],
        log: Log,
        outlet: Outlet,
        replies: list[Reply],
        *,
        serve_max_bytes: int,
        storage: StorageOptions = DEFAULT_STORAGE,
        notice_delay: int = 0,
        log_sync: LogSync | None = None,
        clock: Callable[[], int] = no_time,
    ) -> None:
        """`replies`: where answers to requests are gathered; the caller empties it. `storage`: what is kept
        of the log. `notice_delay`: how long, in ns, a notice may wait for something else that goes to all
        peers, where there are any. `log_sync`: begun; every turn is synced without one. `clock`: in ns, for
        how long executing takes; all that is decided is executed at once where none passes."""
        self.groups = dict(groups)
        self.appliers = dict(appliers)
        self.log = log
        self.outlet = outlet
        self.replies = replies
        # The method of that very list, which may be one of a derived class: compiled code would take list's.
        self._reply = replies.append
        self.repairs = Repairs(self.groups, log)
        self.intake = Intake(self.groups, self.repairs)
        self.peers = MemberPeers(self.groups, self.intake, outlet)
        members = MemberCalls(self.groups, self.intake.heard, replies)
        self.serving = Serving(self.groups, log, serve_max_bytes, self.repairs)
        self.retention = Retention(self.groups, self.appliers, log, storage)
        self.log_sync = log_sync or LogSync(log)
        self.pace = pace = Pace(self.appliers)
        self.calls = Calls(
            self.groups,
            self.appliers,
            log,
            self.retention,
            self.log_sync,
            self.repairs,
            pace,
            members,
            replies,
        )
        self.fx = Effects()
        self.alarms = Alarms(self.groups)
        self.scan_at = 0
        self.mark_at = NEVER
        self.notice_at = NEVER
        self.notice_delay = notice_delay
        self._notices: list[Chosen] = []
        self.decided = 0
        self.entries = 0
        self.prepares = 0
        self.rejects = 0
        self.resends = 0
        self._held: HeldTurn | None = None
        """A turn whose records the log has no room for."""
        self._no_room = ""
        """In words, why; empty since it was written."""
        self._unmarked: set[int] = set()
        """Groups that have decided something since the last look at them,"""
        self._resting: set[int] = set()
        """and those that had before, and have no mark since."""
        self._looks = 0
        """At them, since all were marked."""
        self.master_changed: list[Group] = []
        """Groups that have another lease than the last time that somebody emptied this."""
        self.backlog = Backlog(self.groups, self.appliers, self.repairs, clock)

    def start(self, now: int) -> None:
        """Before the first run: let every group say where it stands, and begin replaying."""
        self.peers.set(now)
        for index, group in self.groups.items():
            self._start(index, group, now)

    def _start(self, index: int, group: Group, now: int) -> None:
        group.start(now, self.fx)
        self.master_changed.append(group)
        words = group.doubt.words()
        if words is not None:
            _log.error("group %d gives no votes for now: %s", index, words)
        self.backlog.begin(index)

    # Groups that come and go, between two passes

    def host(self, group: Group, applier: Applier, calls: Sequence[Call], now: int) -> None:
        """Take part in a group from the next pass on. `calls`: its requests without an answer."""
        index = group.index
        self.groups[index] = group
        self.appliers[index] = applier
        applier.term_at = group.master.term_at
        self.log_sync.host(index)
        self._set_hosted(now)
        self.peers.changed.add(index)
        self._start(index, group, now)
        if group.own or group.forwarder.taken:
            self.fx.ready.append(group)
        self.calls.take(calls, now, self.fx)
        self.scan_at = min(self.scan_at, now)

    def let_go(self, index: int) -> tuple[Group, Applier, list[Call]]:
        """Take no part in a group any more; returns it, and its requests without an answer.

        What it has promised and accepted is durable after the next pass, not before: records of it may wait
        in `fx`. Nothing else of it is done any more; messages that have been made leave, and are true.
        """
        group, applier = self.groups.pop(index), self.appliers.pop(index)
        fx = self.fx
        fx.synced = [other for other in fx.synced if other is not group]
        fx.ready = [other for other in fx.ready if other is not group]
        fx.suspects = [other for other in fx.suspects if other is not group]
        fx.serve = [asked for asked in fx.serve if asked[1] != index]
        fx.chain_reads = [asked for asked in fx.chain_reads if asked[1] != index]
        fx.mends = [asked for asked in fx.mends if asked[1] != index]
        fx.members_changed = [other for other in fx.members_changed if other is not group]
        self.peers.changed.discard(index)
        self.backlog.forget(index)
        self._unmarked.discard(index)
        self._resting.discard(index)
        self.serving.forget(index)
        self.log_sync.leave(index)
        self._set_hosted(0)
        return group, applier, self.calls.take_out(index)

    def _set_hosted(self, now: int) -> None:
        self.outlet.host(sum(1 << index for index in self.groups))
        self.peers.set(now)

    @property
    def busy(self) -> bool:
        """Whether there is work that waits for nothing: the loop must not sleep."""
        if self._held is not None:
            return bool(self.fx.records)
        fx = self.fx
        return bool(fx.records or self.backlog.behind or fx.ready or self.serving.waiting or fx.after)

    @property
    def held(self) -> bool:
        """Whether the last turn waits for room in the log: what it has decided nobody must go by yet."""
        return self._held is not None

    @property
    def wake_at(self) -> int:
        """When the next timer is due, in ns."""
        due = min(self.scan_at, self.mark_at, self.notice_at, self.repairs.due_at)
        if self.backlog.stuck:
            due = min(due, self.calls.deadline, self.backlog.deadline())
        return due

    # The pass, in its order

    def step(self, now: int, frames: Sequence[bytes], batches: Sequence[Batch]) -> None:
        """Feed everything that came in to the groups; then open what can be opened."""
        unhealthy = self.log.healthy()
        if self._held is not None:
            unhealthy = self._go_on(self._held, unhealthy)
        fx = self.fx
        if unhealthy is not None:
            self._refuse(batches, unhealthy, now, fx)
            self._hold_notices(fx.now, now, fx.decided)
            return
        intake = self.intake
        for frame in frames:
            intake.frame(frame, now, fx)
        for batch in batches:
            self._propose(batch.proposals, fx)
            if batch.calls:
                self.calls.take(batch.calls, now, fx)
        if now >= self.scan_at:
            self.alarms.note(fx.timers)
            fx.timers = []
            self.alarms.ring(now, fx)
            self.scan_at = self.alarms.next_at
        if now >= self.mark_at:
            self._mark(now, fx)
        if now >= self.repairs.due_at:
            self.repairs.ask(now, fx)
        self._open_ready(now, fx)
        self.peers.note(fx, now)
        self._hold_notices(fx.now, now, fx.decided, urgent=fx.eager)

    def send_now(self) -> None:
        """Let go what rests on nothing that is not durable yet."""
        fx = self.fx
        if fx.now:
            self.outlet.send(fx.now)

    def persist(self) -> None:
        """Make every record of this turn durable, unless that was given up (`LogSync`); the turn is held if
        there is no room for them. Raises StorageFailed; nothing may follow then."""
        if not self.fx.records:
            return
        try:
            self.log.append(self.fx.records)
        except NoRoom as error:
            self._hold(str(error))
            return
        if self._held is None:
            self._no_room = ""
        if self.log_sync.every_turn:
            self.log.sync()
        else:
            self.log_sync.appended(self.fx.records)

    def finish(self, now: int) -> None:
        """After the sync: own votes, replies to peers, execution, answers."""
        done, self.fx = self.fx, Effects()
        if self._held is not None:
            self._wait(self._held, done, now)
            return
        fx = self.fx
        # Each group once: what its own vote starts rests on a record that is not synced yet.
        for group in dict.fromkeys(done.synced):
            group.proposer.on_synced(now, fx)
        decided = done.decided + fx.decided if fx.decided else done.decided
        fx.decided = []
        self._open_ready(now, fx)
        self.peers.note(fx, now)
        self._hold_notices(fx.now, now, decided, urgent=fx.eager)
        if fx.now:
            now_box, fx.now = fx.now, Outbox()
            self.outlet.send(done.after, now_box)
        elif done.after:
            self.outlet.send(done.after)
        for timers in (done.timers, fx.timers):
            if timers:
                self.scan_at = min(self.scan_at, self.alarms.note(timers))
        fx.timers = []
        self.prepares += done.prepares
        self.rejects += done.rejects
        self.resends += done.resends
        in_order = self.pace.begin(decided)
        if decided:
            self._note(decided, now)
            self.backlog.take(in_order)
            self.decided += len(decided)
        self.backlog.step(now)
        self.pace.end(decided, self.backlog.carried_on, behind=bool(self.backlog.behind))
        if self.backlog.resumed:
            fx.ready += self.backlog.resumed
            self.backlog.resumed.clear()
        if done.serve or done.chain_reads or done.suspects or done.mends or self.serving.waiting:
            self.serving.take(done)
            box = self.serving.answer(fx, now)
            if box:
                self.outlet.send(box)
        self.calls.answer(done.readable + fx.readable, self.backlog.waiting(), now)
        for group in (*done.sound, *fx.sound):
            _log.warning("group %d votes again, from instance %d on", group.index, group.instance)
        fx.sound = []
        self._give_up(done)
        self._give_up(fx)
        if done.answered or fx.answered:
            self.calls.members.answered(done)
            self.calls.members.answered(fx)
        fx.readable = []
        self.master_changed += done.master_changed
        if fx.master_changed:
            self.master_changed += fx.master_changed
            fx.master_changed = []

    def housekeep(self, now: int) -> float | None:
        """Let the log do some upkeep, see `Log.housekeep`, and ask for what it finds damaged."""
        pause = self.log.housekeep()
        for index, instance in self.log.damage():
            if index in self.groups:
                self.repairs.want(index, instance, "found damaged by the log's own look at it", now)
        return pause

    def run(self, now: int, frames: Sequence[bytes] = (), batches: Sequence[Batch] = ()) -> None:
        """The whole pass."""
        self.step(now, frames, batches)
        self.send_now()
        self.persist()
        self.finish(now)

    def close(self) -> None:
        """The last pass of a clean stop: mark what is decided, answer whoever still waits."""
        for index, group in self.groups.items():
            for seq in group.own:
                self._fail(seq, Code.TIMEOUT, "the node stopped before the value was known to be decided")
            group.own.clear()
            if group.instance:
                self._unmarked.add(index)
        for applier in self.appliers.values():
            applier.expire(NEVER, STOPPED)
        if self._held is not None:
            self._wait(self._held, Effects(), NEVER)
        self.calls.close()
        self.fx.records += self._marks(())
        self.persist()
        if self._notices:
            self._hold_notices(self.fx.now, self.notice_at, ())
            self.outlet.send(self.fx.now)

    # Input

    def _refuse(self, batches: Sequence[Batch], reason: str, now: int, fx: Effects) -> None:
        """A disk without room can keep no promise: until it has some, nothing is proposed or voted on.
        Reads go on, and so does forgetting, which may be what makes room."""
        for batch in batches:
            for proposal in batch.proposals:
                self._fail(proposal[0], Code.OVERLOADED, reason)
            self.calls.refuse(batch.calls, reason)
        for group in self.groups.values():
            group.expire(now, fx)
            group.reader.expire(now, fx)
        if now >= self.scan_at:
            if self._held is not None or not fx.records:
                fx.records += self._marks(self.groups)
            self.scan_at = now + RECHECK_EVERY
        self.scan_at = min(self.scan_at, now + RECHECK_EVERY)  # reach: disk-full
        if now >= self.mark_at:
            self.mark_at = now + RECHECK_EVERY
        self.repairs.due_at = max(self.repairs.due_at, now + RECHECK_EVERY)

    def _propose(self, proposals: Sequence[Proposal], fx: Effects) -> None:
        for seq, index, deadline, smid, payload, context in proposals:
            group = self.groups.get(index)
            if group is None:
                self._fail(seq, Code.GROUP_WRONG, f"group {index} is not on this worker")
            elif group.inquiry.fenced is not None:
                self._fail(seq, Code.SYSTEM_ERROR, f"group {index} is fenced here: {group.inquiry.fenced}")
            elif not group.seated:
                self._fail(seq, Code.NOT_A_MEMBER, f"this node's seat is not a member of group {index}")
            elif not group.voter:
                words = f"group {index} gives no votes on this node for now: {group.doubt.words()}"
                self._fail(seq, Code.OVERLOADED, words)
            elif (named := smid & ~MARKS) != NO_STATE_MACHINE and named not in self.appliers[index].machines:
                self._fail(seq, Code.UNKNOWN_STATE_MACHINE, f"group {index} has no state machine {named}")
            else:
                group.propose(seq, deadline, smid, payload, context, fx)

    def _fail(self, seq: int, code: int, message: str) -> None:
        self._reply((seq, code, 0, 0, message.encode()))

    def _give_up(self, fx: Effects) -> None:
        for seq, code, words in given_up(fx, self.calls):
            self._fail(seq, code, words)

    # Steps of the pass

    def _hold_notices(
        self, box: Outbox, now: int, decided: Sequence[Decided], *, urgent: bool = False
    ) -> None:
        """Notices alone do not wake every peer: they wait a moment for the next Accept, which under
        load is never far. Who proposed has its answer already; a crash meanwhile loses nothing that
        a lost frame would not. Where so much was decided that executing it takes a while, the peers
        had better begin at once, while this node is busy with the same; and where one of them waits for
        its own proposal (`urgent`)."""
        shared = box.all
        if not (self._notices or shared.chosen):
            return
        delay = self.notice_delay if self.peers.nodes else 0
        alone = not any(kind for kind in shared.body() if kind is not shared.chosen)
        eager = delay and (urgent or sum([len(item[2]) for item in decided]) > EAGER_ENTRIES)
        if self._notices and (now >= self.notice_at or eager or not alone):
            shared.chosen = self._notices + shared.chosen
            self._notices = []
            self.notice_at = NEVER
        elif shared.chosen and alone and delay and not eager:
            if not self._notices:
                self.notice_at = now + delay
            self._notices += shared.chosen
            shared.chosen = []

    def _open_ready(self, now: int, fx: Effects) -> None:
        while fx.ready:
            ready, fx.ready = fx.ready, []
            for group in dict.fromkeys(ready):
                group.open(now, fx)

    def _mark(self, now: int, fx: Effects) -> None:
        self._looks += 1
        if self._looks < MARK_BUSY_LOOKS and self._unmarked:
            quiet = self._resting - self._unmarked
            self._resting, self._unmarked = self._unmarked, set()
            self.mark_at = now + MARK_EVERY
            fx.records += self.retention.marks(quiet, quiet)
        else:
            fx.records += self._marks(())

    def _marks(self, groups: Iterable[int]) -> list[Record]:
        """For all groups that have none; and what these and `groups` may forget."""
        unmarked = self._unmarked | self._resting
        ends = self._held.ends() if self._held else NO_ENDS
        found = self.retention.marks(unmarked.union(groups), unmarked, ends)
        self._unmarked, self._resting, self._looks = set(), set(), 0
        self.mark_at = NEVER
        return found

    # A turn that is held

    def _hold(self, reason: str) -> None:
        """The log has taken nothing of this turn in. Done after it is only what needs none of it."""
        if not self._no_room:
            _log.warning(
                "no room for %d records: nothing goes on until there is: %s", len(self.fx.records), reason
            )
        self._no_room = reason
        if self._held is None:
            self._held, self.fx = HeldTurn(self.fx), Effects()
        else:
            self.fx.records = []  # Marks, which are made anew.

    def _go_on(self, held: HeldTurn, unhealthy: str | None) -> str:
        """Before a pass: try the held turn again if there may be room. Why nothing is taken in now."""
        # What comes from elsewhere belongs behind it: a group may be released that it has records of.
        held.fx.records += self.fx.records
        self.fx.records = []
        if unhealthy is None:
            held.fx.expired += self.fx.expired
            held.fx.answered += self.fx.answered
            self.fx, self._held = held.fx, None
        return unhealthy or self._no_room

    def _wait(self, held: HeldTurn, done: Effects, now: int) -> None:
        """The end of a pass in which the held turn has stayed."""
        self._give_up(held.fx)
        self._give_up(done)
        self.calls.members.answered(done)
        held.fx.timers += done.timers
        for seq in held.late(now):
            self._fail(seq, Code.TIMEOUT, f"deadline passed before it was durable here: {self._no_room}")
        self.calls.answer(held.fx.readable, self.backlog.waiting() | held.ahead(), now)
        held.fx.readable = []
        self.scan_at = min(self.scan_at, now + RECHECK_EVERY)

    def _note(self, decided: list[Decided], now: int) -> None:
        if self.mark_at == NEVER:
            self.mark_at = now + MARK_EVERY
        for index, _instance, entries, _owned in decided:
            self._unmarked.add(index)
            self.entries += len(entries) + sum(
                [count_in(entry[4], entry[5]) - 1 for entry in entries if entry[4] >= PACK]
            )
