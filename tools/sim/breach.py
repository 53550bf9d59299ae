"""What a checker raises: the run is wrong, and which rule says so."""

from __future__ import annotations


class Breach(AssertionError):
    """Something that must hold does not. `checker` names the rule, for tables and for counting."""

    def __init__(self, checker: str, words: str) -> None:
        super().__init__(f"{checker}: {words}")
        self.checker = checker

    def __reduce__(self) -> tuple[type[Breach], tuple[str, str]]:
        return Breach, (self.checker, str(self).removeprefix(f"{self.checker}: "))
