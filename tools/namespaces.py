"""Hosts of a cluster that are network namespaces, joined by a router in the middle whose ways can be cut.

Decides how such a network is made (unshare and nsenter of util-linux, ip and tc of iproute2), what it takes,
and how it says that something is missing. The router is a namespace too: a cut is a rule in it that drops
what comes from one host for another, silently and in that direction alone, whatever the connection; hosts
notice nothing of it. Never touches a namespace, a device or a rule that is not its own.

Nothing has a name or a file outside of itself: each namespace lives as long as a process in it does, and
those that hold them end with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from paxmux.engine.errors import PaxmuxError
from paxmux.tools.cluster import Host

PORT: Final = 7000
"""The same on each host."""
HOSTS_MAX: Final = 16
COMMAND_S: Final = 10.0
PROGRAMS: Final = ("unshare", "nsenter", "ip", "sh", "cat")
WAYS: Final = (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net"))
"""How the first namespace is made: by root, else in a user namespace of its own."""
FORWARD: Final = "/proc/sys/net/ipv4/ip_forward"
_RULES_FROM: Final = 100

Cut = tuple[int, int]
"""(from, to): numbers of hosts; what `from` sends does not reach `to`."""


class NamespacesMissing(PaxmuxError):
    """Such a network cannot be made here; the message says what is missing."""


class Namespaces:
    """A network of some hosts; a context manager. Each call costs some milliseconds."""

    def __init__(self, count: int) -> None:
        """`count`: of hosts, at most 16."""
        if not 1 <= count <= HOSTS_MAX:
            raise ValueError(f"expected 1 .. {HOSTS_MAX} hosts, got {count}")
        self._count = count
        self._holders: list[subprocess.Popen[str]] = []
        self._enter: Callable[[int], list[str]] = _enter_as_root
        self._cuts: frozenset[Cut] = frozenset()
        self._slow: set[int] = set()
        self.hosts: list[Host] = []

    def __enter__(self) -> Namespaces:
        """Make it.

        Raises:
            NamespacesMissing: it cannot be made.
        """
        absent = [name for name in PROGRAMS if shutil.which(name) is None]
        if absent:
            raise NamespacesMissing(f"network namespaces need the program {absent[0]}")
        try:
            hub = self._hub()
            # In the user namespace of the first one, if it has one of its own.
            inside = [] if self._enter is _enter_as_root else ["nsenter", *_user(hub), "--"]
            for _ in range(self._count):
                self._hold([*inside, "unshare", "--net"])
            self._join()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the namespaces go; what still runs in them keeps its own."""
        for holder in self._holders:
            assert holder.stdin is not None
            holder.stdin.close()
        for holder in self._holders:
            try:
                holder.wait(COMMAND_S)
            except subprocess.TimeoutExpired:
                holder.kill()
                holder.wait()
            for stream in (holder.stdout, holder.stderr):
                assert stream is not None
                stream.close()
        self._holders.clear()

    @property
    def ids(self) -> list[str]:
        """What the kernel calls the namespaces, as in `/proc/PID/ns/net`."""
        return [str(Path(f"/proc/{holder.pid}/ns/net").readlink()) for holder in self._holders]

    def cut(self, cuts: Iterable[Cut]) -> None:
        """Let exactly these directions be cut; none: heal all.

        Raises:
            PaxmuxError: `ip` has failed.
        """
        wanted = frozenset(cuts)
        lines = [f"rule del {self._rule(*cut)}" for cut in sorted(self._cuts - wanted)]
        lines += [f"rule add {self._rule(*cut)}" for cut in sorted(wanted - self._cuts)]
        self._cuts = wanted
        if lines:
            self._ip(0, lines)

    def slow_down(self, hosts: Collection[int], delay_ms: int, jitter_ms: int, loss_percent: float) -> None:
        """Delay, reorder and lose what these hosts get, and nothing of what others get; none: as before.

        Raises:
            NamespacesMissing: the kernel has no netem.
            PaxmuxError: `tc` has failed.
        """
        while self._slow:
            self._in(0, ["tc", "qdisc", "del", "dev", _device(self._slow.pop()), "root"])
        words = f"netem delay {delay_ms}ms {jitter_ms}ms loss {loss_percent}%".split()
        for number in hosts:
            try:
                self._in(0, ["tc", "qdisc", "add", "dev", _device(number), "root", *words])
            except PaxmuxError as error:
                raise NamespacesMissing(f"delay and loss need tc and the kernel's netem: {error}") from None
            self._slow.add(number)

    def run(self, number: int, words: list[str], text: str = "") -> str:
        """Run a program on a host, with `text` as its input; returns what it prints.

        Raises:
            PaxmuxError: it has failed.
        """
        return self._in(number + 1, words, text)

    def router(self, *words: str) -> str:
        """Run a program in the middle, as `run` does."""
        return self._in(0, list(words))

    # How it is made

    def _hub(self) -> int:
        """Hold the namespace in the middle, in whichever way one can be made; returns the holder's pid."""
        reasons = []
        for way, enter in zip(WAYS, (_enter_as_root, _enter_as_user), strict=True):
            self._enter = enter
            try:
                return self._hold(list(way))
            except NamespacesMissing as error:
                reasons.append(str(error))
        raise NamespacesMissing("; ".join(dict.fromkeys(reasons)))

    def _hold(self, words: list[str]) -> int:
        """A process that does nothing in a namespace of its own until its standard input ends."""
        holder = subprocess.Popen(
            [*words, "sh", "-c", "echo here; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is not for it: first the nodes end.
            start_new_session=True,
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() == "":
            said = holder.stderr.read().strip()
            self.close()
            raise NamespacesMissing(f"`{' '.join(words)}` makes no network namespace here: {said}")
        return holder.pid

    def _join(self) -> None:
        """A line from each host to the middle, and the way to everybody else."""
        try:
            self._in(0, ["sh", "-c", f"echo 1 > {FORWARD}"])
            lines = []
            for number, holder in enumerate(self._holders[1:]):
                lines += [
                    f"link add {_device(number)} type veth peer name line netns {holder.pid}",
                    f"addr add {_address(number, 1)}/24 dev {_device(number)}",
                    f"link set {_device(number)} up",
                ]
            self._ip(0, lines)
            for number in range(self._count):
                host = _address(number, 2)
                middle = _address(number, 1)
                lines = ["link set lo up", f"addr add {host}/24 dev line", "link set line up"]
                self._ip(number + 1, [*lines, f"route add default via {middle}"])
                self.hosts.append(Host(f"{host}:{PORT}", tuple(self._enter(self._holders[number + 1].pid))))
        except NamespacesMissing:
            raise
        except PaxmuxError as error:
            raise NamespacesMissing(f"network namespaces cannot be joined here: {error}") from None

    @staticmethod
    def _rule(sender: int, receiver: int) -> str:
        pref = _RULES_FROM + sender * HOSTS_MAX + receiver
        return f"pref {pref} iif {_device(sender)} to {_address(receiver, 2)} blackhole"

    def _ip(self, place: int, lines: list[str]) -> None:
        self._in(place, ["ip", "-batch", "-"], "\n".join(lines) + "\n")

    def _in(self, place: int, words: list[str], text: str = "") -> str:
        """Run a program in the middle (0) or on a host (its number + 1)."""
        try:
            done = subprocess.run(
                [*self._enter(self._holders[place].pid), *words],
                input=text,
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PaxmuxError(f"`{' '.join(words)}` takes more than {COMMAND_S:.0f} s") from None
        if done.returncode != 0:
            raise PaxmuxError(f"`{' '.join(words)}`: {' '.join(done.stderr.split())}")
        return done.stdout


def missing() -> str | None:
    """Why such a network cannot be made here; None if it can."""
    try:
        with Namespaces(2) as network:
            network.cut([(0, 1)])
            network.cut([])
    except PaxmuxError as error:
        return str(error)
    return None


def used(ids: Iterable[str]) -> set[str]:
    """Those of these network namespaces that a process is in, or has open, or a file keeps."""
    wanted = set(ids)
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in [process / "ns" / "net", *(process / "fd").iterdir()]:
                with contextlib.suppress(OSError):
                    found.add(str(link.readlink()))
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    return {one for one in wanted if one in found or one in mounts}


def _device(number: int) -> str:
    return f"host{number}"


def _address(number: int, last: int) -> str:
    return f"10.77.{number + 1}.{last}"


def _enter_as_root(pid: int) -> list[str]:
    return ["nsenter", "--target", str(pid), "--net", "--"]


def _user(pid: int) -> list[str]:
    return ["--target", str(pid), "--user", "--preserve-credentials"]


def _enter_as_user(pid: int) -> list[str]:
    return ["nsenter", *_user(pid), "--net", "--"]
