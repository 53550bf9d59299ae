"""`paxmux serve CONFIG`: run one node as a program of its own.

Decides what a service manager sees: one line on stdout once the node serves, READY and STOPPING for
systemd, logs on stderr, an exit code. SIGTERM or SIGINT stop it gracefully, at any moment of its life;
a second one ends it at once, and the workers notice that their parent is gone. SIGHUP reads the YAML file
again and takes over its layout; whatever is wrong with it is logged, and the node goes on as it is.
Everything else is `Node`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.engine.options import Options
from paxmux.shards.event_loop import new_loop
from paxmux.shards.node import Node
from paxmux.tools import systemd

DRAIN_S = 10.0
_DAY_S = 86_400
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("paxmux")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux serve`."""
    parser.add_argument("config", metavar="CONFIG", help="the node's YAML file")
    parser.add_argument(
        "--drain-s",
        type=_seconds,
        default=DRAIN_S,
        metavar="S",
        help="how long a stop waits for open requests (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="what is logged on stderr (default: %(default)s)",
    )
    parser.epilog = (
        "Prints one line on stdout once the node serves. SIGTERM and SIGINT stop it gracefully (exit code "
        "0), a second one ends it at once. SIGHUP reads the YAML file again and moves groups to the workers "
        "that its layout says. Tells systemd (Type=notify) READY and STOPPING."
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _DAY_S:
        raise argparse.ArgumentTypeError(f"expected 0 .. {_DAY_S} seconds, got {text!r}")
    return value


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    options = Options.from_yaml(args.config)
    logging.basicConfig(
        stream=sys.stderr,
        level=args.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_serve(args.config, options, args.drain_s))


async def _serve(config: str, options: Options, drain_s: float) -> ExitCode:
    node = Node(options)
    loop = asyncio.get_running_loop()
    asked_to_stop = _stop_signal(loop)
    reloads: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = loop.create_task(_reload(node, config))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    starting = asyncio.ensure_future(node.start())
    await asyncio.wait((starting, asked_to_stop), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        # The first start of a cluster may wait long for the other members.
        starting.cancel()
        await asyncio.wait((starting,))
    if starting.cancelled():
        return ExitCode.OK
    try:
        starting.result()
    except OSError as error:
        print(f"paxmux serve: {error}", file=sys.stderr)
        return ExitCode.CANNOT_BOOT
    try:
        print(f"serving {options.node}: {options.groups} groups, pid {os.getpid()}", flush=True)
        systemd.notify(systemd.READY)
        await asked_to_stop
    finally:
        systemd.notify(systemd.STOPPING)
        await node.stop(drain_s)
    return ExitCode.OK


async def _reload(node: Node, config: str) -> None:
    try:
        report = await node.reload(Options.from_yaml(config))
    except PaxmuxError as error:
        log.error("SIGHUP: %s", error)
    else:
        log.warning("SIGHUP: the layout is that of %s: %d groups moved", config, report["groups"])


def _stop_signal(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """A future that the first stop signal completes; the next one has its usual effect."""
    asked: asyncio.Future[None] = loop.create_future()

    def on_signal() -> None:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
        if not asked.done():
            asked.set_result(None)

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    return asked
