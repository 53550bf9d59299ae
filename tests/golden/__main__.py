"""The command: `python -m tests.golden`; see the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tests.golden
from tests.golden.rules import FILES, FORMATS, file_problems, problems, release, write


def main(arguments: Sequence[str], files: Path = FILES) -> int:
    """Check, write or seal; 1 if anything is wrong or was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description=tests.golden.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--write", action="store_true", help="write what is missing, overwrite nothing")
    names = [form.name for form in FORMATS]
    parser.add_argument("--same-version", action="append", default=[], choices=names, metavar="FORMAT")
    parser.add_argument("--release", action="store_true", help="seal the present versions")
    asked = parser.parse_args(arguments)
    if asked.same_version and not asked.write:
        parser.error("--same-version goes with --write")
    found = write(files, asked.same_version) if asked.write else []
    found = found or [words for form in FORMATS for words in problems(form, files)] + file_problems(files)
    if asked.release and not found:
        release(files)
    for words in found:
        print(words, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
