"""A short run of the campaign: what a stranger sends is refused, and harms nobody."""

from __future__ import annotations

from pathlib import Path

from tests.event_loop import in_loop
from tests.hostile_frames import campaign


@in_loop
async def test_no_forged_frame_or_handshake_is_taken(tmp_path: Path) -> None:
    report = await campaign(tmp_path, 4500, 1500, 7, 1.0, lambda _: None)
    # How fast it was is for the command to judge: here others use the machine.
    assert report["wrong"] == []
    assert report["in_windows"] > 4000
    assert len(report["kinds"]) >= 18
