"""etcd in the comparison: three members as the package of the distribution has it, with its own defaults.

Decides how the members are started; `etcd_load.py` calls them. They sync their logs before they answer,
always.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import msgspec
import orjson
import psutil

from paxmux.engine.errors import PaxmuxError
from paxmux.tools import processes
from paxmux.tools.comparison.foreign_process import ForeignProcess
from paxmux.tools.comparison.work import NODES, TIMEOUT_S, LoadAnswer, Outcome, Work
from paxmux.tools.ports import PortClaims
from paxmux.tools.surroundings import ForeignCpu

BINARY = "etcd"
_SCRIPT = Path(__file__).with_name("etcd_load.py")


def version_of(binary: str) -> str:
    """What the program says of itself.

    Raises:
        PaxmuxError: it does not run.
    """
    done = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode or not done.stdout.startswith("etcd Version: "):
        raise PaxmuxError(f"{binary} --version says: {done.stdout}{done.stderr}")
    return done.stdout.splitlines()[0].removeprefix("etcd Version: ")


async def run(work: Work, folder: Path, mark: str, python: Path, binary: str) -> Outcome:
    """One run in an empty folder; `python`: of the environment of the other systems.

    Raises:
        PaxmuxError: a member did not start, or died.
    """
    with PortClaims() as claims:
        ports = claims.take(2 * NODES)
        members = [_member(index, ports, folder, mark, binary) for index in range(NODES)]
        load = _load(work, ports[NODES:], folder, mark, python)
        try:
            await asyncio.gather(*(member.start() for member in members))
            await load.start()
            foreign = ForeignCpu([*processes.marked(mark), psutil.Process()])
            answer = await load.ask(work.warmup_s + work.seconds + 3 * TIMEOUT_S)
            percent = round(foreign.percent(), 1)
        finally:
            await asyncio.gather(*(each.kill() for each in (load, *members)))
    return msgspec.convert(answer["load"], LoadAnswer).outcome(answer["agree"], percent)


def _member(index: int, ports: list[int], folder: Path, mark: str, binary: str) -> ForeignProcess:
    peers = [_address(port) for port in ports[:NODES]]
    client = _address(ports[NODES + index])
    name = f"etcd{index}"
    options = {
        "name": name,
        "data-dir": str(folder / name),
        "listen-peer-urls": peers[index],
        "initial-advertise-peer-urls": peers[index],
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "initial-cluster": ",".join(f"etcd{number}={peer}" for number, peer in enumerate(peers)),
        "initial-cluster-state": "new",
        "log-level": "warn",
    }
    words = [binary, *(word for key, value in options.items() for word in (f"--{key}", value))]
    return ForeignProcess(name, words, folder / f"{name}.log", mark)


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _load(work: Work, ports: list[int], folder: Path, mark: str, python: Path) -> ForeignProcess:
    spec = {
        "ports": ports,
        "work": msgspec.to_builtins(work),
        "timeout_s": TIMEOUT_S,
        "latencies": str(folder / "latencies"),
    }
    words = [str(python), str(_SCRIPT), orjson.dumps(spec).decode()]
    return ForeignProcess("etcd load", words, folder / "load.log", mark)
