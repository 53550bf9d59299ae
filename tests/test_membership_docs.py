"""docs/membership.md: its configs are right, and its commands do what it says, in its order."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from paxmux.engine.address import pack_node_id
from paxmux.engine.errors import (
    Code,
    GroupsFailed,
    LastMember,
    MemberExists,
    MemberMissing,
    MemberNotHeard,
    MembershipChanged,
    MembershipUnchanged,
    NotAMember,
    NotFounded,
    OtherCluster,
    Timeout,
)
from paxmux.engine.paxos.system import MEMBERS_MAX
from tests.command import Command, run_command
from tests.event_loop import DEADLINE_S
from tests.source_tree import ROOT

PAGE = (ROOT / "docs" / "membership.md").read_text(encoding="utf-8")
PORTS = [12101, 12102, 12103, 12104]
ERRORS = (
    NotFounded, MemberExists, MemberMissing, MembershipUnchanged, OtherCluster, MembershipChanged, NotAMember,
    Timeout, MemberNotHeard, LastMember, GroupsFailed,
)  # fmt: skip
pytestmark = pytest.mark.xdist_group("cluster")


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


class Story:
    """The page as it is read, on free ports."""

    def __init__(self, folder: Path, ports: list[int], stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.ports = dict(zip(PORTS, ports, strict=True))
        self.nodes: dict[str, Command] = {}
        for name, text in re.findall(r"<!-- (node\d\.yaml) -->\n```yaml\n(.*?)```", PAGE, re.DOTALL):
            (folder / name).write_text(self.here(text), encoding="utf-8")

    def here(self, text: str) -> str:
        """With this machine's ports, and the ids that go with them."""
        for port, free in self.ports.items():
            text = text.replace(str(pack_node_id("127.0.0.1", port)), str(pack_node_id("127.0.0.1", free)))
            text = text.replace(str(port), str(free))
        return text

    def do(self, words: list[str]) -> str:
        """One line of the page."""
        match words:
            case ["paxmux", "serve", config]:
                node = self.nodes[config] = self.stack.enter_context(
                    Command("serve", config, folder=self.folder)
                )
                line = node.line()
                assert (line or "").startswith("serving "), (line, node.errors())
            case ["kill", config]:
                self.nodes[config].kill()
            case ["remove", directory]:
                shutil.rmtree(self.folder / directory)
            case ["paxmux", "member", *rest]:
                return self.member(*rest)
            case _:
                pytest.fail(f"the page has a line that is not known here: {words}")
        return ""

    def member(self, *words: str) -> str:
        """A command that succeeds, but not before whom it is about has said hello, which takes a moment."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            done = run_command("member", *map(self.here, words), folder=self.folder)
            if done.returncode == 0 or "has not said hello" not in done.stderr:
                break
            assert time.monotonic() < deadline, done.stderr
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def members(self, config: str) -> list[list[tuple[str, str]]]:
        """Of each group, (seat, address) of its members."""
        said = orjson.loads(self.member("list", config, "--json"))
        rows = said["groups"]
        assert [row["group"] for row in rows] == list(range(said["count"])) == [0, 1, 2, 3]
        return [[(each["seat"], each["address"]) for each in row["members"]] for row in rows]

    def addresses(self, *ports: int) -> list[str]:
        return sorted(f"127.0.0.1:{self.ports[port]}" for port in ports)


def test_the_commands_do_what_the_page_says(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> None:
    with ExitStack() as stack:
        story = Story(tmp_path, free_ports(4), stack)
        seats: list[str] = []
        for words in commands():
            if words[2:3] == ["change"] and words[4] == words[5]:
                seats = [seat for seat, _ in story.members("node1.yaml")[0]]
            said = story.do(words)
            if words[2:3] != ["add"] and words[2:3] != ["change"] and words[2:3] != ["remove"]:
                continue
            assert " in 4 groups" in said, (words, said)
            now = story.members("node1.yaml")
            assert now[1:] == now[:1] * 3, words
            found = sorted(address for _, address in now[0])
            match words[2:]:
                case ["add", _, address]:
                    assert story.here(address) in found
                case ["change", _, old, new] if old == new:
                    assert len(set(seats) - {seat for seat, _ in now[0]}) == 1, "it has another seat"
                case ["change", _, old, new]:
                    assert story.here(new).rpartition("@")[2] in found
                    assert story.here(old) not in found
                case ["remove", _, gone]:
                    assert story.here(gone) not in found
            again = story.do(words)
            assert " in 0 groups, as before in 4" in again, "the same once more"
        assert [address for _, address in story.members("node1.yaml")[0]] == story.addresses(12101)
        last = run_command("member", "remove", "node1.yaml", *story.addresses(12101), folder=tmp_path)
        assert (last.returncode, "last member" in last.stderr) == (1, True)


def test_the_table_of_codes_is_that_of_the_errors() -> None:
    rows = re.findall(r"^\| (-?\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [(str(int(error.code)), error.__name__) for error in ERRORS]
    assert {int(code) for code, _ in rows} <= set(map(int, Code))
    assert f"at most {MEMBERS_MAX} members" in PAGE
