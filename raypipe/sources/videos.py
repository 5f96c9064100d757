"""The videos of a source, before any of them has been opened: a table that may outgrow memory."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from typing import Any, overload

import numpy as np
import pyarrow as pa

from raypipe.errors import SourceError, check_type, message_of
from raypipe.progress import counted
from raypipe.schema import memory_mapped, pack_table, take_rows, unpack_table
from raypipe.sources.columns import Extra, UnlikeError, merge_fields, stored_schema, to_array, with_room
from raypipe.storage import shown, split_member

FOUND = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("group", pa.string()),
        ("label", pa.string()),
        ("caption", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
"""A row a video of a source, as `Video` has it, but for what is extra."""

_NOTHING: dict[str, Any] = {}  # A million videos without further columns share this one.
_BATCH = 10_000  # So many rows at a time are turned into Python objects, or into a batch on disk.
_EXTRA = "extra:"  # This prefix keeps a manifest's own column apart from ours of the same name.


@dataclass(frozen=True, slots=True)
class Video:
    """One video of a source, before anything of it has been read.

    Attributes
    ----------
    video_id
        uuid5 of the source's own id for the video, else of its canonical URI.
    uri
        Canonical URI: ``file:///absolute/path`` for a local file, else as fsspec knows it.
    group
        The parent folder's name relative to the source's root, or the manifest's column.
    label, caption
        What is known of its content, where anything is.
    start_s, end_s
        The span of the file that is this video, in seconds; None means the file's own start or end.
    extra
        Further manifest columns, kept as they came. What `Videos` holds in Arrow's types becomes a Python object where
        it is asked for.
    """

    video_id: str
    uri: str
    group: str | None = None
    label: str | None = None
    caption: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


class Videos:
    """What a source holds: its videos in source order, and how many other files lay beside them.

    They are rows of an Arrow table. Beyond some thousands the table lies in a temporary file and is memory-mapped, so
    that slices, threads and forked processes share its pages. A `Video` object is made only where one is asked for.

    Parameters
    ----------
    videos
        The videos.
    n_ignored
        How many other files were found beside them.

    Raises
    ------
    SourceError
        If a manifest column holds values that no common Arrow type can hold without loss.
    UsageError
        If one of the videos is not a `Video`.

    Attributes
    ----------
    notes
        What is to be said of how the source was read, such as what was left out.
    """

    def __init__(self, videos: Iterable[Video] = (), n_ignored: int = 0) -> None:
        self.n_ignored = n_ignored
        self.notes: tuple[str, ...] = ()
        check_type("videos", videos, Iterable)
        rest = iter(videos)
        batches = (_to_table(some) for some in iter(lambda: list(islice(rest, _BATCH)), []))
        parts = [
            memory_mapped((table for _, table in some), schema)
            for schema, some in groupby(_widen(batches), key=lambda pair: pair[0])
        ]
        self._fields = parts[-1].schema if parts else FOUND
        self._rows = _join(parts, self._fields)

    @classmethod
    def from_tables(cls, tables: Iterable[tuple[pa.Table, pa.Table]], extra: pa.Schema) -> Videos:
        """Take a manifest's videos as they are read.

        Parameters
        ----------
        tables
            Rows of `FOUND`, and as many of the manifest's further columns.
        extra
            The further columns. Their types are kept.
        """
        fields = pa.schema([*FOUND, *(each.with_name(_EXTRA + each.name) for each in extra)])
        schema = stored_schema(fields)
        whole = (pa.table([*found.columns, *more.columns], schema.names) for found, more in tables)
        rows = memory_mapped((conform(table, schema) for table in whole), schema)
        wide = pa.schema([with_room(each, rows[each.name].chunks) for each in fields])
        return cls._of(rows if wide == fields else _join([rows], wide), wide)

    @classmethod
    def concat(cls, parts: Sequence[Videos], names: Sequence[str] = ()) -> Videos:
        """Put several sources' videos one after another; a column that one of them lacks is null there.

        Parameters
        ----------
        parts
            The videos.
        names
            What messages call each of the sources.

        Raises
        ------
        SourceError
            If no type holds what a column holds in all of the sources, without loss.
        """
        labels = list(names) or [""] * len(parts)
        fields, first = {each.name: each for each in FOUND}, dict.fromkeys(FOUND.names, "")
        chunks: defaultdict[str, list[pa.Array]] = defaultdict(list)
        n_with = Counter(FOUND.names * len(parts))
        for part, label in zip(parts, labels, strict=True):
            for own in list(part._fields)[len(FOUND) :]:
                with _naming(own.name, first.setdefault(own.name, label), label):
                    fields[own.name] = _merge(fields.get(own.name, own), own)
                chunks[own.name] += part._rows[own.name].chunks
                n_with[own.name] += 1
        wide = [with_room(each, chunks[name]) for name, each in fields.items()]
        whole = pa.schema([each.with_nullable(each.nullable or n_with[each.name] < len(parts)) for each in wide])
        schema = stored_schema(whole)
        batches = (
            conform(batch, schema, label)
            for part, label in zip(parts, labels, strict=True)
            for batch in _batches(part._rows)
        )
        videos = cls._of(memory_mapped(_in_batches(batches), schema), whole)
        videos.n_ignored = sum(part.n_ignored for part in parts)
        videos.notes = tuple(note for part in parts for note in part.notes)
        return videos

    @classmethod
    def _of(cls, rows: pa.Table, fields: pa.Schema) -> Videos:
        videos = cls.__new__(cls)
        videos._rows, videos._fields, videos.n_ignored, videos.notes = rows, fields, 0, ()
        return videos

    def __len__(self) -> int:
        """Return the number of videos found."""
        return self._rows.num_rows

    def __repr__(self) -> str:
        """Return how many there are, and the first one's URI, without its credentials."""
        first = f", the first {shown(self[0].uri)}" if len(self) else ""
        return f"Videos({len(self):,} of them{first}; {counted(self.n_ignored, 'other file')} ignored)"

    def __iter__(self) -> Iterator[Video]:
        """Iterate over the videos in source order."""
        for batch in _batches(self._rows):
            yield from _to_videos(batch)

    @overload
    def __getitem__(self, which: int) -> Video: ...

    @overload
    def __getitem__(self, which: slice) -> Videos: ...

    def __getitem__(self, which: int | slice) -> Video | Videos:
        """Return one video, or some of them; a slice counts no ignored files."""
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            if step != 1:
                return self.take(np.arange(start, stop, step))
            return self._of(self._rows.slice(start, max(stop - start, 0)), self._fields)
        (video,) = _to_videos(self._rows.slice(range(len(self))[which], 1))
        return video

    def take(self, rows: Sequence[int] | np.ndarray) -> Videos:
        """Return the videos of these rows.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        return self._of(take_rows(self._rows, np.asarray(rows, np.int64)), self._fields)

    @property
    def table(self) -> pa.Table:
        """A `FOUND` table, a row a video."""
        return self._rows.select(FOUND.names)

    @property
    def extra(self) -> pa.Table:
        """Further manifest columns in the manifest's own types, as long as the table."""
        fields = list(self._fields)[len(FOUND) :]
        columns = [_cast(self._rows[each.name], each.type) for each in fields]
        return pa.table(columns, pa.schema([each.with_name(each.name.removeprefix(_EXTRA)) for each in fields]))

    def places(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the rows of the videos with these ids: (n,) int32, -1 for an id that no video has."""
        keys, rows = self._index
        if not len(keys):
            return np.full(len(ids), -1, np.int32)
        wanted = hash_texts(ids)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, rows[at], np.int32(-1))

    def has_duplicate_ids(self) -> bool:
        """Whether two videos have the same id."""
        keys, _ = self._index
        return bool((keys[1:] == keys[:-1]).any())

    def __getstate__(self) -> tuple[Any, ...]:
        return self.n_ignored, self.notes, self._fields, pack_table(self._rows)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.n_ignored, self.notes, self._fields, packed = state
        self._rows = unpack_table(packed)

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all ids, sorted, and the row of each."""
        hashes = hash_texts(self._rows["video_id"])
        order = np.argsort(hashes).astype(np.int32)
        return hashes[order], order


def _join(parts: Sequence[pa.Table], fields: pa.Schema) -> pa.Table:
    """Bring tables of videos to one schema, memory-mapped."""
    schema = stored_schema(fields)
    if len(parts) == 1 and parts[0].schema == schema:
        return parts[0]
    return memory_mapped((conform(batch, schema) for part in parts for batch in _batches(part)), schema)


def _widen(tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Schema, pa.Table]]:
    """Yield tables in the schema that holds them and all before them, and that schema."""
    schema = FOUND
    for table in tables:
        if table.schema != schema:
            fields = {each.name: each for each in schema}
            for own in table.schema:
                with _naming(own.name):
                    fields[own.name] = _merge(fields.get(own.name, own), own)
            schema = pa.schema(list(fields.values()))
            table = conform(table, schema)
        yield schema, table


def _merge(one: pa.Field, other: pa.Field) -> pa.Field:
    try:
        return merge_fields(one, other)
    except UnlikeError:
        if one.name != _EXTRA + "id":
            raise
        return pa.field(one.name, pa.string())  # Ids are numbers here and words there, and are taken as text.


def conform(table: pa.Table, schema: pa.Schema, label: str = "") -> pa.Table:
    """Give a table another's columns: null where it lacks one, and cast where the type is another."""
    columns = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        with _naming(name, label):
            lacking = name not in table.column_names
            columns.append(pa.nulls(table.num_rows, kind) if lacking else _cast(table[name], kind))
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == pa.null():  # Arrow does not cast nulls to every type.
        return pa.chunked_array([pa.nulls(len(column), kind)])
    return column if column.type == kind else column.cast(kind)


def tabulate(rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    """Return a `FOUND` table of its rows."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return pa.table(columns or [[] for _ in FOUND], schema=FOUND)


def _batches(table: pa.Table) -> Iterator[pa.Table]:
    return (table.slice(start, _BATCH) for start in range(0, table.num_rows, _BATCH))


def _in_batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables of one schema, so that ten thousand sources of one video each do not make as many batches."""
    waiting: list[pa.Table] = []
    n_rows = 0
    for table in tables:
        if waiting and (waiting[0].schema != table.schema or n_rows + table.num_rows > _BATCH):
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, n_rows = [], 0
        waiting.append(table)
        n_rows += table.num_rows
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _to_table(videos: Sequence[Video]) -> pa.Table:
    for video in videos:
        check_type("each of Videos", video, Video, "find_videos makes them of paths")
    table = pa.table({name: [getattr(video, name) for video in videos] for name in FOUND.names}, schema=FOUND)
    if (extra := Extra.to_table([video.extra for video in videos])) is not None:
        for own, column in zip(extra.schema, extra.columns, strict=True):
            table = table.append_column(own.with_name(_EXTRA + own.name), column)
        return table
    for name in dict.fromkeys(name for video in videos for name in video.extra):
        with _naming(name):
            values = to_array([video.extra.get(name) for video in videos])
            table = table.append_column(_EXTRA + name, values)
    return table


def _to_videos(table: pa.Table) -> Iterator[Video]:
    n = len(FOUND)
    extra = table.select(range(n, table.num_columns))
    extra = extra.rename_columns([name.removeprefix(_EXTRA) for name in extra.column_names])
    for row, values in enumerate(zip(*(column.to_pylist() for column in table.columns[:n]), strict=True)):
        kept = Extra(extra, row) if extra.num_columns else _NOTHING
        yield Video(**dict(zip(FOUND.names, values, strict=True)), extra=kept)


def hash_texts(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hash texts, such as ids, to 64 bits each; the chance that two of ten million collide is 3e-6."""
    hashes = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), _BATCH):
        some = texts.slice(start, _BATCH)
        hashes[start : start + len(some)] = [hash(text) for text in some.to_pylist()]
    return hashes


@contextmanager
def _naming(name: str, *labels: str) -> Iterator[None]:
    """Name the manifest column whose values have no common type, and the manifests."""
    try:
        yield
    except (pa.ArrowException, ValueError) as error:
        name, reason = name.removeprefix(_EXTRA), message_of(error).replace(_EXTRA, "")
        if not isinstance(error, UnlikeError):
            reason = f"values of unlike types: {reason}"
        where = " and ".join(shown(label) for label in dict.fromkeys(labels) if label)
        raise SourceError(f"manifest column {name!r} holds {reason}{f' ({where})' if where else ''}") from error


def make_video_id(name: str, start_s: float | None = None, end_s: float | None = None) -> str:
    """Return the uuid5 (NAMESPACE_URL) of a source's own id for a video, or else of its canonical URI.

    Parameters
    ----------
    name
        The id or canonical URI. Of a tar's member counts the tar and the name in it, and not the place of its bytes.
    start_s, end_s
        The span of the file that is this video, in seconds; where either is given, ``#t=start,end`` is appended.
    """
    if (member := split_member(name)) is not None:
        name = member.identity
    if start_s is not None or end_s is not None:
        name += f"#t={_seconds(start_s)},{_seconds(end_s)}"
    try:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    except UnicodeEncodeError as error:
        raise SourceError(f"{shown(name)} is not valid Unicode: rename the file, or mend the id") from error


def _seconds(value: float | None) -> str:
    """Spell a time so that 3 and 3.0 are one, without loss."""
    return "" if value is None else repr(int(value)) if value == int(value) else repr(float(value))
