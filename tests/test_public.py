"""The public face: its names are a promise, and importing it costs a worker nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import paxmux

NAMES = {
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
}


def test_the_public_names_are_these_and_few() -> None:
    assert set(paxmux.__all__) == NAMES
    assert len(paxmux.__all__) == len(NAMES) <= 40
    assert paxmux.__all__ == sorted(paxmux.__all__)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_loads_and_is_what_it_says(name: str) -> None:
    assert getattr(paxmux, name).__name__ == name
    assert name in dir(paxmux)


def test_another_name_is_an_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Quorum'"):
        _ = paxmux.Quorum


def test_the_errors_form_one_tree() -> None:
    errors = [getattr(paxmux, name) for name in NAMES if name[0].isupper()]
    exceptions = [cls for cls in errors if issubclass(cls, BaseException)]
    assert len(exceptions) == 24
    assert all(issubclass(cls, paxmux.PaxmuxError) for cls in exceptions)
    assert paxmux.Timeout.code == 404
    assert paxmux.Overloaded.code == 405


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("paxmux", ["asyncio", "msgspec", "orjson", "pyarrow", "yaml", "paxmux.engine"]),
        ("paxmux.shards.worker", ["asyncio", "orjson", "pyarrow", "yaml", "psutil", "rich", "uvloop"]),
        ("paxmux.shards.router_process", ["pyarrow", "yaml", "psutil", "rich", "lmdb"]),
        ("paxmux.shards.node", ["pyarrow", "psutil", "rich", "lmdb"]),
    ],
)
def test_an_import_does_not_pay_for_what_it_does_not_need(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
