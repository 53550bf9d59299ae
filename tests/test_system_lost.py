"""Groups whose log has lost what their inner state machines were told: they learn it, and vote only then."""

from __future__ import annotations

from paxmux.engine.paxos.system import Change
from tests.repair_world import DEADLINE, World
from tests.storage_model import SYSTEM

PAYLOADS = [b"%d" % number for number in range(6)]


def changed() -> tuple[World, int]:
    """Three nodes that have changed their membership once, with values before and after; and when."""
    world = World()
    world.decide(1, *PAYLOADS)
    turn, group = world.turns[1], world.group(1)
    members = {node: (seat, f"host{node}:1") for node, seat in world.seats.items()}
    group.inner.submit_change(0, DEADLINE, Change(group.cluster, -1, members), world.now, turn.fx)
    world.until(lambda: all(world.group(node).members.version >= 0 for node in world.seats))
    world.decide(2, *PAYLOADS)
    world.run(1000)
    return world, group.members.version


def lose(world: World, node: int) -> None:
    """The node's log loses everything from its SYSTEM record on."""
    world.die(node)
    disk = world.disks[node]
    first = next(at for at, batch in enumerate(disk.batches) if any(each[0] == SYSTEM for each in batch))
    disk.forget("a bad batch", len(disk.batches) - first)


def test_it_is_learned_again_and_then_recorded() -> None:
    world, version = changed()
    expected = world.turns[1].log.system(0)
    lose(world, 3)
    world.boot(3)
    group, log = world.group(3), world.turns[3].log
    assert (group.instance, group.members.version, group.voter) == (len(PAYLOADS), -1, False)
    assert log.system(0) is None
    world.until(lambda: world.group(3).voter)
    assert group.members.version == version
    assert log.system(0) is not None
    assert expected is not None
    assert log.system(0)[1] == expected[1]
    assert world.seen(3) == world.seen(1), "nothing is executed twice"
    world.die(3)
    world.boot(3)
    assert (world.group(3).members.version, world.group(3).voter) == (version, True)


def test_what_was_not_lost_costs_no_doubt_about_members() -> None:
    world, version = changed()
    world.die(3)
    world.disks[3].forget("a bad batch", 1)
    world.boot(3)
    assert world.group(3).members.version == version
    assert world.group(3).instance > version
