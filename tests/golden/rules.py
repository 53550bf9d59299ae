"""What must hold between the program and its golden files, and when a file may be written.

A change of bytes without a change of the version is refused: by `problems` for whoever runs the tests, by
`write` for whoever wants new files. A version that was released stands in `RELEASED` with the hash of its
file, and nothing replaces that file any more.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from paxmux.engine.errors import DataDirError
from paxmux.engine.frame_header import FrameError
from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.place import IndexUnusable
from paxmux.shards.ring import RingCorrupt
from tests.golden import disk, shared_memory, wire
from tests.golden.format import Fields, Format, joined
from tests.golden.text import Case, parse, render

FILES = Path(__file__).parent / "files"
RELEASED = "released.txt"
FORMATS = (*wire.FORMATS, *disk.FORMATS, *shared_memory.FORMATS)

REFUSALS = (DataDirError, FrameError, IndexUnusable, RingCorrupt, StorageDamaged)
_FILE = re.compile(r"(?P<format>[a-z-]+)-v(?P<version>\d+)\.txt")


def path_of(form: Format, version: int, files: Path) -> Path:
    """Where the golden bytes of a version are."""
    return files / f"{form.name}-v{version}.txt"


def versions_of(form: Format, files: Path) -> list[int]:
    """The versions that have golden bytes."""
    found = (_FILE.fullmatch(path.name) for path in files.iterdir())
    return sorted(int(each["version"]) for each in found if each and each["format"] == form.name)


def problems(form: Format, files: Path = FILES) -> list[str]:
    """In words, whatever is wrong between a format and its golden files, and what to do about it."""
    version = form.version()
    path = path_of(form, version, files)
    found = [
        f"{path_of(form, newer, files).name}: {form.version_in} says {version}, but it never goes back"
        for newer in versions_of(form, files)
        if newer > version
    ]
    if not path.exists():
        return [*found, f"{path.name} is missing: `python -m tests.golden --write` makes it, then commit it"]
    golden = parse(path.read_text(encoding="utf-8"))
    found += [f"{path.name}, {words}. {_way_out(form)}" for words in _differences(form, golden)]
    if not found:
        found += _not_read(form, golden, path.name)
    for old in versions_of(form, files):
        if old < version:
            found += old_problems(form, path_of(form, old, files))
    return found


def old_problems(form: Format, path: Path) -> list[str]:
    """What is wrong with how the program takes the bytes of an older version, which `path` has."""
    golden = parse(path.read_text(encoding="utf-8"))
    try:
        found = _decoded(form, golden)
    except REFUSALS as error:
        if "version" in str(error) or "format" in str(error):
            return []
        return [f"{path.name}: an older version is refused, but not by name: {error}"]
    return [
        f"{path.name}, case {name!r}: an older version is read as {found.get(name)!r}, expected {case.means};"
        " read it as it was meant, or refuse it and name its version"
        for name, case in golden.items()
        if repr(found.get(name)) != case.means
    ]


def file_problems(files: Path = FILES) -> list[str]:
    """Files that belong to no format, and released ones that are not as they were released."""
    names = {form.name for form in FORMATS}
    found = []
    for path in sorted(files.iterdir()):
        match = _FILE.fullmatch(path.name)
        if path.name != RELEASED and (match is None or match["format"] not in names):
            found.append(f"{path.name}: no format has this name")
    for name, digest in _released(files).items():
        path = files / name
        if not path.exists():
            found.append(f"{name}: it was released and must stay")
        elif _digest(path) != digest:
            found.append(f"{name}: it was released, and was changed afterwards; put it back as it was")
    return found


def unreleased(files: Path = FILES) -> list[str]:
    """Names of the files of present versions that were never sealed."""
    sealed = _released(files)
    names = (path_of(form, form.version(), files).name for form in FORMATS)
    return [name for name in names if name not in sealed]


def write(files: Path, same_version: Collection[str] = (), forms: Iterable[Format] = FORMATS) -> list[str]:
    """Write the golden files of versions that have none.

    Args:
        files: the folder.
        same_version: names of formats whose file may be replaced though its version is the same, since
            no program that was released ever wrote it.
        forms: those to look at.

    Returns:
        In words, what was refused; nothing of that was written.
    """
    refused = []
    for form in forms:
        path = path_of(form, form.version(), files)
        text = render(form, _encoded(form))
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if path.exists() and path.name in _released(files):
            refused.append(f"{path.name} was released and stays as it is. {_way_out(form)}")
        elif path.exists() and form.name not in same_version:
            refused.append(
                f"{path.name} is there and has other bytes. {_way_out(form)}. Only if no program with"
                f" version {form.version()} was ever released: --same-version {form.name}"
            )
        else:
            path.write_text(text, encoding="utf-8")
    return refused


def release(files: Path) -> None:
    """Seal the files of all present versions.

    Raises:
        FileNotFoundError: one is missing.
    """
    sealed = _released(files)
    for form in FORMATS:
        path = path_of(form, form.version(), files)
        sealed.setdefault(path.name, _digest(path))
    lines = [f"{name} {digest}\n" for name, digest in sorted(sealed.items())]
    (files / RELEASED).write_text("".join(lines), encoding="utf-8")


def _differences(form: Format, golden: dict[str, Case]) -> list[str]:
    encoded = _encoded(form)
    found = [
        f"case {name!r}: the program has no such case any more" for name in golden if name not in encoded
    ]
    for name, fields in encoded.items():
        if name not in golden:
            found.append(f"case {name!r}: not there, so the format has something new")
            continue
        expected, now = golden[name].data, joined(fields)
        if expected != now:
            found.append(f"case {name!r}: {_first_difference(expected, fields)}")
        elif golden[name].means != repr(form.inputs[name]):
            found.append(f"case {name!r}: the same bytes stand for {form.inputs[name]!r} now")
    return found


def _first_difference(expected: bytes, fields: Fields) -> str:
    at = 0
    for name, data in fields:
        before = expected[at : at + len(data)]
        if before != data:
            return f"{name!r}, offset {at}, was {before.hex() or 'nothing'} and is {data.hex()} now"
        at += len(data)
    return f"{len(expected) - at} bytes at the end are not there any more"


def _not_read(form: Format, golden: dict[str, Case], name: str) -> list[str]:
    try:
        found = _decoded(form, golden)
    except REFUSALS as error:
        return [f"{name}: its bytes are refused: {error}. {_way_out(form)}"]
    return [
        f"{name}, case {case!r}: its bytes are read as {found.get(case)!r}, expected {expected!r}."
        f" {_way_out(form)}"
        for case, expected in form.inputs.items()
        if found.get(case) != expected
    ]


def _encoded(form: Format) -> dict[str, Fields]:
    with tempfile.TemporaryDirectory() as folder:
        return form.encode(Path(folder))


def _decoded(form: Format, golden: dict[str, Case]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        return form.decode({name: case.data for name, case in golden.items()}, Path(folder))


def _way_out(form: Format) -> str:
    return (
        f"If that is meant: raise {form.version_in}, then `python -m tests.golden --write`, and the changelog"
    )


def _released(files: Path) -> dict[str, str]:
    path = files / RELEASED
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split() for line in lines)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
