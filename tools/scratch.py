"""The folder that a command's cluster lives in: given and kept, or temporary and removed.

Decides that nothing is ever written into a folder that holds something already, and that a temporary
one goes away however the command ends, unless what is in it explains a failure.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from paxmux.engine.errors import DataDirError


class Scratch:
    """A context manager; gives the folder."""

    def __init__(self, given: str | None) -> None:
        self._given = Path(given) if given is not None else None
        self._path: Path | None = None
        self._keep = given is not None

    def __enter__(self) -> Scratch:
        if self._given is None:
            self._path = Path(tempfile.mkdtemp(prefix="paxmux-"))
            return self
        try:
            self._given.mkdir(parents=True, exist_ok=True)
            taken = next(self._given.iterdir(), None)
        except OSError as error:
            raise DataDirError(f"{self._given}: expected a folder for the data: {error.strerror}") from None
        if taken is not None:
            raise DataDirError(f"{self._given}: expected an empty folder or none, found {taken.name} in it")
        self._path = self._given
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keep:
            shutil.rmtree(self.path)

    @property
    def path(self) -> Path:
        """The folder."""
        assert self._path is not None, "within `with`"
        return self._path

    def keep(self) -> Path:
        """Leave it there, for whoever looks into what went wrong; returns it."""
        self._keep = True
        return self.path
