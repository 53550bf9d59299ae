"""What pyproject.toml cannot say: which modules a compiled installation compiles, with mypyc.

The sources stay plain Python, and are installed beside what is made from them; what is not in `COMPILED` runs
as it is. Which installation it is to be decides `build_backend.py`.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "compiled"
# The backend's folder is on the path only while it is the backend that runs this.
sys.path.insert(0, str(ROOT))
from build_backend import check_compiler, compiled  # noqa: E402

COMPILED = (
    "engine/frame.py",
    "engine/paxos/acceptor.py",
    "engine/paxos/ballot.py",
    "engine/paxos/checksum.py",
    "engine/paxos/doubt.py",
    "engine/paxos/effects.py",
    "engine/paxos/forwarder.py",
    "engine/paxos/group.py",
    "engine/paxos/inner.py",
    "engine/paxos/inquiry.py",
    "engine/paxos/learner.py",
    "engine/paxos/master.py",
    "engine/paxos/messages.py",
    "engine/paxos/proposer.py",
    "engine/paxos/quorum.py",
    "engine/paxos/reader.py",
    "engine/paxos/recall.py",
    "engine/paxos/system.py",
    "engine/paxos/timers.py",
    "engine/paxos/value.py",
    "plugins/network/direct.py",
    "plugins/network/seal.py",
    "plugins/network/udp.py",
    "plugins/storage/group_table.py",
    "plugins/storage/record.py",
    "shards/admission.py",
    "shards/alarms.py",
    "shards/backlog.py",
    "shards/channel.py",
    "shards/codec.py",
    "shards/deadline.py",
    "shards/doorbell.py",
    "shards/exchange.py",
    "shards/given_up.py",
    "shards/held_frames.py",
    "shards/held_turn.py",
    "shards/instance_size.py",
    "shards/intake.py",
    "shards/link.py",
    "shards/msgpack_pieces.py",
    "shards/outlet.py",
    "shards/pending.py",
    "shards/ring.py",
    "shards/router.py",
    "shards/shedding.py",
    "shards/turn.py",
    "shards/wait_lock.py",
    "shards/worker.py",
)
"""Where a decided value spends its time. Not among them: `shards/applier.py`, whose frames are read
(`shards/whereabouts.py`), what users derive from, and what holds types of msgspec, which has its own."""
FOLDERS = ("engine", "shards", "plugins", "tools")


def extensions() -> list[Extension]:
    """The compiled modules. mypyc takes a module's name from the folders that it lies in."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        sys.exit("paxmux: PAXMUX_COMPILED=1 needs mypy where the build is not isolated: pip install mypy")
    check_compiler()
    # Whatever an earlier build made would get into the wheel as well.
    shutil.rmtree(BUILD, ignore_errors=True)
    package = BUILD / "source" / "paxmux"
    package.mkdir(parents=True)
    for target in (*FOLDERS, *(f"paxmux/{path.name}" for path in (ROOT / "paxmux").glob("*.py*"))):
        (package / Path(target).name).symlink_to(ROOT / target)
    os.chdir(package.parent)
    try:
        made = mypycify(
            [
                f"--config-file={os.devnull}",
                "--ignore-missing-imports",
                *(f"paxmux/{path}" for path in COMPILED),
            ],
            target_dir=str(BUILD / "c"),
            group_name="paxmux",
            opt_level="3",
            debug_level="0",
        )
    finally:
        os.chdir(ROOT)
    return list(made)


if compiled() and "bdist_wheel" in sys.argv:
    setup(ext_modules=extensions(), options={"build": {"build_base": str(BUILD)}})
else:
    setup()
