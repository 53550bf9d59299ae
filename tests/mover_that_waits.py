"""A mover that says how far it is, and waits to be told to stop."""

from __future__ import annotations

from paxmux.engine.errors import ExitCode
from paxmux.shards.boot import Copied, Stop
from paxmux.shards.child import ParentGone, be_child


def main() -> None:
    parent, _, _ = be_child()
    parent.send(Copied(groups=7, groups_done=1, values=1000, bytes=5 << 20, complete=False))
    try:
        while not any(isinstance(message, Stop) for message in parent.receive_all()):
            parent.wait(0.5)
    except ParentGone:
        raise SystemExit(ExitCode.PARENT_GONE) from None
    raise SystemExit(ExitCode.OK)
