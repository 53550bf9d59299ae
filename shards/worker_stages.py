"""The stages of a worker's turn; see `stages.py`."""

from __future__ import annotations

from paxmux.engine.network import Direct
from paxmux.engine.storage import Log
from paxmux.shards import intake, requests, turn
from paxmux.shards.backlog import Backlog
from paxmux.shards.counters import STAGES, Block
from paxmux.shards.outlet import Outlet
from paxmux.shards.stages import RING, Stages

REST = "loop"


def watch_worker(loop: type, block: Block, log: Log, direct: Direct | None) -> None:
    """From now on a worker's block has the time of each stage. `loop`: the class of the worker."""
    stages = Stages(block.slots, {name: block.index[f"{name}_cpu_ns"] for name in STAGES}, REST)
    stages.watch(
        (
            *RING,
            (requests, "decode_batch", "decode"),
            (intake, "decode_sections", "decode"),
            (turn.Turn, "step", "step"),
            (Outlet, "send", "encode"),
            (type(log), "append", "append"),
            (type(log), "sync", "sync"),
            (turn.Turn, "finish", "finish"),
            (Backlog, "take", "apply"),
            (Backlog, "step", "apply"),
            (loop, "_send_replies", "replies"),
            (loop, "_housekeep", "upkeep"),
            (loop, "_publish", "upkeep"),
        )
    )
    if direct is not None:
        stages.watch(((type(direct), "send", "send"),))
