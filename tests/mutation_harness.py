"""Puts a deliberate mistake into the code that runs, and looks for what finds it.

A mistake rewrites places in the source of functions; what is compiled from it runs in the place of the
function's own code, wherever the function is known, until it is taken out again. Production code has no
part in this. Decides nothing about which mistakes there are.
"""

from __future__ import annotations
import __future__

import gc
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest

from paxmux.tools.sim.campaign import Failure, judge
from paxmux.tools.sim.plan import Asked

SEEDS = range(1, 301)
"""Those that CI runs on the code as it is; each mistake that the simulator finds is found by one of them."""

Check = Callable[[], object]


class Change(NamedTuple):
    """One place: in which function of a class or module, which text becomes which."""

    owner: Any
    function: str
    old: str
    new: str

    @property
    def where(self) -> str:
        return f"{self.owner.__name__.rpartition('.')[2]}.{self.function}"


class Mutation(NamedTuple):
    """One mistake; several changes where one alone would meet a second line of defence."""

    name: str
    guards: str
    """The invariants of docs/specification.md that it breaks, such as `I4 I8`."""
    changes: tuple[Change, ...]
    check: Check | None = None
    """A test that finds it, where no seed brings about what it takes."""
    why: str = ""
    """Why none does."""


class Find(NamedTuple):
    """What found a mistake."""

    seed: int
    """0: the test that it names."""
    caught_by: str
    """The checker, or the exception that the mistake made the code trip over."""


def one(name: str, guards: str, owner: Any, function: str, old: str, new: str) -> Mutation:
    """A mistake in one place, for the simulator to find."""
    return Mutation(name, guards, (Change(owner, function, old, new),))


def both(name: str, guards: str, *changes: Change) -> Mutation:
    """A mistake in several places, for the simulator to find."""
    return Mutation(name, guards, changes)


def tested(
    name: str, guards: str, owner: Any, function: str, old: str, new: str, check: Check, why: str
) -> Mutation:
    """A mistake that a test finds, and why no seed does."""
    return Mutation(name, guards, (Change(owner, function, old, new),), check, why)


def alone(test: Callable[..., object]) -> Check:
    """A test together with what it asks of pytest: a folder, patches."""

    @wraps(test)
    def run() -> None:
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            given = {"tmp_path": Path(folder), "monkeypatch": patch}
            test(**{name: given[name] for name in inspect.signature(test).parameters})

    return run


def label(check: Check) -> str:
    """A test by its name, and what it is called with."""
    arguments = ""
    if isinstance(check, partial):
        named = [f"{name}={_spelled(value)}" for name, value in check.keywords.items()]
        arguments = ", ".join([*map(_spelled, check.args), *named])
        check = check.func
    name = f"{inspect.unwrap(check).__module__.rpartition('.')[2]}.{check.__name__}"
    return f"{name}({arguments})" if arguments else name


def _spelled(argument: object) -> str:
    return argument.__name__ if isinstance(argument, FunctionType) else repr(argument)


@contextmanager
def installed(mutation: Mutation) -> Iterator[None]:
    """The mistake is in the code meanwhile.

    Raises:
        ValueError: a function does not have a text that is to be changed, or has it more than once.
    """
    sources: dict[FunctionType, str] = {}
    for change in mutation.changes:
        function = _function(change)
        source = sources.get(function) or _source(function)
        if source.count(change.old) != 1:
            raise ValueError(f"{change.where}: {source.count(change.old)} places with {change.old!r}")
        sources[function] = source.replace(change.old, change.new)
    originals = {function: function.__code__ for function in sources}
    try:
        for function, source in sources.items():
            function.__code__ = _compiled(function, source, mutation.name)
        yield
    finally:
        for function, code in originals.items():
            function.__code__ = code


def _function(change: Change) -> FunctionType:
    found = inspect.getattr_static(change.owner, change.function)
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType)
    return found


@cache
def _source(function: FunctionType) -> str:
    # As it was imported: the file may be another a moment later, and `inspect` would read that.
    return textwrap.dedent(inspect.getsource(function))


def _compiled(function: FunctionType, source: str, name: str) -> CodeType:
    flags = __future__.annotations.compiler_flag
    module = compile(source, f"<{name}>", "exec", flags=flags, dont_inherit=True)
    return next(
        part
        for part in module.co_consts
        if isinstance(part, CodeType) and part.co_name == function.__code__.co_name
    )


def find(mutation: Mutation, seeds: Iterable[int] = SEEDS) -> Find | None:
    """What finds the mistake first; None if nothing does. The code is as it was afterwards."""
    with installed(mutation):
        if mutation.check is not None:
            return Find(0, label(mutation.check)) if _fails(mutation.check) else None
        for seed in seeds:
            outcome = judge(seed, Asked())
            gc.collect()
            if isinstance(outcome, Failure):
                return Find(seed, outcome.checker)
    return None


def _fails(check: Check) -> bool:
    """Any exception is a find: a mistake may also make the code trip over itself."""
    try:
        check()
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - see above
        return True
    return False
