"""Clips gathered into trajectories, and resampled to a common number of steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pyarrow as pa

from raypipe.config import TrajectoryConfig, validate
from raypipe.errors import RaypipeError, check_type
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.schema import Trajectories


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


def build_trajectories(
    run: Run, n_steps: int | None = 16, time_axis: Literal["time", "index"] = "time"
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
    how = validate(TrajectoryConfig, {"n_steps": n_steps, "time_axis": time_axis})
    plan = run.read_table("plan.parquet", ["video_id", "segment", "fingerprint", "error"])
    found = gather_paths(Ledger(run, plan), how.n_steps, how.time_axis)
    if not len(found):
        raise RaypipeError("no video of this run has a clip: see the errors in videos.parquet")
    return found


def gather_paths(ledger: Ledger, n_steps: int | None, time_axis: Literal["time", "index"]) -> Trajectories:
    """Gather the clips of a ledger's plan as `build_trajectories` does; without a clip the result is empty."""
    counts = np.diff(ledger.first, append=ledger.plan.num_rows).tolist()
    missing = dict(zip(ledger.video_ids.to_pylist(), counts, strict=True))
    paths: dict[str, tuple[np.ndarray, int]] = {}
    pending: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    columns = ["video_id", "segment", "clip_index", "start_s", "end_s", "embedding"]
    for table in ledger.iter_clips(columns):
        for video_id, segment, times, values in _segments(table):
            pending.setdefault(video_id, []).append((segment, times, values))
            missing[video_id] -= 1
            if missing[video_id] == 0:  # All its segments are read now: keep the path, and free the clips.
                _finish(paths, video_id, pending.pop(video_id), n_steps, time_axis)
    for video_id, segments in pending.items():
        _finish(paths, video_id, segments, n_steps, time_axis)
    ids = tuple(video_id for video_id in missing if video_id in paths)
    found = [paths[video_id][0] for video_id in ids]
    n_clips = np.array([paths[video_id][1] for video_id in ids], np.int64)
    return Trajectories(ids, np.stack(found) if n_steps is not None and ids else found, n_clips)


def _segments(table: pa.Table) -> Iterable[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yield each segment of a table of clips, in the order of its rows: id, number, middle times, values."""
    table = table.sort_by([("video_id", "ascending"), ("segment", "ascending"), ("clip_index", "ascending")])
    embedding = table.column("embedding").combine_chunks()
    if isinstance(embedding, pa.ChunkedArray):
        embedding = pa.concat_arrays(embedding.chunks)
    valid = embedding.is_valid().to_numpy(zero_copy_only=False)
    values = embedding.flatten().to_numpy().reshape(-1, embedding.type.list_size)
    row_of = np.cumsum(valid) - 1  # flatten() has left out the null rows.
    middle = (table.column("start_s").to_numpy() + table.column("end_s").to_numpy()) / 2
    ids = table.column("video_id").to_pylist()
    numbers = table.column("segment").to_numpy()
    starts = [0, *(i for i in range(1, len(ids)) if ids[i] != ids[i - 1] or numbers[i] != numbers[i - 1])]
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        kept = np.flatnonzero(valid[start:end]) + start
        yield ids[start], int(numbers[start]), middle[kept], values[row_of[kept]].copy()


def _finish(
    paths: dict[str, tuple[np.ndarray, int]],
    video_id: str,
    segments: list[tuple[int, np.ndarray, np.ndarray]],
    n_steps: int | None,
    time_axis: str,
) -> None:
    segments.sort(key=lambda segment: segment[0])
    times = np.concatenate([segment[1] for segment in segments])
    values = np.concatenate([segment[2] for segment in segments])
    if len(values) == 0:
        return
    if time_axis == "index":
        times = np.linspace(0, 1, len(values))
    path = values if n_steps is None else interpolate(values, times, n_steps)
    paths[video_id] = (path, len(values))
