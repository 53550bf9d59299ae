"""`paxmux serve` as a service manager sees it, with real processes; every config of the project starts."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from paxmux.engine.errors import ExitCode
from paxmux.tools.cmd_serve import _stop_signal

CONFIGS = Path(__file__).parent.parent / "configs"
DEADLINE_S = 60.0

FreePorts = Callable[[int], list[int]]


class Served:
    """One `paxmux serve`."""

    def __init__(self, config: Path, *words: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paxmux", "serve", str(config), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**_environment(), **environment},
        )
        self._family: list[psutil.Process] = []

    def line(self) -> str:
        """What it prints once it serves."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        assert readable, "no ready line"
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=DEADLINE_S)[1]
        self._family = psutil.Process(self.process.pid).children(recursive=True)
        return line

    def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """Send signals; returns exit code and stderr when neither it nor a child of it is left."""
        for number in signals:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=DEADLINE_S)
        _, alive = psutil.wait_procs(self._family, timeout=DEADLINE_S)
        assert not alive
        return self.process.returncode, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    served: list[Served] = []

    def start(config: Path, *words: str, **environment: str) -> Served:
        served.append(Served(config, *words, **environment))
        return served[-1]

    yield start
    for one in served:
        one.kill()


def write_config(folder: Path, port: int, *others: int, extra: str = "bootstrap: true") -> Path:
    members = "".join(f"  - 127.0.0.1:{one}\n" for one in (port, *others))
    file = folder / "node.yaml"
    file.write_text(
        f"node: 127.0.0.1:{port}\nmembers:\n{members}data_dir: data\ngroups: 3\nlayout: {{workers: 1}}\n"
        f"{extra}\n",
        encoding="utf-8",
    )
    return file


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_asked_to_stop(
    tmp_path: Path, free_ports: FreePorts, serve: Callable[..., Served], number: signal.Signals
) -> None:
    (port,) = free_ports(1)
    one = serve(write_config(tmp_path, port))
    assert one.line() == f"serving 127.0.0.1:{port}: 3 groups, pid {one.process.pid}\n"
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S):
        pass
    assert one.end(number) == (ExitCode.OK, "")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        assert probe.getsockname()[1] == port


def test_systemd_is_told_when_it_serves_and_when_it_stops(
    tmp_path: Path, free_ports: FreePorts, serve: Callable[..., Served]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_S)
        one = serve(write_config(tmp_path, *free_ports(1)), NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert systemd.recv(100) == b"READY=1"
        one.process.terminate()
        assert systemd.recv(100) == b"STOPPING=1"
        assert one.end()[0] == ExitCode.OK


def test_it_stops_while_it_waits_for_the_other_members(
    tmp_path: Path, free_ports: FreePorts, serve: Callable[..., Served]
) -> None:
    one = serve(write_config(tmp_path, *free_ports(3)))
    # The identity is there once the start is under way, and no founding can come of one node of three.
    deadline = time.monotonic() + DEADLINE_S
    while not (tmp_path / "data" / "identity.json").exists():
        assert time.monotonic() < deadline
        assert one.process.poll() is None
        select.select([], [], [], 0.02)
    code, err = one.end(signal.SIGTERM)
    assert (code, "Traceback" in err) == (ExitCode.OK, False)


def test_a_port_that_is_taken_is_named(
    tmp_path: Path, free_ports: FreePorts, serve: Callable[..., Served]
) -> None:
    (port,) = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, err = serve(write_config(tmp_path, port)).end()
    assert code == ExitCode.CANNOT_BOOT
    assert f"127.0.0.1:{port}" in err
    assert "Traceback" not in err


def test_a_missing_data_directory_is_not_made_in_passing(
    tmp_path: Path, free_ports: FreePorts, serve: Callable[..., Served]
) -> None:
    code, err = serve(write_config(tmp_path, *free_ports(1), extra="")).end()
    assert code == ExitCode.CANNOT_BOOT
    assert err.startswith("paxmux serve: ")
    assert "paxmux init" in err
    assert not (tmp_path / "data").exists()


def test_a_cpu_that_does_not_exist_is_a_config_error(
    tmp_path: Path, free_ports: FreePorts, serve: Callable[..., Served]
) -> None:
    config = write_config(tmp_path, *free_ports(1))
    text = config.read_text(encoding="utf-8").replace("{workers: 1}", "{workers: 1, pin: {0: [9999]}}")
    config.write_text(text, encoding="utf-8")
    code, err = serve(config).end()
    assert code == ExitCode.USAGE
    assert "layout.pin.0: expected CPUs that this process may use" in err


@pytest.mark.parametrize("words", [["--drain-s", "-1"], ["--drain-s", "x"], ["--log-level", "loud"]])
def test_wrong_arguments_are_refused_before_anything_starts(
    tmp_path: Path, serve: Callable[..., Served], words: list[str]
) -> None:
    code, err = serve(write_config(tmp_path, 1), *words).end()
    assert (code, "usage: paxmux serve" in err) == (ExitCode.USAGE, True)
    assert words[1] in err
    assert not (tmp_path / "data").exists()


def test_a_second_signal_has_its_usual_effect() -> None:
    async def ask_twice() -> tuple[bool, object]:
        asked = _stop_signal(asyncio.get_running_loop())
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(asked, DEADLINE_S)
        return asked.done(), signal.getsignal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert asyncio.run(ask_twice()) == (True, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "names",
    [["node1", "node2", "node3"], ["explicit"], ["process-router"], ["master"], ["every-key"]],
    ids=lambda names: names[0],
)
def test_every_config_of_the_project_starts(
    tmp_path: Path, free_ports: FreePorts, serve: Callable[..., Served], names: list[str]
) -> None:
    texts = {name: (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8") for name in names}
    written = sorted({port for text in texts.values() for port in re.findall(r"127\.0\.0\.1:(\d+)", text)})
    ports = dict(zip(written, free_ports(len(written)), strict=True))
    nodes = []
    for name, text in texts.items():
        config = tmp_path / f"{name}.yaml"
        moved = re.sub(r"127\.0\.0\.1:(\d+)", lambda match: f"127.0.0.1:{ports[match[1]]}", text)
        # Not every machine lets a test use CPU 0.
        moved = moved.replace("0: [0]", f"0: [{min(os.sched_getaffinity(0))}]")
        config.write_text(moved, encoding="utf-8")
        if "bootstrap: true" not in text:
            subprocess.run([sys.executable, "-m", "paxmux", "init", config], check=True, capture_output=True)
        nodes.append(serve(config))
    for node in nodes:
        assert node.line().startswith("serving 127.0.0.1:")
    for node in nodes:
        code, err = node.end(signal.SIGTERM)
        assert (code, "Traceback" in err) == (ExitCode.OK, False)


def test_no_config_of_the_project_is_left_out() -> None:
    marks = getattr(test_every_config_of_the_project_starts, "pytestmark", [])
    started = {name for mark in marks for names in mark.args[1] for name in names}
    assert started == {file.stem for file in CONFIGS.glob("*.yaml")}
