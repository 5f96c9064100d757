"""The videos of a source, before any of them has been opened: a table that may outgrow memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from typing import Any, overload

import numpy as np
import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.storage import memory_mapped, shown, take_rows

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
        Further manifest columns, kept as they came.
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
        If a manifest column holds values that no common Arrow type can hold.
    """

    def __init__(self, videos: Iterable[Video] = (), n_ignored: int = 0) -> None:
        self.n_ignored = n_ignored
        rest = iter(videos)
        self._rows = _bring_together(_to_table(some) for some in iter(lambda: list(islice(rest, _BATCH)), []))

    @classmethod
    def concat(cls, parts: Sequence[Videos]) -> Videos:
        """Put several sources' videos one after another."""
        rows = _bring_together(_in_batches(batch for part in parts for batch in _batches(part._rows)))
        return cls._of(rows, sum(part.n_ignored for part in parts))

    @classmethod
    def _of(cls, rows: pa.Table, n_ignored: int = 0) -> Videos:
        videos = cls.__new__(cls)
        videos._rows, videos.n_ignored = rows, n_ignored
        return videos

    def __len__(self) -> int:
        """Return the number of videos found."""
        return self._rows.num_rows

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
            return self._of(self._rows.slice(start, max(stop - start, 0)))
        (video,) = _to_videos(self._rows.slice(range(len(self))[which], 1))
        return video

    def take(self, rows: Sequence[int] | np.ndarray) -> Videos:
        """Return the videos of these rows.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        return self._of(take_rows(self._rows, np.asarray(rows, np.int64)))

    @property
    def table(self) -> pa.Table:
        """A `FOUND` table, a row a video."""
        return self._rows.select(FOUND.names)

    @property
    def extra(self) -> dict[str, pa.ChunkedArray]:
        """Further manifest columns by name, as long as the table."""
        names = self._rows.column_names[len(FOUND) :]
        return {name.removeprefix(_EXTRA): self._rows[name] for name in names}

    def places(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the rows of the videos with these ids: (n,) int32, -1 for an id that no video has."""
        keys, rows = self._index
        if not len(keys):
            return np.full(len(ids), -1, np.int32)
        wanted = _hashes(ids)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, rows[at], np.int32(-1))

    def has_duplicate_ids(self) -> bool:
        """Whether two videos have the same id."""
        keys, _ = self._index
        return bool((keys[1:] == keys[:-1]).any())

    def __getstate__(self) -> dict[str, Any]:
        # Pickled as it is, a slice would take the whole batch along that it lies in.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._rows.schema) as stream:
            stream.write_table(self._rows)
        return {"n_ignored": self.n_ignored, "rows": sink.getvalue().to_pybytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.n_ignored = state["n_ignored"]
        self._rows = pa.ipc.open_stream(state["rows"]).read_all()

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all ids, sorted, and the row of each."""
        hashes = _hashes(self._rows["video_id"])
        order = np.argsort(hashes).astype(np.int32)
        return hashes[order], order


def _bring_together(tables: Iterable[pa.Table]) -> pa.Table:
    """Bring tables of videos to one schema, memory-mapped; a column that one of them lacks is null there."""
    parts = [
        memory_mapped((table for _, table in some), schema)
        for schema, some in groupby(_widen(tables), key=lambda pair: pair[0])
    ]
    if len(parts) <= 1:
        return parts[0] if parts else FOUND.empty_table()
    schema = parts[-1].schema
    return memory_mapped((_conform(batch, schema) for part in parts for batch in _batches(part)), schema)


def _widen(tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Schema, pa.Table]]:
    """Yield tables in the schema that holds them and all before them, and that schema."""
    schema = FOUND
    for table in tables:
        if table.schema != schema:
            for name in table.column_names:
                with _naming(name):
                    own = pa.schema([table.schema.field(name)])
                    schema = pa.unify_schemas([schema, own], promote_options="permissive")
            table = _conform(table, schema)
        yield schema, table


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a table another's columns: null where it lacks one, and cast where the type is wider."""
    columns = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        with _naming(name):
            lacking = name not in table.column_names
            columns.append(pa.nulls(table.num_rows, kind) if lacking else table[name].cast(kind))
    return pa.table(columns, schema=schema)


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
    table = pa.table({name: [getattr(video, name) for video in videos] for name in FOUND.names}, schema=FOUND)
    for name in dict.fromkeys(name for video in videos for name in video.extra):
        with _naming(name):
            table = table.append_column(_EXTRA + name, pa.array([video.extra.get(name) for video in videos]))
    return table


def _to_videos(table: pa.Table) -> Iterator[Video]:
    n = len(FOUND)
    names = [name.removeprefix(_EXTRA) for name in table.column_names[n:]]
    for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
        extra = dict(zip(names, values[n:], strict=True)) if names else _NOTHING
        yield Video(**dict(zip(FOUND.names, values[:n], strict=True)), extra=extra)


def _hashes(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hash ids to 64 bits each; the chance that two of ten million collide is 3e-6."""
    hashes = np.empty(len(ids), np.int64)
    for start in range(0, len(ids), _BATCH):
        some = ids.slice(start, _BATCH)
        hashes[start : start + len(some)] = [hash(video_id) for video_id in some.to_pylist()]
    return hashes


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the manifest column whose values have no common type."""
    try:
        yield
    except (pa.ArrowException, UnicodeEncodeError) as error:
        name, reason = name.removeprefix(_EXTRA), " ".join(str(error).split()).replace(_EXTRA, "")
        raise SourceError(f"manifest column {name!r} holds values of unlike types: {reason}") from error


def make_video_id(name: str, start_s: float | None = None, end_s: float | None = None) -> str:
    """Return the uuid5 (NAMESPACE_URL) of a source's own id for a video, or else of its canonical URI.

    Parameters
    ----------
    name
        The id or canonical URI.
    start_s, end_s
        The span of the file that is this video, in seconds; where either is given, ``#t=start,end`` is appended.
    """
    if start_s is not None or end_s is not None:
        name += f"#t={_seconds(start_s)},{_seconds(end_s)}"
    try:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    except UnicodeEncodeError as error:
        raise SourceError(f"{shown(name)} is not valid Unicode: rename the file, or mend the id") from error


def _seconds(value: float | None) -> str:
    """Spell a time so that 3 and 3.0 are one, without loss."""
    return "" if value is None else repr(int(value)) if value == int(value) else repr(float(value))
