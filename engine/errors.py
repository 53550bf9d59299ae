"""Everything paxmux raises, and the numbers that go with it.

Each class says who broke the rule: the caller (`InvalidRequest`, `ConfigError`), the moment
(`Overloaded`, `Timeout`, `Conflict`), the state machine (`ExecuteFailed`), or this node's
environment (`StorageFailed`, `NodeStopped`). `.code` is PhxPaxos's number where it has one.
`.retryable` is true where the same call may succeed later *and* is known to have had no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """Outcome of a request, as it travels from worker to node. PhxPaxos's numbers where it has one."""

    OK = 0
    SYSTEM_ERROR = -1
    BAD_OPTIONS = -2
    GROUP_WRONG = -5
    OTHER_CLUSTER = -501
    MEMBERSHIP_CHANGED = -502
    CONFLICT = 14
    EXECUTE_FAILED = 15
    FOLLOWER = 16
    NOT_A_MEMBER = 17
    VALUE_TOO_LARGE = 18
    TIMEOUT = 404
    OVERLOADED = 405
    NOT_FOUNDED = 1001
    MEMBER_EXISTS = 1002
    MEMBER_MISSING = 1003
    MEMBERSHIP_UNCHANGED = 1004
    INSTANCE_NOT_EXIST = 1005
    INSTANCE_NOT_CHOSEN = 1006
    # Beyond PhxPaxos.
    REFUSED = 2001
    UNKNOWN_STATE_MACHINE = 2002
    NODE_STOPPED = 2003
    STORAGE_FAILED = 2004
    RESULT_TOO_LARGE = 2005
    QUERY_FAILED = 2006
    STALE_TERM = 2007
    NOT_MASTER = 2008
    LEADERSHIP_LOST = 2009
    MEMBER_NOT_HEARD = 2020
    LAST_MEMBER = 2021
    GROUPS_FAILED = 2022


class PaxmuxError(Exception):
    """Root of everything paxmux raises on purpose."""

    code: ClassVar[int] = Code.SYSTEM_ERROR
    retryable: ClassVar[bool] = False


class ConfigError(PaxmuxError, ValueError):
    """Options that cannot be right. The message names the file, the key and what was expected."""

    code = Code.BAD_OPTIONS


class DataDirError(PaxmuxError):
    """The data directory is missing, in use, or belongs to another node, cluster or layout."""

    code = Code.BAD_OPTIONS


class InvalidRequest(PaxmuxError, ValueError):
    """The call itself is wrong; the same call can never succeed."""


class GroupWrong(InvalidRequest):
    """No such group: group indices go from 0 to count-1."""

    code = Code.GROUP_WRONG


class ValueTooLarge(InvalidRequest):
    """The value is larger than `limits.max_value_bytes`."""

    code = Code.VALUE_TOO_LARGE


class UnknownStateMachine(InvalidRequest):
    """No state machine with this id in this group (ids are listed in the options)."""

    code = Code.UNKNOWN_STATE_MACHINE


class InstanceNotExist(PaxmuxError):
    """The instance was decided, but its value is no longer in the log."""

    code = Code.INSTANCE_NOT_EXIST


class InstanceNotChosen(PaxmuxError):
    """The instance is not decided yet."""

    code = Code.INSTANCE_NOT_CHOSEN
    retryable = True


class ProposeError(PaxmuxError):
    """A proposal that did not end with a result."""


class Conflict(ProposeError):
    """Another value won every instance that this one was proposed in. It was not executed."""

    code = Code.CONFLICT
    retryable = True


class ExecuteFailed(ProposeError):
    """The value is decided, but its state machine is stopped on this replica after an exception."""

    code = Code.EXECUTE_FAILED


class Refused(ProposeError):
    """Raise it in `execute` to refuse a value: a deterministic result, delivered to the proposer.

    The value stays decided and every replica refuses it alike; the state machine goes on.
    """

    code = Code.REFUSED


class Follower(ProposeError):
    """A follower learns and never proposes."""

    code = Code.FOLLOWER


class NotAMember(ProposeError):
    """This node, in the seat that it has now, is not a member of the group."""

    code = Code.NOT_A_MEMBER


class Timeout(ProposeError, TimeoutError):
    """Unknown outcome (404): the value may or may not be executed, now or later.

    Do not simply repeat it unless executing it twice does no harm.
    """

    code = Code.TIMEOUT


class Overloaded(ProposeError):
    """Refused at the door (405): nothing was proposed. Try again later."""

    code = Code.OVERLOADED
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """When it may be worth to try again: what a request takes now. None if that is not known."""


class ResultTooLarge(ProposeError):
    """The value was executed, but what it returned is larger than `limits.max_value_bytes`."""

    code = Code.RESULT_TOO_LARGE


class QueryFailed(PaxmuxError):
    """`query` of the state machine raised; the message carries its words."""

    code = Code.QUERY_FAILED


class StaleTerm(ProposeError):
    """The value is decided, and was executed nowhere: it named a term that does not hold in its instance.
    Whoever proposed it is not the master any more, or has begun a new reign since."""

    code = Code.STALE_TERM


class NotMaster(PaxmuxError):
    """This node is not the master of the group, or its lease has ended. Nothing was done."""

    code = Code.NOT_MASTER
    retryable = True

    def __init__(self, message: str, master: int = 0, version: int = -1, address: str | None = None) -> None:
        super().__init__(message)
        self.master = master
        """Node id of the master, as far as is known here; 0: nobody."""
        self.version = version
        """Of that knowledge: the instance of the last operation; -1: none."""
        self.address = address
        """Where it is, `host:port`; None if that is not known."""


class LeadershipLost(NotMaster):
    """The lease ended before the work that was to be done under it."""

    code = Code.LEADERSHIP_LOST


class MembershipError(PaxmuxError):
    """A change of membership that did not take place. Nothing has changed."""


class NotFounded(MembershipError):
    """The node's cluster is not founded yet, or the node has not heard of it: there is nothing to change."""

    code = Code.NOT_FOUNDED
    retryable = True


class MemberExists(MembershipError):
    """The node that was to be added is a member already."""

    code = Code.MEMBER_EXISTS


class MemberMissing(MembershipError):
    """The node that was to be removed, or replaced, is no member."""

    code = Code.MEMBER_MISSING


class MembershipUnchanged(MembershipError):
    """The members are already as the change would make them."""

    code = Code.MEMBERSHIP_UNCHANGED


class MemberNotHeard(MembershipError):
    """The node that was to be added has not said hello, so nobody knows the seat that it has. Start it."""

    code = Code.MEMBER_NOT_HEARD
    retryable = True


class LastMember(MembershipError):
    """The last member cannot be removed: nobody could ever add one again."""

    code = Code.LAST_MEMBER


class OtherCluster(MembershipError):
    """The change was made for another cluster than the one that it was proposed in."""

    code = Code.OTHER_CLUSTER


class MembershipChanged(MembershipError):
    """The members have changed since the change was asked for, and it does not fit them any more."""

    code = Code.MEMBERSHIP_CHANGED
    retryable = True


class GroupsFailed(MembershipError):
    """Some groups of a change of many have not made it; the same call again does what is left."""

    code = Code.GROUPS_FAILED

    def __init__(
        self, errors: dict[int, PaxmuxError], changed: Sequence[int] = (), unchanged: Sequence[int] = ()
    ) -> None:
        """`errors`: of each group that failed. `changed`, `unchanged`: groups where what was asked for holds,
        now or before."""
        first = min(errors)
        super().__init__(f"{len(errors)} groups failed; group {first}: {errors[first]}")
        self.errors = errors
        self.changed = list(changed)
        self.unchanged = list(unchanged)


class NodeStopped(PaxmuxError):
    """The node is stopping or stopped. Nothing was proposed."""

    code = Code.NODE_STOPPED
    retryable = True


class StorageFailed(PaxmuxError):
    """A write or sync of the log failed. It is never retried: the process that owns the log stops."""

    code = Code.STORAGE_FAILED


class ExitCode(IntEnum):
    """Exit codes of the processes paxmux starts, and of its command line."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANNOT_BOOT = 70
    STORAGE_FAILED = 71
    PARENT_GONE = 72


_BY_CODE: dict[int, type[PaxmuxError]] = {
    cls.code: cls
    for cls in (
        GroupWrong,
        Conflict,
        ExecuteFailed,
        Follower,
        NotAMember,
        ValueTooLarge,
        Timeout,
        Overloaded,
        InstanceNotExist,
        InstanceNotChosen,
        Refused,
        UnknownStateMachine,
        NodeStopped,
        StorageFailed,
        ResultTooLarge,
        QueryFailed,
        StaleTerm,
        NotMaster,
        NotFounded,
        MemberExists,
        MemberMissing,
        MembershipUnchanged,
        MemberNotHeard,
        LastMember,
        OtherCluster,
        MembershipChanged,
    )
}


def error_for(code: int, message: str) -> PaxmuxError:
    """The exception that stands for `code`; an unknown code becomes a plain `PaxmuxError`."""
    cls = _BY_CODE.get(code)
    return cls(message) if cls is not None else PaxmuxError(f"code {code}: {message}")
