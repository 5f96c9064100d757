"""A table that may outgrow memory: written to a temporary file as it comes, and read back a part at a time."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa

from raypipe.errors import RaypipeError

_ROWS = 10_000  # of a part at most: what is read, is read in whole parts
_IN_MEMORY = 1 << 20  # bytes of the last part, which is not on disk


class Spool:
    """Rows on disk, but for the last ones. Threads and forked processes may read them at the same time.

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
        If a column's types cannot be reconciled; where only some values cannot, when these are read.
    RaypipeError
        If the temporary file cannot be written, or read.
    """

    def __init__(self, tables: Iterable[pa.Table] = ()):
        self.schema = pa.schema([])
        self._file: IO[bytes] | None = None
        self._starts = [0]  # the first row of each part
        self._places = [0]  # where each part on disk begins, and where the last one ends
        self._last: list[pa.Table] = []  # the part in memory
        self._n_last = self._bytes_last = 0
        self._latest: tuple[int, pa.Table] | None = None
        for table in tables:
            self.append(table)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._starts[-1] + self._n_last

    def __reduce__(self) -> tuple[Any, ...]:
        return (Spool, ([self.read()],))

    def append(self, table: pa.Table) -> None:
        """Add rows behind the others."""
        self.schema = pa.unify_schemas([self.schema, table.schema], promote_options="permissive")
        for start in range(0, table.num_rows, _ROWS):
            part = table.slice(start, _ROWS)
            if self._n_last + part.num_rows > _ROWS or self._bytes_last > _IN_MEMORY:
                self._write_last()
            self._last.append(part)
            self._n_last += part.num_rows
            self._bytes_last += part.nbytes

    def read(self, start: int = 0, stop: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """Return a slice of the rows; all columns by default."""
        start, stop, _ = slice(start, stop).indices(len(self))
        parts = []
        if start < stop:
            first, last = self._parts_of(np.array([start, stop - 1]))
            for number in range(first, last + 1):
                begin = max(start - self._starts[number], 0)
                parts.append(self._part(number).slice(begin, stop - self._starts[number] - begin))
        return self._joined(parts, columns)

    def take(self, rows: Sequence[int] | np.ndarray, start: int = 0, stop: int | None = None) -> pa.Table:
        """Return the rows of these numbers, in their order; they are counted from ``start``.

        Raises
        ------
        IndexError
            If there is no such row before ``stop``.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return self.schema.empty_table()
        if rows.min() < 0 or rows.max() >= stop - start:
            raise IndexError(f"rows {rows.min()} to {rows.max()} are asked for, of {stop - start}")
        rows = rows + start
        parts_of = self._parts_of(rows)
        order = np.argsort(parts_of, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(parts_of[order])) + 1)
        parts = []
        for group in groups:
            number = int(parts_of[group[0]])
            parts.append(self._part(number).take(pa.array(rows[group] - self._starts[number])))
        taken = self._joined(parts)
        return taken if (np.diff(order) > 0).all() else taken.take(pa.array(np.argsort(order)))

    def _parts_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, rows, "right") - 1

    def _part(self, number: int) -> pa.Table:
        if number == len(self._starts) - 1:
            if len(self._last) > 1:
                self._last = [_concat(self._last).combine_chunks()]
            return self._last[0]
        latest = self._latest
        if latest is None or latest[0] != number:
            content = self._read_file(*self._places[number : number + 2])
            self._latest = latest = (number, pa.ipc.open_stream(content).read_all())
        return latest[1]

    def _joined(self, parts: list[pa.Table], columns: list[str] | None = None) -> pa.Table:
        whole = self.schema.empty_table()
        if columns is not None:
            whole = whole.select(columns)
            parts = [part.select([name for name in columns if name in part.column_names]) for part in parts]
        return _concat([whole, *parts])

    def _write_last(self) -> None:
        """Bring the part in memory to disk."""
        if not self._n_last:
            return
        table, sink = _concat(self._last), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
            stream.write_table(table)
        content = memoryview(sink.getvalue())
        end = self._places[-1] + len(content)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, prefix="raypipe-")
                weakref.finalize(self, self._file.close)
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise _failure("write", error) from error
        self._places.append(end)
        self._starts.append(len(self))
        self._last, self._n_last, self._bytes_last = [], 0, 0

    def _read_file(self, begin: int, end: int) -> bytes:
        assert self._file is not None
        content = b""
        try:
            while begin < end:  # without a seek: another process may read the same open file
                more = os.pread(self._file.fileno(), end - begin, begin)
                if not more:
                    raise OSError("it has been cut short")
                content, begin = content + more, begin + len(more)
        except OSError as error:
            raise _failure("read", error) from error
        return content


def _concat(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive")


def _failure(doing: str, error: OSError) -> RaypipeError:
    where = tempfile.tempdir or "the temporary directory"
    return RaypipeError(f"cannot {doing} a temporary file in {where}: {error.strerror or error}")
