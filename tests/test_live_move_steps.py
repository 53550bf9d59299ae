"""A move as the node sees it, step by step: never two workers that may vote, whatever comes when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import InvalidRequest, NodeStopped, StorageFailed
from paxmux.engine.options import LayoutOptions
from paxmux.shards import live_move
from paxmux.shards.boot import MoveEnd, MoveTold
from paxmux.shards.cluster import make_founding
from paxmux.shards.identity import create, open_data_dir, read_identity
from paxmux.shards.layout import Layout
from paxmux.shards.live_move import LiveMove, MoveFailed
from paxmux.shards.post import NotYet
from paxmux.shards.rearranging import Rearranger, layout_with
from paxmux.shards.requests import CallKind
from paxmux.shards.waiting_room import WAITING_ROOM
from tests.event_loop import DEADLINE_S, in_loop

GROUP, MOVE, SOURCE, TARGET = 2, 7, 0, 1
STEPS = ["near", "complete", "hosted"]


class FakePost:
    def __init__(self, worker: int, log: list[Any]) -> None:
        self.worker = worker
        self.log = log
        self.serves = True
        self.generation = 1
        self.on_end: Callable[[], None] = lambda: None

    def send(self, message: Any, fds: Iterable[int] = ()) -> bool:
        self.log.append((type(message).__name__, self.worker))
        if isinstance(message, MoveEnd) and self.serves:
            self.on_end()
        return self.serves

    def replace(self, generation: int, reason: str) -> None:
        assert (generation, reason) == (1, f"it does not end the move of group {GROUP}")
        self.log.append(("kill", self.worker))


class World:
    """Everything that a move changes, as a list of what was done to it."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.worker_of = [SOURCE] * 4
        self.dead: set[int] = set()
        self.switch_error: StorageFailed | None = None
        self.may_switch = asyncio.Event()
        self.may_switch.set()
        posts = [FakePost(worker, self.log) for worker in (SOURCE, TARGET)]
        self.posts = posts
        posts[TARGET].on_end = lambda: self.tell("ended")
        self.move = LiveMove(MOVE, GROUP, posts[0], posts[1], self, self, self)  # type: ignore[arg-type]

    # Routes

    def commit(self, group: int, worker: int) -> None:
        self.log.append("commit")

    async def switch(self) -> None:
        await self.may_switch.wait()
        if self.switch_error is not None:
            raise self.switch_error
        self.log.append("switched")

    def reroute(self) -> None:
        self.log.append("reroute")

    def hold_frames(self, group: int) -> None:
        self.log.append("hold frames")

    def release_frames(self, worker: int) -> None:
        self.log.append(("release frames", worker))

    # Exchange and pending

    def order(self, worker: int, kind: CallKind, group: int, move: int) -> bool:
        assert (group, move) == (GROUP, MOVE)
        self.log.append((kind.name, worker))
        return worker not in self.dead

    def hold(self) -> None:
        self.log.append("hold")

    def release(self, group: int, worker: int) -> None:
        assert self.worker_of[GROUP] == worker, "a request could still be addressed to the waiting room"
        self.log.append(("release", worker))

    def turn_away(self, reason: str) -> None:
        assert self.worker_of[GROUP] != WAITING_ROOM
        self.log.append("turn away")

    def reassign(self, group: int, old: int, new: int) -> None:
        self.log.append(("reassign", old, new))

    # Events

    def tell(self, what: Any, worker: int = TARGET, move: int = MOVE) -> None:
        self.move.told(worker, MoveTold(group=GROUP, move=move, what=what, reason="it broke"))

    def die(self, *workers: int) -> None:
        for worker in workers:
            self.dead.add(worker)
            self.posts[worker].serves = False
            self.move.lost(worker)

    def check(self) -> None:
        """What must hold of every history."""
        log = self.log
        take_up = ("TAKE_UP", TARGET)
        if take_up in log:
            assert log.index("switched") < log.index("reroute") < log.index(take_up)
            assert log.index(("LET_GO", SOURCE)) < log.index("commit") < log.index("switched")
        assert not ("commit" in log and ("TAKE_UP", SOURCE) in log), "both were told to take it up"
        assert ("MoveDone", SOURCE) not in log or "switched" in log
        holds = log.count("hold")
        releases = [each for each in log if each[0] == "release" or each == "turn away"]
        assert holds == len(releases) <= 1
        assert log.count("hold frames") == len([each for each in log if each[0] == "release frames"]) == holds
        assert self.worker_of[GROUP] == (TARGET if "commit" in log else SOURCE)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@in_loop
async def test_a_move_takes_its_steps_in_order() -> None:
    world = World()
    moving = asyncio.create_task(world.move.run())
    for what in STEPS:
        await settle()
        assert not moving.done()
        if what == "complete":
            assert world.worker_of[GROUP] == WAITING_ROOM
        world.tell(what)
    await moving
    world.check()
    assert world.log == [
        ("MoveIn", TARGET),
        ("MoveOut", SOURCE),
        "hold",
        "hold frames",
        ("LET_GO", SOURCE),
        "commit",
        ("reassign", SOURCE, TARGET),
        "switched",
        "reroute",
        ("TAKE_UP", TARGET),
        ("release", TARGET),
        ("release frames", TARGET),
        ("MoveDone", SOURCE),
    ]
    assert world.move.held_s > 0


EVENTS: dict[str, Callable[[World], None]] = {
    "source dies": lambda world: world.die(SOURCE),
    "target dies": lambda world: world.die(TARGET),
    "both die": lambda world: world.die(TARGET, SOURCE),
    "it breaks": lambda world: world.tell("broken"),
    "it is given up": lambda world: world.move.abort("no more"),
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("event", EVENTS)
def test_whatever_happens_at_each_step(event: str, after: int, together: bool) -> None:
    """`together`: the node hears of it before it has done anything about the step before it."""

    @in_loop
    async def scenario() -> None:
        world = World()
        moving = asyncio.create_task(world.move.run())
        for number, what in enumerate(["", *STEPS]):
            if what:
                world.tell(what)
            if not (together and number == after):
                await settle()
            if number == after:
                EVENTS[event](world)
                await settle()
                # What was under way comes too late, or is no harm.
                for late in ("near", "complete"):
                    world.tell(late)
                await settle()
                for worker in (SOURCE, TARGET):
                    if worker not in world.dead:
                        world.tell("hosted", worker)
                break
        if after >= STEPS.index("complete") + 1:
            await moving
            assert "switched" in world.log
        else:
            with pytest.raises(MoveFailed, match="group 2 stays with worker 0"):
                await moving
            assert "commit" not in world.log
            assert ("MoveEnd", TARGET) in world.log
        world.check()

    scenario()


@pytest.mark.parametrize("complete", [False, True])
@in_loop
async def test_the_second_death_is_heard_too(complete: bool) -> None:
    """While the group goes back to its worker, or to the new one, that worker dies as well."""
    world = World()
    moving = asyncio.create_task(world.move.run())
    for what in STEPS[: 1 + complete]:
        await settle()
        world.tell(what)
    await settle()
    world.die(SOURCE if complete else TARGET)
    await settle()
    assert not moving.done()
    world.die(TARGET if complete else SOURCE)
    await asyncio.wait([moving], timeout=DEADLINE_S)
    assert moving.done()
    assert (moving.exception() is None) == complete
    world.check()


@in_loop
async def test_a_worker_that_does_not_serve_cannot_take_part() -> None:
    for worker in (SOURCE, TARGET):
        world = World()
        world.posts[worker].serves = False
        with pytest.raises(MoveFailed, match="a worker does not serve"):
            await world.move.run()
        world.check()


@in_loop
async def test_what_another_move_says_is_not_heard() -> None:
    world = World()
    moving = asyncio.create_task(world.move.run())
    await settle()
    world.tell("near", move=MOVE - 1)
    world.tell("broken", move=MOVE - 1)
    world.tell("near", worker=SOURCE)
    await settle()
    assert not moving.done()
    assert "hold" not in world.log
    world.move.abort("enough")
    with pytest.raises(MoveFailed, match="enough"):
        await moving


@in_loop
async def test_a_map_that_cannot_be_written_ends_it_for_both() -> None:
    world = World()
    world.switch_error = StorageFailed("the disk says no")
    moving = asyncio.create_task(world.move.run())
    for what in ("near", "complete"):
        await settle()
        world.tell(what)
    with pytest.raises(StorageFailed):
        await moving
    world.check()
    assert not any(each[0] == "TAKE_UP" for each in world.log)
    assert "turn away" in world.log, "what waited would go to a worker that does not host it"


@in_loop
async def test_a_group_goes_back_when_everything_of_it_is_closed_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or when the worker that does not say so is dead; until then no successor of the old one is started."""
    for killed in (False, True):
        world = World()
        world.posts[TARGET].on_end = lambda: None
        moving = asyncio.create_task(world.move.run())
        await settle()
        assert not world.move.bars(SOURCE)
        world.tell("near")
        await settle()
        monkeypatch.setattr(live_move, "END_S", 0.0 if killed else DEADLINE_S)
        world.tell("broken")
        await settle()
        await asyncio.sleep(0)
        assert not any(each[0] == "TAKE_UP" for each in world.log)
        assert world.move.bars(SOURCE)
        assert not world.move.bars(TARGET)
        if killed:
            while ("kill", TARGET) not in world.log:
                await asyncio.sleep(0.001)
            assert not any(each[0] == "TAKE_UP" for each in world.log)
            world.die(TARGET)
        else:
            world.tell("ended", move=MOVE - 1)
            await settle()
            assert world.move.bars(SOURCE)
            world.tell("ended")
        await settle()
        assert world.log[-1] == ("TAKE_UP", SOURCE)
        assert not world.move.bars(SOURCE)
        world.tell("hosted", SOURCE)
        with pytest.raises(MoveFailed):
            await moving
        world.check()


class FakeSupervisor:
    def __init__(self) -> None:
        self.held = ""
        self.posts: list[Any] = []

    def hold_all(self, reason: str) -> None:
        self.held = reason


@in_loop
async def test_no_worker_is_started_while_the_map_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would host what the map may say or not: with the power going at that moment, both could vote."""
    create(tmp_path, 5, 4)
    layout = Layout.build(LayoutOptions(workers=3, strategy="range"), 4)
    with open_data_dir(tmp_path, node_id=5, groups=4, hosts=layout.hosts(), bootstrap=False) as store:
        store.record(make_founding({5: store.identity.seat}, 4), active=True)
        unused: Any = None
        worker_of = list(layout.hosts())
        arranger = Rearranger(layout, worker_of, store, unused, unused, unused, unused, unused)
        arranger.supervisor = supervisor = FakeSupervisor()  # type: ignore[assignment]
        assert [arranger.groups_of(worker) for worker in range(3)] == [[0], [1], [2, 3]]
        arranger.commit(3, 0)
        for worker in (0, 2):
            with pytest.raises(NotYet, match="is being written"):
                arranger.groups_of(worker)
        assert arranger.groups_of(1) == [1]
        assert read_identity(tmp_path).hosts == layout.hosts()
        await arranger.switch()
        assert [arranger.groups_of(worker) for worker in range(3)] == [[0, 3], [1], [2]]
        assert read_identity(tmp_path).hosts == (0, 1, 2, 0)
        arranger.commit(0, 1)

        def fail(_path: Path, _data: bytes) -> None:
            raise OSError(5, "no")

        monkeypatch.setattr("paxmux.shards.identity.replace_file", fail)
        with pytest.raises(StorageFailed):
            await arranger.switch()
        assert "start the node again" in supervisor.held
        for worker in (0, 1):
            with pytest.raises(NotYet, match="is being written"):
                arranger.groups_of(worker)


@in_loop
async def test_a_map_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    """As one that cannot be written: nobody may host the group."""
    create(tmp_path, 5, 4)
    layout = Layout.build(LayoutOptions(workers=2), 4)
    with open_data_dir(tmp_path, node_id=5, groups=4, hosts=layout.hosts(), bootstrap=False) as store:
        unused: Any = None
        arranger = Rearranger(layout, list(layout.hosts()), store, unused, unused, unused, unused, unused)
        arranger.supervisor = supervisor = FakeSupervisor()  # type: ignore[assignment]
        arranger.commit(0, 1)
        (tmp_path / "identity.json").write_text("{}")
        with pytest.raises(StorageFailed, match="is damaged"):
            await arranger.switch()
        assert "start the node again" in supervisor.held
        with pytest.raises(NotYet, match="is being written"):
            arranger.groups_of(1)


@in_loop
async def test_a_node_that_stops_adds_no_more_workers(tmp_path: Path) -> None:
    """One that came after all others were stopped would outlive the node's stop."""
    layout = Layout.build(LayoutOptions(workers=1), 4)
    added: list[int] = []
    unused: Any = None

    class Nothing:
        def add_worker(self, worker: int) -> None:
            added.append(worker)

    anything: Any = Nothing()
    arranger = Rearranger(layout, [0] * 4, unused, anything, unused, anything, unused, lambda worker: unused)

    class Stopping(FakeSupervisor):
        async def add(self, post: Any) -> None:
            await arranger.stop(0)

    arranger.supervisor = Stopping()  # type: ignore[assignment]
    with pytest.raises(NodeStopped):
        await arranger.change(Layout.build(LayoutOptions(workers=4), 4))
    assert added == [1, 1]


def test_a_layout_with_groups_elsewhere() -> None:
    layout = Layout.build(LayoutOptions(workers=2, pin={0: [0]}), 4, cpus=[0])
    moved = layout_with(layout, (0, 3), 2)
    assert (moved.hosts(), moved.workers, moved.cpus_of(0)) == ((2, 1, 0, 2), 3, (0,))
    assert layout_with(moved, (2,), 1).groups_of(0) == ()
    assert layout_with(moved, (), 0).workers == 3
    for wrong in (-1, 3):
        with pytest.raises(InvalidRequest, match=r"expected a worker of 0 \.\. 2"):
            layout_with(layout, (0,), wrong)
    whole = Layout.build(LayoutOptions(workers=4), 4)
    with pytest.raises(InvalidRequest, match=r"expected a worker of 0 \.\. 3"):
        layout_with(whole, (0,), 4)
