"""Masters of real processes that are killed, stopped for longer than their lease, and cut off one way.

    python -m tests.master_campaign --rounds 100 --seed 1 [--nodes 3,5] [--lease-ms 1000]

Each round hits the master. Judged is what all of it leaves behind: no two nodes counted on being master at
one moment of the clock that they share, and the terms in the log that the masters write never go back, though
each old master tries. How long it takes until there is a new master is reported, not judged.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil

from paxmux.engine.address import parse_member
from paxmux.engine.clock import clock_ns
from paxmux.tools.cuttable_network import CUTS_FILE, write_cuts
from paxmux.tools.ports import PortClaims
from tests.event_loop import DEADLINE_S
from tests.source_tree import ROOT

FRESH_NS = 100_000_000
"""A claim that old is a master's who is still there."""
WAIT_S = 60.0
FAULTS = ("killed", "stopped", "cut off, hears nothing", "cut off, is not heard")


class Claim(NamedTuple):
    """A node counted on being master, from the first to the last moment that it said so."""

    first_ns: int
    last_ns: int
    node: int
    term: int


class Campaign:
    """One cluster and its rounds."""

    def __init__(self, ports: list[int], lease_ms: int, seed: int, folder: Path) -> None:
        self._nodes = nodes = len(ports)
        self._lease_ms = lease_ms
        self._rng = random.Random(f"masters {seed} {nodes}")
        self._folder = folder
        self._ports = ports
        self._ids = [parse_member(f"127.0.0.1:{port}").node_id for port in ports]
        self._cuts = folder / "cuts"
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * nodes
        self._queue: list[str] = []
        self.took_s: dict[str, list[float]] = {fault: [] for fault in FAULTS}
        """By fault, how long it took until another node was master."""

    def run(self, rounds: int, say: Callable[[str], None]) -> list[str]:
        """Hit so many masters; returns what must not be, in words."""
        try:
            for number in range(self._nodes):
                self._start(number)
            for done in range(rounds):
                fault, took_s = self._round()
                say(f"{self._nodes} nodes, {done + 1}/{rounds}: {fault}, the next one after {took_s:.2f} s")
            return self._end()
        finally:
            for number in range(self._nodes):
                self._kill(number)

    def _round(self) -> tuple[str, float]:
        master = self._wait_for_master()
        if not self._queue:
            self._queue = self._rng.sample(FAULTS, len(FAULTS))
        fault = self._queue.pop()
        time.sleep(self._rng.random() * self._lease_ms / 1000)
        master = self._wait_for_master()
        begun_ns = clock_ns()
        others = [other for other in range(self._nodes) if other != master]
        match fault:
            case "killed":
                self._kill(master)
            case "stopped":
                self._signal(master, signal.SIGSTOP)
            case "cut off, hears nothing":
                self._cut([(other, master) for other in others])
            case _:
                self._cut([(master, other) for other in others])
        heir = self._wait_for_master(besides=master, since_ns=begun_ns)
        took_s = (clock_ns() - begun_ns) / 1e9
        self.took_s[fault].append(took_s)
        assert heir != master
        match fault:
            case "killed":
                self._start(master)
            case "stopped":
                self._signal(master, signal.SIGCONT)
            case _:
                self._cut([])
        return fault, took_s

    def _wait_for_master(self, besides: int = -1, since_ns: int = 0) -> int:
        deadline = time.monotonic() + WAIT_S
        while True:
            for number in range(self._nodes):
                last_ns = self._last_claim_ns(number)
                if number != besides and last_ns > max(since_ns, clock_ns() - FRESH_NS):
                    return number
            ended = [each for each in self._processes if each is not None and each.poll() is not None]
            assert not ended, f"a node ended by itself: {self._errors()}"
            assert time.monotonic() < deadline, f"no master: {self._errors()}"
            time.sleep(0.005)

    def _last_claim_ns(self, number: int) -> int:
        try:
            with open(self._folder / f"claims.{number}", "rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 200, 0))
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        whole = [line for line in lines if line.endswith(b"\n") and line.count(b" ") == 1]
        return int(whole[-1].split()[1]) if whole else 0

    # Processes

    def _start(self, number: int) -> None:
        words = [number, ",".join(map(str, self._ports)), self._folder, self._lease_ms]
        with open(self._folder / f"log.{number}", "ab") as log:
            self._processes[number] = subprocess.Popen(
                [sys.executable, "-m", "tests.master_node", *map(str, words)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, CUTS_FILE: str(self._cuts)},
            )

    def _family(self, number: int) -> list[psutil.Process]:
        process = self._processes[number]
        if process is None or process.poll() is not None:
            return []
        first = psutil.Process(process.pid)
        return [first, *first.children(recursive=True)]

    def _signal(self, number: int, which: signal.Signals) -> None:
        for process in self._family(number):
            process.send_signal(which)

    def _kill(self, number: int) -> None:
        process, self._processes[number] = self._processes[number], None
        if process is None or process.poll() is not None:
            return
        first = psutil.Process(process.pid)
        family = [first, *first.children(recursive=True)]
        process.kill()
        process.wait(DEADLINE_S)
        # Its workers die with it; where they are stopped, not before they go on.
        for child in family[1:]:
            if child.is_running():
                child.kill()
        psutil.wait_procs(family[1:], DEADLINE_S)

    def _cut(self, pairs: Sequence[tuple[int, int]]) -> None:
        write_cuts(self._cuts, [(self._ids[sender], self._ids[dest]) for sender, dest in pairs])

    def _errors(self) -> str:
        return "\n".join(
            (self._folder / f"log.{number}").read_text(encoding="utf-8", errors="replace")[-1000:]
            for number in range(self._nodes)
        )

    # Judgement

    def _end(self) -> list[str]:
        self._wait_for_master()
        # One after the other: each needs a majority to say what its journal is.
        journals = []
        for process in self._processes[: self._nodes // 2]:
            assert process is not None
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)
        for number in range(self._nodes // 2):
            journals.append(orjson.loads((self._folder / f"journal.{number}").read_bytes()))
        return overlaps(self._claims()) + setbacks(max(journals, key=len))

    def _claims(self) -> list[Claim]:
        claims = []
        for number in range(self._nodes):
            path = self._folder / f"claims.{number}"
            lines = path.read_bytes().splitlines() if path.exists() else []
            spans: dict[int, list[int]] = {}
            for line in lines:
                words = line.split()
                # A node that was killed may have left half a line.
                if len(words) == 2:
                    spans.setdefault(int(words[0]), []).append(int(words[1]))
            claims += [Claim(min(span), max(span), number, term) for term, span in spans.items()]
        return claims


def overlaps(claims: Sequence[Claim]) -> list[str]:
    """Moments at which two nodes counted on being master, and terms that two had."""
    found = []
    ordered = sorted(claims)
    for before, after in pairwise(ordered):
        if before.last_ns >= after.first_ns:
            found.append(f"two masters at once: {before} and {after}")
        if before.term >= after.term:
            found.append(f"a term that does not grow: {before} and {after}")
    return found


def setbacks(terms: Sequence[int]) -> list[str]:
    """Terms in the log that are behind one before them."""
    return [
        f"term {after} was written after term {before}" for before, after in pairwise(terms) if after < before
    ]


def campaign(nodes: int, rounds: int, seed: int, lease_ms: int, say: Callable[[str], None]) -> list[str]:
    """One cluster, from its start to the judgement."""
    with tempfile.TemporaryDirectory(prefix="paxmux-masters-") as folder, PortClaims() as ports:
        made = Campaign(ports.take(nodes), lease_ms, seed, Path(folder))
        found = made.run(rounds, say)
        for fault, took_s in made.took_s.items():
            if took_s:
                say(
                    f"{nodes} nodes, master {fault} {len(took_s)} times: the next one after "
                    f"{statistics.median(took_s):.2f} s at the median, {max(took_s):.2f} s at most; "
                    f"a lease is {lease_ms / 1000:g} s"
                )
        return found


def _say(words: str) -> None:
    print(words, flush=True)


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description="Hit masters of real processes, and judge what that leaves.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", default="3,5")
    parser.add_argument("--lease-ms", type=int, default=1000)
    asked = parser.parse_args()
    found: list[str] = []
    for nodes in map(int, asked.nodes.split(",")):
        found += campaign(nodes, asked.rounds, asked.seed, asked.lease_ms, _say)
    for words in found:
        print(words)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
