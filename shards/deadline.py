"""When a call is too late: timeouts as deadlines on the clock that all processes of a node share."""

from __future__ import annotations

from typing import Final

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import InvalidRequest
from paxmux.shards.pending import NEVER_NS

_FOREVER_S: Final = 1e9
"""A longer timeout is none at all."""


def deadline_ns(timeout_s: float | None) -> int:
    """`timeout_s` from now, on `engine.clock`; None waits for ever.

    Raises:
        InvalidRequest: it is not above 0.
    """
    if timeout_s is None:
        return NEVER_NS
    if not timeout_s > 0:
        raise InvalidRequest(f"expected a timeout above 0 s, or None to wait for ever, got {timeout_s!r}")
    if timeout_s > _FOREVER_S:
        return NEVER_NS
    return clock_ns() + int(timeout_s * 1e9)
