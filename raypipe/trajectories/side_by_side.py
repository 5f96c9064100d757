"""At which times several videos do the same thing, so that they can be played side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypipe.analysis.examination import times_of_steps
from raypipe.config import TrajectoryConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.clips import iter_clip_paths
from raypipe.runs.directory import Run
from raypipe.runs.lookup import describe_videos
from raypipe.runs.results import path_column, read_model_centers, read_path
from raypipe.schema import ClipPath
from raypipe.softdtw import cdist_soft_dtw
from raypipe.softdtw.alignment import align_pairs
from raypipe.trajectories.similarity import gamma_of

MOST_VIDEOS = 8
_FINE = 128  # Paths are interpolated to so many points at least, so that a step's own length does not show.
_MOST_POINTS = 2048  # Every pair of points of two paths is a cell of some tables: 34 MB each.


@dataclass(frozen=True)
class SharedClock:
    """A clock by which several videos do the same thing at the same time.

    Attributes
    ----------
    clock_s
        (m,) float64, ascending from 0: the mean of the seconds that the videos have played. So while one of n videos
        waits for the others, these go no faster than n / (n − 1) times.
    times_s
        For each video (m,) float64, which never falls: its time at each tick of the clock, in seconds of the file.
    distances
        For each video the soft-DTW divergence of its path from what the videos are aligned with.
    gamma
        The γ of soft-DTW.
    """

    clock_s: np.ndarray
    times_s: list[np.ndarray]
    distances: list[float]
    gamma: float


def align_videos(run: Run, ids: Sequence[str], to_center: bool = False) -> SharedClock:
    """Align videos of a run in time, by the paths that were clustered.

    Each video is aligned with the first, or with the center of their cluster. Of the expected alignment under soft-DTW
    (Cuturi & Blondel 2017, §2.2) the mean time is taken at each point, made monotone; the beginnings belong together,
    and so do the ends.

    Parameters
    ----------
    run
        A clustered run.
    ids
        Two to `MOST_VIDEOS` videos that have a trajectory.
    to_center
        Align them with the center of the cluster that they are all in.

    Raises
    ------
    UsageError
        If the run has no paths, or the videos are too few, too many, or in several clusters.
    RaypipeError
        If one of them has no trajectory, or no times.
    """
    if not 2 <= len(set(ids)) == len(ids) <= MOST_VIDEOS:
        raise UsageError(f"name two to {MOST_VIDEOS} different videos to align")
    how = TrajectoryConfig(**run.info()["config"]["trajectory"])
    column = path_column(run)
    if how.pool:
        raise UsageError(f"{run} pools each video to one vector: there is no path in time to align")
    gamma = gamma_of(run, column)
    paths = [np.asarray(read_path(run, video_id, column), np.float64) for video_id in ids]
    known = {clips.video_id: clips for clips in iter_clip_paths(run, ids)}
    if lacking := [video_id for video_id in ids if video_id not in known]:
        raise RaypipeError(f"the clips of {lacking[0]} have no times in {run}")
    refined = [_refine(path, known[video_id], how.step_axis) for path, video_id in zip(paths, ids, strict=True)]
    if to_center:
        center = _read_center(run, ids)
        reference = _interpolate(center, _places(len(center)))
        follow = [_follow(reference, each, gamma) for each in refined]
    else:
        reference, ticks_s = refined[0]
        follow = [ticks_s, *(_follow(reference, each, gamma) for each in refined[1:])]
    times_s = [_to_ends(t, known[video_id]) for t, video_id in zip(follow, ids, strict=True)]
    clock_s = np.mean([t - t[0] for t in times_s], axis=0)
    apart = cdist_soft_dtw([each for each, _ in refined], [reference], gamma, divergence=True)[:, 0]
    return SharedClock(clock_s, times_s, apart.tolist(), gamma)


def _refine(path: np.ndarray, clips: ClipPath, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a path with points between its steps, and the time of each point."""
    times_s = times_of_steps(clips, len(path), axis)
    at = _places(len(path))
    known = np.arange(len(path))
    return _interpolate(path, at), np.interp(at, known, times_s)


def _places(n: int) -> np.ndarray:
    """Return where a path of n steps is refined, in steps; one that is long already is thinned out."""
    each = max(-(-_FINE // max(n - 1, 1)), 1)
    return np.linspace(0, n - 1, min((n - 1) * each + 1, _MOST_POINTS))


def _interpolate(path: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(at, np.arange(len(path)), column) for column in path.T], axis=1)


def _follow(reference: np.ndarray, other: tuple[np.ndarray, np.ndarray], gamma: float) -> np.ndarray:
    """Return the time of another video at each point of the reference: (T,), never falling."""
    path, times_s = other
    expected = align_pairs(path[None], reference[None], gamma).expected[0]
    mean_s = expected @ times_s / expected.sum(axis=1)
    rising, falling = np.maximum.accumulate(mean_s), np.minimum.accumulate(mean_s[::-1])[::-1]
    return (rising + falling) / 2


def _to_ends(times_s: np.ndarray, clips: ClipPath) -> np.ndarray:
    """Return the times with the video's beginning before them and its end behind."""
    first_s, last_s = float(clips.start_s[0]), float(clips.end_s[-1])
    return np.concatenate([[first_s], np.clip(times_s, first_s, last_s), [last_s]])


def _read_center(run: Run, ids: Sequence[str]) -> np.ndarray:
    """Return the center of the cluster of all these videos, (T, c) float64."""
    clusters = {found["cluster"] for found in describe_videos(run, ids).values()}
    if len(clusters) != 1:
        raise UsageError("these videos are in several clusters, which have no center in common")
    (number,) = clusters
    centers = read_model_centers(run)
    if number is None or not 0 <= number < len(centers):
        raise UsageError(f"{run} has no center for these videos")
    return np.asarray(centers[number], np.float64)
