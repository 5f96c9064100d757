"""Column names, Arrow schemas and the small dataclasses that pass between rooms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.spool import Spool

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
EMBEDDING, EMBEDDED = "embedding", "embedded"  # the states of a run: what it holds is not yet complete, or is
AWAY = "source"  # the stage of an error that says nothing of the video: its server was away

PLAN = pa.schema(
    [
        ("video_id", pa.string()),
        ("segment", pa.int32()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("origin_s", pa.float64()),
        ("span_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("n_frames", pa.int64()),
        ("codec", pa.string()),
        ("decoder", pa.string()),
        ("version", pa.string()),
        ("fingerprint", pa.string()),
        ("error_stage", pa.string()),
        ("error", pa.string()),
    ]
)
"""A row a segment. ``origin_s`` and ``span_s`` are the start and length of the video's span in its file,
from which the sampling grid is counted. ``version`` is the file's, and ``fingerprint`` stands for it, the encoder and
the sampling together. A video that could not be probed has one row that says why."""

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

VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("group", pa.string()),
        ("label", pa.string()),
        ("caption", pa.string()),
        ("duration_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("codec", pa.string()),
        ("decoder", pa.string()),
        ("status", pa.string()),
        ("error_stage", pa.string()),
        ("error", pa.string()),
    ]
)

CLUSTERS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("group", pa.string()),
        ("label", pa.string()),
        ("cluster", pa.int32()),
        ("distance", pa.float64()),
        ("outlier_score", pa.float64()),
        ("outlier", pa.bool_()),
        ("x", pa.float64()),
        ("y", pa.float64()),
    ]
)


def embeddings_schema(dim: int, dtype: pa.DataType | None = None) -> pa.Schema:
    """Return the schema of ``embeddings/*.parquet`` for vectors of ``dim`` numbers.

    They are float32; only precomputed trajectories keep the float64 that they may have come in.
    """
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("segment", pa.int32()),
            ("clip_index", pa.int32()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("embedding", pa.list_(dtype or pa.float32(), dim)),
            ("fingerprint", pa.string()),
            ("decoder", pa.string()),
            ("error_stage", pa.string()),
            ("error", pa.string()),
        ]
    )


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


@dataclass(frozen=True)
class Probe:
    """What a container says of its video stream.

    Attributes
    ----------
    duration_s
        Length of the video stream in seconds (the container's where the stream does not say).
    width, height
        Pixels, as displayed: rotation metadata applied.
    fps
        Average frame rate in frames a second, 0 where unknown.
    n_frames
        The header's count of frames, 0 where it has none; never trusted for decoding.
    codec
        The codec's name, as FFmpeg spells it.
    decoder
        The decoder that probed it.
    """

    duration_s: float
    width: int
    height: int
    fps: float
    n_frames: int
    codec: str
    decoder: str


class Away(str):
    """Why a video could not be probed, where that says nothing of the video: its server was away."""


@dataclass(frozen=True)
class Frames:
    """Frames decoded at requested times.

    Attributes
    ----------
    pixels
        (n, image_size, image_size, 3) uint8 RGB.
    times_s
        (n,) float64, the presentation time of each frame, counted from the video stream's start.
    requested
        (n,) int64, for each frame the index of the requested time it answers (ascending).
    decoder
        The decoder that made them.
    error
        Where and why decoding stopped early, the times after that point being unanswered; or how many frames are
        damaged; or None.
    """

    pixels: np.ndarray
    times_s: np.ndarray
    requested: np.ndarray
    decoder: str
    error: str | None = None


@dataclass(frozen=True)
class Trajectories:
    """The paths of videos through an embedding space.

    Attributes
    ----------
    video_ids
        One a video, in source order.
    values
        (n_videos, n_steps, dim) float32; or, where ``n_steps`` is None, a list of (n_clips_i, dim) arrays.
    n_clips
        (n_videos,) int64, how many clips each trajectory was made from.
    """

    video_ids: tuple[str, ...]
    values: Any
    n_clips: np.ndarray

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.video_ids)
