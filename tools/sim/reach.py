"""Lines of production code that are worth reaching: which there are, and how often a run reached each.

Such a line ends in a comment `# reach: name`. While a `Reach` is active, the functions with such lines
run code compiled from the same source, with a count in front of the line, on the same line; afterwards
they run their own again. Nobody else pays for it, and production code knows nothing of it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType, TracebackType
from typing import Any

PACKAGES = ("paxmux.engine.paxos",)
MODULES = (
    "paxmux.shards.applier",
    "paxmux.shards.calls",
    "paxmux.shards.repairs",
    "paxmux.shards.retention",
    "paxmux.shards.serving",
    "paxmux.shards.slice",
    "paxmux.shards.turn",
    "paxmux.plugins.storage.cleaner",
)
COUNTS = "_reached_"
"""The name under which a module finds its counts meanwhile."""

_MARK = re.compile(r"^(?P<indent>\s*)(?P<line>\S.*?)\s+# reach: (?P<name>[\w-]+)$")
_NOT_SIMPLE = re.compile(
    r"(?:if|elif|else|for|while|with|try|except|finally|def|class|async|match|case|@)\b|@"
)


class Reach:
    """Counts while it is active; a context manager."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names = tuple(sorted(name for module in _modules() for name in marks(module)))
        self._originals: list[tuple[FunctionType, CodeType]] = []
        self._changed: list[ModuleType] = []

    def __enter__(self) -> Reach:
        for module in _modules():
            if marks(module):
                self._count_in(module)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for function, code in self._originals:
            function.__code__ = code
        for module in self._changed:
            delattr(module, COUNTS)
        self._originals.clear()
        self._changed.clear()

    def _count_in(self, module: ModuleType) -> None:
        source = inspect.getsource(module)
        lines = [_counted(line) for line in source.splitlines()]
        made = compile("\n".join(lines) + "\n", inspect.getfile(module), "exec", dont_inherit=True)
        codes = {code.co_qualname: code for code in _codes(made)}
        setattr(module, COUNTS, self.counts)
        self._changed.append(module)
        for function in _functions(module):
            code = codes.get(function.__code__.co_qualname)
            # One that somebody else has put in the place of the module's own is left alone.
            if code is not None and function.__code__.co_filename == code.co_filename:
                self._originals.append((function, function.__code__))
                function.__code__ = code


def marks(module: ModuleType) -> list[str]:
    """The names in a module's source.

    Raises:
        ValueError: a mark on a line that a count cannot stand in front of, or a name used twice.
    """
    names: list[str] = []
    for number, line in enumerate(inspect.getsource(module).splitlines(), 1):
        found = _MARK.match(line)
        if found is None:
            continue
        if _NOT_SIMPLE.match(found["line"]) or found["name"] in names:
            raise ValueError(f"{module.__name__}:{number}: a mark stands once, behind a simple statement")
        names.append(found["name"])
    return names


def _counted(line: str) -> str:
    found = _MARK.match(line)
    if found is None:
        return line
    return f'{found["indent"]}{COUNTS}["{found["name"]}"] += 1; {found["line"]}'


def _modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        place = importlib.import_module(package)
        for found in pkgutil.iter_modules(place.__path__):
            yield importlib.import_module(f"{package}.{found.name}")
    for name in MODULES:
        yield importlib.import_module(name)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Of the functions and methods of a module; what is nested in them comes with them."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            if "__qualname__" in part.co_names:  # the body of a class
                yield from _codes(part)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Those that the module itself defines."""
    for member in vars(module).values():
        if getattr(member, "__module__", None) != module.__name__:
            continue
        if isinstance(member, FunctionType):
            yield member
        elif isinstance(member, type):
            for part in vars(member).values():
                yield from _bare(part)


def _bare(part: Any) -> Iterator[FunctionType]:
    if isinstance(part, property):
        accessors: tuple[Callable[..., Any] | None, ...] = (part.fget, part.fset, part.fdel)
        for accessor in accessors:
            if isinstance(accessor, FunctionType):
                yield accessor
    elif isinstance(part, staticmethod | classmethod):
        if isinstance(part.__func__, FunctionType):
            yield part.__func__
    elif isinstance(part, FunctionType):
        yield part
