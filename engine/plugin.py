"""Objects named in the options by a dotted path, `package.module:Name`.

Decides how such a path is written and what is said when it leads nowhere. Imports the module and
nothing else; whether the object keeps its contract is for its user to find out.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, TypeVar

from paxmux.engine.errors import ConfigError

Base = TypeVar("Base")

_NAME = r"[^\W\d]\w*"
_DOTTED = re.compile(rf"({_NAME}(?:\.{_NAME})*):({_NAME}(?:\.{_NAME})*)")


def split_path(path: str) -> tuple[str, str]:
    """(module, name) of a dotted path.

    Raises:
        ConfigError: what was expected and what the path is; it never names file or key.
    """
    match = _DOTTED.fullmatch(path)
    if match is None:
        raise ConfigError(f"expected a path such as `package.module:Name`, got {path!r}")
    return match[1], match[2]


def load(path: str) -> Any:
    """Import the module and return the object that the path names.

    Raises:
        ConfigError: malformed path, no such module, the module's own code failed, no such name.
    """
    module_name, name = split_path(path)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that is there but imports a missing one is another mistake, with another cure.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{path}: importing {module_name} failed: {error}") from error
        raise ConfigError(
            f"{path}: expected an importable module, got no module named {error.name!r}"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"{path}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{path}: expected {name!r} in {module_name}, got no such name")
        found = getattr(found, part)
    return found


def load_class(path: str, base: type[Base]) -> type[Base]:
    """As `load`, for a class that must be derived from `base`.

    Raises:
        ConfigError: as `load`, and for anything but a proper subclass.
    """
    found = load(path)
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        raise ConfigError(f"{path}: expected a class derived from {base.__name__}, got {found!r}")
    return found
