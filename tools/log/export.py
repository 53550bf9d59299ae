"""Writes decided values to a file that other programs read: Arrow, Parquet, or lines of JSON.

Rows go out in bounded batches, so memory does not grow with the log. The file gets its name when it is
complete; whatever happens before, nothing of that name is there that was not there before. pyarrow is
imported only for the formats that need it.
"""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from paxmux.engine.errors import InvalidRequest, PaxmuxError
from paxmux.tools.log.rows import COLUMNS, Row

FORMATS = ("arrow", "parquet", "json")


class Writer(Protocol):
    """Writes one file."""

    def write(self, rows: Sequence[Row]) -> None:
        """Rows, in order."""
        ...

    def close(self) -> None:
        """What a file of its format ends with."""
        ...


class JsonLines:
    """One object for each row, on a line of its own; bytes are base64."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer.write`."""
        names = [name for name, _, _ in COLUMNS]
        for row in rows:
            document = dict(zip(names, row, strict=True))
            if row[-1] is not None:
                document["value"] = b64encode(row[-1]).decode("ascii")
            self._file.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """See `Writer.close`."""


class Columnar:
    """Arrow's file format, or Parquet; both by pyarrow."""

    def __init__(self, file: BinaryIO, form: str, about: dict[str, str]) -> None:
        """`about`: kept in the file's metadata."""
        import pyarrow

        self._arrow = pyarrow
        fields = [pyarrow.field(name, getattr(pyarrow, kind)(), null) for name, kind, null in COLUMNS]
        self._schema = pyarrow.schema(fields, metadata=about)
        self._writer: Any
        if form == "parquet":
            import pyarrow.parquet

            self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        else:
            self._writer = pyarrow.ipc.new_file(file, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer.write`."""
        columns = zip(*rows, strict=True)
        arrays = [
            self._arrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_batch(self._arrow.record_batch(arrays, schema=self._schema))

    def close(self) -> None:
        """See `Writer.close`."""
        self._writer.close()


@contextmanager
def exporting(path: Path, form: str, about: dict[str, str]) -> Iterator[Writer]:
    """A writer of a file that gets its name at the end, unless something is raised.

    Args:
        path: of the file; one that is there is replaced.
        form: one of `FORMATS`.
        about: of the file as a whole; JSON lines have no place for it.

    Raises:
        InvalidRequest: there can be no file of that name.
        PaxmuxError: it cannot be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "is in no directory that exists"
        raise InvalidRequest(f"cannot write {path}: it {what}")
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    make: Callable[[BinaryIO], Writer] = (
        JsonLines if form == "json" else lambda file: Columnar(file, form, about)
    )
    try:
        with open(unfinished, "xb") as file:
            writer: Writer | None = None
            try:
                writer = make(file)
                yield writer
                writer.close()
                file.flush()
                os.fsync(file.fileno())
                os.replace(unfinished, path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                if writer is not None:
                    # While the file is open; what was raised first is what is told.
                    with suppress(OSError, ValueError):
                        writer.close()
                raise
    except OSError as error:
        raise PaxmuxError(f"cannot write {path}: {error.strerror or error}") from error
