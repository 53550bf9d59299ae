"""What every system of a comparison is asked to do, and what is said of one run.

Decides the terms alone: N callers, each with one request under way, which asks for the next thing when it
has its answer; answers count within the window after the warm-up. No system has other terms.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import msgspec

from paxmux.tools.latency import Latencies, LatencyMs

NODES = 3
TIMEOUT_S = 30.0
"""How long starting, and the last answers, may take."""


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same for each system."""

    callers: int
    size: int
    """Bytes of a value."""
    seconds: float
    warmup_s: float


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of one system."""

    values_per_s: float
    latency_ms: LatencyMs
    errors: int
    """Over the whole run."""
    agree: bool
    """Whether all nodes had the same in the end."""
    foreign_cpu_percent: float
    """Share of the CPUs that processes beside the run used."""


class LoadAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a load in another environment says (`etcd_load.py`, `pysyncobj_node.py`)."""

    window_s: float
    errors: int
    latencies: str
    """File of the latencies in ns, as machine integers of 8 bytes: one for each answer in the window."""

    def outcome(self, agree: bool, foreign_cpu_percent: float) -> Outcome:
        """With what others know of the run."""
        found = array("Q", Path(self.latencies).read_bytes())
        latencies = Latencies()
        for each in found:
            latencies.add(each)
        return Outcome(
            values_per_s=round(len(found) / self.window_s, 1),
            latency_ms=latencies.summary_ms(),
            errors=self.errors,
            agree=agree,
            foreign_cpu_percent=foreign_cpu_percent,
        )
