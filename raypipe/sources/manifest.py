"""Manifests: CSV, Parquet or JSONL files with a row for each video.

A manifest has a column ``uri`` or ``path`` (a relative path starts at the manifest's own folder) and may have ``id``,
``start_s`` and ``end_s`` (a span of the file, in seconds), ``group``, ``label`` and ``caption``. Further columns are
kept: those of Parquet in their own types, to the bit; those of JSONL and CSV in types that hold what is written. Empty
cells are None. Where neither is there, ``file_name`` is the path and ``text`` the caption, as Hugging Face's video
folders have it. A file that does not exist is listed all the same, and fails when it is probed.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError
from raypipe.sources.captions import join_captions
from raypipe.sources.columns import UnlikeError, count_types, from_pairs, is_unicode, to_array, writing_error
from raypipe.sources.files import group_name
from raypipe.sources.videos import Videos, make_video_id, tabulate
from raypipe.storage import beside, canonical_uri, failure, local_path, open_file, shown, suffix, without_query

MANIFEST_SUFFIXES = (".csv", ".parquet", ".jsonl")

_PLACES = ("uri", "path")
_LIKE_PLACES = [re.compile(word, re.IGNORECASE) for word in ("file|path|ur[il]", "video")]  # The surer ones first.
_UNIT = "([_ ]?(s|sec|seconds?|ms|time|timestamp|frames?|index|idx))"
_LIKE_TIMES = re.compile(
    rf"((t|time|clip|segment|span)[_ ]?)?((start|begin|end|stop){_UNIT}?|(from|to){_UNIT})", re.IGNORECASE
)
_TEXTS = ("id", "group", "label", "caption")
_TIMES = ("start_s", "end_s")
_KNOWN = (*_PLACES, *_TEXTS, *_TIMES)

# This many rows at a time become Python objects, which take far more memory than the file does.
_BATCH_ROWS = 10_000


class _Rows(NamedTuple):
    """Rows of a manifest: the columns that raypipe knows as Python objects, and the further ones in Arrow's types."""

    known: dict[str, list[Any]]
    extra: pa.Table


class _Read(NamedTuple):
    """A manifest: its further columns, and its rows in batches."""

    columns: list[str]
    extra: pa.Schema
    batches: Iterator[_Rows]


def read_manifest(name: str, group_by_folder: bool = True) -> Videos:
    """Read a manifest's videos in its order.

    A video's ``id`` is kept in ``extra`` too, because it cannot be recovered from ``video_id``. Without a ``group``
    column, a video below the manifest's folder has its parent folder, relative to the manifest's, as its group.

    Parameters
    ----------
    name
        Path or URL of a ``.csv``, ``.parquet`` or ``.jsonl`` file.
    group_by_folder
        Take the folder for the group where the manifest names none; else there is no group then.

    Raises
    ------
    SourceError
        If the manifest cannot be read, lists nothing, or has a wrong row; the message names the row, counted from 1
        without the header.
    """
    read = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}[suffix(name)]
    with open_file(name) as file:
        try:
            columns, extra, batches = read(file, name)
            _check_columns(columns, extra, name)
            videos = Videos.from_tables(_RowReader(name, columns, group_by_folder).tables(batches), extra)
        except (pa.ArrowException, csv.Error, OSError, ValueError, OverflowError, RecursionError) as error:
            raise failure("read manifest", name, error) from error
    if not len(videos):
        raise SourceError(f"manifest {shown(name)} lists no video: it has no rows")
    videos.notes = tuple(_note_names(columns, name))
    return videos


def _note_names(columns: list[str], name: str) -> Iterator[str]:
    """Yield what to say of columns that look as if they were meant for one that raypipe knows."""
    for column in columns:
        if column not in _KNOWN and (known := column.strip().lower()) in _KNOWN:
            yield f"manifest {shown(name)}: column {shown(column)} is kept, but {known} is read in small letters alone"
    times = [column for column in columns if _LIKE_TIMES.fullmatch(column)]
    if times and not {*_TIMES} & {*columns}:
        yield (
            f"manifest {shown(name)}: {shown(', '.join(times))} kept, but each video is its whole file: parts are told "
            "of by the columns start_s and end_s, in seconds"
        )


def _check_columns(columns: list[str], extra: pa.Schema, name: str) -> None:
    _check_names(columns, name)
    if columns and not any(place in columns for place in _PLACES):
        listed, hint = shown(", ".join(columns)), _advise(columns, extra)
        raise SourceError(
            f"manifest {shown(name)} has no column uri or path; its columns: {listed}{hint and f' ({hint})'}"
        )
    for field in extra:
        if (reason := writing_error(field)) is not None:
            raise SourceError(f"manifest {shown(name)}: column {field.name!r} cannot be kept, leave it out: {reason}")


def _advise(columns: list[str], extra: pa.Schema) -> str:
    """Return what may be done with a manifest that does not say where its videos lie; nothing if that is not known."""
    if len(columns) == 1 and (mark := re.search(r"[;\t|]", columns[0])) is not None:
        return f"commas part columns, not {'tabs' if mark[0] == chr(9) else mark[0]}"
    if (held := next((field for field in extra if pa.types.is_struct(field.type)), None)) is not None:
        return f"what {held.name} may hold is not read: write each video to a file, and the paths to a column path"
    others = [field for field in extra if field.name not in _KNOWN]
    is_named = any("embedding" in column.lower() for column in columns)
    if is_named or (others and all(count_types(field.type, _is_number) for field in others)):
        return "embeddings that were computed elsewhere are read from a .npz, an array a video, or a .json"
    if near := [column for like in _LIKE_PLACES for column in columns if like.search(column)]:
        return f"rename {shown(near[0])} to path, if it names the videos"
    return ""


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _rename(columns: Sequence[str]) -> list[str]:
    """Return the names of columns with those of Hugging Face's video folders as ours, if none of ours says the place.

    There a column ``file_name``, or one that ends so, names the video, and ``text`` is what it shows.
    """
    named = [column for column in columns if column.endswith("file_name")]
    if not named or not {*_PLACES}.isdisjoint(columns):
        return list(columns)
    ours = {"file_name" if "file_name" in named else named[0]: "path"}
    if "caption" not in columns:
        ours["text"] = "caption"
    return [ours.get(column, column) for column in columns]


def _check_names(columns: list[str], name: str) -> None:
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        what = f"two columns named {shown(twice)}" if twice else "two columns without a name"
        raise SourceError(f"manifest {shown(name)} has {what}")


class _RowReader:
    """Turns the rows of one manifest into rows of videos."""

    def __init__(self, name: str, columns: list[str], group_by_folder: bool):
        self.name = shown(name)
        self.folder = without_query(canonical_uri(name)).rpartition("/")[0]
        self.group_by_folder = group_by_folder and "group" not in columns

    def tables(self, batches: Iterable[_Rows]) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield rows of `FOUND`, and of the further columns."""
        n = 0
        for known, extra in batches:
            rows = [dict(zip(known, cells, strict=True)) for cells in zip(*known.values(), strict=True)]
            found = [self._video(row, f"{self.name} row {number}") for number, row in enumerate(rows, n + 1)]
            n += len(found)
            if found:  # A Parquet file may have row groups without rows.
                yield tabulate(found), extra

    def _video(self, row: dict[str, Any], where: str) -> tuple[Any, ...]:
        """Return a video's row of `FOUND`."""
        uri = self._uri(row, where)
        start_s, end_s = (_time(row.get(column), column, where) for column in _TIMES)
        if end_s is not None and end_s <= (start_s or 0.0):
            raise SourceError(f"{where}: end_s {end_s:g} is not after start_s {start_s or 0.0:g}")
        own_id, group, label, caption = (_text(row.get(column), column, where) for column in _TEXTS)
        group = self._group(uri) if self.group_by_folder else group
        return make_video_id(own_id or uri, start_s, end_s), uri, group, label, caption, start_s, end_s

    def _uri(self, row: dict[str, Any], where: str) -> str:
        place = next((text for column in _PLACES if (text := _text(row.get(column), column, where))), None)
        if place is None:
            raise SourceError(f"{where}: uri or path is empty")
        path = local_path(place)
        if path is not None and path.startswith("~/"):
            path = place = str(Path(path).expanduser())
        if path is None or path.startswith("/"):
            return canonical_uri(place)
        return canonical_uri(beside(self.folder, path))

    def _group(self, uri: str) -> str | None:
        below = uri.removeprefix(self.folder + "/")
        return None if below == uri else group_name(below.rpartition("/")[0], uri)


def _text(value: Any, column: str, where: str) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if column == "caption" and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return join_captions(value)
    if isinstance(value, bytes | list | dict):
        raise SourceError(f"{where}: {column} is {shown(repr(value))}, not text")
    text = str(value)
    if not is_unicode(text):
        raise SourceError(f"{where}: {column} {text!r} is not valid Unicode")
    return text


def _time(value: Any, column: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if math.isnan(seconds):  # This is how pandas writes an empty cell.
        return None
    if not 0 <= seconds < math.inf:
        raise SourceError(f"{where}: {column} {shown(repr(value))} is not a number of seconds, 0 or more")
    return seconds


def _is_extra(column: str) -> bool:
    return column not in _KNOWN or column == "id"


def _read_parquet(file: IO[bytes], name: str) -> _Read:
    from pyarrow.parquet import ParquetFile

    parquet = ParquetFile(file)
    columns = _rename(parquet.schema_arrow.names)
    fields = [field.with_name(column) for field, column in zip(parquet.schema_arrow, columns, strict=True)]
    extra = [field for field in fields if _is_extra(field.name)]
    groups: list[Sequence[int]] = [range(parquet.num_row_groups)]
    if any(count_types(field.type, pa.types.is_dictionary) > pa.types.is_dictionary(field.type) for field in extra):
        groups = [[i] for i in groups[0]]  # Arrow cannot read dictionaries within lists and structs of several at once.

    def batches() -> Iterator[_Rows]:
        for batch in chain.from_iterable(parquet.iter_batches(_BATCH_ROWS, some) for some in groups):
            table = pa.Table.from_batches([batch]).rename_columns(columns)
            known = {column: _plain_objects(table[column]) for column in columns if column in _KNOWN}
            yield _Rows(known, table.select([field.name for field in extra]))

    return _Read(columns, pa.schema(extra), batches())


def _plain_objects(column: pa.ChunkedArray) -> list[Any]:
    """Return values as Python objects: durations in seconds; other times, which may not fit, as text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_duration(column.type):
        ticks_a_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
        return [None if ticks is None else ticks / ticks_a_second for ticks in column.cast(pa.int64()).to_pylist()]
    return (column.cast(pa.string()) if pa.types.is_temporal(column.type) else column).to_pylist()


def _read_csv(file: IO[bytes], name: str) -> _Read:
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    data = file.read()
    header, start = _read_header(data)
    header = _rename(header)
    _check_names([column for column in header if column], name)
    _check_quotes(data, name)
    if not data[start:].strip():
        return _Read([column for column in header if column], pa.schema([]), iter(()))
    unnamed = {f"\0{i}" for i, column in enumerate(header) if not column}
    names = [column or f"\0{i}" for i, column in enumerate(header)]

    def read(as_text: Iterable[str], only: list[str] | None = None) -> pa.Table:
        return read_csv(
            pa.BufferReader(pa.py_buffer(data).slice(start)),
            # With one block, a further column's type is inferred from all of its cells, not from the first megabyte.
            # With one thread, an error says which row it is in.
            read_options=ReadOptions(
                column_names=names, block_size=min(len(data) - start + 1, 2**31 - 1), use_threads=False
            ),
            parse_options=ParseOptions(newlines_in_values=True),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(as_text, pa.string()),
                include_columns=only,
                null_values=[""],  # Only an empty cell is None: "NA" is a word.
                strings_can_be_null=True,
            ),
        )

    table = read(_KNOWN)  # Known columns stay text, since the label "007" is not 7.
    for column in set(_KNOWN).intersection(names):  # People write "a.mp4, pick".
        table = table.set_column(names.index(column), column, pc.utf8_trim(table[column], " \t"))
    numbers = [field.name for field in table.schema if field.type in (pa.int64(), pa.float64())]
    written = read(numbers, numbers) if numbers else table
    for column in numbers:
        table = table.set_column(names.index(column), column, _as_written(table[column], written[column]))
    table = table.drop_columns([column for column in unnamed if table[column].null_count == len(table)])
    table = table.rename_columns(["" if column in unnamed else column for column in table.column_names])
    _check_names(table.column_names, name)
    return _in_batches(dict(zip(table.column_names, table.columns, strict=True)))


def _read_header(data: bytes) -> tuple[list[str], int]:
    """Return the names in the first row that is not empty, and where it ends; lines end in CR, LF or both."""
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for line in re.finditer(rb"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+", data):
            end = line.end()
            yield line[0].decode("utf-8-sig")

    header = next((row for row in csv.reader(lines()) if any(cell.strip() for cell in row)), [])
    return [cell.strip() for cell in header], end


_BREAK = re.compile(rb"\r\n?|\n")
_QUOTED = re.compile(rb'(?:(?<=[,\r\n])|\A)"[^"]*(?:""[^"]*)*(?:\Z|"(?=([^,\r\n])?))')
"""A cell in quotes, and what stands behind the closing one if that is more of the cell."""


def _check_quotes(data: bytes, name: str) -> None:
    """Refuse a quote that is not closed: what follows, up to the next one or the end, would be one cell."""
    for cell in _QUOTED.finditer(data):
        is_closed = cell[0].count(b'"') % 2 == 0
        if is_closed and (cell[1] is None or not _BREAK.search(cell[0])):
            continue
        line = len(_BREAK.findall(data, 0, cell.start())) + 1
        until = "the end of the file" if not is_closed else f"line {line + len(_BREAK.findall(cell[0]))}"
        raise SourceError(
            f"manifest {shown(name)} line {line}: a cell begins with a quote that is not closed until {until}"
        )


def _as_written(numbers: pa.ChunkedArray, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of numbers as such if they say all that is written, else as whole numbers or text that do.

    "007" is not 7, and whole numbers beyond 64 bits come from Arrow as the nearest floats.
    """
    if pc.any(pc.match_substring_regex(cells, r"^\s*[+-]?0\d")).as_py():
        return cells
    if numbers.type == pa.int64():
        return numbers
    is_whole = pc.match_substring_regex(cells, r"^\s*[+-]?\d+\s*$")
    if not pc.any(pc.and_(is_whole, pc.greater_equal(pc.abs(numbers), 2.0**53))).as_py():
        return numbers
    if not pc.all(is_whole).as_py():
        return cells
    try:
        return pa.chunked_array([to_array([None if cell is None else int(cell) for cell in cells.to_pylist()])])
    except UnlikeError:
        return cells


def _read_jsonl(file: IO[bytes], name: str) -> _Read:
    rows: list[dict[str, Any]] = []
    for i, line in enumerate(file.read().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=from_pairs)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {i}, column {error.colno}: {error.msg}") from error
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            raise ValueError(f"line {i}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'line {i} is not an object such as {{"uri": …}}')
        rows.append(row)
    columns: dict[str, Any] = {}
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    for name_there, column in zip(names, _rename(names), strict=True):
        values = [row.get(name_there) for row in rows]
        if column == "id":  # It may be a number here and a text there.
            values = [_text(value, column, f"{shown(name)} row {i}") for i, value in enumerate(values, 1)]
        try:
            columns[column] = to_array(values) if _is_extra(column) else values
        except UnlikeError as error:
            raise SourceError(f"manifest {shown(name)}: column {column!r} holds {error}") from error
    return _in_batches(columns)


def _in_batches(columns: dict[str, Any]) -> _Read:
    """Cut up a manifest that is in memory whole: known columns are Arrow's or lists, further ones are Arrow's."""
    extra = pa.table({column: values for column, values in columns.items() if _is_extra(column)})
    known = {column: values for column, values in columns.items() if column in _KNOWN}
    n = max((len(values) for values in columns.values()), default=0)
    starts = range(0, n, _BATCH_ROWS)

    def rows(start: int) -> _Rows:
        some = {column: values[start : start + _BATCH_ROWS] for column, values in known.items()}
        lists = {column: part if isinstance(part, list) else _plain_objects(part) for column, part in some.items()}
        return _Rows(lists, extra.slice(start, _BATCH_ROWS))

    return _Read(list(columns), extra.schema, map(rows, starts))
