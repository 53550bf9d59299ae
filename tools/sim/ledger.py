"""What callers asked and were told: every request, its outcome, and what follows from both.

Judges answers alone: each request has one, from the life that it was made to; what was acknowledged is
decided where it was said to be, and executed with the caller's context; reads show no less than was
acknowledged before they began. Keeps the history of the registers for the check of linearizability.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from paxmux.engine.errors import Code
from paxmux.engine.fence import FENCED, split
from paxmux.engine.paxos.system import Change, encode_change
from paxmux.shards.membership import decode
from paxmux.shards.requests import CallKind, Reply
from paxmux.tools.linear import Kind, Operation, check
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.machines import JOURNAL
from paxmux.tools.sim.records import Identity, Place
from paxmux.tools.sim.witness import Witness

CONTEXT = b"ctx:"
ABSENT = b""
"""What the register answers where a key has no value."""

_WRITES = frozenset({Code.OK, Code.TIMEOUT, Code.OVERLOADED})
_CHANGES = frozenset(
    {
        Code.OK, Code.TIMEOUT, Code.OVERLOADED, Code.OTHER_CLUSTER, Code.MEMBERSHIP_CHANGED, Code.BAD_OPTIONS,
    }
)  # fmt: skip
_ORDERS = frozenset({CallKind.DROP_MASTER, CallKind.SET_MASTER_LEASE})
_MASTER_CODES = frozenset({Code.OK, Code.TIMEOUT, Code.OVERLOADED, Code.NOT_MASTER})
_READS = frozenset({Code.OK, Code.TIMEOUT, Code.OVERLOADED})


class RegisterCall(NamedTuple):
    """What a request means to a register."""

    kind: Kind
    key: bytes
    expected: bytes
    new: bytes


class Request:
    """One request, from its call to its outcome."""

    __slots__ = (
        "acked_before",
        "burst",
        "call",
        "code",
        "deadline",
        "decided_before",
        "group",
        "identity",
        "invoked",
        "kind",
        "led_before",
        "node",
        "payload",
        "place",
        "register",
        "result",
        "returned",
        "smid",
    )

    def __init__(
        self,
        node: int,
        identity: Identity,
        kind: CallKind | None,
        group: int,
        smid: int,
        payload: bytes,
        deadline: int,
        register: RegisterCall | None,
        burst: int,
    ) -> None:
        """`kind`: None for a proposal. `deadline`: on the node's clock. `burst`: requests with the same
        number were handed over together, in this order."""
        self.node = node
        self.identity = identity
        self.kind = kind
        self.group = group
        self.smid = smid
        self.payload = payload
        self.deadline = deadline
        self.register = register
        self.burst = burst
        self.invoked = 0
        self.returned = 0
        self.acked_before = -1
        self.led_before = -1
        self.decided_before = 0
        """What the node's log had decided of the group when it was asked."""
        self.code: int | None = None
        self.place: Place | None = None
        self.result: bytes | None = None

    @property
    def machine(self) -> int:
        """The state machine that it is for."""
        return self.smid & ~FENCED

    @property
    def value(self) -> bytes:
        """What that machine gets."""
        return self.payload if self.smid < FENCED else split(self.payload)[1]

    def words(self) -> str:
        what = "proposal" if self.kind is None else self.kind.name.lower()
        return f"{what} {self.identity} to group {self.group}"


class Ledger:
    """All requests of a run."""

    def __init__(self, witness: Witness, attempts: int) -> None:
        """`attempts`: whether proposals may end with a conflict."""
        self.requests: list[Request] = []
        self.reads = 0
        """Linearizable ones that were answered."""
        self.acked = 0
        self.changed = 0
        """Changes of members that their callers know to have taken place."""
        self._witness = witness
        self._codes = _WRITES | {Code.CONFLICT} if attempts else _WRITES
        self._time = 0
        self._acked_in: dict[int, int] = {}
        """Group -> the highest instance in which something is acknowledged."""
        self._led_in: dict[int, int] = {}
        """That of what was proposed by its master, for its term alone."""

    def tick(self) -> int:
        """Moments in the order in which they happen; no two are the same."""
        self._time += 1
        return self._time

    def called(self, request: Request) -> None:
        """A request is handed to a worker."""
        request.invoked = self.tick()
        request.acked_before = self._acked_in.get(request.group, -1)
        request.led_before = self._led_in.get(request.group, -1)
        request.decided_before = self._witness.disks[request.node].instance.get(request.group, 0)
        self.requests.append(request)
        if request.kind is None:
            self._witness.proposed[request.identity] = (request.group, request.smid, request.payload)

    def lost(self, requests: Iterable[Request]) -> None:
        """Whoever should have answered is dead: nobody knows what became of them."""
        for request in requests:
            request.code = Code.TIMEOUT

    def answered(self, request: Request, reply: Reply) -> None:
        """The answer to a request, from the life of the worker that it was made to."""
        _, code, instance, position, result = reply
        request.returned = self.tick()
        request.code = code
        request.result = result
        if request.kind is None:
            self._proposal(request, code, instance, position)
        elif request.kind == CallKind.CHANGE_MEMBERS:
            self._change(request, code, instance)
        elif request.kind in _ORDERS:
            if code not in _MASTER_CODES and not self._excused(request, code):
                raise Breach("answers make sense", f"{request.words()} ended with {code}: {request.result!r}")
        else:
            self._read(request, code, instance)

    def _proposal(self, request: Request, code: int, instance: int, position: int) -> None:
        stale = code == Code.STALE_TERM and request.smid >= FENCED
        if code not in self._codes and not stale and not self._excused(request, code):
            raise Breach("answers make sense", f"{request.words()} ended with {code}: {request.result!r}")
        if code != Code.OK:
            return
        self.acked += 1
        place = request.place = (request.group, instance, position)
        decided = self._witness.decided_as.get(request.identity)
        if decided != place:
            raise Breach("acknowledged where decided", f"{request.words()}: told {place}, is in {decided}")
        if request.machine == JOURNAL and request.result != CONTEXT + request.value:
            raise Breach("results for the right life", f"{request.words()}: result {request.result!r}")
        if (
            request.smid >= FENCED
            and self._witness.constitution(request.group).lease(instance).node == request.node
        ):
            self._led_in[request.group] = max(self._led_in.get(request.group, -1), instance)
        self._acked_in[request.group] = max(self._acked_in.get(request.group, -1), instance)

    def _change(self, request: Request, code: int, instance: int) -> None:
        if code not in _CHANGES and not self._excused(request, code):
            raise Breach("answers make sense", f"{request.words()} ended with {code}: {request.result!r}")
        if code == Code.OK:
            self.changed += 1
            request.place = (request.group, instance, 0)

    def _read(self, request: Request, code: int, following: int) -> None:
        codes = _MASTER_CODES if request.kind == CallKind.MASTER_QUERY else _READS
        if code not in codes and not self._excused(request, code):
            raise Breach("answers make sense", f"{request.words()} ended with {code}: {request.result!r}")
        if code != Code.OK:
            return
        if following and self._witness.known(request.group, following - 1) is None:
            raise Breach("reads of what is chosen", f"{request.words()}: from a state up to {following}")
        before = request.decided_before
        if following < before and request.kind == CallKind.QUERY:
            words = f"{request.words()}: up to {following}, though its log had {before} instances decided"
            raise Breach("reads show what is decided here", words)
        if request.kind == CallKind.MASTER_QUERY and following <= request.led_before:
            words = f"{request.words()}: up to {following}, masters had executed {request.led_before} before"
            raise Breach("masters show what masters wrote", words)
        if request.kind == CallKind.LINEARIZABLE_QUERY:
            self.reads += 1
            if following <= request.acked_before:
                words = (
                    f"{request.words()}: up to {following}, {request.acked_before} was acknowledged before"
                )
                raise Breach("linearizable reads", words)

    def _excused(self, request: Request, code: int) -> bool:
        """Whether a node that was lost for good may say so."""
        if code == Code.NOT_A_MEMBER:
            return self._unseated(request)
        return code == Code.SYSTEM_ERROR and request.node in self._witness.damaged

    def _unseated(self, request: Request) -> bool:
        """Whether its node may have taken itself for no member meanwhile."""
        eras = self._witness.constitution(request.group).eras
        seat = self._witness.disks[request.node].seat
        # Who has lost what it knew stands at earlier ones.
        since = 0 if request.node in self._witness.damaged else self._era_at(request)
        return any(era.seats.get(request.node) != seat for era in eras[since:])

    def _era_at(self, request: Request) -> int:
        """The members that the request's node knew of at least, when it was asked."""
        eras = self._witness.constitution(request.group).eras
        return max(at for at, era in enumerate(eras) if era.since <= request.decided_before)

    # At the end

    def check_outcomes(self) -> None:
        """What was refused is not decided; bursts keep their order."""
        decided = self._witness.decided_as
        last: dict[tuple[int, int, int], Place] = {}
        for request in self.requests:
            if request.kind == CallKind.CHANGE_MEMBERS:
                self._check_change(request)
            if request.kind is not None:
                continue
            place = decided.get(request.identity)
            if place is None:
                continue
            stale = request.code == Code.STALE_TERM
            if stale or (request.code == Code.OK and request.smid >= FENCED):
                term = self._witness.constitution(place[0]).term(place[1])
                if stale == (split(request.payload)[0] == term):
                    raise Breach(
                        "fences hold", f"{request.words()}: {request.code}, in {place} it was {term}"
                    )
            elif request.code not in (None, Code.OK, Code.TIMEOUT):
                raise Breach("refused is not decided", f"{request.words()}: {request.code}, is in {place}")
            key = (request.node, request.burst, request.group)
            before = last.get(key)
            if before is not None and before > place:
                raise Breach("bursts keep their order", f"{request.words()} is in {place}, after {before}")
            last[key] = place

    def _check_change(self, request: Request) -> None:
        wanted = decode(request.payload)
        operation = encode_change(Change(wanted.cluster, wanted.version, wanted.members))
        eras = self._witness.constitution(request.group).eras
        made = [era.version for era in eras if era.operation == operation]
        if request.place is not None and made != [request.place[1]]:
            words = f"{request.words()}: {made}, told {request.place}"
            raise Breach("changed where it was said", words)
        if made and request.code not in (None, Code.OK, Code.TIMEOUT):
            raise Breach("refused is not decided", f"{request.words()}: {request.code}, is in {made}")

    def check_registers(self) -> None:
        """The history of every key is linearizable."""
        problem = check(self.history())
        if problem is not None:
            raise Breach("linearizable registers", problem.words)

    def history(self) -> list[Operation]:
        """What happened to the registers, as their callers saw it."""
        history: list[Operation] = []
        for request in self.requests:
            call = request.register
            # Who reads at a master sees what masters wrote, and may miss what others did.
            if call is None or request.kind in (CallKind.QUERY, CallKind.MASTER_QUERY):
                continue
            done = request.code == Code.OK
            if not done and (call.kind == "get" or request.code not in (None, Code.TIMEOUT)):
                continue  # it had no effect
            argument: object = None
            if call.kind == "put":
                argument = call.new
            elif call.kind == "cas":
                argument = (call.expected or None, call.new)
            found = (request.result or None) if done and call.kind != "put" else None
            history.append(
                Operation(
                    client=request.node,
                    kind=call.kind,
                    key=(request.group, call.key),
                    argument=argument,
                    result=found,
                    invoked_ns=request.invoked,
                    returned_ns=request.returned if done else None,
                )
            )
        return history
