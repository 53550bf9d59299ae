"""One thing that is wrong with the options, and how it is said.

Decides the form of every message about options: `FILE:LINE: key.path: expected ..., got ...`.
Never decides what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from paxmux.engine.errors import ConfigError

Path = tuple[str | int, ...]
"""Where in the options: field names, list positions and dictionary keys, from the root."""


class Problem(NamedTuple):
    """What is wrong, and with which key."""

    path: Path
    text: str
    """`expected ..., got ...`"""


IN_CODE = "options"
"""Stands for the file name where the options were made in code."""


def key_text(path: Path) -> str:
    """`layout.pin.0` or `members.2`: the path as people read it."""
    return ".".join(map(str, path))


def raise_for(problems: Iterable[Problem], where: Callable[[Path], str] | None = None) -> None:
    """Raise one `ConfigError` with a line for each problem; return if there is none.

    Args:
        problems: in the order in which they are told.
        where: path -> `FILE:LINE`; without it the options were made in code.
    """
    lines = []
    for path, text in problems:
        place = IN_CODE if where is None else where(path)
        lines.append(f"{place}: {key_text(path)}: {text}" if path else f"{place}: {text}")
    if lines:
        raise ConfigError("\n".join(lines))
