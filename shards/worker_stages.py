"""The stages of a worker's turn; see `stages.py`."""

from __future__ import annotations

from paxmux.engine.storage import Log
from paxmux.shards import intake, requests
from paxmux.shards.backlog import Backlog
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.counters import STAGES, Block
from paxmux.shards.outlet import Outlet
from paxmux.shards.stages import Stages
from paxmux.shards.turn import Turn

REST = "loop"


def watch_worker(loop: type, block: Block, log: Log) -> None:
    """From now on a worker's block has the time of each stage. `loop`: the class of the worker."""
    stages = Stages(block.slots, {name: block.index[f"{name}_cpu_ns"] for name in STAGES}, REST)
    stages.watch(
        (
            (Receiver, "receive", "ring"),
            (Sender, "send", "ring"),
            (Sender, "commit", "ring"),
            (requests, "decode_batch", "decode"),
            (intake, "decode_sections", "decode"),
            (Turn, "step", "step"),
            (Outlet, "send", "encode"),
            (type(log), "append", "append"),
            (type(log), "sync", "sync"),
            (Turn, "finish", "finish"),
            (Backlog, "take", "apply"),
            (Backlog, "step", "apply"),
            (loop, "_send_replies", "replies"),
            (loop, "_housekeep", "upkeep"),
            (loop, "_publish", "upkeep"),
        )
    )
