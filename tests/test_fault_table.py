"""The table of faults in the docs is the one that the tests prove."""

from __future__ import annotations

from tests.fault_table import FAULTS, PAGE, ROOT, names_in, page, proven


def test_every_fault_has_a_test() -> None:
    assert {each.row.fault for each in proven()} == set(FAULTS)


def test_every_test_of_the_table_is_there() -> None:
    for _, file, test in proven():
        assert test in set(names_in(ROOT / file)), f"{file}::{test}"


def test_the_page_has_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.fault_table --write"
