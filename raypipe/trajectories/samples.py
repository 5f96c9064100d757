"""Trajectories of a sample of a run's videos, for analyses that compare videos with one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import Config
from raypipe.errors import RaypipeError
from raypipe.progress import Progress
from raypipe.reduction import reduce_trajectories
from raypipe.runs.contents import VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.plan import read_ledger
from raypipe.schema import OK, Trajectories
from raypipe.trajectories.interpolation import gather_paths
from raypipe.trajectories.steps import LocalSteps


def sample_trajectories(
    run: Run, config: Config, at_most: int, seed: int = 0, progress: Progress | None = None
) -> tuple[Trajectories, int]:
    """Build and reduce the trajectories of some of a run's videos, as `raypipe.pipeline.cluster` does those of all.

    The reducer is fitted on these videos alone. With no more than ``at_most`` videos they are the very trajectories
    that are clustered; else no more than the sample is ever in memory. Where cameras are joined all are, because it is
    known only then which episodes have all of them; and where trajectories are learned.

    Parameters
    ----------
    run
        An embedded run, clustered or not.
    config
        How trajectories are built and reduced.
    at_most
        So many videos are taken.
    seed
        Of the sample.
    progress
        Where learning is shown; by default nowhere.

    Returns
    -------
    The trajectories, in source order, and the number of videos that they were taken from.

    Raises
    ------
    RaypipeError
        If no video of the run has a clip.
    """
    videos = run.read_table(VIDEOS_FILE, ["video_id", "status"])
    ids = videos.filter(pc.equal(videos["status"], OK))["video_id"].combine_chunks()
    if config.trajectory.join or config.trajectory.method == "seq2seq":
        steps = LocalSteps(run, config, progress=progress)
        steps.build()
        chosen = _choose(len(steps.paths), at_most, seed)
        return reduce_trajectories(_take(steps.paths, chosen), config.reduce)[0], len(steps.paths)
    chosen = ids.take(pa.array(_choose(len(ids), at_most, seed))).to_pylist()
    paths = gather_paths(read_ledger(run, chosen), config.trajectory)
    if not len(paths):
        raise RaypipeError("no video of this run has a clip: see the errors in videos.parquet")
    return reduce_trajectories(paths, config.reduce)[0], len(ids)


def _take(paths: Trajectories, rows: np.ndarray) -> Trajectories:
    values: Any = paths.values[rows] if isinstance(paths.values, np.ndarray) else [paths.values[row] for row in rows]
    return Trajectories(tuple(paths.video_ids[row] for row in rows.tolist()), values, paths.n_clips[rows])


def _choose(n: int, at_most: int, seed: int) -> np.ndarray:
    """Return all rows of ``n``, or ``at_most`` of them drawn at random, in their order."""
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, at_most, replace=False))
