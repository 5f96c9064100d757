"""Clips gathered into trajectories, and resampled to a common number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import TrajectoryConfig, validate
from raypipe.errors import RaypipeError, UsageError, check_type
from raypipe.runs.clip_signals import read_signals_of
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.plan import read_ledger
from raypipe.schema import Trajectories
from raypipe.trajectories.joining import join_cameras


def interpolate(values: np.ndarray, times: np.ndarray, n_steps: int) -> np.ndarray:
    """Resample a path to ``n_steps`` points, evenly spaced from its first time to its last, linearly.

    Parameters
    ----------
    values
        (n_clips, dim), the path's points.
    times
        (n_clips,), strictly ascending; gaps are bridged by straight lines.
    n_steps
        The number of points. A path of one point is repeated.

    Returns
    -------
    (n_steps, dim) of the dtype of ``values``.
    """
    if len(values) == 1:
        return np.repeat(values, n_steps, axis=0)
    wanted = np.linspace(times[0], times[-1], n_steps)
    after = np.clip(np.searchsorted(times, wanted, side="right"), 1, len(times) - 1)
    before = after - 1
    weight = ((wanted - times[before]) / (times[after] - times[before]))[:, None]
    low, high = values[before].astype(np.float64), values[after].astype(np.float64)
    return (low + weight * (high - low)).astype(values.dtype)


Pool = Literal["mean", "max", "median", "first"]


def pool_clips(values: np.ndarray, pool: Pool, normalize: bool = False) -> np.ndarray:
    """Pool a video's clips, (n_clips, dim), to a path of one step: (1, dim) of the same dtype, perhaps of length 1."""
    functions: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max, "median": np.median}
    pooled = values[:1]
    if pool != "first":
        pooled = functions[pool](values, axis=0, keepdims=True).astype(values.dtype)
    return pooled / (np.linalg.norm(pooled) or 1) if normalize else pooled


def build_trajectories(
    run: Run,
    n_steps: int | None = 16,
    time_axis: Literal["time", "index"] = "time",
    pool: Pool | None = None,
    normalize: bool = False,
    signal_weight: float = 1.0,
    join: Literal["camera"] | None = None,
    method: Literal["interpolate", "seq2seq"] = "interpolate",
) -> Trajectories:
    """Gather a run's clip embeddings into one trajectory a video.

    Parameters
    ----------
    run
        A run whose embeddings are complete.
    n_steps
        Points a trajectory; None keeps every video's own clips.
    time_axis
        Interpolate over the clips' middle times in seconds, or over their numbers (``linspace(0, 1, n)``).
    pool
        How all clips of a video become one step, "mean", "max", "median" or "first"; None makes paths. ``n_steps`` and
        ``time_axis`` do not count then.
    normalize
        L2-normalise that step.
    signal_weight
        Of a run whose videos have signals beside them: what these are weighed by. Each step is the embedding and
        behind it ``signal_weight / sqrt(d)`` times the d z-scored signals.
    join
        "camera" joins the paths of each episode's cameras (`raypipe.trajectories.joining`).
    method
        "interpolate". What this function returns is what `raypipe.Seq2SeqEmbedder` learns from ("seq2seq").

    Returns
    -------
    Trajectories in source order, of the videos with at least one clip.

    Raises
    ------
    UsageError
        If ``run`` is no `Run`, or a parameter is out of range.
    RaypipeError
        If no video has a clip.
    """
    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    if method == "seq2seq":
        raise UsageError("learned trajectories are Seq2SeqEmbedder's: fit it to what method='interpolate' builds")
    given: dict[str, Any] = {
        "method": method,
        "n_steps": n_steps,
        "time_axis": time_axis,
        "pool": pool,
        "normalize": normalize,
        "signal_weight": signal_weight,
        "join": join,
    }
    how = validate(TrajectoryConfig, given)
    found = gather_paths(read_ledger(run), how)
    if not len(found):
        raise RaypipeError("no video of this run has a clip: see the errors in videos.parquet")
    return join_cameras(run, found) if how.join else found


def gather_paths(ledger: Ledger, how: TrajectoryConfig) -> Trajectories:
    """Gather the clips of a ledger's plan as `build_trajectories` does; without a clip the result is empty."""
    ids = ledger.video_ids.to_pylist()
    row_of = {video_id: row for row, video_id in enumerate(ids)}
    missing = np.diff(ledger.first, append=ledger.plan.num_rows)
    pending: dict[int, list[_Segment]] = {}
    paths = _Paths(len(ids), how, read_signals_of(ledger.run, ids) if how.signal_weight else {})
    columns = ["video_id", "segment", "clip_index", "start_s", "end_s", "embedding"]
    for clips in ledger.iter_clips(columns):
        for video_id, segment in _segments(clips):
            row = row_of[video_id]
            pending.setdefault(row, []).append(segment)
            missing[row] -= 1
            if missing[row] == 0:  # All its segments are read now: keep the path, and free the clips.
                paths.keep(row, video_id, pending.pop(row))
    for row, segments in pending.items():
        paths.keep(row, ids[row], segments)
    kept, values = paths.gathered()
    return Trajectories(tuple(ids[row] for row in kept), values, paths.n_clips[kept])


class _Segment(NamedTuple):
    """A segment's number, and its clips' middle times in seconds (n,) and embeddings (n, dim)."""

    number: int
    times_s: np.ndarray
    values: np.ndarray


class _Paths:
    """The paths of a plan's videos by row; those of one length go into one array at once, so that none is there twice.

    Attributes
    ----------
    n_clips
        (n_videos,) int64, the clips of each video whose path was kept; 0 for the others.
    """

    def __init__(self, n_videos: int, how: TrajectoryConfig, signals: Mapping[str, np.ndarray]) -> None:
        self.n_clips = np.zeros(n_videos, np.int64)
        self._how, self._signals = how, signals
        self._paths: Any = [np.empty((0, 0))] * n_videos

    def keep(self, row: int, video_id: str, segments: list[_Segment]) -> None:
        """Keep the path of a video, from all its segments."""
        segments.sort(key=lambda segment: segment.number)
        values = np.concatenate([segment.values for segment in segments])
        self.n_clips[row] = len(values)
        if len(values) and (signal := self._signals.get(video_id)) is not None:
            values = np.hstack([values, signal * np.float32(self._how.signal_weight / np.sqrt(signal.shape[1]))])
        how = self._how
        if len(values) and how.pool is not None:
            values = pool_clips(values, how.pool, how.normalize)
        elif len(values) and how.n_steps is not None:
            times_s = np.concatenate([segment.times_s for segment in segments])
            times = np.linspace(0, 1, len(values)) if how.time_axis == "index" else times_s
            values = interpolate(values, times, how.n_steps)
        if len(values):
            if isinstance(self._paths, list) and (how.pool or how.n_steps):
                self._paths = np.empty((len(self._paths), *values.shape), values.dtype)
            self._paths[row] = values

    def gathered(self) -> tuple[np.ndarray, Any]:
        """Return the rows of the videos with a clip, and their paths: (n, n_steps, dim), or n of (T_i, dim)."""
        kept = np.flatnonzero(self.n_clips)
        if isinstance(self._paths, list):
            return kept, [self._paths[row] for row in kept]
        if len(kept) < len(self._paths):
            for place, row in enumerate(kept):  # In the array itself: a row only ever moves up.
                self._paths[place] = self._paths[row]
        return kept, self._paths[: len(kept)]


def _segments(table: pa.Table) -> Iterable[tuple[str, _Segment]]:
    """Yield each segment of a table of clips, with the id of its video."""
    keys = table.select(["video_id", "segment", "clip_index"])
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]).to_numpy()
    embedding = table.column("embedding").combine_chunks()
    if isinstance(embedding, pa.ChunkedArray):
        embedding = pa.concat_arrays(embedding.chunks)
    valid = embedding.is_valid().to_numpy(zero_copy_only=False)
    values = embedding.flatten().to_numpy().reshape(-1, embedding.type.list_size)
    row_of = np.cumsum(valid) - 1  # flatten() has left out the null rows.
    middle = (table.column("start_s").to_numpy() + table.column("end_s").to_numpy()) / 2
    encoded = pc.dictionary_encode(keys["video_id"]).combine_chunks()
    codes, numbers = encoded.indices.to_numpy()[order], keys["segment"].to_numpy()[order]
    changes = np.flatnonzero((np.diff(codes) != 0) | (np.diff(numbers) != 0)) + 1
    for start, end in pairwise([0, *changes.tolist(), len(order)]):
        kept = order[start:end]
        kept = kept[valid[kept]]
        video_id = encoded.dictionary[int(codes[start])].as_py()
        yield video_id, _Segment(int(numbers[start]), middle[kept], values[row_of[kept]])
