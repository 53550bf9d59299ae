"""A network whose directions can be cut: the contract holds while nothing is, and a cut is one-way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.network import Network
from paxmux.tools.cuttable_network import CUTS_FILE, CuttableNetwork, read_cuts, write_cuts
from tests.network_contract import FreePorts, NetworkContract, frame_of, until


class TestCuttableNetwork(NetworkContract):
    """With nothing cut."""

    @pytest.fixture(autouse=True)
    def no_cuts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_cuts(tmp_path / "cuts", [])
        monkeypatch.setenv(CUTS_FILE, str(tmp_path / "cuts"))

    def build(self, *arguments: Any) -> Network:
        return CuttableNetwork(*arguments)


class Bench(TestCuttableNetwork):
    """Builds nodes; its tests are not run again here."""

    __test__ = False


BENCH = Bench()


@pytest.mark.parametrize("reliable", [False, True])
def test_a_cut_is_one_way_and_silent_until_it_is_healed(
    reliable: bool, free_ports: FreePorts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = tmp_path / "cuts"
    monkeypatch.setenv(CUTS_FILE, str(cuts))

    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        # The file need not be there.
        assert one.network.send(2, frame_of(b"before"), reliable=reliable)
        await until(lambda: two.frames, "it arrives")
        write_cuts(cuts, [(1, 2), (3, 1)])

        passed = 0

        def vanishes() -> bool:
            nonlocal passed
            assert one.network.send(2, frame_of(b"sent"), reliable=reliable)
            passed += not one.counter("drop_cut")
            return one.counter("drop_cut") > 0

        await until(vanishes, "the cut is seen")
        for _ in range(20):
            assert one.network.send(2, frame_of(b"sent"), reliable=reliable)
        assert one.counter("drop_cut") == 21
        assert two.network.send(1, frame_of(b"back"), reliable=True)
        await until(lambda: one.frames, "the other direction works")
        assert two.counter("drop_cut") == 0
        assert one.network.peers()[2], "nobody is told"
        write_cuts(cuts, [(2, 1)])

        def arrives() -> bool:
            assert one.network.send(2, frame_of(b"after"), reliable=reliable)
            return any(body == b"after" for body in two.bodies())

        await until(arrives, "the cut is healed")
        assert two.bodies().count(b"sent") <= passed
        await BENCH.stop(one, two)

    BENCH.run(test)


def test_cuts_are_read_as_they_were_written(tmp_path: Path) -> None:
    cuts = [(1, 2), (2**64 - 1, 3)]
    write_cuts(tmp_path / "cuts", cuts)
    assert read_cuts(tmp_path / "cuts") == cuts
    assert [file.name for file in tmp_path.iterdir()] == ["cuts"]
