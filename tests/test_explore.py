"""Tiny clusters explored to the end: nothing that must not happen can, and the explorer would see it."""

from __future__ import annotations

import ast
import inspect
import random
import re
import textwrap
from typing import Any, NamedTuple

import pytest

from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.forwarder import Forwarder
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.messages import KINDS
from paxmux.engine.paxos.proposer import Proposer
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.reader import Reader
from paxmux.engine.storage import Record
from tests.explorer import Explorer
from tests.explorer_node import HANDLERS, Bounds, Breach, Disk, Steps, frozen, twin
from tests.explorer_worlds import STATES_MAX, WORLDS
from tests.source_tree import ROOT
from tests.storage_model import ACCEPT, LEARNED, PROMISE, hard_states, values

QUICK = [name for name, world in WORLDS.items() if not world.large]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.plain("it copies a group by its slots")
def test_nothing_forbidden_can_happen(name: str) -> None:
    world = WORLDS[name]
    found = Explorer(world.bounds).explore(STATES_MAX)
    assert found.complete, "the world is larger than it may be"
    assert found.decided == world.decided
    assert found.states > 5_000, "a world in which nearly nothing can happen shows nothing"
    assert bool(found.reads) == any(world.bounds.reads)


class Mistake(NamedTuple):
    """A deliberate one: in which function, which text becomes which, and a world that shows it."""

    name: str
    owner: Any
    function: str
    old: str
    new: str
    bounds: Bounds


DUEL = WORLDS["duel"].bounds
VOTER_CRASH = WORLDS["duel-and-voter-crash"].bounds
READ = WORLDS["read"].bounds
FORWARD = Bounds(proposals=(1, 1, 0), completers=(), forward=True)

MISTAKES = (
    Mistake(
        "the promise to another ends with its instance",
        Group,
        "decide",
        "self.acceptor.advance()",
        "self.acceptor.advance(); "
        "self.acceptor.promised = self.acceptor.promised if self.acceptor.promised[1] == self.me else (0, 0)",
        WORLDS["duel-over-a-held-ballot"].bounds,
    ),
    Mistake("accepts below its promise", Acceptor, "accept", "if ballot < self.promised:", "if False:", DUEL),
    Mistake(
        "what others accepted is ignored", Proposer, "_promised", "if self.best != NULL:", "if False:", DUEL
    ),
    Mistake("half is a majority", Members, "__init__", "// 2 + 1", "// 2 or 1", DUEL),
    Mistake(
        "votes of another instance count",
        Proposer,
        "on_accept_reply",
        "and instance == self.g.instance",
        "",
        WORLDS["duel-over-a-held-ballot"].bounds,
    ),
    Mistake(
        "a round is used again after a restart",
        Proposer,
        "_prepare",
        "max(self.round, self.seen[0], g.acceptor.promised[0]) + 1",
        "self.round + 1",
        Bounds(proposals=(2, 0, 0), completers=(), crashes=1),
    ),
    Mistake(
        "Prepare is answered for any instance",
        Group,
        "on_prepare",
        "if instance != self.instance:",
        "if False:",
        DUEL,
    ),
    Mistake(
        "Accept is answered for any instance",
        Group,
        "on_accept",
        "if instance != self.instance:",
        "if False:",
        DUEL,
    ),
    Mistake(
        "promises leave before their sync", Group, "on_prepare", "fx.after.peer", "fx.now.peer", VOTER_CRASH
    ),
    Mistake("votes leave before their sync", Group, "on_accept", "fx.after.peer", "fx.now.peer", VOTER_CRASH),
    Mistake(
        "a notice counts for any ballot",
        Group,
        "on_chosen",
        "and self.acceptor.accepted == (round, sender)",
        "and self.acceptor.value",
        DUEL,
    ),
    Mistake(
        "own proposals are proposed for ever",
        Group,
        "decide",
        "self.own.pop(entry[2], None)",
        "self.own.get(entry[2])",
        DUEL,
    ),
    Mistake(
        "what is decided is taken again",
        Forwarder,
        "on_forward",
        "if mark is None or mark[0] != incarnation or seq > mark[1]:",
        "if True:",
        FORWARD,
    ),
    Mistake(
        "what was taken stays when it is decided",
        Forwarder,
        "_note",
        "if origin in self.taken:",
        "if False:",
        FORWARD,
    ),
    Mistake(
        "top leaves out what is accepted",
        Group,
        "top",
        "self.instance if self.acceptor.accepted != NULL else self.instance - 1",
        "self.instance - 1",
        READ,
    ),
    Mistake(
        "a read does not wait for its instance", Reader, "on_decided", "target >= g.instance", "False", READ
    ),
    Mistake(
        # A true one: found by the simulator, and not here while each life had an incarnation of its own.
        "rounds of reads are numbered alike in each life",
        Reader,
        "__init__",
        "group.rng.getrandbits(64)",
        "group.incarnation",
        WORLDS["reads-in-two-lives"].bounds,
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "_"))
@pytest.mark.plain("it copies a group by its slots, and changes the code of functions")
def test_a_mistake_is_found(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    original = inspect.getattr_static(mistake.owner, mistake.function)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(mistake.old) == 1
    made: dict[str, Any] = {}
    exec(compile(source.replace(mistake.old, mistake.new), mistake.name, "exec"), original.__globals__, made)
    monkeypatch.setattr(mistake.owner, mistake.function, made[mistake.function])
    with pytest.raises(Breach, match="after\n  node"):
        Explorer(mistake.bounds).explore(3_000_000)


def test_every_kind_of_message_arrives() -> None:
    assert set(HANDLERS) == set(KINDS)


def test_a_disk_remembers_what_the_contract_of_logs_says() -> None:
    rng = random.Random(1)
    for _ in range(300):
        records: list[Record] = []
        disk, at, best = Disk(), 0, 0
        for _ in range(rng.randrange(1, 12)):
            kind = rng.choice((PROMISE, ACCEPT, ACCEPT, LEARNED))
            best += rng.randrange(2)
            value = b"" if kind == PROMISE else rng.randbytes(2)
            record = (kind, 0, at, 1 + best, 1 + rng.randrange(3), value)
            # Decided, and on to the next, as a node does it: with a value for each instance.
            at += kind != PROMISE and rng.random() < 0.7
            records.append(record)
            disk = disk.after([record])
        assert disk.state == hard_states(records)[0]
        assert {(0, number): it for number, it in enumerate(disk.values)} == values(records)


@pytest.mark.plain("it copies a group by its slots")
def test_a_copy_shares_nothing_that_changes_and_equals_what_it_was_made_of() -> None:
    steps = Steps(FORWARD)
    node = steps.newborn(1)
    (outcome,) = steps.choose(node, "propose")
    done: dict[int, Any] = {}
    group, fx = twin(outcome.node.group, done), twin(outcome.node.fx, done)
    assert frozen(group, group) == frozen(outcome.node.group, outcome.node.group)
    assert group.proposer.g is group.learner.g is group
    assert fx is not outcome.node.fx
    before = outcome.node.key()
    group.proposer.votes.add(3)
    group.own.clear()
    group.propose(9, 1 << 62, 1, b"x", None, Effects())
    assert outcome.node.key() == before != outcome.node._replace(group=group).key()


def test_what_is_not_understood_is_never_left_out() -> None:
    class Other:
        """Something that a group may have one day."""

    node = Steps(DUEL).newborn(1)
    with pytest.raises(TypeError, match="Other"):
        frozen([Other()], node.group)


SPECIFICATION = ROOT / "docs" / "specification.md"


def test_the_specification_names_every_world() -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z-]+)`: (.+?) \| ([\d,]+) \| [\d,]+ \| (\d+) \| (.*?)\|$", text, re.MULTILINE
    )
    assert [(name, what) for name, what, *_ in rows] == [(name, world.what) for name, world in WORLDS.items()]
    assert [int(decided) for *_, decided, _ in rows] == [world.decided for world in WORLDS.values()]
    assert [bool(mark.strip()) for *_, mark in rows] == [world.large for world in WORLDS.values()]


def test_the_specification_names_checkers_that_exist() -> None:
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tools" / "sim").glob("*.py"))
    checkers = set(re.findall(r'Breach\(\s*"([^"]+)"', sources))
    watched = re.findall(r"\*Watched by\* sim:(.*?)(?=Explorer:|Tests:|\n\n)", _text(), re.DOTALL)
    named = {
        " ".join(name.split())
        for part in watched
        for name in re.findall(r"`([^`]+)`", part)
        if "/" not in name
    }
    assert len(named) > 30
    assert named <= checkers, named - checkers


def test_the_specification_names_code_that_exists() -> None:
    files = [ROOT / "engine" / "paxos", ROOT / "shards"]
    classes = {
        node.name: ast.dump(node)
        for folder in files
        for file in folder.glob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    named = set(re.findall(r"`([A-Z][a-z]+)\.([a-z_]+)`", _text()))
    assert len(named) > 40
    missing = [f"{cls}.{name}" for cls, name in sorted(named) if f"'{name}'" not in classes.get(cls, "")]
    assert not missing


def _text() -> str:
    return SPECIFICATION.read_text(encoding="utf-8")
