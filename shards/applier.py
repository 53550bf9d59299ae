"""Execution: what a group has decided, applied to its state machines in order.

Values come straight from the step that decided them, or, after a restart or when execution has
fallen behind, from the log; either way each one exactly once and in order. A machine that raises is
stopped at that value, alone: consensus, the group's other machines and all other groups go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import NoneType

from paxmux.engine.errors import Code, ConfigError, Refused
from paxmux.engine.fence import FENCED, split
from paxmux.engine.pack import PACK, column, count_of, decode
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.group import Owned
from paxmux.engine.paxos.system import MASTER_SMID, MEMBERSHIP_SMID, NO_TERM
from paxmux.engine.paxos.timers import NEVER
from paxmux.engine.paxos.value import Entry
from paxmux.engine.state_machine import NO_STATE_MACHINE, StateMachine
from paxmux.engine.storage import Log, StorageDamaged
from paxmux.shards.packer import decode_contexts, encode_results
from paxmux.shards.requests import Reply

log = logging.getLogger("paxmux")

REPLAY_COUNT = 256
REPLAY_BYTES = 1 << 20
"""Decided values read back from the log in one slice, so that votes never wait for a replay."""
STOPPED = b"the node stopped before it had executed the value, which is decided"
LATE = b"deadline passed before this node had executed the value, which is decided"
INNER_SMIDS = frozenset((MEMBERSHIP_SMID, MASTER_SMID))
"""Operations of the group itself, which were applied where they were decided."""
TermAt = Callable[[int], int | None]
"""Takes an instance; returns the term that fenced values in it must name, -1 if none will do, or None if that
is not known any more."""
WORDS_MAX = 1000
"""Characters of an exception's text that travel to the caller."""


def no_term(_instance: int) -> int | None:
    """Of a group that has never had a master."""
    return NO_TERM


class Applier:
    """One group's state machines and how far they are."""

    __slots__ = (
        "_commits",
        "_first",
        "_identity",
        "_log",
        "_max_result_bytes",
        "_owned",
        "_replies",
        "applied",
        "executed",
        "group",
        "machines",
        "next",
        "stopped",
        "term_at",
    )

    def __init__(
        self,
        group: int,
        machines: Mapping[int, StateMachine],
        storage: Log,
        replies: Callable[[Reply], None],
        identity: tuple[int, int],
        max_result_bytes: int,
        term_at: TermAt = no_term,
    ) -> None:
        """`identity`: (node id, incarnation) of the proposals that are answered here. `term_at`: of the group
        that the values are decided in.

        Raises:
            ConfigError: a machine's `applied_instance_id` makes no sense.
        """
        self.group = group
        self._identity = identity
        self.machines = dict(machines)
        self.stopped: dict[int, str] = {}
        """State machine id -> why it stands still."""
        self._log = storage
        self._replies = replies
        self._max_result_bytes = max_result_bytes
        self.term_at = term_at
        self._first = {smid: _first_instance(machine) for smid, machine in self.machines.items()}
        self._commits = {
            smid for smid, machine in self.machines.items() if type(machine).commit is not StateMachine.commit
        }
        self.next = min(self._first.values(), default=0)
        """The first instance that is not applied."""
        self._owned: dict[int, dict[int, Owned]] = {}
        """Instance -> proposals made here, for decided instances that execution has yet to reach."""
        self.executed = 0

    def durable(self) -> int:
        """The first instance that some machine would have to execute again after a crash."""
        if not self.machines:
            return self.next
        return min([self._durable(machine) for machine in self.machines.values()])

    def _durable(self, machine: StateMachine) -> int:
        try:
            return min(_first_instance(machine), self.next)
        except BaseException:
            # What it has stored is unknown; so nothing is said to be.
            log.exception(
                "group %d: applied_instance_id of state machine %d failed", self.group, machine.smid
            )
            return 0

    def apply(self, instance: int, entries: list[Entry], owned: dict[int, Owned] | None) -> None:
        """Execute a decided instance now, or remember who waits for it if execution is behind."""
        if instance <= self.next:
            # Below `next` only where every machine claims to be further than the log: nothing is executed.
            self._execute(instance, entries, owned)
            self.next = max(self.next, instance + 1)
        else:
            self.wait(instance, owned)  # reach: decided-before-replayed

    def wait(self, instance: int, owned: dict[int, Owned] | None) -> None:
        """Remember who waits for a decided instance that is executed later."""
        if owned is not None:
            self._owned[instance] = owned

    def go_on(self, instance: int, entries: list[Entry]) -> None:
        """Execute an instance whose turn has come; whoever waits for it is answered."""
        self.apply(instance, entries, self._owned.pop(instance, None))

    @property
    def deadline(self) -> int:
        """The first one of proposals that wait to be executed here; asked for only where that may last."""
        waiting = [proposal[1] for owned in self._owned.values() for proposal in owned.values()]
        return min(waiting, default=NEVER)

    def expire(self, now: int, words: bytes = LATE) -> None:
        """What is decided is not executed in time: whoever waits for its result will not have it."""
        for instance, owned in list(self._owned.items()):
            for seq in [seq for seq, proposal in owned.items() if proposal[1] <= now]:
                del owned[seq]
                self._replies((seq, Code.TIMEOUT, 0, 0, words))
            if not owned:
                del self._owned[instance]

    def replay(self, decided: int) -> bool:
        """Execute a slice of what the log has decided below `decided`; True while there is more.

        Raises:
            StorageDamaged: what is decided cannot be read.
        """
        if not self.machines:
            self.next = max(self.next, decided)
        if self.next >= decided:
            return False
        for instance, _round, _node, value in self.slice_of_log(decided):
            self.go_on(instance, values.decode(value))
        return self.next < decided

    def slice_of_log(self, decided: int) -> list[tuple[int, int, int, bytes]]:
        """The next ones of what the log has decided below `decided`, at least one: (instance, round, node,
        value). Raises StorageDamaged: it cannot be read.
        """
        records = self._log.read_range(
            self.group, self.next, min(REPLAY_COUNT, decided - self.next), REPLAY_BYTES
        )
        if not records:
            raise StorageDamaged(f"group {self.group}: instance {self.next} is decided, and not in the log")
        return records

    @property
    def owned(self) -> dict[int, dict[int, Owned]]:
        """By instance, the proposals made here whose execution has yet to come."""
        return self._owned

    def give_up_durable(self) -> None:
        """Close and forget the machines that keep their state themselves: only one process may have such a
        state open."""
        for smid in [smid for smid, machine in self.machines.items() if is_durable(type(machine))]:
            close_machines(self.group, [self.machines.pop(smid)])
            del self._first[smid]
            self._commits.discard(smid)
            self.stopped.pop(smid, None)

    def join(self, other: Applier) -> None:
        """Take over the machines of another applier of this group that has got as far as this one."""
        assert other.next == self.next, "machines that have not executed the same"
        self.machines.update(other.machines)
        self.stopped.update(other.stopped)
        self._first.update(other._first)
        self._commits |= other._commits
        self.executed += other.executed

    def query(self, smid: int, request: bytes) -> tuple[int, bytes]:
        """(code, answer) of a local read."""
        machine = self.machines.get(smid)
        if machine is None:
            return Code.UNKNOWN_STATE_MACHINE, f"group {self.group} has no state machine {smid}".encode()
        if smid in self.stopped:
            return Code.EXECUTE_FAILED, self.stopped[smid].encode()
        try:
            answer = machine.query(request)
            if type(answer) is not bytes:
                raise TypeError(f"query returned {type(answer).__name__}, not bytes")
        except BaseException as error:
            log.exception("group %d: query of state machine %d failed", self.group, smid)
            return Code.QUERY_FAILED, describe(error).encode()
        if len(answer) > self._max_result_bytes:
            return Code.RESULT_TOO_LARGE, f"answer of {len(answer)} bytes".encode()
        return Code.OK, answer

    def close(self) -> None:
        """Close every machine; one that raises does not keep the others from it."""
        close_machines(self.group, self.machines.values())

    def _execute(self, instance: int, entries: list[Entry], owned: dict[int, Owned] | None) -> None:
        machines, stopped = self.machines, self.stopped
        touched: set[int] | None = None
        position = 0
        for origin, incarnation, seq, _born, smid, payload in entries:
            proposal = None
            if owned is not None and (origin, incarnation) == self._identity:
                proposal = owned.get(seq)
            context = proposal[4] if proposal is not None else None
            at = position
            position += 1
            packed = stale = False
            if smid >= FENCED:
                if smid >= PACK:
                    packed, smid = True, smid - PACK
                if smid >= FENCED:
                    smid -= FENCED
                    term, payload = split(payload)
                    now = self.term_at(instance)
                    stale = term != now
                    first = self._first.get(smid, instance + 1)
                    if now is None and first <= instance and smid not in stopped:
                        self._stop(smid, instance, _forgotten(term))
                if packed:
                    position = at + count_of(payload)
            code: int = Code.OK
            result: bytes | None = None
            if smid != NO_STATE_MACHINE:
                machine = machines.get(smid)
                if machine is None:
                    if smid in INNER_SMIDS:
                        position = at
                        continue
                    code, result = Code.UNKNOWN_STATE_MACHINE, f"no state machine {smid}".encode()
                elif smid in stopped:
                    code, result = Code.EXECUTE_FAILED, stopped[smid].encode()
                elif instance < self._first[smid]:
                    if proposal is not None:
                        code, result = Code.EXECUTE_FAILED, self._ahead(smid, instance)
                elif stale:
                    if proposal is not None:
                        code, result = Code.STALE_TERM, self._stale(instance)
                else:
                    if smid in self._commits:
                        touched = touched or set()
                        touched.add(smid)
                    try:
                        if packed:
                            result = self._execute_pack(machine, instance, payload, context)
                        else:
                            result = machine.execute(instance, payload, context)
                        if result is not None and type(result) is not bytes:
                            raise TypeError(f"execute returned {type(result).__name__}, not bytes or None")
                    except Refused as error:
                        code, result = Code.REFUSED, _words(error).encode()[: self._max_result_bytes]
                    except BaseException as error:  # noqa: BLE001 - user code, where even SystemExit and
                        # CancelledError come from: they stop this machine, not the groups beside it.
                        code, result = Code.EXECUTE_FAILED, self._stop(smid, instance, error)
            elif stale and proposal is not None:
                code, result = Code.STALE_TERM, self._stale(instance)
            if proposal is not None:
                if not code and result is not None and len(result) > self._max_result_bytes:
                    code, result = Code.RESULT_TOO_LARGE, f"result of {len(result)} bytes".encode()
                self._replies((seq, code, instance, at, result))
        self.executed += position
        for smid in touched or ():
            if smid not in stopped:
                try:
                    machines[smid].commit(instance)
                except BaseException as error:  # noqa: BLE001 - as above
                    self._stop(smid, instance, error)

    def _execute_pack(
        self, machine: StateMachine, instance: int, payload: bytes, contexts: bytes | None
    ) -> bytes | None:
        """Have the machine execute a pack; what its values gave, as `outcomes.Outcomes` reads it."""
        values = column(payload) if machine.columnar else decode(payload)
        results = machine.execute_many(
            instance, values, None if contexts is None else decode_contexts(contexts)
        )
        if results is None:
            return None
        if len(results) != len(values):
            raise TypeError(f"execute_many returned {len(results)} results for {len(values)} values")
        kinds = set(map(type, results))
        if kinds <= {NoneType}:
            return None
        for kind in kinds:
            if kind not in (NoneType, bytes) and not issubclass(kind, Refused):
                raise TypeError(
                    f"execute_many returned {kind.__name__} for a value, not bytes, Refused or None"
                )
        given: list[bytes | None] = [None if isinstance(each, Refused) else each for each in results]
        why = {index: _words(each) for index, each in enumerate(results) if isinstance(each, Refused)}
        return encode_results((given, why))

    def _stop(self, smid: int, instance: int, error: BaseException) -> bytes:
        reason = (
            f"state machine {smid} of group {self.group} stopped at instance {instance}: {describe(error)}"
        )
        self.stopped[smid] = reason
        log.error("%s", reason, exc_info=error)
        return reason.encode()

    def _stale(self, instance: int) -> bytes:
        term = self.term_at(instance)
        words = "nobody was master" if term == NO_TERM else f"the term was {term}"
        return f"not executed: {words} in instance {instance} of group {self.group}".encode()

    def _ahead(self, smid: int, instance: int) -> bytes:
        return (
            f"not executed: state machine {smid} of group {self.group} said at its start that it had "
            f"executed instance {self._first[smid] - 1}; this is {instance}"
        ).encode()


def _forgotten(term: int) -> RuntimeError:
    return RuntimeError(
        f"a value is to be executed only in term {term}, and whether that held then is not known any more: "
        "there have been too many elections since"
    )


def close_machines(group: int, machines: Iterable[StateMachine]) -> None:
    """Close each; one that raises does not keep the others from it."""
    for machine in machines:
        try:
            machine.close()
        except BaseException:
            log.exception("group %d: close of state machine %d failed", group, machine.smid)


def is_durable(machine: type[StateMachine]) -> bool:
    """Whether machines of this class keep their state themselves."""
    return (
        machine.commit is not StateMachine.commit
        or machine.applied_instance_id is not StateMachine.applied_instance_id
    )


def _first_instance(machine: StateMachine) -> int:
    applied = machine.applied_instance_id()
    if applied is None:
        return 0
    if type(applied) is not int or not 0 <= applied < 1 << 63:
        raise ConfigError(
            f"{type(machine).__name__}.applied_instance_id: expected an instance or None, got {applied!r}"
        )
    return applied + 1


def _words(error: BaseException) -> str:
    """Its text, with nothing in it that UTF-8 has no code for: it goes into replies, status and logs."""
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - the text of an exception is user code too
        return "(it cannot say why)"


def describe(error: BaseException) -> str:
    """What an exception of user code says, whatever it is."""
    return f"{type(error).__name__}: {_words(error)[:WORDS_MAX]}"
