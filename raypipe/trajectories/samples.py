"""Trajectories of a sample of a run's videos, for analyses that compare videos with one another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import Config
from raypipe.errors import RaypipeError
from raypipe.reduction import reduce_trajectories
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.schema import OK, Trajectories
from raypipe.trajectories.interpolation import build_trajectories, gather_paths


def sample_trajectories(run: Run, config: Config, at_most: int, seed: int = 0) -> tuple[Trajectories, int]:
    """Build and reduce the trajectories of some of a run's videos, as `raypipe.pipeline.cluster` does those of all.

    The reducer is fitted on these videos alone. With no more than ``at_most`` videos they are the very trajectories
    that are clustered; else no more than the sample is ever in memory. Where cameras are joined all are, because it is
    known only then which episodes have all of them.

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

    Returns
    -------
    The trajectories, in source order, and the number of videos that they were taken from.

    Raises
    ------
    RaypipeError
        If no video of the run has a clip.
    """
    videos = run.read_table("videos.parquet", ["video_id", "status"])
    ids = videos.filter(pc.equal(videos["status"], OK))["video_id"].combine_chunks()
    if not len(ids):
        raise RaypipeError("no video of this run has a clip: see the errors in videos.parquet")
    if config.trajectory.join:
        joined = build_trajectories(run, **config.trajectory.model_dump())
        chosen = _choose(len(joined), at_most, seed)
        some_ids = tuple(joined.video_ids[row] for row in chosen.tolist())
        some = Trajectories(some_ids, joined.values[chosen], joined.n_clips[chosen])
        return reduce_trajectories(some, config.reduce)[0], len(joined)
    plan = run.read_table("plan.parquet", ["video_id", "segment", "fingerprint", "error"])
    if len(ids) > at_most:
        chosen = _choose(len(ids), at_most, seed)
        plan = plan.filter(pc.is_in(plan["video_id"], value_set=ids.take(pa.array(chosen))))
    paths = gather_paths(Ledger(run, plan), config.trajectory)
    return reduce_trajectories(paths, config.reduce)[0], len(ids)


def _choose(n: int, at_most: int, seed: int) -> np.ndarray:
    """Return all rows of ``n``, or ``at_most`` of them drawn at random, in their order."""
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, at_most, replace=False))
