"""The commands of scenario files: what each does to the world, and what it prints.

A command that has no effect (nothing to deliver, nobody to stop) is an error: a scenario that shows
nothing must not pass. `tests/scenarios/README.md` lists the commands for readers.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from paxmux.engine.frame import FrameKind, pack_frame
from paxmux.engine.options import LimitOptions, ProposalOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.master import LeaseTerms
from paxmux.engine.paxos.timers import MS
from paxmux.shards.codec import encode_section
from paxmux.shards.requests import CallKind
from tests.scenario_words import KIND_OF, Message, ballot, batch_of, record_text, value_text
from tests.scenario_world import CLUSTER, START_NS, Event, Node, Packet, PowerCut, ScenarioError, World

DRIFT_PPM = 10_000
QUIET = frozenset({"executes", "answers", "stops", "fences", "is down"})
"""What is still printed when a command is `quiet`."""


class Words(NamedTuple):
    """A command line, taken apart."""

    args: list[str]
    options: dict[str, str]
    flags: set[str]

    def number(self, name: str, default: int) -> int:
        return int(self.options.get(name, default))


class Commands:
    """Carries out command lines, one world at a time."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._shown_at = START_NS
        self._table: dict[str, tuple[Callable[[Words], list[str]], str, str]] = {
            "cluster": (self._cluster, "nodes learners groups forward attempts notice batch range lease", ""),
            "propose": (self._propose, "group timeout", "queued quiet"),
            "read": (self._read, "group timeout", "local queued quiet"),
            "turn": (self._turn, "", "quiet"),
            "step": (self._phase(Node.step), "", ""),
            "send-now": (self._phase(Node.send_now), "", ""),
            "persist": (self._phase(Node.persist), "", ""),
            "finish": (self._phase(Node.finish), "", ""),
            "deliver": (self._deliver, "kind instance", "queued quiet twice"),
            "drop": (self._drop, "kind instance", ""),
            "settle": (self._settle, "", "quiet"),
            "tick": (self._tick, "", "quiet"),
            "run": (self._run, "", "quiet"),
            "crash": (self._crash, "", "lose-unsynced in-sync"),
            "restart": (self._restart, "", "without-data quiet"),
            "stop": (self._stop, "", ""),
            "cut": (self._cut, "", ""),
            "heal": (self._heal, "", ""),
            "disk": (self._disk, "", ""),
            "forge": (
                self._forge,
                "kind instance round rejected_by accepted value seat group ballot_of history",
                "",
            ),
            "wire": (self._wire, "", ""),
            "members": (self._members, "group timeout", "queued quiet"),
            "give-back": (self._give_back, "group", "quiet"),
            "log": (self._log, "group", ""),
            "state": (self._state, "", ""),
        }

    def names(self) -> list[str]:
        """Every command there is."""
        return list(self._table)

    @property
    def world(self) -> World:
        if self._world is None:
            raise ScenarioError("a scenario begins with `cluster`")
        return self._world

    def run(self, line: str) -> list[str]:
        """Carry out one command line; returns what it prints."""
        name, *rest = shlex.split(line)
        if name not in self._table:
            raise ScenarioError(f"no command {name!r}; there are {', '.join(sorted(self._table))}")
        action, options, flags = self._table[name]
        words = Words([], {}, set())
        for token in rest:
            key, equals, text = token.partition("=")
            if equals and key in options.split():
                words.options[key] = text
            elif token in flags.split():
                words.flags.add(token)
            else:
                words.args.append(token)
        printed = action(words)
        events = self._world.take_events() if self._world is not None else []
        return printed + list(self._told(events, quiet="quiet" in words.flags))

    def _told(self, events: list[Event], *, quiet: bool) -> Iterator[str]:
        """Events as lines: a heading where the node changes, the time where it moved."""
        node, fresh = 0, False
        for event in events:
            if quiet:
                if event.verb in QUIET:
                    yield f"{event.node} {event.verb} {event.text}"
                continue
            if event.at != self._shown_at:
                self._shown_at = event.at
                yield f"@ {(event.at - START_NS) / MS:.1f} ms".replace(".0 ms", " ms")
                node = 0
            if not event.node:
                yield f"{event.verb} {event.text}"
                node = 0
                continue
            if event.node != node or (event.verb == "receives" and not fresh):
                yield f"> {event.node}"
            node = event.node
            fresh = event.verb == "receives"
            yield f"  {event.verb:<8} {event.text}".rstrip()

    # Who is meant

    def _node(self, words: Words, place: int = 0, *, up: bool = True) -> Node:
        if len(words.args) <= place:
            raise ScenarioError("which node?")
        number = int(words.args[place])
        if number not in self.world.nodes:
            raise ScenarioError(f"no node {number}")
        node = self.world.nodes[number]
        if node.up != up:
            raise ScenarioError(f"node {number} is {'down' if up else 'up'}")
        return node

    def _nodes(self, words: Words) -> list[Node]:
        if words.args:
            return [self._node(words, place) for place in range(len(words.args))]
        return [node for node in self.world.nodes.values() if node.up]

    def _links(self, words: Words) -> list[tuple[int, int]]:
        """`1->2,3`, `*->1`, `1<->2`, `all`; several of them."""
        links: list[tuple[int, int]] = []
        for text in words.args:
            left, arrow, right = ("*", "->", "*") if text == "all" else text.partition("->")
            if not arrow:
                raise ScenarioError(f"expected links like 1->2,3 or *->1 or all, got {text!r}")
            both = left.endswith("<")
            pairs = [(a, b) for a in self._side(left.rstrip("<")) for b in self._side(right) if a != b]
            links += pairs + [(b, a) for a, b in pairs if both]
        if not links:
            raise ScenarioError("which links?")
        return links

    def _side(self, text: str) -> list[int]:
        return list(self.world.nodes) if text == "*" else [int(number) for number in text.split(",")]

    def _taken(self, words: Words) -> list[Packet]:
        kind = words.options.get("kind")
        if kind is not None and kind not in KIND_OF:
            raise ScenarioError(f"no kind {kind!r} of message; there are {', '.join(KIND_OF)}")
        instance = words.options.get("instance")
        packets = self.world.on_wire(
            self._links(words),
            None if kind is None else KIND_OF[kind],
            None if instance is None else int(instance),
        )
        if not packets:
            raise ScenarioError("nothing like that is on the wire")
        return packets

    # Commands

    def _cluster(self, words: Words) -> list[str]:
        limits = LimitOptions(
            batch_max_count=words.number("batch", 512), catch_up_max_bytes=words.number("range", 1 << 20)
        )
        world = World(
            words.number("nodes", 3),
            words.number("groups", 1),
            TimerOptions(notice_ms=words.number("notice", 2)),
            ProposalOptions(
                forward=words.options.get("forward", "on") == "on", attempts=words.number("attempts", 0)
            ),
            limits,
            words.number("learners", 0),
            LeaseTerms("lease" in words.options, words.number("lease", 0) * MS, DRIFT_PPM),
        )
        self._world, self._shown_at = world, START_NS
        for node in world.nodes.values():
            node.start()
        # At the start each node tells all others that it stands at instance 0, which is nothing new.
        while world.deliver_round():
            pass
        for node in world.nodes.values():
            node.run()
        while world.deliver_round():
            pass
        world.take_events()
        count = len(world.seats)
        plural = "nodes" if count > 1 else "node"
        return [f"{count} {plural} up, a majority is {count // 2 + 1}"]

    def _propose(self, words: Words) -> list[str]:
        node = self._node(words)
        if len(words.args) < 2:
            raise ScenarioError("propose what?")
        for payload in words.args[1:]:
            first, dots, last = payload.partition("..")
            # `v1..v600`: so many values.
            names = (
                [f"{first[0]}{n}" for n in range(int(first[1:]), int(last[1:]) + 1)] if dots else [payload]
            )
            for name in names:
                node.propose(name.encode(), words.number("group", 0), words.number("timeout", 60_000))
        return self._unless_queued(node, words)

    def _read(self, words: Words) -> list[str]:
        node = self._node(words)
        if len(words.args) != 2:
            raise ScenarioError("read which key?")
        kind = CallKind.QUERY if "local" in words.flags else CallKind.LINEARIZABLE_QUERY
        node.read(kind, words.args[1], words.number("group", 0), words.number("timeout", 60_000))
        return self._unless_queued(node, words)

    def _members(self, words: Words) -> list[str]:
        node = self._node(words)
        if len(words.args) != 2:
            raise ScenarioError("members as in 1,2,3?")
        node.change_members(
            list(map(int, words.args[1].split(","))),
            words.number("group", 0),
            words.number("timeout", 60_000),
        )
        return self._unless_queued(node, words)

    def _give_back(self, words: Words) -> list[str]:
        node = self._node(words)
        heir = int(words.args[1]) if len(words.args) > 1 else 0
        group = node.turn.groups[words.number("group", 0)]
        if not group.master.drop(self.world.now, node.turn.fx, heir):
            raise ScenarioError(f"node {node.number} is not the master")
        node.run()
        return []

    def _unless_queued(self, node: Node, words: Words) -> list[str]:
        if "queued" not in words.flags:
            node.run()
        return []

    def _turn(self, words: Words) -> list[str]:
        self._node(words).run()
        return []

    def _phase(self, phase: Callable[[Node], None]) -> Callable[[Words], list[str]]:
        def act(words: Words) -> list[str]:
            phase(self._node(words))
            return []

        return act

    def _deliver(self, words: Words) -> list[str]:
        packets = self._taken(words)
        if "twice" in words.flags:
            packets = [copy for packet in packets for copy in (packet, packet)]
        for node in self.world.arrive(packets):
            if "queued" not in words.flags:
                node.run()
        return []

    def _drop(self, words: Words) -> list[str]:
        self.world.drop(self._taken(words))
        return []

    def _settle(self, words: Words) -> list[str]:
        self.world.settle()
        return []

    def _tick(self, words: Words) -> list[str]:
        self.world.advance(self.world.now + int(words.args[0]) * MS)
        return []

    def _run(self, words: Words) -> list[str]:
        self.world.advance(self.world.now + int(words.args[0]) * MS, deliver=True)
        return []

    def _crash(self, words: Words) -> list[str]:
        node = self._node(words)
        if "in-sync" in words.flags:
            node.log.power_fails = True
            with suppress(PowerCut):
                node.persist()
        if words.flags:
            lost = [record for batch in node.disk.batches[node.disk.synced :] for record in batch]
            node.log.crash()
        else:
            lost = []
            node.log.close(clean=False)
        node.go_down()
        for record in lost:
            node.note("forgets", record_text(record))
        node.note("is down", "")
        return []

    def _restart(self, words: Words) -> list[str]:
        node = self._node(words, up=False)
        if "without-data" in words.flags:
            node.lose_data()
        node.start()
        node.run()
        return []

    def _stop(self, words: Words) -> list[str]:
        node = self._node(words)
        node.close()
        node.note("is down", "")
        return []

    def _cut(self, words: Words) -> list[str]:
        self.world.cut.update(self._links(words))
        return []

    def _heal(self, words: Words) -> list[str]:
        links = self._links(words)
        if not self.world.cut.intersection(links):
            raise ScenarioError("nothing to heal there")
        self.world.cut.difference_update(links)
        return []

    def _disk(self, words: Words) -> list[str]:
        if words.args[1] == "rewrites":
            self._node(words, up=False).rewrite(int(words.args[2].removeprefix("i")), words.args[3].encode())
            return []
        node = self._node(words)
        match words.args[1:]:
            case ["full"]:
                node.log.trouble = "no room for the next segment"
            case ["roomy"]:
                node.log.trouble = None
            case ["fails"]:
                node.log.fail("the write failed")
            case _:
                raise ScenarioError("a disk is full, roomy, fails or rewrites")
        return []

    def _forge(self, words: Words) -> list[str]:
        """A message that no honest node sends now, put on the wire under the name of one."""
        (src, dst), *more = self._links(words)
        if more:
            raise ScenarioError("forge one message at a time")
        kind = KIND_OF[words.options["kind"]]
        group, instance, round = (words.number(name, 0) for name in ("group", "instance", "round"))
        accepted = self._ballot(words, "accepted")
        rejected_by = self._ballot(words, "rejected_by")
        chain = self._chain(words, dst, group)
        value = self._forged_value(words, src, chain)
        told = rejected_by if rejected_by[0] else accepted
        messages: dict[str, Message] = {
            "learned": (group, instance, round, words.number("ballot_of", src), value),
            "chosen": (group, instance, round),
            "prepares": (group, instance, round),
            "prepare_replies": (group, instance, round, rejected_by[0], *told, value),
            "accepts": (group, instance, round, value),
            "accept_replies": (group, instance, round, *rejected_by),
            "positions": (group, instance, int.from_bytes(chain, "little")),
            "asks": (group, instance),
            "chain_replies": (group, instance, int.from_bytes(chain, "little")),
        }
        body = encode_section(batch_of([(kind, messages[kind])]))
        frame = pack_frame(
            FrameKind.PAXOS, body, cluster=CLUSTER, sender=src, seat=words.number("seat", 10 + src),
            incarnation=1, dest=dst, groups=1 << group,
        )  # fmt: skip
        self.world.wire.append(Packet(frame))
        return []

    def _ballot(self, words: Words, name: str) -> tuple[int, int]:
        round, node = map(int, words.options.get(name, "0,0").split(","))
        return round, node

    def _chain(self, words: Words, dst: int, group: int) -> values.Chain:
        """What the receiver expects, unless the message shall come from another history."""
        if "history" in words.options:
            return words.options["history"].encode()[:4].ljust(4, b"-")
        return self.world.nodes[dst].turn.groups[group].chain

    def _forged_value(self, words: Words, src: int, chain: values.Chain) -> bytes:
        payload = words.options.get("value")
        return b"" if payload is None else values.encode([(src, 1, 1, 0, 1, payload.encode())], chain)

    # Looking

    def _wire(self, words: Words) -> list[str]:
        texts = [f"{p.src}->{p.dst} {text}" for p in self.world.wire for text in p.texts()]
        return texts or ["nothing is on its way"]

    def _log(self, words: Words) -> list[str]:
        node = self.world.nodes[int(words.args[0])]
        lines = [
            record_text(record) + ("" if number < node.disk.synced else " (not synced)")
            for number, batch in enumerate(node.disk.batches)
            for record in batch
        ]
        return lines or ["nothing is written"]

    def _state(self, words: Words) -> list[str]:
        lines = []
        for node in self._nodes(words):
            for g, group in node.turn.groups.items():
                it, proposer = group.acceptor, group.proposer
                parts = [f"{node.number}: g{g} i{group.instance}", f"promised {ballot(*it.promised)}"]
                if it.accepted[0]:
                    parts.append(f"accepted {ballot(*it.accepted)} {value_text(it.value)}")
                if proposer.phase:
                    parts.append(f"{proposer.phase.name.lower()} {ballot(proposer.round, node.number)}")
                elif proposer.held:
                    parts.append(f"holds {ballot(proposer.round, node.number)}")
                if group.members.since:
                    parts.append(f"members {' '.join(map(str, sorted(group.members.seats)))}")
                master = group.master
                if master.believed(self.world.now):
                    left = (master.until - self.world.now) // MS
                    whose = "master" if master.holds(self.world.now) else f"lease of {master.node}"
                    parts.append(f"{whose}, term i{master.term}, {left} ms left")
                if group.own:
                    parts.append(f"{len(group.own)} waiting")
                if group.inquiry.fenced is not None:
                    parts.append("fenced")
                elif not group.voter:
                    parts.append("only learns")
                lines.append(", ".join(parts))
        return lines
