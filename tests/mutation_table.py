"""What found each mistake: the record that the tests go by, and the pages that are made of it.

The record (`mutations_found.json`) is the only source of the pages' figures; `python -m tests.mutations
--write` renews both. Decides nothing about what is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low

import orjson

from tests.mutation_harness import SEEDS, Find, Mutation, label

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).with_name("mutations_found.json")
TABLE = ROOT / "docs" / "mutations.md"
SPECIFICATION = ROOT / "docs" / "specification.md"
BEGIN, END = "<!-- generated: mutations -->\n", "<!-- end: mutations -->\n"

ELSEWHERE = {
    "I1": "Those of I2 to I9: what breaks one of these is seen before it has chosen two values.",
    "I14": "None: no simulated cluster is founded. `test_founding.py` explores it.",
    "I15": "None: a simulated process has no second one. `storage_contract.py`, `test_storage_kill.py`.",
}
"""Invariants that no mistake has a row for, and why."""


def read_record() -> dict[str, Find]:
    """What found each mistake when the record was last made; by name."""
    return {name: Find(*found) for name, found in orjson.loads(RECORD.read_bytes()).items()}


def write_record(found: Mapping[str, Find]) -> None:
    """Renew the record: a line for each mistake."""
    lines = [f"  {_json(name)}: [{find.seed}, {_json(find.caught_by)}]" for name, find in found.items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


def pages(mutations: Sequence[Mutation], found: Mapping[str, Find]) -> dict[Path, str]:
    """Each page as it has to be."""
    parts = {TABLE: _table(mutations, found), SPECIFICATION: _invariants(mutations, found)}
    return {path: _between(path.read_text(encoding="utf-8"), text) for path, text in parts.items()}


def _between(page: str, text: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"no {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{text}{END}{after}"


def _table(mutations: Sequence[Mutation], found: Mapping[str, Find]) -> str:
    simulated = [each for each in mutations if each.check is None and each.name in found]
    tested = [each for each in mutations if each.check is not None and each.name in found]
    seeds = sorted(found[each.name].seed for each in simulated)
    lines = [
        f"{len(simulated) + len(tested)} mistakes: {len(simulated)} are found by the simulator, half of them "
        f"by seed {median_low(seeds)}, the last by seed {seeds[-1]}; {len(tested)} by tests.",
        "",
        "## Found by the simulator",
        "",
        f"The seed is the first of {SEEDS[0]}..{SEEDS[-1]} that finds the mistake, so it is also how many it "
        "takes.",
        "",
        "| mistake | guards | what is changed | seed | caught by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in simulated:
        seed, caught_by = found[each.name]
        lines.append(f"| {each.name} | {_guards(each)} | {_changes(each)} | {seed} | {caught_by} |")
    lines += [
        "",
        "## Guards that no seed can reach",
        "",
        "| mistake | guards | what is changed | found by | why no seed finds it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in tested:
        assert each.check is not None
        test = _code(label(each.check))
        lines.append(f"| {each.name} | {_guards(each)} | {_changes(each)} | {test} | {each.why} |")
    return "\n".join(lines) + "\n"


def _invariants(mutations: Sequence[Mutation], found: Mapping[str, Find]) -> str:
    lines = ["| | mistakes | caught by |", "| --- | --- | --- |"]
    for number in invariants():
        guarding = [each for each in mutations if number in each.guards.split() and each.name in found]
        names = "; ".join(each.name for each in guarding) or ELSEWHERE[number]
        catches = dict.fromkeys(found[each.name].caught_by for each in guarding)
        lines.append(f"| {number} | {names} | {', '.join(map(_code, catches))} |")
    return "\n".join(lines) + "\n"


def invariants() -> list[str]:
    """`I1`, `I2` and so on, as the specification has them."""
    return re.findall(r"^\*\*(I\d+)\.", SPECIFICATION.read_text(encoding="utf-8"), re.MULTILINE)


def _guards(mutation: Mutation) -> str:
    return mutation.guards.replace(" ", ", ")


def _changes(mutation: Mutation) -> str:
    return "<br>".join(
        f"{_code(change.where)}: {_code(change.old)} → {_code(change.new)}" for change in mutation.changes
    )


def _code(text: str) -> str:
    """Code within a cell: in one line, and no bar ends the cell."""
    if not text:
        return "nothing"
    return f"`{' ⏎ '.join(line.strip() for line in text.strip().splitlines())}`".replace("|", "\\|")
