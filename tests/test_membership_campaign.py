"""A short round of the campaign of membership changes under load with kills."""

from __future__ import annotations

import pytest
from rich.console import Console

from paxmux.tools.progress import Steps
from tests.membership_campaign import one_round

pytestmark = pytest.mark.xdist_group("cluster")


def test_a_short_round_is_sound() -> None:
    with Steps(Console(stderr=True)) as steps:
        report = one_round(1, short=True, steps=steps)
    assert report["sound"], report
    assert report["changes"] == {"add": 2, "change": 1, "remove": 1}
    assert sum(report["kills"].values()) == 4
    assert report["outcomes"]["0"] > 100
