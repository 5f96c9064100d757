"""Manifests: CSV, Parquet or JSONL files with a row for each video.

A manifest has a column ``uri`` or ``path`` (a relative path starts at the manifest's own folder) and may have ``id``,
``start_s`` and ``end_s`` (a span of the file, in seconds), ``group``, ``label`` and ``caption``; further columns are
kept. Empty cells are None. A file that does not exist is listed all the same, and fails when it is probed.
"""

import csv
import json
import math
import posixpath
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from typing import IO, Any

import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.sources.files import group_name
from raypipe.sources.videos import Video, Videos, make_video_id
from raypipe.storage import canonical_uri, failure, local_path, open_file, shown, suffix

MANIFEST_SUFFIXES = (".csv", ".parquet", ".jsonl")

_PLACES = ("uri", "path")
_TEXTS = ("id", "group", "label", "caption")
_TIMES = ("start_s", "end_s")
_KNOWN = (*_PLACES, *_TEXTS, *_TIMES)

# This many rows at a time become Python objects, which take far more memory than the file does.
_BATCH_ROWS = 10_000

Row = dict[str, Any]
Read = tuple[tuple[str, ...], Iterable[list[Row]]]
"""The columns of a manifest, and its rows in batches."""


def read_manifest(name: str) -> Videos:
    """Read a manifest's videos in its order.

    A video's ``id`` is kept in ``extra`` too, because it cannot be recovered from ``video_id``. Without a ``group``
    column, a video below the manifest's folder has its parent folder, relative to the manifest's, as its group.

    Parameters
    ----------
    name
        Path or URL of a ``.csv``, ``.parquet`` or ``.jsonl`` file.

    Raises
    ------
    SourceError
        If the manifest cannot be read, lists nothing, or has a wrong row; the message names the row, counted from 1
        without the header.
    """
    rows = _read_rows(name)
    columns, first = next(rows, ((), None))
    if first is None:
        raise SourceError(f"manifest {shown(name)} lists no video: it has no rows")
    if not any(place in columns for place in _PLACES):
        raise SourceError(f"manifest {shown(name)} has no column uri or path; its columns: {shown(', '.join(columns))}")
    reader = _RowReader(name, columns)
    all_rows = chain([first], (row for _, row in rows))
    return Videos(reader.video(row, i) for i, row in enumerate(all_rows, 1))


class _RowReader:
    """Turns the rows of one manifest into videos."""

    def __init__(self, name: str, columns: tuple[str, ...]):
        self.name = shown(name)
        self.folder = canonical_uri(name).partition("?")[0].rpartition("/")[0]
        self.has_groups = "group" in columns
        self._texts: dict[str | None, str | None] = {}
        self.extra = [column for column in columns if column not in _KNOWN or column == "id"]

    def video(self, row: Row, number: int) -> Video:
        where = f"{self.name} row {number}"
        uri = self._uri(row, where)
        start_s, end_s = (_time(row.get(column), column, where) for column in _TIMES)
        if end_s is not None and end_s <= (start_s or 0.0):
            raise SourceError(f"{where}: end_s {end_s:g} is not after start_s {start_s or 0.0:g}")
        own_id, group, label, caption = (_text(row.get(column), column, where) for column in _TEXTS)
        return Video(
            video_id=make_video_id(own_id or uri, start_s, end_s),
            uri=uri,
            group=self._once(group if self.has_groups else self._group(uri)),
            label=self._once(label),
            caption=caption,
            start_s=start_s,
            end_s=end_s,
            **({"extra": self._extra(row, own_id)} if self.extra else {}),
        )

    def _extra(self, row: Row, own_id: str | None) -> Row:
        return {column: own_id if column == "id" else row.get(column) for column in self.extra}

    def _once(self, text: str | None) -> str | None:
        """Return one object for all equal texts, to save memory: a million rows have few groups and labels."""
        return self._texts.setdefault(text, text)

    def _uri(self, row: Row, where: str) -> str:
        place = next((text for column in _PLACES if (text := _text(row.get(column), column, where))), None)
        if place is None:
            raise SourceError(f"{where}: uri or path is empty")
        path = local_path(place)
        if path is None or path.startswith("/"):
            return canonical_uri(place)
        if (folder := local_path(self.folder + "/")) is not None:
            return canonical_uri(posixpath.join(folder, path))
        scheme, _, rest = self.folder.partition("://")
        return canonical_uri(f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}")

    def _group(self, uri: str) -> str | None:
        below = uri.removeprefix(self.folder + "/")
        return None if below == uri else group_name(below.rpartition("/")[0], uri)


def _text(value: Any, column: str, where: str) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes | list | dict):
        raise SourceError(f"{where}: {column} is {shown(repr(value))}, not text")
    text = str(value)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise SourceError(f"{where}: {column} {text!r} is not valid Unicode")
    return text


def _time(value: Any, column: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise SourceError(f"{where}: {column} {shown(repr(value))} is not a number of seconds, 0 or more")
    return seconds


def _read_rows(name: str) -> Iterator[tuple[tuple[str, ...], Row]]:
    """Yield the columns and the cells of each row; raise `SourceError` if something is wrong with the file."""
    read = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}[suffix(name)]
    with open_file(name) as file:
        try:
            columns, batches = read(file)
            if len(set(columns)) < len(columns):
                twice = next(column for column in columns if columns.count(column) > 1)
                raise SourceError(f"manifest {shown(name)} has two columns named {shown(twice)}")
            for rows in batches:
                yield from ((columns, row) for row in rows)
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            raise failure("read manifest", name, error) from error


def _read_csv(file: IO[bytes]) -> Read:
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    header = [column.strip() for column in next(csv.reader([file.readline().decode("utf-8-sig")]), [])]
    body = file.read()
    if not body.strip():
        return tuple(header), ()
    table = read_csv(
        BytesIO(body),
        # With one block, a further column's type is inferred from all of its cells, not from the first megabyte.
        read_options=ReadOptions(column_names=header, block_size=min(len(body) + 1, 2**31 - 1)),
        parse_options=ParseOptions(newlines_in_values=True),
        convert_options=ConvertOptions(
            # Known columns stay text, since the label "007" is not 7. Only an empty cell is None: "NA" is a word.
            column_types=dict.fromkeys(_KNOWN, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return tuple(header), (batch.to_pylist() for batch in table.to_batches(max_chunksize=_BATCH_ROWS))


def _read_parquet(file: IO[bytes]) -> Read:
    from pyarrow.parquet import ParquetFile

    parquet = ParquetFile(file)
    return tuple(parquet.schema_arrow.names), (batch.to_pylist() for batch in parquet.iter_batches(_BATCH_ROWS))


def _read_jsonl(file: IO[bytes]) -> Read:
    rows: list[Row] = []
    for i, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {i}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'line {i} is not an object such as {{"uri": …}}')
        rows.append(row)
    return tuple(dict.fromkeys(column for row in rows for column in row)), (rows,)
