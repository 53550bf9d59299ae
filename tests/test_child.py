"""Child processes: how they begin, what they inherit, how they talk and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paxmux.engine.errors import ExitCode
from paxmux.engine.options import MachineOptions, Options
from paxmux.shards.boot import AttachWorker, Failed, Ready, RouterBoot, StatusAsk, StatusReply, Stop
from paxmux.shards.child import (
    MAX_MESSAGE_BYTES,
    Child,
    ControlClosed,
    ControlError,
    absolute,
    spawn_child,
)

DEADLINE_S = 30.0

PROGRAM = """
import os, signal, sys, threading
from paxmux.engine.errors import ExitCode
from paxmux.shards.boot import Failed, Ready, StatusAsk, StatusReply, Stop
from paxmux.shards.child import ParentGone, be_child

def main():
    parent, boot, fds = be_child()
    for fd in fds:
        os.write(fd, b"hello from the child")
    inherited = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
    parent.send(StatusReply(ask=0, status={
        "node_id": boot.node_id, "fds": [os.get_inheritable(fd) for fd in fds], "open": len(inherited),
        "path": sys.path, "argv0": sys.argv[0], "stdin": os.readlink("/proc/self/fd/0"),
        "sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    }))
    parent.send(Ready())
    try:
        while True:
            parent.wait(0.1)
            for message in parent.receive_all():
                if isinstance(message, Stop):
                    parent.send(Failed(reason=f"stop {message.drain_s}", kind="storage"))
                    raise SystemExit(7)
                if isinstance(message, StatusAsk):
                    parent.send(StatusReply(ask=message.ask, status={}))
    except ParentGone:
        raise SystemExit(ExitCode.PARENT_GONE)
"""


def boot(folder: Path, **machine_args: object) -> RouterBoot:
    machine = MachineOptions(class_="a:B", args=machine_args)
    options = Options(
        node="127.0.0.1:1", members=["127.0.0.1:1"], data_dir=str(folder), state_machines=[machine]
    )
    return RouterBoot(
        options=options,
        node_id=77,
        seat=1,
        incarnation=1,
        workers=1,
        founding=None,
        sys_path=[str(folder), *absolute(sys.path)],
    )


Start = Callable[[], Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a child that runs `PROGRAM`; it is killed after the test."""
    (tmp_path / "the_child.py").write_text(PROGRAM)
    children: list[Child] = []

    def spawn() -> Child:
        child = spawn_child("the_child", sys_path=[str(tmp_path), *sys.path])
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.popen.kill()
        child.popen.wait()
        child.close()


def next_message(child: Child) -> object:
    deadline = time.monotonic() + DEADLINE_S
    while (received := child.receive_one()) is None:
        assert time.monotonic() < deadline
        child.wait(1.0)
    return received[0]


def served(child: Child) -> dict[str, object]:
    reply = next_message(child)
    assert isinstance(reply, StatusReply)
    assert next_message(child) == Ready()
    return reply.status


def test_a_child_begins_as_told(start: Start, tmp_path: Path) -> None:
    child = start()
    read_fd, write_fd = os.pipe()
    child.send(boot(tmp_path), [write_fd])
    os.close(write_fd)
    seen = served(child)
    with os.fdopen(read_fd, "rb") as pipe:
        child.send(Stop(drain_s=1.5))
        assert pipe.read() == b"hello from the child"
    assert seen["node_id"] == 77
    assert seen["fds"] == [False], "not inherited by what the child starts"
    assert seen["path"] == [str(tmp_path), *absolute(sys.path)]
    assert seen["argv0"] == "-c"
    assert seen["stdin"] == "/dev/null"
    assert seen["sigint"] is True
    # Three streams, the control socket, the pipe, and the folder that is being listed.
    assert seen["open"] == 6
    assert next_message(child) == Failed(reason="stop 1.5", kind="storage")
    assert child.popen.wait(DEADLINE_S) == 7
    with pytest.raises(ControlClosed):
        child.receive_all()
    with pytest.raises(ControlClosed):
        child.send(Stop(drain_s=0))


def test_what_was_said_before_the_end_is_heard(start: Start, tmp_path: Path) -> None:
    child = start()
    child.send(boot(tmp_path))
    for ask in range(1, 50):
        child.send(StatusAsk(ask=ask))
    child.send(Stop(drain_s=0))
    assert child.popen.wait(DEADLINE_S) == 7
    messages = child.receive_all()
    assert [message.ask for message in messages if isinstance(message, StatusReply)] == list(range(50))
    assert messages[-1] == Failed(reason="stop 0.0", kind="storage")
    for _ in range(2):
        with pytest.raises(ControlClosed):
            child.receive_all()


def test_a_child_without_a_parent_leaves(start: Start, tmp_path: Path) -> None:
    before_boot, after_boot = start(), start()
    after_boot.send(boot(tmp_path))
    served(after_boot)
    for child in (before_boot, after_boot):
        child.close()
        assert child.popen.wait(DEADLINE_S) == ExitCode.PARENT_GONE


def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Also one that does not look at its control socket."""
    (tmp_path / "sleepy.py").write_text(
        "import time\nfrom paxmux.shards.child import be_child\n"
        "def main():\n    parent, *_ = be_child()\n    print('booted', flush=True)\n    time.sleep(1000)\n"
    )
    (tmp_path / "mother.py").write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from paxmux.shards.child import spawn_child\n"
        "from tests.test_child import boot\n"
        "child = spawn_child('sleepy')\n"
        "child.send(boot(Path(sys.argv[1])))\n"
        "print(child.pid, flush=True)\ntime.sleep(1000)\n"
    )
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "mother.py"), str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as mother:
        assert mother.stdout is not None
        lines = {mother.stdout.readline().strip(), mother.stdout.readline().strip()}
        assert b"booted" in lines
        lines.remove(b"booted")
        pid = int(lines.pop())
        mother.kill()
        mother.wait()
        deadline = time.monotonic() + DEADLINE_S
        while _runs(pid):
            assert time.monotonic() < deadline, "the child outlived its parent"
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        # In a container without an init nobody reaps it: a zombie is as gone as can be.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_is_a_request_to_stop_and_ctrl_c_is_the_parents(start: Start, tmp_path: Path) -> None:
    child = start()
    child.send(boot(tmp_path))
    served(child)
    os.kill(child.pid, signal.SIGINT)
    child.send(StatusAsk(ask=3))
    assert next_message(child) == StatusReply(ask=3, status={})
    os.kill(child.pid, signal.SIGTERM)
    assert next_message(child) == Failed(reason="stop 5.0", kind="storage")
    assert child.popen.wait(DEADLINE_S) == 7


def test_sigabrt_says_where_the_child_is(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(
        "from paxmux.shards.boot import Ready\nfrom paxmux.shards.child import be_child\n"
        "def the_place_where_it_hangs(parent):\n    parent.send(Ready())\n    while True: pass\n"
        "def main():\n    the_place_where_it_hangs(be_child()[0])\n"
    )
    program = (
        "import signal, sys\nfrom pathlib import Path\nfrom paxmux.shards.child import spawn_child\n"
        "from tests.test_child import boot, next_message\n"
        "child = spawn_child('hanging')\nchild.send(boot(Path(sys.argv[1])))\nnext_message(child)\n"
        "child.popen.send_signal(signal.SIGABRT)\nprint(child.popen.wait(30))\n"
    )
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, env=environment, check=True
    )
    assert done.stdout.strip() == str(-signal.SIGABRT).encode("ascii")
    assert b"the_place_where_it_hangs" in done.stderr


def test_a_message_that_is_too_large_is_refused_with_the_reason(start: Start, tmp_path: Path) -> None:
    child = start()
    with pytest.raises(
        ControlError, match=rf"a RouterBoot message of \d+ bytes, at most {MAX_MESSAGE_BYTES} fit"
    ):
        child.send(boot(tmp_path, blob="x" * MAX_MESSAGE_BYTES))
    almost = boot(tmp_path, blob="x" * (MAX_MESSAGE_BYTES - 16_000))
    child.send(almost)
    assert served(child)["node_id"] == 77


def test_a_child_that_does_not_read_is_an_error_and_not_a_wait(start: Start, tmp_path: Path) -> None:
    child = start()
    child.popen.send_signal(signal.SIGSTOP)
    message = boot(tmp_path)

    def fill() -> None:
        while True:
            child.send(message)

    with pytest.raises(ControlError, match="does not read"):
        fill()


def test_a_message_is_no_boot_message(start: Start) -> None:
    child = start()
    child.send(AttachWorker(worker=0, generation=1, groups=[]))
    assert child.popen.wait(DEADLINE_S) == 1


def test_descriptors_that_nobody_expects_are_closed(start: Start, tmp_path: Path) -> None:
    child = start()
    child.send(boot(tmp_path))
    served(child)
    read_fd, write_fd = os.pipe()
    child.send(StatusAsk(ask=4), [write_fd])
    os.close(write_fd)
    assert next_message(child) == StatusReply(ask=4, status={})
    with os.fdopen(read_fd, "rb") as pipe:
        assert pipe.read() == b"", "nobody holds the other end any more"


def test_a_search_path_means_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inside").mkdir()
    hook = "__editable__.thing.finder.__path_hook__"
    assert absolute(["", "inside", "/usr", hook]) == [str(tmp_path), str(tmp_path / "inside"), "/usr", hook]
