"""The network of a node, with directions that can be cut from outside while it runs.

Decides by a small file which frames vanish: each line `FROM TO`, two node ids, says that nothing that
FROM sends reaches TO. A cut is silent, as that of a cable is: the sender is told that its frame is on
its way. What had left before is not taken back. The file's path is in the environment; without it
nothing is cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from paxmux.plugins.network.udp_tcp import UdpTcp

CUTS_FILE = "PAXMUX_TOOL_CUTS"
"""Name of the variable of the environment."""
LOOK_EVERY_S = 0.05

Cut = tuple[int, int]
"""(from, to): node ids."""


class CuttableNetwork(UdpTcp):
    """`network.plugin: paxmux.tools.cuttable_network:CuttableNetwork`."""

    direct = None
    """What workers sent by themselves would not be cut."""

    def __init__(self, node_id: int, *arguments: Any, **named: Any) -> None:
        super().__init__(node_id, *arguments, **named)
        self._node_id = node_id
        self._cuts_file = os.environ.get(CUTS_FILE)
        self._looked_at = float("-inf")
        self._seen: tuple[int, int] | None = None
        self._cut: frozenset[int] = frozenset()
        self._drops = 0

    def send(self, dest: int, frame: bytes, *, reliable: bool = False) -> bool:
        """As `UdpTcp.send`, unless the way to `dest` is cut."""
        now = monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        if dest in self._cut:
            self._drops += 1
            return True
        return super().send(dest, frame, reliable=reliable)

    def counters(self) -> Mapping[str, int]:
        """Those of `UdpTcp`, and `drop_cut`."""
        return {**super().counters(), "drop_cut": self._drops}

    def _look(self) -> None:
        if self._cuts_file is None:
            return
        try:
            found = os.stat(self._cuts_file)
        except FileNotFoundError:
            self._seen, self._cut = None, frozenset()
            return
        # Each change is a new file, see `write_cuts`.
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._seen:
            self._seen = seen
            cuts = read_cuts(Path(self._cuts_file))
            self._cut = frozenset(dest for sender, dest in cuts if sender == self._node_id)


def write_cuts(file: Path, cuts: Iterable[Cut]) -> None:
    """Let exactly these directions be cut, within `LOOK_EVERY_S` of the next frame."""
    new = file.with_name(f"{file.name}.new")
    new.write_text("".join(f"{sender} {dest}\n" for sender, dest in cuts), encoding="ascii")
    new.replace(file)


def read_cuts(file: Path) -> list[Cut]:
    """What `write_cuts` wrote."""
    pairs = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return [(int(sender), int(dest)) for sender, dest in pairs]
