"""A table that may outgrow memory: written to a temporary file as it comes, and read back a part at a time."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import RaypipeError

_IN_MEMORY = 4 << 20  # bytes, compressed, before there is a file at all


class Spool:
    """Rows on disk.

    Parameters
    ----------
    tables
        The first rows. Columns that not all tables have are null where they lack, and types that differ are promoted
        to one that holds both.

    Attributes
    ----------
    schema
        Of all tables together.

    Raises
    ------
    pyarrow.ArrowException
        If a column's types cannot be reconciled.
    RaypipeError
        If the temporary file cannot be written.
    """

    def __init__(self, tables: Iterable[pa.Table] = ()):
        self.schema = pa.schema([])
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="raypipe-")
        weakref.finalize(self, self._file.close)
        self._starts = [0]  # the first row of each part, and the number of all rows
        self._places = [0]  # where each part begins in the file, and where the last one ends
        self._latest: tuple[int, pa.Table] | None = None
        self._lock = threading.Lock()
        for table in tables:
            self.append(table)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._starts[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Spool, ([self.read()],))

    def append(self, table: pa.Table) -> None:
        """Add rows behind the others, as one part: what is read, is read in whole parts."""
        self.schema = pa.unify_schemas([self.schema, table.schema], promote_options="permissive")
        if not table.num_rows:
            return
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
            stream.write_table(table)
        with self._lock:
            try:
                self._file.seek(self._places[-1])
                self._file.write(sink.getvalue())
                self._file.flush()
            except OSError as error:
                reason = error.strerror or error
                raise RaypipeError(f"cannot write a temporary file in {tempfile.gettempdir()}: {reason}") from error
            self._latest = (len(self._places) - 1, table)
            self._places.append(self._file.tell())
            self._starts.append(len(self) + table.num_rows)

    def read(self, start: int = 0, stop: int | None = None) -> pa.Table:
        """Return a slice of the rows."""
        start, stop, _ = slice(start, stop).indices(len(self))
        if start >= stop:
            return self.schema.empty_table()
        first, last = self._parts_of(np.array([start, stop - 1]))
        parts = []
        for number in range(first, last + 1):
            begin, end = self._starts[number], self._starts[number + 1]
            parts.append(self._part(number).slice(max(start - begin, 0), min(stop, end) - max(start, begin)))
        return self._joined(parts)

    def take(self, rows: Sequence[int] | np.ndarray) -> pa.Table:
        """Return the rows of these numbers, in their order."""
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return self.schema.empty_table()
        parts_of = self._parts_of(rows)
        order = np.argsort(parts_of, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(parts_of[order])) + 1)
        numbers = [int(parts_of[group[0]]) for group in groups]
        taken = self._joined(
            [
                self._part(number).take(pa.array(rows[group] - self._starts[number]))
                for number, group in zip(numbers, groups, strict=True)
            ]
        )
        return taken if (np.diff(order) > 0).all() else taken.take(pa.array(np.argsort(order)))

    def _parts_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, rows, "right") - 1

    def _part(self, number: int) -> pa.Table:
        with self._lock:
            if self._latest is None or self._latest[0] != number:
                begin, end = self._places[number : number + 2]
                self._file.seek(begin)
                self._latest = (number, pa.ipc.open_stream(self._file.read(end - begin)).read_all())
            return self._latest[1]

    def _joined(self, parts: list[pa.Table]) -> pa.Table:
        return pa.concat_tables([self.schema.empty_table(), *parts], promote_options="permissive")
