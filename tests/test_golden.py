"""The bytes of every version of every format, and that nobody changes them without raising the version."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from zlib import crc32

import pytest

from paxmux.engine import frame
from paxmux.engine.errors import DataDirError
from paxmux.engine.paxos.messages import KINDS
from paxmux.engine.storage import RecordKind, StorageDamaged
from paxmux.plugins.storage import record, stop_mark
from paxmux.shards import identity
from tests.golden import disk, wire
from tests.golden.__main__ import main
from tests.golden.format import Fields, Format
from tests.golden.rules import (
    FILES,
    FORMATS,
    RELEASED,
    file_problems,
    old_problems,
    path_of,
    problems,
    release,
    unreleased,
    versions_of,
    write,
)
from tests.source_tree import ROOT


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_the_program_writes_and_reads_the_golden_bytes(form: Format) -> None:
    found = problems(form)
    assert not found, "\n" + "\n".join(found)


def test_no_golden_file_is_strange_or_was_changed_after_its_release() -> None:
    found = file_problems()
    assert not found, "\n" + "\n".join(found)


def test_what_is_released_is_sealed() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (.+)$", changelog, re.MULTILINE)
    assert newest is not None
    if "(unreleased)" not in newest[1]:
        assert not unreleased(), f"{newest[1]} is released: `python -m tests.golden --release`, then commit"


def test_the_changelog_names_the_versions() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = changelog.split("\n## ")[1]
    assert f"Wire format {frame.VERSION}, disk format {identity.FORMAT}." in newest


def test_every_kind_of_record_and_message_has_golden_bytes() -> None:
    kinds = {each[0] for _, records in disk.BATCHES.inputs.values() for each in records}
    assert kinds == {*map(int, RecordKind), record.OPENING, record.HARD_STATE, record.DOUBT}
    assert set(KINDS) <= set(wire.BODIES.inputs)
    for kind in KINDS:
        assert len(wire.MESSAGES[kind]) == 2, kind


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return shutil.copytree(FILES, tmp_path / "files")


def changed(form: Format, version: int | None = None) -> Format:
    """The format as a program has it that writes the last byte of the first case differently."""

    def encode(folder: Path) -> dict[str, Fields]:
        cases = form.encode(folder)
        fields = next(iter(cases.values()))
        name, data = fields[-1]
        fields[-1] = (name, data[:-1] + bytes((data[-1] ^ 1,)))
        return cases

    raised = form.version() if version is None else version
    return form._replace(encode=encode, version=lambda: raised)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_changed_byte_without_a_changed_version_is_refused(form: Format, files: Path) -> None:
    other = changed(form)
    path = path_of(form, form.version(), files)
    before = path.read_bytes()
    found = problems(other, files)
    assert len(found) == 1
    assert f"raise {form.version_in}" in found[0]
    assert "python -m tests.golden --write" in found[0]
    refused = write(files, forms=[other])
    assert len(refused) == 1
    assert f"raise {form.version_in}" in refused[0]
    assert path.read_bytes() == before


def test_a_raised_version_gets_a_file_of_its_own_and_the_old_one_stays(files: Path) -> None:
    form = wire.VALUES
    other = changed(form, version=form.version() + 1)
    assert "is missing" in problems(other, files)[0]
    before = path_of(form, form.version(), files).read_bytes()
    assert write(files, forms=[other]) == []
    assert path_of(form, form.version(), files).read_bytes() == before
    assert versions_of(form, files) == [*versions_of(form, FILES), form.version() + 1]


def test_a_version_that_goes_back_is_noticed(files: Path) -> None:
    form = wire.VALUES
    assert write(files, forms=[form._replace(version=lambda: form.version() + 1)]) == []
    assert "it never goes back" in problems(form, files)[0]


def test_a_case_more_or_less_is_a_changed_format(files: Path) -> None:
    form = wire.VALUES
    cut = form._replace(encode=lambda folder: dict(list(form.encode(folder).items())[1:]))
    assert "no such case" in problems(cut, files)[0]
    path = path_of(form, form.version(), files)
    path.write_text(path.read_text().split("\n\ncase: ")[0])
    assert "something new" in problems(form, files)[0]


def test_bytes_that_are_read_as_something_else_are_noticed(files: Path) -> None:
    form = wire.VALUES
    decode = form.decode
    wrong = form._replace(decode=lambda cases, folder: {**decode(cases, folder), "one entry": None})
    assert "case 'one entry': its bytes are read as None" in problems(wrong, files)[0]

    def refuse(cases: object, _: Path) -> dict[str, object]:
        raise StorageDamaged("not for me")

    assert "its bytes are refused: not for me" in problems(form._replace(decode=refuse), files)[0]


def test_the_same_version_is_rewritten_only_if_asked_for_by_name_and_never_released(files: Path) -> None:
    form = wire.VALUES
    other = changed(form)
    path = path_of(form, form.version(), files)
    before = path.read_bytes()
    assert write(files, ["frame"], [other])
    assert path.read_bytes() == before
    assert write(files, [form.name], [other]) == []
    assert path.read_bytes() != before
    path.write_bytes(before)
    release(files)
    assert (files / RELEASED).exists()
    assert unreleased(files) == []
    assert "was released" in write(files, [form.name], [other])[0]
    assert path.read_bytes() == before
    path.write_bytes(before + b"\n")
    assert file_problems(files) == [
        f"{path.name}: it was released, and was changed afterwards; put it back as it was"
    ]
    path.unlink()
    assert "must stay" in file_problems(files)[0]


def test_an_older_version_must_be_read_as_it_was_or_refused_by_name(files: Path) -> None:
    form = wire.VALUES
    raised = form._replace(version=lambda: form.version() + 1)
    assert write(files, forms=[raised]) == []
    assert problems(raised, files) == []
    misread = raised._replace(decode=lambda cases, folder: {**form.decode(cases, folder), "one entry": []})
    assert any("an older version is read as []" in words for words in problems(misread, files))

    def refusing(words: str) -> Format:
        def decode(cases: object, _: Path) -> dict[str, object]:
            raise DataDirError(words)

        return raised._replace(decode=decode)

    old = path_of(form, form.version(), files)
    assert old_problems(refusing("it has version 1, this program reads 2"), old) == []
    assert "not by name" in old_problems(refusing("it is bad"), old)[0]


def test_the_command(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], files) == 0
    assert main(["--write"], files) == 0
    (files / "strange-v1.txt").write_text("")
    assert main([], files) == 1
    assert "no format has this name" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--same-version", "frame"], files)


def test_a_mark_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    stop_mark.write_mark(tmp_path, disk.OWNER, 5)
    path = tmp_path / stop_mark.FILE
    data = bytearray(path.read_bytes())
    data[7] += 1
    path.write_bytes(data)
    with pytest.raises(StorageDamaged):
        stop_mark.read_mark(tmp_path, disk.OWNER)
    path.write_bytes(data[:-4] + crc32(data[:-4]).to_bytes(4, "little"))
    with pytest.raises(DataDirError, match=r"CLEAN: format version 2, .* use the newer program"):
        stop_mark.read_mark(tmp_path, disk.OWNER)
