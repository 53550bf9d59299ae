"""The environment of the other systems: what they need of Python, kept apart from the project's own.

Decides which versions are compared, and that nothing of them is installed anywhere else. Made once; a stamp,
written last, says that it is whole.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from paxmux.engine.errors import PaxmuxError

PACKAGES = ("pysyncobj==0.3.17", "hpack==4.2.0")
"""hpack: headers of HTTP/2, for the callers of etcd."""
_STAMP = "stamp"


async def python_of(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is made if it is not there.

    Raises:
        PaxmuxError: it cannot be made; the message says why.
    """
    python = folder / "bin" / "python"
    wanted = "\n".join((sys.version, *PACKAGES))
    stamp = folder / _STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    await _run(sys.executable, "-m", "venv", "--clear", str(folder))
    pip = (str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check")
    await _run(*pip, *PACKAGES)
    stamp.write_text(wanted, encoding="utf-8")
    return python


async def _run(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        text = said.decode("utf-8", "replace").strip()
        raise PaxmuxError(f"cannot make the environment of the other systems: {' '.join(words)}\n{text}")
