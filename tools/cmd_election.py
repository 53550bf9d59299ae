"""`paxmux election MYIP:PORT IP:PORT,IP:PORT,IP:PORT`: PhxPaxos's election sample, with its messages.

One group without a state machine, leases of three seconds. Each node says every second who is master, and at
once when that changes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from typing import Any

import orjson

from paxmux.engine.address import Member, parse_member
from paxmux.engine.errors import ConfigError, ExitCode, PaxmuxError
from paxmux.engine.options import LayoutOptions, MasterOptions, Options
from paxmux.shards.node import Node
from paxmux.tools import event_loop

GROUP = 0
LEASE_MS = 3000
SAY_EVERY_S = 1.0
NO_VERSION = 2**64 - 1
"""What the reference prints before the first master."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux election`."""
    parser.add_argument("me", metavar="MYIP:PORT", help="this node")
    parser.add_argument("members", metavar="IP:PORT,...", help="all nodes, this one included")
    parser.add_argument("--json", action="store_true", help="say it in JSON, one object a line")
    parser.epilog = (
        "The log is kept in ./logpath_IP_PORT, which is made at the first start. The first start waits until "
        "all nodes have been there once; from then on a majority is enough. SIGTERM or Ctrl-C ends the node, "
        "which gives its lease back."
    )


def run(args: argparse.Namespace) -> int:
    """Run the node until it is told to end."""
    try:
        me = parse_member(args.me)
    except ConfigError as error:
        return _wrong("parse myip:myport fail", error)
    try:
        members = [parse_member(text) for text in args.members.split(",") if text]
        if not members:
            raise ConfigError(f"expected `ip:port,ip:port,...`, got {args.members!r}")
    except ConfigError as error:
        return _wrong("parse ip/port list fail", error)
    try:
        return event_loop.run(_elect(_options(me, members), Voice(members, args.json)))
    except KeyboardInterrupt:
        return ExitCode.OK


def _wrong(words: str, error: ConfigError) -> int:
    print(words, flush=True)
    print(f"paxmux election: {error}", file=sys.stderr)
    return ExitCode.USAGE


def _options(me: Member, members: list[Member]) -> Options:
    return Options(
        node=me.address,
        members=[member.address for member in members],
        data_dir=f"./logpath_{me.host}_{me.port}",
        bootstrap=True,
        layout=LayoutOptions(workers=1),
        master=MasterOptions(groups="all", lease_ms=LEASE_MS),
    )


class Voice:
    """What is said, in the reference's words or in JSON."""

    def __init__(self, members: list[Member], as_json: bool) -> None:
        self._places = {member.node_id: member for member in members}
        self._as_json = as_json

    def say(self, words: str, event: str, **more: Any) -> None:
        """One line."""
        if self._as_json:
            words = orjson.dumps({"event": event, **more}).decode()
        print(words, flush=True)

    def master(self, node: int, version: int) -> None:
        """Who is master now."""
        ip, port = self._place(node)
        version = NO_VERSION if version < 0 else version
        self.say(
            f"master: nodeid {node} version {version} ip {ip} port {port}",
            "master",
            node=node,
            version=version,
            ip=ip,
            port=port,
        )

    def changed(self, group: int, node: int, version: int) -> None:
        """Another node is master."""
        ip, port = self._place(node)
        self.say(
            f"master change!!! groupidx {group} newmaster ip {ip} port {port} version {version}",
            "change",
            group=group,
            node=node,
            version=version,
            ip=ip,
            port=port,
        )

    def _place(self, node: int) -> tuple[str, int]:
        member = self._places.get(node)
        return ("0.0.0.0", 0) if member is None else (member.host, member.port)


async def _elect(options: Options, voice: Voice) -> int:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    node = Node(options)
    node.on_master_change(lambda group, master, version: voice.changed(group, master, version))
    try:
        await node.start()
    except (PaxmuxError, OSError) as error:
        code = int(error.code) if isinstance(error, PaxmuxError) else int(PaxmuxError.code)
        voice.say(f"run paxos fail, ret {code}", "failed", ret=code)
        print(f"paxmux election: {error}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.CANNOT_BOOT
    try:
        voice.say("run paxos ok", "started")
        while not ended.is_set():
            voice.master(*node.master_with_version(GROUP))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), SAY_EVERY_S)
    finally:
        await node.stop()
    return ExitCode.OK
