"""paxmux: replicated state machines with Paxos, many groups on all cores.

The public names, loaded when they are first used: a worker process must not pay for what only an
embedding server needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paxmux.engine.errors import (
        ConfigError,
        Conflict,
        DataDirError,
        ExecuteFailed,
        GroupsFailed,
        GroupWrong,
        InstanceNotChosen,
        InstanceNotExist,
        InvalidRequest,
        MembershipError,
        NodeStopped,
        NotAMember,
        NotMaster,
        Overloaded,
        PaxmuxError,
        ProposeError,
        QueryFailed,
        Refused,
        ResultTooLarge,
        StaleTerm,
        StorageFailed,
        Timeout,
        UnknownStateMachine,
        ValueTooLarge,
    )
    from paxmux.engine.options import (
        LayoutOptions,
        LimitOptions,
        MachineOptions,
        MasterOptions,
        NetworkOptions,
        Options,
        ProposalOptions,
        StorageOptions,
        TimerOptions,
        WorkerOptions,
    )
    from paxmux.engine.state_machine import StateMachine
    from paxmux.shards.blocking import BlockingNode
    from paxmux.shards.done import Done
    from paxmux.shards.membership import Member
    from paxmux.shards.node import Node

__version__ = "0.1.0"

__all__ = [
    "BlockingNode",
    "ConfigError",
    "Conflict",
    "DataDirError",
    "Done",
    "ExecuteFailed",
    "GroupWrong",
    "GroupsFailed",
    "InstanceNotChosen",
    "InstanceNotExist",
    "InvalidRequest",
    "LayoutOptions",
    "LimitOptions",
    "MachineOptions",
    "MasterOptions",
    "Member",
    "MembershipError",
    "NetworkOptions",
    "Node",
    "NodeStopped",
    "NotAMember",
    "NotMaster",
    "Options",
    "Overloaded",
    "PaxmuxError",
    "ProposalOptions",
    "ProposeError",
    "QueryFailed",
    "Refused",
    "ResultTooLarge",
    "StaleTerm",
    "StateMachine",
    "StorageFailed",
    "StorageOptions",
    "Timeout",
    "TimerOptions",
    "UnknownStateMachine",
    "ValueTooLarge",
    "WorkerOptions",
]

_ERRORS = "paxmux.engine.errors"
_OPTIONS = "paxmux.engine.options"
_MODULES = {
    "BlockingNode": "paxmux.shards.blocking",
    "ConfigError": _ERRORS,
    "Conflict": _ERRORS,
    "DataDirError": _ERRORS,
    "Done": "paxmux.shards.done",
    "ExecuteFailed": _ERRORS,
    "GroupWrong": _ERRORS,
    "GroupsFailed": _ERRORS,
    "InstanceNotChosen": _ERRORS,
    "InstanceNotExist": _ERRORS,
    "InvalidRequest": _ERRORS,
    "LayoutOptions": _OPTIONS,
    "LimitOptions": _OPTIONS,
    "MachineOptions": _OPTIONS,
    "MasterOptions": _OPTIONS,
    "Member": "paxmux.shards.membership",
    "MembershipError": _ERRORS,
    "NetworkOptions": _OPTIONS,
    "Node": "paxmux.shards.node",
    "NodeStopped": _ERRORS,
    "NotAMember": _ERRORS,
    "NotMaster": _ERRORS,
    "Options": _OPTIONS,
    "Overloaded": _ERRORS,
    "PaxmuxError": _ERRORS,
    "ProposalOptions": _OPTIONS,
    "ProposeError": _ERRORS,
    "QueryFailed": _ERRORS,
    "Refused": _ERRORS,
    "ResultTooLarge": _ERRORS,
    "StaleTerm": _ERRORS,
    "StateMachine": "paxmux.engine.state_machine",
    "StorageFailed": _ERRORS,
    "StorageOptions": _OPTIONS,
    "Timeout": _ERRORS,
    "TimerOptions": _OPTIONS,
    "UnknownStateMachine": _ERRORS,
    "ValueTooLarge": _ERRORS,
    "WorkerOptions": _OPTIONS,
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
