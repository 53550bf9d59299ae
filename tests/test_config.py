"""Options from YAML and from code: what is right is read as written; what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.engine.address import Member
from paxmux.engine.bounds import BOUNDS
from paxmux.engine.config import MAX_FILE_BYTES
from paxmux.engine.errors import Code, ConfigError
from paxmux.engine.option_rules import NOT_ABOVE
from paxmux.engine.options import (
    LayoutOptions,
    LimitOptions,
    MachineOptions,
    MasterOptions,
    Options,
    ProposalOptions,
    TimerOptions,
)
from paxmux.engine.paxos.timers import DEFAULT_BOUNDS, DEFAULT_TIMERS
from paxmux.engine.plugin import load, load_class
from paxmux.engine.state_machine import StateMachine
from paxmux.shards.slice import bounds_of, timers_of

CONFIGS = Path(__file__).parent.parent / "configs"

GOOD = """\
node: 127.0.0.1:1001
members:
  - 127.0.0.1:1001
  - 127.0.0.1:1002
  - 127.0.0.1:1003
data_dir: data
groups: 10
"""


def yaml_file(folder: Path, text: str | bytes) -> Path:
    file = folder / "bad.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def complaint(folder: Path, text: str | bytes) -> list[str]:
    """The lines of the error that `text` leads to, without the folder."""
    with pytest.raises(ConfigError) as caught:
        Options.from_yaml(yaml_file(folder, text))
    assert caught.value.code == Code.BAD_OPTIONS
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def in_code(**options: Any) -> Options:
    own: dict[str, Any] = {"node": "127.0.0.1:1001", "members": ["127.0.0.1:1001"], "data_dir": "data"}
    return Options(**(own | options))


def test_a_good_file_is_read_as_written(tmp_path: Path) -> None:
    options = Options.from_yaml(yaml_file(tmp_path, GOOD))
    assert options.groups == 10
    assert options.own_member() == Member(72058139498775529, "127.0.0.1", 1001)
    assert [member.port for member in options.seed_members()] == [1001, 1002, 1003]


def test_a_relative_data_dir_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml_file(tmp_path, GOOD)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert Options.from_yaml("../bad.yaml").data_dir == str(tmp_path / "data")
    absolute = GOOD.replace("data_dir: data", f"data_dir: {tmp_path}/far")
    assert Options.from_yaml(yaml_file(tmp_path, absolute)).data_dir == f"{tmp_path}/far"


def test_host_names_and_ipv6_work_with_explicit_ids(tmp_path: Path) -> None:
    text = """\
node: db-1.example:1001
node_id: 7
members: ["7@db-1.example:1001", "8@[::1]:1001"]
data_dir: data
network: {insecure: true}
"""
    options = Options.from_yaml(yaml_file(tmp_path, text))
    assert options.seed_members() == (options.own_member(), Member(8, "::1", 1001))


@pytest.mark.parametrize("key", ["join: true", "follower: true"])
def test_who_comes_later_names_others_and_itself_only_if_it_likes(tmp_path: Path, key: str) -> None:
    alone = GOOD.replace("node: 127.0.0.1:1001", f"{key}\nnode: 127.0.0.1:1004")
    options = Options.from_yaml(yaml_file(tmp_path, alone))
    assert not options.founds
    assert options.own_member() not in options.seed_members()
    assert not Options.from_yaml(yaml_file(tmp_path, f"{key}\n{GOOD}")).founds


def test_a_follower_follows_members() -> None:
    three = ["127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003"]
    in_code(members=three, follower=True, follow=three[1:]).validate()
    for options, words in (
        (in_code(members=three, follow=three[1:]), "follow: expected nothing where `follower` is off"),
        (
            in_code(members=three, follower=True, follow=["127.0.0.1:9"]),
            "follow.0: expected one of the members",
        ),
        (
            in_code(join=True),
            "members: expected other members to learn from, got this node (127.0.0.1:1001) alone",
        ),
        (
            in_code(members=["7@127.0.0.1:1001", *three[1:]], join=True),
            "`node_id` and `id@host:port` must agree",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            options.validate()
        assert words in str(caught.value)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_every_config_of_the_project_loads(file: Path) -> None:
    options = Options.from_yaml(file)
    assert options.data_dir == str(CONFIGS / "data" / file.stem)
    options.validate()


def test_every_key_is_explained_at_its_default() -> None:
    """Weakness B19 of the reference."""
    options = Options.from_yaml(CONFIGS / "every-key.yaml")
    assert options == Options(node=options.node, members=options.members, data_dir=options.data_dir)
    lines = (CONFIGS / "every-key.yaml").read_text(encoding="utf-8").splitlines()
    written = {line.split(":")[0].strip() for line in lines if ":" in line and "#" not in line}
    declared = set(_leaves(Options)) - {"class", "args"}
    assert declared <= written


def _leaves(struct: type[msgspec.Struct]) -> list[str]:
    names = []
    for field in msgspec.structs.fields(struct):
        names.append(field.encode_name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            names += _leaves(field.type)
    return names


def test_every_number_has_bounds_and_every_default_keeps_them() -> None:
    numbers = {}
    for section, struct, default in _sections():
        for field in msgspec.structs.fields(struct):
            if field.type is int or int in getattr(field.type, "__args__", ()):
                numbers[f"{section}{field.encode_name}"] = getattr(default, field.name, None)
    # Workers and CPUs are indices, checked against the layout and the machine.
    assert numbers.keys() - {"layout.groups", "layout.pin"} == BOUNDS.keys()
    for key, value in numbers.items():
        if isinstance(value, int):
            least, most = BOUNDS[key]
            assert least <= value <= most, key


def _sections() -> list[tuple[str, type[msgspec.Struct], object]]:
    default = in_code()
    sections: list[tuple[str, type[msgspec.Struct], object]] = [("", Options, default)]
    for field in msgspec.structs.fields(Options):
        value = getattr(default, field.name)
        if isinstance(value, msgspec.Struct):
            sections.append((f"{field.name}.", type(value), value))
    return sections


@pytest.mark.parametrize("key", sorted(BOUNDS))
def test_both_bounds_of_every_number_are_kept(tmp_path: Path, key: str) -> None:
    """Weakness B10 of the reference."""
    least, most = BOUNDS[key]
    *section, name = key.split(".")
    base = GOOD.replace("groups: 10\n", "") if key == "groups" else GOOD
    for value in (least - 1, most + 1):
        text = base + (f"{section[0]}:\n  {name}: {value}\n" if section else f"{name}: {value}\n")
        lines = complaint(tmp_path, text)
        last = len(text.splitlines())
        expected = f"bad.yaml:{last}: {key}: expected a whole number of {least} .. {most}"
        assert any(line.startswith(expected) and line.endswith(f"got the number {value}") for line in lines)


# (what stands below or instead of the good file, line, key, words of the message)
ADDED: list[tuple[str, int, str, str]] = [
    ("groupz: 3", 8, "groupz", "expected a known key, got `groupz`: did you mean `groups`?"),
    ("ask_ms: 3", 8, "ask_ms", "got `ask_ms`: it belongs under `timers`"),
    ("zzz: 3", 8, "zzz", "known are node, members, data_dir"),
    ("timers:\n  ask_mss: 3", 9, "timers.ask_mss", "did you mean `ask_ms`?"),
    ("timers:", 8, "timers", "expected a mapping of keys, got nothing"),
    ("timers: 5", 8, "timers", "expected a mapping of keys, got the number 5"),
    ("groups: 3", 8, "groups", "expected the key once, got it on line 7 and on line 8"),
    (
        "timers:\n  ask_ms: 5\n  ask_ms: 6",
        10,
        "timers.ask_ms",
        "expected the key once, got it on line 9 and",
    ),
    ("bootstrap: 1", 8, "bootstrap", "expected true or false, got the number 1"),
    ("bootstrap: 'no'", 8, "bootstrap", "expected true or false, got the text 'no'"),
    ("router: fast", 8, "router", "expected `inline` or `process`, got the text 'fast'"),
    ("router: no", 8, "router", "got `no`, which YAML reads as false"),
    ("layout: {workers: many}", 8, "layout.workers", "a whole number of 1 .. 256 or `auto`, got the text"),
    ("layout: {workers: 1.5}", 8, "layout.workers", "got the number 1.5"),
    ("layout: {workers: yes}", 8, "layout.workers", "got `yes`, which YAML reads as true"),
    ("layout: {workers: 11}", 8, "layout.workers", "expected at most one worker per group (10), got 11"),
    ("layout: {workers: 02}", 8, "layout.workers", "got `02`, which YAML reads as 2"),
    (
        "layout: {workers: 1:4}",
        8,
        "layout.workers",
        "a plain decimal number, got `1:4`, which YAML reads as 64",
    ),
    ("timers: {ask_ms: 1e3}", 8, "timers.ask_ms", "got the text '1e3'; write 1000"),
    ("timers: {ask_ms: '100'}", 8, "timers.ask_ms", "got the text '100'; remove the quotes"),
    ("timers: {ask_ms: 1e999}", 8, "timers.ask_ms", "got the text '1e999'"),
    ("timers: {ask_ms: 2s}", 8, "timers.ask_ms", "of 1 .. 600000, got the text '2s'"),
    ("timers: {ask_ms: null}", 8, "timers.ask_ms", "a whole number of 1 .. 600000, got nothing"),
    (
        "timers: {prepare_first_ms: 9000}",
        8,
        "timers.prepare_first_ms",
        "at most timers.phase_max_ms (8000), got 9000",
    ),
    ("limits: {ring_bytes: 100000}", 8, "limits.ring_bytes", "expected a power of two (such as 131072)"),
    ("layout: {strategy: explicit}", 8, "layout.groups", "group 0 on none"),
    (
        "layout:\n  strategy: explicit\n  groups:\n    0: 0-4\n    1: 4-9",
        12,
        "layout.groups.1",
        "each group on exactly one worker, got group 4 on worker 0 and on worker 1",
    ),
    (
        "layout:\n  strategy: explicit\n  groups:\n    0: 0-4\n    1: 6-9",
        10,
        "layout.groups",
        "each group on exactly one worker, got group 5 on none",
    ),
    ("layout: {strategy: explicit, groups: {a: 0-9}}", 8, "layout.groups.a", "keys that are whole numbers"),
    ("layout: {strategy: explicit, groups: {0: 9}}", 8, "layout.groups.0", "got `9`, which YAML reads as"),
    ("layout: {strategy: explicit, groups: {0: 0-10}}", 8, "layout.groups.0", "groups of 0 .. 9, got '0-10'"),
    ("layout: {pin: {0: 1}}", 8, "layout.pin.0", "expected a list, got the number 1"),
    ("layout: {pin: {0: [a]}}", 8, "layout.pin.0.0", "expected a whole number, got the text 'a'"),
    ("state_machines: echo", 8, "state_machines", "expected a list, got the text 'echo'"),
    ("state_machines:\n  - groups: all", 9, "state_machines.0.class", "expected text, got no such key"),
    (
        "state_machines:\n  - class: echo.Echo",
        9,
        "state_machines.0.class",
        "`package.module:Name`, got 'echo.Echo'",
    ),
    (
        "state_machines:\n  - class: a:B\n    groups: 5",
        10,
        "state_machines.0.groups",
        "got `5`, which YAML reads as the number 5; put it in quotes",
    ),
    (
        "state_machines:\n  - class: a:B\n    groups: 5-3",
        10,
        "state_machines.0.groups",
        "ranges that go upwards",
    ),
    (
        "state_machines:\n  - class: a:B\n    args: {group: 1}",
        10,
        "state_machines.0.args.group",
        "constructor arguments besides `group`",
    ),
    (
        "state_machines:\n  - class: a:B\n    args: {since: 2001-01-01}",
        10,
        "state_machines.0.args.since",
        "got `2001-01-01`, which YAML reads as the date 2001-01-01; put it in quotes",
    ),
    (
        "state_machines:\n  - class: a:B\n    args: {x: [.inf]}",
        10,
        "state_machines.0.args.x.0",
        "a finite number",
    ),
    (
        "state_machines:\n  - class: a:B\n    args: {x: {1: 2}}",
        10,
        "state_machines.0.args.x.1",
        "keys that are text",
    ),
    (
        "state_machines:\n  - class: a:B\n    args: {x: 99999999999999999999}",
        10,
        "state_machines.0.args.x",
        "64 bits",
    ),
    ("network: {plugin: paxmux}", 8, "network.plugin", "a path such as `package.module:Name`"),
    ("storage: {plugin: 'a b:C'}", 8, "storage.plugin", "a path such as `package.module:Name`"),
    ("node_id: 5", 2, "members", "`node_id` and `id@host:port` must agree"),
]


@pytest.mark.parametrize(
    ("added", "line", "key", "words"), ADDED, ids=[f"{key}-{i}" for i, (_, _, key, _) in enumerate(ADDED)]
)
def test_what_is_wrong_is_named_with_file_line_and_key(
    tmp_path: Path, added: str, line: int, key: str, words: str
) -> None:
    lines = complaint(tmp_path, GOOD + added + "\n")
    assert len(lines) == 1
    assert lines[0].startswith(f"bad.yaml:{line}: {key}: expected ")
    assert words in lines[0]


REPLACED: list[tuple[str, str, int, str, str]] = [
    ("node: 127.0.0.1:1001\n", "", 1, "node", "expected text, got no such key (required)"),
    ("data_dir: data\n", "", 1, "data_dir", "expected text, got no such key (required)"),
    ("data_dir: data", "data_dir: ''", 6, "data_dir", "expected the path of a directory, got ''"),
    ("data_dir: data", "data_dir:", 6, "data_dir", "expected text, got nothing"),
    ("data_dir: data", "data_dir: ~/x", 6, "data_dir", "a path without `~`"),
    ("data_dir: data", "data_dir: no", 6, "data_dir", "got `no`, which YAML reads as false; put it in"),
    ("node: 127.0.0.1:1001", "node: 127.0.0.1:1004", 2, "members", "this node (127.0.0.1:1004) among the"),
    ("node: 127.0.0.1:1001", "node: 127.0.0.1", 1, "node", "expected `host:port`"),
    ("node: 127.0.0.1:1001", "node: db:1001", 1, "node", "an explicit id"),
    ("node: 127.0.0.1:1001", "node: 10:30", 1, "node", "got `10:30`, which YAML reads as the number 630"),
    ("127.0.0.1:1003", "127.0.0.1:1002", 5, "members.2", "each address and port once, got 127.0.0.1:1002"),
    ("127.0.0.1:1003", "72058139498775530@127.0.0.2:1", 5, "members.2", "each node id once"),
    ("127.0.0.1:1003", "127.0.0.1:99999", 5, "members.2", "a port of 1 .. 65535"),
    ("- 127.0.0.1:1003", "- no", 5, "members.2", "expected text, got `no`"),
    ("- 127.0.0.1:1003", "- {a: b}", 5, "members.2", "expected text, got a mapping"),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    REPLACED,
    ids=[f"{key}-{i}" for i, (_, _, _, key, _) in enumerate(REPLACED)],
)
def test_a_wrong_base_is_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str, words: str
) -> None:
    lines = complaint(tmp_path, GOOD.replace(old, new))
    assert len(lines) == 1
    assert lines[0].startswith(f"bad.yaml:{line}: {key}: expected ")
    assert words in lines[0]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "bad.yaml: expected keys such as node, members, data_dir, got an empty file"),
        ("# nothing\n", "bad.yaml: expected keys such as node, members, data_dir, got an empty file"),
        ("- a\n", "bad.yaml:1: expected a mapping of keys, got a list"),
        ("hello\n", "bad.yaml:1: expected a mapping of keys, got the text 'hello'"),
        ("node: [1\nmembers: 2\n", "bad.yaml:2: expected YAML, got: "),
        ("node:\n\tx: 1\n", "bad.yaml:2: expected YAML, got: found character"),
        ("a: &x 1\nb: *x\n", "bad.yaml:2: expected YAML, got: an alias"),
        ("a: 1\n---\nb: 2\n", "bad.yaml:2: expected YAML, got: but found another document"),
        ("? [a]\n: 1\n", "bad.yaml:1: expected a plain key, got a list or a mapping"),
        ("a: !!python/name:os.system x\n", "bad.yaml:1: expected YAML, got: could not determine"),
        ("a: !!python/tuple [x]\n", "bad.yaml:1: expected a list or a mapping, got the tag"),
        ("a: 2001-99-99\n", "bad.yaml:1: expected a value that YAML can read, got `2001-99-99`"),
        ("a: " + "9" * 6000, "bad.yaml:1: expected a value that YAML can read, got `999"),
        ("<<: {a: 1}\n", "bad.yaml:1: expected YAML, got: could not determine"),
        ("[" * 20_000, "bad.yaml: expected a few levels of keys"),
        (b"a: \xff\n", "bad.yaml: expected UTF-8 text"),
        (b"a: \x00\n", "bad.yaml: expected plain text, got a control character"),
        (b" " * (MAX_FILE_BYTES + 1), f"bad.yaml: expected at most {MAX_FILE_BYTES} bytes"),
    ],
)
def test_what_is_no_config_at_all_is_refused(tmp_path: Path, text: str | bytes, start: str) -> None:
    assert complaint(tmp_path, text)[0].startswith(start)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    lines = complaint(tmp_path, "groups: 0\nrouter: x\nnod: 1\n")
    assert [line.split(":")[2].strip() for line in lines] == [
        "nod",
        "node",
        "members",
        "data_dir",
        "groups",
        "router",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigError) as caught:
        Options.from_yaml(missing)
    assert str(caught.value) == f"{missing}: expected a readable file, got: No such file or directory"
    with pytest.raises(ConfigError, match="expected a readable file, got: Is a directory"):
        Options.from_yaml(tmp_path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*_leaves(Options), "0", "x"]) | st.integers(0, 3), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_content_is_options_or_a_config_error(content: Any) -> None:
    options = Options(
        node="127.0.0.1:1001", members=["127.0.0.1:1001"], data_dir="d", layout=content, limits=content
    )
    with pytest.raises(ConfigError, match=r"^options: (layout|limits)"):
        options.validate()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"groups": "3"},
            "groups: expected a whole number of 1 .. 1024, got the text '3'; remove the quotes",
        ),
        ({"groups": 1025}, "groups: expected a whole number of 1 .. 1024, got the number 1025"),
        ({"groups": True}, "groups: expected a whole number of 1 .. 1024, got true"),
        ({"data_dir": Path("x")}, "data_dir: expected text, got a value of type PosixPath"),
        ({"members": ()}, "members: expected a list, got a value of type tuple"),
        ({"members": []}, "members: expected 1 .. 64 addresses, got 0 of them"),
        ({"members": ["127.0.0.1:9"]}, "members: expected this node (127.0.0.1:1001) among the members"),
        ({"timers": LimitOptions()}, "timers: expected TimerOptions, got a LimitOptions"),
        ({"timers": {}}, "timers: expected TimerOptions, got a mapping"),
        ({"timers": TimerOptions(ask_ms=0)}, "timers.ask_ms: expected a whole number of 1 .. 600000"),
        (
            {"master": MasterOptions(groups="0-1")},
            "master.groups: expected groups of 0 .. 0, got '0-1' in '0-1'",
        ),
        (
            {"master": MasterOptions(groups="x")},
            "master.groups: expected `none`, `all`, or groups",
        ),
        (
            {"master": MasterOptions(lease_ms=999)},
            "master.lease_ms: expected a whole number of 1000 ..",
        ),
        ({"layout": LayoutOptions(workers=2)}, "layout.workers: expected at most one worker per group (1)"),
        (
            {"state_machines": [MachineOptions(class_="a:B", args={"x": b"y"})]},
            "state_machines.0.args.x: expected text, a number",
        ),
        ({"state_machines": [MachineOptions(class_=":B")]}, "state_machines.0.class: expected a path such"),
    ],
)
def test_options_made_in_code_keep_the_same_rules(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        in_code(**options).validate()
    assert str(caught.value).startswith(f"options: {line}")


@pytest.mark.parametrize(("low", "high"), NOT_ABOVE)
def test_options_that_must_fit_each_other_do(low: tuple[str, str], high: tuple[str, str]) -> None:
    least = BOUNDS[".".join(high)][0]
    default = in_code()
    sections: dict[str, Any] = {}
    for (section, name), value in ((low, max(least + 1, 2)), (high, least)):
        base = sections.get(section, getattr(default, section))
        sections[section] = msgspec.structs.replace(base, **{name: value})
    with pytest.raises(ConfigError) as caught:
        in_code(**sections).validate()
    expected = f"options: {'.'.join(low)}: expected at most {'.'.join(high)} ({least})"
    assert any(line.startswith(expected) for line in str(caught.value).splitlines())


def test_a_plugin_is_loaded_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pxm_lame.py").write_text("import pxm_not_there\n", encoding="ascii")
    (tmp_path / "pxm_broken.py").write_text("1 / 0\n", encoding="ascii")
    assert load("paxmux.engine.errors:ConfigError") is ConfigError
    assert load("paxmux.engine.errors:ConfigError.code") == Code.BAD_OPTIONS
    for path, words in [
        ("pxm_none.x:Y", "expected an importable module, got no module named 'pxm_none'"),
        ("paxmux.none:Y", "expected an importable module, got no module named 'paxmux.none'"),
        ("pxm_lame:Y", "importing pxm_lame failed: No module named 'pxm_not_there'"),
        ("pxm_broken:Y", "importing pxm_broken failed: ZeroDivisionError: division by zero"),
        ("paxmux.engine.errors:Nope", "expected 'Nope' in paxmux.engine.errors, got no such name"),
        ("paxmux", "expected a path such as `package.module:Name`, got 'paxmux'"),
        ("", "expected a path such as"),
        ("../x:Y", "expected a path such as"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert words in str(caught.value)


def test_a_class_must_keep_its_contract() -> None:
    assert load_class("paxmux.engine.errors:ConfigError", ValueError) is ConfigError
    for path in ("paxmux.engine.state_machine:StateMachine", "paxmux.engine.errors:error_for"):
        with pytest.raises(ConfigError, match="expected a class derived from StateMachine"):
            load_class(path, StateMachine)


def test_the_core_has_the_defaults_of_the_options() -> None:
    """Timers and bounds stand in the options for users, with units, and in the core for tests of its own."""
    assert timers_of(TimerOptions(), ProposalOptions()) == DEFAULT_TIMERS
    assert bounds_of(LimitOptions(), ProposalOptions()) == DEFAULT_BOUNDS
