"""Videos of a source, before anything of them has been read."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.sources.spool import Spool
from raypipe.storage import shown

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

_NOTHING: dict[str, Any] = {}  # one for all of a million videos
_AT_ONCE = 10_000  # videos that are Python's at one time
_EXTRA = "extra:"  # before a further column's name, which may be one of ours


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

    They are kept as columns in a temporary file, however many there are; a `Video` is made where one is asked for.

    Parameters
    ----------
    videos
        The videos.
    n_ignored
        How many files beside them are none.

    Raises
    ------
    SourceError
        If a further column's values are of unlike types, which no Parquet file could hold.
    """

    def __init__(self, videos: Iterable[Video] = (), n_ignored: int = 0) -> None:
        self.n_ignored = n_ignored
        rest = iter(videos)
        self._keep(_columns_of(some) for some in iter(lambda: list(islice(rest, _AT_ONCE)), []))

    @classmethod
    def concat(cls, parts: Sequence[Videos]) -> Videos:
        """Put several sources' videos one after another."""
        whole = cls.__new__(cls)
        whole.n_ignored = sum(part.n_ignored for part in parts)
        whole._keep(part._read(start, start + _AT_ONCE) for part in parts for start in range(0, len(part), _AT_ONCE))
        return whole

    def _keep(self, tables: Iterable[pa.Table]) -> None:
        """Bring tables to disk: `FOUND` ones, with further columns behind."""
        self._rows = Spool([FOUND.empty_table()])
        mixed: set[str] = set()
        for table in tables:
            schemas = (self._rows.schema, table.schema)
            for name in table.column_names[len(FOUND) :]:
                own = [pa.schema([schema.field(name)]) for schema in schemas if name in schema.names]
                if own[0] != own[-1]:
                    mixed.add(name)
                    with _naming(name):
                        pa.unify_schemas(own, promote_options="permissive")
            self._rows.append(table)
        self._span = (0, len(self._rows))
        for name in mixed:  # a type that holds both need not hold each value
            with _naming(name):
                for start in range(0, len(self), _AT_ONCE):
                    self._read(start, start + _AT_ONCE, [name])

    @classmethod
    def _part_of(cls, rows: Spool, start: int, stop: int) -> Videos:
        some = cls.__new__(cls)
        some.n_ignored, some._rows, some._span = 0, rows, (start, stop)
        return some

    def __len__(self) -> int:
        """Return the number of videos found."""
        start, stop = self._span
        return stop - start

    def __iter__(self) -> Iterator[Video]:
        """Iterate over the videos in source order."""
        for start in range(0, len(self), _AT_ONCE):
            yield from _videos_of(self._read(start, start + _AT_ONCE))

    @overload
    def __getitem__(self, which: int) -> Video: ...

    @overload
    def __getitem__(self, which: slice) -> Videos: ...

    def __getitem__(self, which: int | slice) -> Video | Videos:
        """Return one video, or some of them; what was ignored beside them is not counted again."""
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            if step != 1:
                return self.take(np.arange(start, stop, step))
            return self._part_of(self._rows, self._span[0] + start, self._span[0] + max(start, stop))
        row = range(len(self))[which]
        (video,) = _videos_of(self._read(row, row + 1))
        return video

    def take(self, rows: Sequence[int] | np.ndarray) -> Videos:
        """Return the videos of these rows.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        return self._part_of(Spool([self._rows.take(rows, *self._span)]), 0, len(rows))

    @property
    def table(self) -> pa.Table:
        """A `FOUND` table of them, a row a video, read anew: of millions of videos take a slice first."""
        return self._read(columns=FOUND.names)

    @property
    def extra(self) -> dict[str, pa.ChunkedArray]:
        """Further manifest columns, as long as the table and read as it is."""
        names = self._rows.schema.names[len(FOUND) :]
        rows = self._read(columns=names)
        return {name.removeprefix(_EXTRA): rows[name] for name in names}

    def _read(self, start: int = 0, stop: int | None = None, columns: list[str] | None = None) -> pa.Table:
        stop = len(self) if stop is None else min(stop, len(self))
        return self._rows.read(self._span[0] + start, self._span[0] + stop, columns)

    def places(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the rows of the videos with these ids: (n,) int32, -1 for one that is not among them."""
        keys, rows = self._index
        if not len(keys):
            return np.full(len(ids), -1, np.int32)
        wanted = _hashes(ids)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, rows[at], np.int32(-1))

    def has_twins(self) -> bool:
        """Whether two videos have one id."""
        keys, _ = self._index
        return bool((keys[1:] == keys[:-1]).any())

    def __getstate__(self) -> dict[str, Any]:
        rows = Spool([self._read()])  # of a slice no more than the slice; hashes of ids are this process's
        return {"n_ignored": self.n_ignored, "_rows": rows, "_span": (0, len(rows))}

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all ids, sorted, and the row of each."""
        starts = range(0, len(self), _AT_ONCE)
        parts = [_hashes(self._read(start, start + _AT_ONCE, ["video_id"])["video_id"]) for start in starts]
        hashes = np.concatenate([np.empty(0, np.int64), *parts])
        order = np.argsort(hashes).astype(np.int32)
        return hashes[order], order


def _columns_of(videos: Sequence[Video]) -> pa.Table:
    table = pa.table({name: [getattr(video, name) for video in videos] for name in FOUND.names}, schema=FOUND)
    for name in dict.fromkeys(name for video in videos for name in video.extra):
        with _naming(name):
            table = table.append_column(_EXTRA + name, pa.array([video.extra.get(name) for video in videos]))
    return table


def _videos_of(table: pa.Table) -> Iterator[Video]:
    n = len(FOUND)
    names = [name.removeprefix(_EXTRA) for name in table.column_names[n:]]
    for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
        extra = dict(zip(names, values[n:], strict=True)) if names else _NOTHING
        yield Video(**dict(zip(FOUND.names, values[:n], strict=True)), extra=extra)


def _hashes(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Stand for ids by 64 bits each: that two of ten million meet has a chance of 3e-6."""
    hashes = np.empty(len(ids), np.int64)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids.slice(start, _AT_ONCE)
        hashes[start : start + len(some)] = [hash(video_id) for video_id in some.to_pylist()]
    return hashes


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say which column it is that no Parquet file could hold."""
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
