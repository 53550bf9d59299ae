"""YAML -> Options.

Decides how a file becomes options, and that every complaint names file, line, key and what was
expected. Never guesses: a key that is not known, written twice or of the wrong type is an error,
and no value is taken from anywhere but the file.
"""

from __future__ import annotations

import os
from pathlib import Path as FilePath
from typing import Any

import msgspec
import yaml

from paxmux.engine.errors import ConfigError
from paxmux.engine.option_rules import rule_problems
from paxmux.engine.options import Options
from paxmux.engine.problem import Path, Problem, raise_for
from paxmux.engine.schema import schema_problems

MAX_FILE_BYTES = 1 << 20
"""A config is small; a larger file is not one."""

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def load(file: FilePath) -> Options:
    """Read and check a YAML file. A relative `data_dir` or `network.secret_file` is taken relative to the
    folder of the file.

    Raises:
        ConfigError: one line for each problem, `FILE:LINE: key.path: expected ..., got ...`.
    """
    document = _Document(file)
    raise_for(document.problems, document.where)
    raise_for(schema_problems(document.content, document.raw), document.where)
    options = msgspec.convert(document.content, Options)
    raise_for(rule_problems(options), document.where)
    folder = os.path.abspath(file.parent)
    network = options.network
    if network.secret_file is not None:
        network = msgspec.structs.replace(network, secret_file=os.path.join(folder, network.secret_file))
    return msgspec.structs.replace(options, data_dir=os.path.join(folder, options.data_dir), network=network)


def validate(options: Options) -> None:
    """Check options made in code by the same rules; what is said of a file's line is said of `options`.

    Raises:
        ConfigError: one line for each problem, `options: key.path: expected ..., got ...`.
    """
    raise_for(schema_problems(options))
    raise_for(rule_problems(options))


class _Document:
    """A YAML file as plain values, with the line and the spelling of each."""

    def __init__(self, file: FilePath) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._lines: dict[Path, int] = {}
        self._raw: dict[Path, str] = {}
        text = self._text()
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            self.content: Any = None if root is None else self._value((), root, loader)
        except yaml.MarkedYAMLError as error:
            raise ConfigError(self._syntax(error)) from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{file}: expected plain text, got a control character ({error})") from error
        except RecursionError:
            raise ConfigError(f"{file}: expected a few levels of keys, got far too many") from None
        if root is None:
            raise ConfigError(f"{file}: expected keys such as node, members, data_dir, got an empty file")

    def where(self, path: Path) -> str:
        """`FILE:LINE` of the key, or of the nearest key around it that is in the file."""
        while path and path not in self._lines:
            path = path[:-1]
        return f"{self.file}:{self._lines.get(path, 1)}"

    def raw(self, path: Path) -> str | None:
        """How a value is written, if without quotes."""
        return self._raw.get(path)

    def _text(self) -> str:
        try:
            with self.file.open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{self.file}: expected a readable file, got: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{self.file}: expected at most {MAX_FILE_BYTES} bytes, got a larger file")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.file}: expected UTF-8 text, got: {error}") from error

    def _syntax(self, error: yaml.MarkedYAMLError) -> str:
        mark = error.problem_mark or error.context_mark
        place = f"{self.file}:{mark.line + 1}" if mark is not None else str(self.file)
        problem = " ".join(part for part in (error.problem, error.context) if part)
        return f"{place}: expected YAML, got: {problem}"

    def _value(self, path: Path, node: yaml.Node, loader: yaml.SafeLoader) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            if node.style is None:
                self._raw[path] = node.value
            return self._scalar(node, loader)
        if node.tag not in _COLLECTIONS:
            raise ConfigError(f"{self._at(node)}: expected a list or a mapping, got the tag {node.tag!r}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(path, node, loader)
        return [self._value((*path, i), item, loader) for i, item in enumerate(node.value)]

    def _scalar(self, node: yaml.ScalarNode, loader: yaml.SafeLoader) -> Any:
        try:
            return loader.construct_object(node)
        except ValueError as error:  # a date such as 2001-99-99, a number of too many digits
            shown = node.value if len(node.value) <= 80 else f"{node.value[:80]}..."
            raise ConfigError(
                f"{self._at(node)}: expected a value that YAML can read, got `{shown}` ({error}); "
                "put it in quotes if it is text"
            ) from error

    def _at(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"

    def _mapping(self, path: Path, node: yaml.MappingNode, loader: yaml.SafeLoader) -> dict[Any, Any]:
        content: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.file}:{line}: expected a plain key, got a list or a mapping")
            key = self._scalar(key_node, loader)
            part = key if type(key) is int else str(key)
            inner = (*path, part)
            if key in content:
                first = self._lines.get(inner, line)
                self.problems.append(
                    Problem(inner, f"expected the key once, got it on line {first} and on line {line}")
                )
            self._lines[inner] = line
            content[key] = self._value(inner, value_node, loader)
        return content


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a config says each thing where it belongs, and none can grow without end."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="an alias (`*name`), which is not supported", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)
