"""Sets of groups as they are written in the options: `all`, or indices and ranges such as `0-9,20`.

Decides which texts are such sets. Never accepts a text in part: a group that is named twice or that
does not exist makes the whole text wrong.
"""

from __future__ import annotations

import re

from paxmux.engine.errors import ConfigError

ALL = "all"
NONE = "none"

_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def parse_groups_or_none(text: str, count: int) -> tuple[int, ...]:
    """As `parse_groups`, where `none` is a set too."""
    if text == NONE:
        return ()
    try:
        return parse_groups(text, count)
    except ConfigError as error:
        raise ConfigError(str(error).replace("expected `all`", "expected `none`, `all`", 1)) from None


def parse_groups(text: str, count: int) -> tuple[int, ...]:
    """The groups that `text` names, in ascending order.

    Args:
        text: `all`, or indices and ranges separated by commas; both ends of a range belong to it.
        count: how many groups there are; indices go from 0 to count-1.

    Raises:
        ConfigError: what was expected and what the text is; it never names file or key.
    """
    if text == ALL:
        return tuple(range(count))
    named: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"expected `all`, or groups and ranges such as `0-9,20`, got {text!r}")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise ConfigError(f"expected ranges that go upwards, got {part.strip()!r} in {text!r}")
        if last >= count:
            raise ConfigError(f"expected groups of 0 .. {count - 1}, got {part.strip()!r} in {text!r}")
        run = range(first, last + 1)
        twice = named.intersection(run)
        if twice:
            raise ConfigError(f"expected each group once, got group {min(twice)} twice in {text!r}")
        named.update(run)
    return tuple(sorted(named))
