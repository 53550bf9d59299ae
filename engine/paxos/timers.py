"""The protocol's timers, as durations in nanoseconds. Defaults: the reference's constants (2.3, 2.10)."""

from __future__ import annotations

from typing import NamedTuple

MS = 1_000_000
NEVER = 1 << 63
"""Later than any time: a timer that is not set."""


class Timers(NamedTuple):
    """Durations, in nanoseconds. The options of the same names, in ms, say what each is for."""

    resend_first: int = 100 * MS
    prepare_first: int = 2000 * MS
    accept_first: int = 1000 * MS
    phase_max: int = 8000 * MS
    backoff_min: int = 10 * MS
    backoff_max: int = 40 * MS
    ask: int = 2500 * MS
    ask_retry: int = 200 * MS
    leftover: int = 500 * MS


class Bounds(NamedTuple):
    """How much one instance may decide together."""

    batch_max_count: int = 512
    batch_max_bytes: int = 1_048_576


DEFAULT_TIMERS = Timers()
DEFAULT_BOUNDS = Bounds()
