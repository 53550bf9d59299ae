"""A golden file as text: cases, each with what it means and its bytes in hexadecimal, a field a line."""

from __future__ import annotations

from typing import NamedTuple

from tests.golden.format import Fields, Format

LINE_BYTES = 32


class Case(NamedTuple):
    """A case as a file has it."""

    means: str
    data: bytes


def render(form: Format, cases: dict[str, Fields]) -> str:
    """The text of the golden file of the present version."""
    lines = [f"# {form.name}, version {form.version()}: {form.about}", f"# {form.version_in}"]
    for name, fields in cases.items():
        lines += ["", f"case: {name}", f"means: {form.inputs[name]!r}"]
        for field, data in fields:
            rows = [data[at : at + LINE_BYTES].hex() for at in range(0, len(data), LINE_BYTES)]
            lines.append(f"{rows[0]:<{2 * LINE_BYTES}}  {field}{_shown(data)}")
            lines += rows[1:]
    return "\n".join(lines) + "\n"


def parse(text: str) -> dict[str, Case]:
    """The cases of a golden file."""
    cases: dict[str, Case] = {}
    name = means = ""
    for line in text.splitlines():
        if line.startswith("case: "):
            name = line.removeprefix("case: ")
            cases[name] = Case("", b"")
        elif line.startswith("means: "):
            means = line.removeprefix("means: ")
            cases[name] = Case(means, b"")
        elif line and not line.startswith("#"):
            cases[name] = Case(means, cases[name].data + bytes.fromhex(line.split("  ")[0]))
    return cases


def _shown(data: bytes) -> str:
    """Text among the bytes, for whoever reads the file; nothing depends on it."""
    if not 3 <= len(data) <= LINE_BYTES or not all(32 <= byte < 127 for byte in data):
        return ""
    return f" {data.decode('ascii')!r}"
