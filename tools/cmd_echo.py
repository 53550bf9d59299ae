"""`paxmux echo MYIP:PORT IP:PORT,IP:PORT,IP:PORT`: PhxPaxos's first sample, with its messages.

One group, one state machine; each line typed here is proposed and, once it is decided and executed,
echoed. Every node prints what its state machine executes, so the sequence can be compared by eye.
"""

from __future__ import annotations

import argparse
import sys

from paxmux.engine.address import Member, parse_member
from paxmux.engine.errors import ConfigError, ExitCode, PaxmuxError
from paxmux.engine.options import LayoutOptions, MachineOptions, Options
from paxmux.shards.node import Node
from paxmux.tools import event_loop
from paxmux.tools.arguments import seconds
from paxmux.tools.stdin_lines import StdinLines

ECHO = "paxmux.plugins.machines.echo:Echo"
SMID = 1
TIMEOUT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux echo`."""
    parser.add_argument("me", metavar="MYIP:PORT", help="this node")
    parser.add_argument("members", metavar="IP:PORT,...", help="all nodes, this one included")
    parser.add_argument(
        "--timeout-s",
        type=seconds(0.001, 86_400),
        default=TIMEOUT_S,
        metavar="S",
        help="how long a line waits for its outcome (default: %(default)g); then it is 404, unknown",
    )
    parser.epilog = (
        "The log is kept in ./logpath_IP_PORT, which is made at the first start. The first start waits "
        "until all nodes have been there once; from then on a majority is enough. The end of the input, "
        "or Ctrl-C, ends the node."
    )


def run(args: argparse.Namespace) -> int:
    """Run the node until the input ends."""
    try:
        me = parse_member(args.me)
    except ConfigError as error:
        print("parse myip:myport fail", flush=True)
        print(f"paxmux echo: {error}", file=sys.stderr)
        return ExitCode.USAGE
    try:
        members = [parse_member(text) for text in args.members.split(",") if text]
        if not members:
            raise ConfigError(f"expected `ip:port,ip:port,...`, got {args.members!r}")
    except ConfigError as error:
        print("parse ip/port list fail", flush=True)
        print(f"paxmux echo: {error}", file=sys.stderr)
        return ExitCode.USAGE
    try:
        return event_loop.run(_echo(_options(me, members), me, args.timeout_s))
    except KeyboardInterrupt:
        print(flush=True)
        return ExitCode.OK


def _options(me: Member, members: list[Member]) -> Options:
    return Options(
        node=me.address,
        members=[member.address for member in members],
        data_dir=f"./logpath_{me.host}_{me.port}",
        bootstrap=True,
        groups=1,
        layout=LayoutOptions(workers=1),
        state_machines=[MachineOptions(class_=ECHO, args={"verbose": True})],
    )


async def _echo(options: Options, me: Member, timeout_s: float) -> int:
    try:
        node = Node(options)
        await node.start()
    except (PaxmuxError, OSError) as error:
        code = error.code if isinstance(error, PaxmuxError) else PaxmuxError.code
        print(f"run paxos fail, ret {int(code)}", flush=True)
        print(f"paxmux echo: {error}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.CANNOT_BOOT
    try:
        print("run paxos ok", flush=True)
        print(f"echo server start, ip {me.host} port {me.port}", flush=True)
        await _answer_lines(node, StdinLines(), timeout_s)
    finally:
        await node.stop()
    return ExitCode.OK


async def _answer_lines(node: Node, lines: StdinLines, timeout_s: float) -> None:
    while True:
        print("\nplease input: <echo req value>", flush=True)
        line = await lines.next()
        if line is None:
            return
        try:
            done = await node.propose(0, line, SMID, timeout_s=timeout_s)
        except PaxmuxError as error:
            print(f"paxos propose fail, ret {int(error.code)}", flush=True)
            print(f"Echo fail, ret {int(error.code)}", flush=True)
            print(f"paxmux echo: {error}", file=sys.stderr, flush=True)
        else:
            print(f"echo resp value {(done.result or b'').decode('utf-8', 'replace')}", flush=True)
