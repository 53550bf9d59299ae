"""Which options make sense together.

Decides everything about options that needs more than one of them, or more than a type and bounds.
Types are right before this is asked. Never looks at the machine, a file or the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from paxmux.engine.address import Member, is_loopback, parse_member
from paxmux.engine.errors import ConfigError
from paxmux.engine.groups import parse_groups, parse_groups_or_none
from paxmux.engine.layout_rules import layout_problems
from paxmux.engine.options import MachineOptions, Options
from paxmux.engine.plugin import split_path
from paxmux.engine.problem import Path, Problem

MAX_MEMBERS = 64
SEGMENTS_LEAST = 6
"""Segments that a log may have beside twice what lives in it: three that wait to be cleaned, the one that
is written, the next one, and one for what is moved."""

NOT_ABOVE: tuple[tuple[Path, Path], ...] = (
    (("network", "reconnect_first_ms"), ("network", "reconnect_max_ms")),
    (("timers", "resend_first_ms"), ("timers", "phase_max_ms")),
    (("timers", "prepare_first_ms"), ("timers", "phase_max_ms")),
    (("timers", "accept_first_ms"), ("timers", "phase_max_ms")),
    (("timers", "backoff_min_ms"), ("timers", "backoff_max_ms")),
    (("proposals", "forward_ms"), ("timers", "phase_max_ms")),
    (("limits", "max_value_bytes"), ("limits", "max_pending_bytes")),
    (("limits", "max_value_bytes"), ("limits", "ring_backlog_bytes")),
    (("limits", "max_value_bytes"), ("network", "queue_max_bytes")),
    (("limits", "batch_max_bytes"), ("limits", "ring_backlog_bytes")),
    (("limits", "batch_max_bytes"), ("network", "queue_max_bytes")),
    (("worker", "restart_first_ms"), ("worker", "restart_max_ms")),
)
"""Pairs of options of which the first must not be larger than the second."""

_IDENTIFIER = re.compile(r"[^\W\d]\w*")


def rule_problems(options: Options) -> Iterator[Problem]:
    """Everything wrong with options whose types and bounds are right."""
    yield from _member_problems(options)
    yield from _secret_problems(options)
    yield from _file_path_problems(("data_dir",), options.data_dir, "the path of a directory")
    yield from _path_problems(("network", "plugin"), options.network.plugin)
    yield from _path_problems(("storage", "plugin"), options.storage.plugin)
    yield from layout_problems(options.layout, options.groups)
    for position, machine in enumerate(options.state_machines):
        yield from _machine_problems(("state_machines", position), machine, options.groups)
    try:
        parse_groups_or_none(options.master.groups, options.groups)
    except ConfigError as error:
        yield Problem(("master", "groups"), str(error))
    for low, high in NOT_ABOVE:
        least, most = _value(options, low), _value(options, high)
        if least > most:
            yield Problem(low, f"expected at most {'.'.join(map(str, high))} ({most}), got {least}")
    if options.proposals.attempts and options.proposals.forward:
        yield Problem(
            ("proposals", "attempts"),
            f"expected 0 while `proposals.forward` is on (who forwards cannot count attempts), "
            f"got {options.proposals.attempts}",
        )
    storage = options.storage
    least = SEGMENTS_LEAST * storage.segment_bytes + 2 * storage.keep_bytes
    if storage.max_bytes and storage.max_bytes < least:
        yield Problem(
            ("storage", "max_bytes"),
            f"expected 0, or at least {SEGMENTS_LEAST} times storage.segment_bytes and twice "
            f"storage.keep_bytes ({least}), got {storage.max_bytes}",
        )
    ring_bytes = options.limits.ring_bytes
    if ring_bytes & (ring_bytes - 1):
        yield Problem(
            ("limits", "ring_bytes"),
            f"expected a power of two (such as {1 << ring_bytes.bit_length()}), got {ring_bytes}",
        )


def _value(options: Options, path: Path) -> int:
    section, name = path
    value = getattr(getattr(options, str(section)), str(name))
    assert isinstance(value, int)
    return value


def _member_problems(options: Options) -> Iterator[Problem]:
    own = None
    try:
        own = parse_member(options.node, options.node_id)
    except ConfigError as error:
        yield Problem(("node",), str(error))
    if not 1 <= len(options.members) <= MAX_MEMBERS:
        yield Problem(
            ("members",), f"expected 1 .. {MAX_MEMBERS} addresses, got {len(options.members)} of them"
        )
    members: list[Member] = []
    readable = True
    for position, text in enumerate(options.members):
        path = ("members", position)
        try:
            member = parse_member(text)
        except ConfigError as error:
            readable = False
            yield Problem(path, str(error))
            continue
        for other in members:
            if (other.host, other.port) == (member.host, member.port):
                yield Problem(path, f"expected each address and port once, got {member.address} twice")
                break
            if other.node_id == member.node_id:
                yield Problem(path, f"expected each node id once, got {member.node_id} twice")
                break
        members.append(member)
    if own is not None and readable and members and own not in members:
        named = any(
            member.node_id == own.node_id or (member.host, member.port) == (own.host, own.port)
            for member in members
        )
        if options.founds or named:
            yield Problem(("members",), _own_missing(own, members))
    if (
        own is not None
        and readable
        and not options.founds
        and {member.node_id for member in members} == {own.node_id}
    ):
        yield Problem(
            ("members",), f"expected other members to learn from, got this node ({own.address}) alone"
        )
    yield from _follow_problems(options)


def _follow_problems(options: Options) -> Iterator[Problem]:
    if options.follow and not options.follower:
        yield Problem(("follow",), "expected nothing where `follower` is off")
    for position, text in enumerate(options.follow):
        if text not in options.members:
            listed = ", ".join(options.members)
            yield Problem(("follow", position), f"expected one of the members ({listed}), got {text!r}")


def _own_missing(own: Member, members: list[Member]) -> str:
    for member in members:
        if (member.host, member.port) == (own.host, own.port):
            return (
                f"expected this node ({own.address}) with its id {own.node_id}, got it with id "
                f"{member.node_id}: `node_id` and `id@host:port` must agree"
            )
        if member.node_id == own.node_id:
            return f"expected this node (id {own.node_id}) at {own.address}, got it at {member.address}"
    listed = ", ".join(member.address for member in members)
    return f"expected this node ({own.address}) among the members, got {listed}"


def _secret_problems(options: Options) -> Iterator[Problem]:
    network = options.network
    if network.secret_file is not None:
        yield from _file_path_problems(("network", "secret_file"), network.secret_file, "the path of a file")
        if network.insecure:
            yield Problem(
                ("network", "insecure"), "expected false, or no `network.secret_file`, got true with one"
            )
        return
    if network.insecure:
        return
    for path, text in ((("node",), options.node), *_named_members(options.members)):
        try:
            member = parse_member(text, options.node_id if path == ("node",) else None)
        except ConfigError:
            continue  # it has a problem of its own
        if not is_loopback(member.host):
            yield Problem(
                path,
                f"expected a loopback address, or a secret of the cluster, got {member.address} and none: "
                "whoever reaches the port could take part in the cluster. Make one "
                "(`paxmux secret new FILE`), copy it to every member and set `network.secret_file`; or, if "
                "nobody else can reach these addresses, set `network.insecure: true`",
            )
            return


def _named_members(members: list[str]) -> list[tuple[Path, str]]:
    return [(("members", position), text) for position, text in enumerate(members)]


def _file_path_problems(key: Path, text: str, what: str) -> Iterator[Problem]:
    if not text.strip() or "\0" in text:
        yield Problem(key, f"expected {what}, got {text!r}")
    elif text.startswith("~"):
        yield Problem(key, f"expected a path without `~` (it is not expanded), got {text!r}")


def _path_problems(path: Path, text: str) -> Iterator[Problem]:
    try:
        split_path(text)
    except ConfigError as error:
        yield Problem(path, str(error))


def _machine_problems(path: Path, machine: MachineOptions, group_count: int) -> Iterator[Problem]:
    yield from _path_problems((*path, "class"), machine.class_)
    try:
        parse_groups(machine.groups, group_count)
    except ConfigError as error:
        yield Problem((*path, "groups"), str(error))
    for name in machine.args:
        if name == "group" or not _IDENTIFIER.fullmatch(name):
            yield Problem(
                (*path, "args", name),
                f"expected names of constructor arguments besides `group`, got {name!r}",
            )
