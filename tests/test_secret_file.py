"""Files of secrets: which are taken, what is made of them, and how a change is noticed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from paxmux.engine.errors import ConfigError
from paxmux.engine.options import NetworkOptions, Options
from paxmux.engine.secret_file import SecretFile, keys_of, new_secret_file, read_keys
from paxmux.tools.main import main

ONE, TWO, THREE = (letter * 40 for letter in "abc")


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    """A file of secrets; the next one takes its place in one step."""
    made = folder / "made"
    made.write_text(text, encoding="utf-8")
    made.chmod(mode)
    return made.replace(folder / "secret")


def test_each_secret_has_keys_for_each_purpose_and_shows_none(tmp_path: Path) -> None:
    file = written(tmp_path, f"# of the test\n\n  {ONE}  \n{TWO}\n")
    first, second = read_keys(file)
    assert (first, second) == (keys_of(ONE.encode()), keys_of(TWO.encode()))
    parts = {first.datagram, first.connection, second.datagram, second.connection}
    assert len(parts) == 4
    assert all(len(part) == 32 for part in parts)
    for text in (repr(first), str([first]), f"{first}"):
        assert first.fingerprint in text
        assert not any(part.hex() in text or repr(part) in text for part in parts)
        assert ONE not in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o4644])
def test_a_file_that_others_may_use_is_refused_by_name(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path, ONE, mode)
    with pytest.raises(ConfigError) as caught:
        read_keys(file)
    assert str(file) in str(caught.value)
    assert f"{mode:04o}" in str(caught.value)
    assert ONE not in str(caught.value)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, ONE)
    owner = os.stat(file).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        assert read_keys(file), "root may own it"
        os.chown(file, 4711, -1)
    with pytest.raises(ConfigError, match="expected a file of this user"):
        read_keys(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected one secret, or two during a rotation, each on a line, got 0"),
        ("# only words\n", "got 0"),
        ("short\n", r"secret:1: expected a secret of at least 32 characters, got one of 5"),
        (f"{ONE}\nx\n", r"secret:2: expected a secret of at least 32"),
        (f"{ONE}\n{ONE}\n", "expected each secret once"),
        (f"{ONE}\n{TWO}\n{THREE}\n", "got 3"),
        ("x" * 20_000, "expected at most 16384 bytes"),
    ],
)
def test_what_is_no_secret_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_keys(written(tmp_path, text))


def test_what_is_no_file_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing: expected a readable file .*paxmux secret new"):
        read_keys(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="expected"):
        read_keys(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigError, match="no file"):
        read_keys(pipe)


def test_a_new_file_is_for_its_owner_alone_and_replaces_none(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        os.umask(0)
        made = new_secret_file(tmp_path / "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "secret").st_mode) == 0o600
    assert read_keys(tmp_path / "secret") == (made,)
    content = (tmp_path / "secret").read_bytes()
    with pytest.raises(ConfigError, match="new file"):
        new_secret_file(tmp_path / "secret")
    assert (tmp_path / "secret").read_bytes() == content
    assert new_secret_file(tmp_path / "other") != made


def test_a_change_is_taken_once_it_rests_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    watched = SecretFile(written(tmp_path, ONE))
    assert not watched.look()
    written(tmp_path, f"{ONE}\n{TWO}\n")
    assert not watched.look(), "it may still be being written"
    assert watched.look()
    assert watched.keys == (keys_of(ONE.encode()), keys_of(TWO.encode()))
    for broken in ("short", f"{ONE}\n{TWO}\n{THREE}\n"):
        written(tmp_path, broken)
        assert not watched.look()
        assert watched.look()
        assert watched.problem is not None
        assert str(watched.path) in watched.problem
        assert not watched.look(), "the same trouble is told once"
        assert watched.keys[1] == keys_of(TWO.encode())
    watched.path.unlink()
    assert not watched.look()
    assert watched.look()
    assert watched.problem is not None
    assert "readable" in watched.problem
    written(tmp_path, TWO)
    watched.look()
    assert watched.look()
    assert watched.problem is None
    assert watched.keys == (keys_of(TWO.encode()),)


def test_a_mode_that_is_mended_is_noticed(tmp_path: Path) -> None:
    watched = SecretFile(written(tmp_path, ONE))
    watched.path.chmod(0o644)
    watched.look()
    assert watched.look()
    assert watched.problem is not None
    watched.path.chmod(0o600)
    watched.look()
    assert watched.look()
    assert watched.problem is None
    assert watched.keys == (keys_of(ONE.encode()),)


@pytest.mark.parametrize(
    ("node", "members", "where"),
    [
        ("10.0.0.1:1", ["10.0.0.1:1"], "node"),
        ("127.0.0.1:1", ["127.0.0.1:1", "10.0.0.2:1"], "members.1"),
        ("7@db-1.example:1", ["7@db-1.example:1"], "node"),
        ("7@[2001:db8::1]:1", ["7@[2001:db8::1]:1"], "node"),
    ],
)
def test_beyond_this_machine_a_secret_is_needed(node: str, members: list[str], where: str) -> None:
    def options(**network: object) -> Options:
        return Options(node=node, members=members, data_dir="data", network=NetworkOptions(**network))

    with pytest.raises(ConfigError) as caught:
        options().validate()
    assert where in str(caught.value).replace("[1]", ".1")
    assert "paxmux secret new" in str(caught.value)
    assert "network.insecure: true" in str(caught.value)
    options(insecure=True).validate()
    options(secret_file="secret").validate()
    with pytest.raises(ConfigError, match="insecure"):
        options(secret_file="secret", insecure=True).validate()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "7@localhost", "7@[::1]"])
def test_on_this_machine_none_is_needed(host: str) -> None:
    Options(node=f"{host}:1", members=[f"{host}:1"], data_dir="data").validate()


def test_a_path_of_a_config_is_relative_to_its_folder(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    text = "node: 10.0.0.1:1\nmembers: ['10.0.0.1:1']\ndata_dir: data\nnetwork: {secret_file: keys/secret}\n"
    config.write_text(text, encoding="utf-8")
    assert Options.from_yaml(config).network.secret_file == str(tmp_path / "keys" / "secret")


def test_the_command_makes_and_checks_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secret"
    assert main(["secret", "new", str(file)]) == 0
    (keys,) = read_keys(file)
    said = capsys.readouterr()
    assert keys.fingerprint in said.out
    assert file.read_text().strip() not in said.out + said.err
    assert main(["secret", "check", "--json", str(file)]) == 0
    assert keys.fingerprint in capsys.readouterr().out
    assert main(["secret", "new", str(file)]) == 2
    file.chmod(0o644)
    assert main(["secret", "check", str(file)]) == 2
    assert "0644" in capsys.readouterr().err
