"""Column names, Arrow schemas, how large tables are held, how values are written, and the dataclasses between rooms."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.errors import DecodeError, RaypipeError, SourceAwayError

T = TypeVar("T")
Rows = TypeVar("Rows", pa.Table, pa.ChunkedArray)

_WINDOW = 10_000  # So many rows at a time are copied.

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
EMBEDDING, EMBEDDED = "embedding", "embedded"
"""The states of a run: its embeddings are not yet complete, or they are."""

AWAY = "source"
"""The stage of a transient failure: the video's server was away, which says nothing of the video."""

UNIT = ("video_id", "segment", "fingerprint")
"""What names the unit of work, a segment, in each row that comes of it."""

# What probing finds travels by name: `raypipe.decoders.lengths.probe_video` fills in the fields of `Probe`. Each is
# copied to the column of `PLAN` of that name, and from there to the column of `VIDEOS` of that name, if there is one.

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
"""A row a segment. ``origin_s`` and ``span_s`` are the start and length of the video's span in its file, in seconds;
the sampling grid is counted from there. ``version`` identifies the file's content, and ``fingerprint`` the version, the
encoder and the sampling together. A video that could not be probed has one row with its error. A plan that was written
before a column was added has nulls there."""

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
"""A row a found video: ``videos.parquet``. Further columns of the manifest stand behind these."""

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
"""A row an ok video, in the order of the source: ``clusters.parquet``. ``distance`` is that to the own center, and
``outlier_score`` the divergence from the nearest center that other videos support. ``outlier`` says whether one of the
two, as ``cluster.outlier_by`` names it, lies beyond its quantile."""


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


FRAMES = pa.schema(
    [
        ("video_id", pa.string()),
        ("segment", pa.int32()),
        ("clip_index", pa.int32()),
        ("start_s", pa.float64()),
        ("time_s", pa.float64()),
        ("frame", pa.binary()),
        ("fingerprint", pa.string()),
    ]
)
"""A row a kept clip: ``frames/*.parquet``. ``frame`` is the clip's first frame as a small JPEG, and ``time_s`` the time
from which it is on display, in seconds of the file. The other columns are those of the clip in ``embeddings/``."""


@dataclass(frozen=True)
class Probe:
    """What a container says of its video stream.

    Attributes
    ----------
    duration_s
        Seconds from the first frame on display until the end of the last; of a file that was cut off, until the end
        that its header promises.
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


@dataclass(frozen=True)
class Failure:
    """Why something of a video could not be done.

    Attributes
    ----------
    stage
        The stage at which it failed: "find", "probe", "decode", "encode", or `AWAY`.
    error
        The reason, on one line.
    """

    stage: str
    error: str

    @classmethod
    def of(cls, stage: str, error: DecodeError) -> Failure:
        """Return what an error at a stage comes to; the stage of a transient failure is `AWAY`."""
        return cls(AWAY if isinstance(error, SourceAwayError) else stage, str(error))


@dataclass(frozen=True)
class ThumbnailRequest:
    """Which frames a decoder shall also return as small pictures, and how small.

    Attributes
    ----------
    short_side
        Pixels of the picture's shorter side; a smaller frame keeps its size.
    of
        Indices of the requested times whose frames are wanted.
    """

    short_side: int
    of: frozenset[int]


@dataclass(frozen=True)
class Frames:
    """Frames decoded at requested times.

    Attributes
    ----------
    pixels
        (n, image_size, image_size, 3) uint8 RGB.
    times_s
        (n,) float64, the presentation time of each frame, counted from the first frame on display.
    requested
        (n,) int64, for each frame the index of the requested time it answers (ascending).
    decoder
        The decoder that made them.
    error
        Where and why decoding stopped early, so that no time after that point has a frame; or how many frames are
        damaged; or None.
    thumbnails
        The whole frame as a small JPEG, by the index of the requested time; only of times in the `ThumbnailRequest`.
    """

    pixels: np.ndarray
    times_s: np.ndarray
    requested: np.ndarray
    decoder: str
    error: str | None = None
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)


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
    notes
        What is to be said of how they were made.
    """

    video_ids: tuple[str, ...]
    values: Any
    n_clips: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.video_ids)

    def __repr__(self) -> str:
        """Return the sizes alone: at the end of a notebook's cell, ids and numbers would fill the page."""
        sizes = f"values {self.values.shape}" if isinstance(self.values, np.ndarray) else "values of unequal lengths"
        return f"Trajectories({len(self):,} of them, {sizes})"


@dataclass(frozen=True)
class ClipPath:
    """A video's clips in order of time.

    Attributes
    ----------
    video_id
        The video.
    values
        (n, dim), a row a clip.
    start_s, end_s
        (n,) float64, where each clip begins and ends, in seconds of the file.
    """

    video_id: str
    values: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray

    def within(self, start_s: float, end_s: float) -> ClipPath:
        """Return the clips that lie in a part of the video; if none does as a whole, those whose middle does."""
        inside = (self.start_s >= start_s - 1e-6) & (self.end_s <= end_s + 1e-6)
        if not inside.any():
            middles_s = (self.start_s + self.end_s) / 2
            inside = (middles_s >= start_s) & (middles_s < end_s)
        return ClipPath(self.video_id, self.values[inside], self.start_s[inside], self.end_s[inside])

    def sampled(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return n points for each clip, from the first clip's middle to the last one's, linearly interpolated.

        Returns
        -------
        times_s, values
            (m,) and (m, dim) float64.
        """
        known = np.arange(len(self.values))
        wanted = np.arange((len(known) - 1) * n + 1) / n
        values = np.stack([np.interp(wanted, known, column) for column in self.values.T], axis=1)
        return np.interp(wanted, known, (self.start_s + self.end_s) / 2), values


def memory_mapped(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Write tables of one schema to a temporary Arrow IPC file as they come, and return them memory-mapped.

    It is in the stream format, because in the other one all batches must share their dictionaries.

    A single table comes back as it is. The file has no name any more when this returns: it goes with the last table
    that uses it, whatever ends the process.

    Raises
    ------
    RaypipeError
        If the temporary file cannot be written.
    """
    rest = iter(tables)
    first, second = next(rest, schema.empty_table()), next(rest, None)
    if second is None:
        return first

    def attempt(call: Callable[..., T], *arguments: Any) -> T:
        try:
            return call(*arguments)
        except OSError as error:
            where = tempfile.tempdir or "the temporary directory"
            raise RaypipeError(f"cannot write a temporary file in {where}: {error.strerror or error}") from error

    handle, path = attempt(tempfile.mkstemp, ".arrow", "raypipe-")
    try:
        with pa.OSFile(path, "wb") as file:
            writer = attempt(pa.ipc.new_stream, file, schema)
            for table in chain([first, second], rest):
                attempt(writer.write_table, table.combine_chunks())
            attempt(writer.close)
        return attempt(lambda: pa.ipc.open_stream(pa.memory_map(path)).read_all())
    finally:
        os.close(handle)
        Path(path).unlink()


def pack_table(table: pa.Table) -> bytes:
    """Return rows as an Arrow stream: pickled as it is, a slice would take the whole batch along that it lies in."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def unpack_table(packed: bytes | pa.Buffer) -> pa.Table:
    """Return the rows that `pack_table` has packed."""
    return pa.ipc.open_stream(packed).read_all()


def numbers_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of numbers without nulls; pyarrow's own `to_numpy` would import pandas, where it is installed."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.from_dlpack(whole)


def take_rows(table: Rows, rows: np.ndarray) -> Rows:
    """Take rows of a table or chunked array a window at a time.

    Arrow joins all chunks of a column before it takes from them: a memory-mapped column would come to memory whole, and
    text of more than 2 GiB fails.
    """
    if isinstance(table, pa.ChunkedArray):
        return take_rows(pa.table({"rows": table}), rows)["rows"]
    windows = rows // _WINDOW
    order = np.argsort(windows, kind="stable")
    parts = [table.slice(0, 0)]
    for some in np.split(order, np.flatnonzero(np.diff(windows[order])) + 1) if len(rows) else ():
        start = windows[some[0]] * _WINDOW
        parts.append(table.slice(start, _WINDOW).take(pa.array(rows[some] - start)))
    taken = pa.concat_tables(parts)
    return taken if (np.diff(order) > 0).all() else taken.take(pa.array(np.argsort(order)))


def finite_or_none(value: Any) -> Any:
    """Return a value as JSON can hold it: None for a float that is infinite or no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def inert(text: str | None) -> str:
    """Return a text as a cell of a CSV that no spreadsheet runs as a formula (OWASP, CSV injection); None is empty."""
    if text is None:
        return ""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) or text.startswith(("\t", "\r", "\n")) else text
