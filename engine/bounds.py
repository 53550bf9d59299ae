"""The bounds of every numeric option, in one table.

Decides nothing else: which options must fit each other is in `option_rules.py`. A test asserts that
no numeric option is missing here.
"""

from __future__ import annotations

from typing import Final

from paxmux.engine.frame import GROUPS_MAX

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

MAX_VALUE_BYTES: Final = 100 * MIB
"""A frame's body holds at most 128 MiB (`frame.MAX_BODY_BYTES`): the largest value and what goes with it."""

_TEN_MINUTES_MS: Final = 600_000
_HOUR_MS: Final = 3_600_000
_DAY_S: Final = 86_400

BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "node_id": (1, 2**64 - 1),
    "groups": (1, GROUPS_MAX),
    "layout.workers": (1, 256),
    "network.udp_max_bytes": (0, 65_000),
    "network.queue_max_bytes": (64 * KIB, 16 * GIB),
    "network.reconnect_first_ms": (1, _TEN_MINUTES_MS),
    "network.reconnect_max_ms": (1, _TEN_MINUTES_MS),
    "timers.resend_first_ms": (1, _TEN_MINUTES_MS),
    "timers.prepare_first_ms": (1, _TEN_MINUTES_MS),
    "timers.accept_first_ms": (1, _TEN_MINUTES_MS),
    "timers.phase_max_ms": (1, _TEN_MINUTES_MS),
    "timers.backoff_min_ms": (0, _TEN_MINUTES_MS),
    "timers.backoff_max_ms": (1, _TEN_MINUTES_MS),
    "timers.ask_ms": (1, _TEN_MINUTES_MS),
    "timers.ask_retry_ms": (1, _TEN_MINUTES_MS),
    "timers.notice_ms": (0, 1000),
    "timers.leftover_ms": (1, _TEN_MINUTES_MS),
    "proposals.forward_ms": (1, _TEN_MINUTES_MS),
    "proposals.batch_count": (1, 65_536),
    "proposals.batch_delay_ms": (0, 10_000),
    "proposals.max_waiting": (-1, 16 * MIB),
    "proposals.wait_time_threshold_ms": (0, _HOUR_MS),
    "proposals.attempts": (0, 1_000_000),
    "master.lease_ms": (1000, _HOUR_MS),
    "master.drift_ppm": (0, 500_000),
    "limits.max_value_bytes": (1, MAX_VALUE_BYTES),
    "limits.max_pending": (1, 16 * MIB),
    "limits.max_pending_bytes": (1, 1024 * GIB),
    "limits.queue_delay_ms": (0, _HOUR_MS),
    "limits.memory_percent": (1, 100),
    "limits.batch_max_count": (1, 65_536),
    "limits.batch_max_bytes": (1, MAX_VALUE_BYTES),
    "limits.ring_bytes": (64 * KIB, GIB),
    "limits.ring_backlog_bytes": (64 * KIB, 16 * GIB),
    "limits.catch_up_max_bytes": (1, MAX_VALUE_BYTES),
    "storage.segment_bytes": (64 * KIB, 2 * GIB),
    "storage.keep_instances": (0, 1 << 62),
    "storage.keep_bytes": (0, 1024 * GIB),
    "storage.max_bytes": (0, 1024 * GIB),
    "storage.clean_bytes_per_s": (64 * KIB, 1024 * GIB),
    "storage.scrub_bytes_per_s": (0, 1024 * GIB),
    "storage.sync_skip_count": (0, 1_000_000),
    "storage.sync_interval_ms": (1, 60_000),
    "worker.restart_first_ms": (1, _TEN_MINUTES_MS),
    "worker.restart_max_ms": (1, _HOUR_MS),
    "worker.crash_budget": (0, 1_000_000),
    "worker.crash_window_s": (1, _DAY_S),
    "worker.hang_warn_ms": (100, _HOUR_MS),
    "worker.hang_kill_ms": (0, _HOUR_MS),
    "worker.slow_warn_ms": (0, _HOUR_MS),
}
"""Key -> smallest and largest value allowed; the unit is the last word of the key."""
