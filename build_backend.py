"""How this package is built: by setuptools, and with PAXMUX_COMPILED=1 in the environment by mypyc as well.

Decides what a build needs. An ordinary one needs setuptools alone; a compiled one is refused, before anything
is fetched for it, where there is nothing to compile with. What is compiled is said in setup.py.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "compiled",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

VARIABLE = "PAXMUX_COMPILED"
COMPILING = ["mypy>=2.4,<3", "msgspec>=0.22", "zlib-ng>=0.5"]
"""All but mypy for their types: without them the code is compiled, and slower."""

Settings = Mapping[str, str | list[str] | None] | None


def compiled() -> bool:
    """Whether the environment asks for a compiled installation."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "0", "1"):
        _refuse(f"{VARIABLE}={wanted}: expected 1, or 0 or nothing for plain Python")
    return wanted == "1"


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What a wheel takes."""
    more = needed_to_compile()
    return [*build_meta.get_requires_for_build_wheel(config_settings), *more]


def needed_to_compile() -> list[str]:
    """What is needed beside, for a compiled one."""
    if not compiled():
        return []
    check_compiler()
    return COMPILING


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """What an editable installation takes."""
    _refuse_editable()
    return list(build_meta.get_requires_for_build_editable(config_settings))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build what leads to the sources as they lie here."""
    _refuse_editable()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def check_compiler() -> None:
    """Refuse to go on where no C compiler is found, or no header of this Python."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not command or shutil.which(command[0]) is None:
        _refuse(
            f"{VARIABLE}=1 needs a C compiler, and {' '.join(command) or 'none'} is not found: install one "
            f"(Debian: apt install gcc), name it in CC, or leave {VARIABLE} out for plain Python"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        _refuse(
            f"{VARIABLE}=1 needs the headers of this Python, and {header} is not there: install them "
            f"(Debian: apt install python3-dev), or leave {VARIABLE} out for plain Python"
        )


def _refuse_editable() -> None:
    # What was compiled once would hide what is changed later.
    if compiled():
        _refuse(f"{VARIABLE}=1 is not for an editable installation: leave out -e, or {VARIABLE}")


def _refuse(why: str) -> None:
    sys.exit(f"paxmux: {why}")
