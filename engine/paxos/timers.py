"""The protocol's timers, as durations in nanoseconds. Defaults: PhxPaxos's constants."""

from __future__ import annotations

from typing import Final, NamedTuple

MS: Final = 1_000_000
NEVER: Final = 1 << 63
"""Later than any time: a timer that is not set."""
EXPIRE_GAP: Final = 20 * MS
"""What waits in a group is looked through for passed deadlines at most so often."""


LATE_NOTICE: Final = 20 * MS
"""How long a notice may lag behind what shows that there must be one, before a group asks for it."""


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
    forward: int = 200 * MS
    """0: proposals are never handed to who holds the ballot."""


class Bounds(NamedTuple):
    """How much one instance may decide together, and how often a proposal may lose."""

    batch_max_count: int = 512
    batch_max_bytes: int = 1_048_576
    attempts: int = 0
    """Instances that may go to another value before a proposal ends with a conflict; 0: any number."""


DEFAULT_TIMERS: Final = Timers()
DEFAULT_BOUNDS: Final = Bounds()
