"""Do values have the types and bounds that the options declare?

Decides it for a mapping read from YAML and for `Options` made in code alike, by walking the one
declaration in `options.py`. Finds every problem, not only the first one. Never looks at two options
at once: that is `option_rules.py`.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect as mi

from paxmux.engine.bounds import BOUNDS
from paxmux.engine.options import Options
from paxmux.engine.problem import Path, Problem, key_text

Raw = Callable[[Path], str | None]
"""Path -> the value as it is written in the file, if it is plain text without quotes there."""

_ABSENT = object()
_PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")


def schema_problems(value: object, raw: Raw = lambda path: None) -> list[Problem]:
    """Everything of the wrong type, out of bounds, unknown or missing.

    Args:
        value: an `Options`, or the mapping that should become one.
        raw: how values are written, for messages about what YAML made of them.
    """
    walk = _Walk(raw, in_code=isinstance(value, Options))
    walk.check((), value, _declaration())
    return walk.problems


@cache
def _declaration() -> mi.StructType:
    declared = mi.type_info(Options)
    assert isinstance(declared, mi.StructType)
    return declared


@cache
def _sections() -> dict[str, str]:
    """Key -> the section that it belongs to."""
    return {
        field.encode_name: section.encode_name
        for section in _declaration().fields
        if isinstance(section.type, mi.StructType)
        for field in section.type.fields
    }


class _Walk:
    """One pass over the values, beside the declaration."""

    def __init__(self, raw: Raw, *, in_code: bool) -> None:
        self.raw = raw
        self.in_code = in_code
        self.problems: list[Problem] = []

    def check(self, path: Path, value: object, declared: mi.Type) -> None:
        match declared:
            case mi.StructType():
                self._struct(path, value, declared)
            case mi.ListType(item_type=item) if isinstance(value, list):
                for position, one in enumerate(value):
                    self.check((*path, position), one, item)
            case mi.DictType(key_type=key_type, value_type=value_type) if isinstance(value, Mapping):
                for key, one in value.items():
                    if self._key(path, key, key_type):
                        self.check((*path, key), one, value_type)
            case mi.AnyType():
                self._plain(path, value)
            case _:
                self._scalar(path, value, declared)

    def _struct(self, path: Path, value: object, declared: mi.StructType) -> None:
        if isinstance(value, declared.cls):
            for field in declared.fields:
                self.check((*path, field.encode_name), getattr(value, field.name), field.type)
            return
        if self.in_code:
            self._wrong(path, declared.cls.__name__, value)
            return
        if not isinstance(value, Mapping):
            self._wrong(path, "a mapping of keys", value)
            return
        fields = {field.encode_name: field for field in declared.fields}
        for key in value:
            if key not in fields:
                self._unknown(path, key, list(fields))
        for name, field in fields.items():
            one = value.get(name, _ABSENT)
            if one is not _ABSENT:
                self.check((*path, name), one, field.type)
            elif field.required:
                self._add(
                    (*path, name), f"expected {self._expected(path, field.type)}, got no such key (required)"
                )

    def _unknown(self, path: Path, key: object, known: list[str]) -> None:
        near = difflib.get_close_matches(str(key), known, n=1)
        section = _sections().get(str(key))
        if near:
            advice = f"did you mean `{near[0]}`?"
        elif not path and section is not None:
            advice = f"it belongs under `{section}`"
        else:
            advice = f"known are {', '.join(known)}"
        self._add((*path, str(key)), f"expected a known key, got `{key}`: {advice}")

    def _key(self, path: Path, key: object, declared: mi.Type) -> bool:
        if isinstance(declared, mi.IntType):
            if type(key) is int:
                return True
            self._add((*path, str(key)), f"expected keys that are whole numbers, got {_shown(key)}")
            return False
        if isinstance(key, str):
            return True
        self._add((*path, str(key)), f"expected keys that are text, got {_shown(key)}; put it in quotes")
        return False

    def _plain(self, path: Path, value: object) -> None:
        """Arguments of plugins travel to other processes as JSON, so they must survive it unchanged."""
        if isinstance(value, list):
            for position, one in enumerate(value):
                self._plain((*path, position), one)
        elif isinstance(value, dict):
            for key, one in value.items():
                if self._key(path, key, mi.StrType()):
                    self._plain((*path, key), one)
        elif isinstance(value, float):
            if not math.isfinite(value):
                self._wrong(path, "a finite number", value)
        elif type(value) is int:
            if not -(2**63) <= value < 2**64:
                self._wrong(path, "a number of at most 64 bits", value)
        elif value is not None and not isinstance(value, bool | str):
            self._wrong(path, "text, a number, true, false, a list or a mapping", value, quote=True)

    def _scalar(self, path: Path, value: object, declared: mi.Type) -> None:
        kinds = declared.types if isinstance(declared, mi.UnionType) else (declared,)
        expected = self._expected(path, declared)
        if not any(_is_a(value, kind) for kind in kinds):
            self._wrong(path, expected, value, quote=any(isinstance(kind, mi.StrType) for kind in kinds))
        elif type(value) is int:
            written = self.raw(path)
            if written is not None and not _PLAIN_NUMBER.fullmatch(written):
                self._add(
                    path, f"expected a plain decimal number, got `{written}`, which YAML reads as {value}"
                )
            bounds = BOUNDS.get(_bounds_key(path))
            if bounds is not None and not bounds[0] <= value <= bounds[1]:
                self._wrong(path, expected, value)

    def _expected(self, path: Path, declared: mi.Type) -> str:
        match declared:
            case mi.UnionType(types=kinds):
                words = [self._expected(path, kind) for kind in kinds]
                return " or ".join(word for word in words if word != "nothing")
            case mi.LiteralType(values=values):
                names = [f"`{name}`" for name in values]
                return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
            case mi.IntType():
                bounds = BOUNDS.get(_bounds_key(path))
                return "a whole number" + (f" of {bounds[0]} .. {bounds[1]}" if bounds else "")
            case _:
                return _WORDS[type(declared)]

    def _wrong(self, path: Path, expected: str, value: object, *, quote: bool = False) -> None:
        written = self.raw(path)
        shown = _shown(value)
        advice = ""
        if quote and written is not None and not isinstance(value, str | None):
            shown, advice = f"`{written}`, which YAML reads as {shown}", "; put it in quotes"
        elif isinstance(value, bool) and written is not None and written.lower() not in ("true", "false"):
            shown = f"`{written}`, which YAML reads as {shown}"
        elif isinstance(value, str) and "number" in expected:
            advice = _number_advice(value, written)
        self._add(path, f"expected {expected}, got {shown}{advice}")

    def _add(self, path: Path, text: str) -> None:
        self.problems.append(Problem(path, text))


_WORDS: dict[type[mi.Type], str] = {
    mi.StrType: "text",
    mi.BoolType: "true or false",
    mi.FloatType: "a number",
    mi.NoneType: "nothing",
    mi.ListType: "a list",
    mi.DictType: "a mapping",
    mi.StructType: "a mapping of keys",
}


def _bounds_key(path: Path) -> str:
    return key_text(tuple(part for part in path if isinstance(part, str)))


def _is_a(value: object, declared: mi.Type) -> bool:
    match declared:
        case mi.IntType():
            return type(value) is int
        case mi.FloatType():
            return type(value) in (int, float)
        case mi.LiteralType(values=values):
            return isinstance(value, str) and value in values
        case mi.StrType():
            return isinstance(value, str)
        case mi.BoolType():
            return isinstance(value, bool)
        case mi.NoneType():
            return value is None
        case _:
            return False


def _shown(value: Any) -> str:
    """A value as it stands after `got`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value!r}" if len(value) <= 80 else f"the text {value[:80]!r}..."
        case Mapping():
            return "a mapping"
        case list():
            return "a list"
        case datetime.date():
            return f"the date {value}"
        case msgspec.Struct():
            return f"a {type(value).__name__}"
        case _:
            return f"a value of type {type(value).__name__}"


def _number_advice(value: str, written: str | None) -> str:
    if _PLAIN_NUMBER.fullmatch(value):
        return "; remove the quotes" if written is None else ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f"; write {int(number)}" if math.isfinite(number) and number.is_integer() else ""
