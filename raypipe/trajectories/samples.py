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
from raypipe.trajectories.interpolation import gather_paths
from raypipe.trajectories.joining import join_cameras


def sample_trajectories(run: Run, config: Config, at_most: int, seed: int = 0) -> tuple[Trajectories, int]:
    """Build and reduce the trajectories of some of a run's videos, as `raypipe.pipeline.cluster` does those of all.

    The reducer is fitted on these videos alone. With no more than ``at_most`` videos they are the very trajectories
    that are clustered; else no more than the sample is ever in memory.

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
    plan = run.read_table("plan.parquet", ["video_id", "segment", "fingerprint", "error"])
    if config.trajectory.join:
        paths = join_cameras(run, gather_paths(Ledger(run, plan), config.trajectory))
        rows = np.arange(len(paths))
        if len(paths) > at_most:
            rows = np.sort(np.random.default_rng(seed).choice(len(paths), at_most, replace=False))
        chosen_ids = tuple(paths.video_ids[row] for row in rows.tolist())
        some = Trajectories(chosen_ids, paths.values[rows], paths.n_clips[rows])
        return reduce_trajectories(some, config.reduce)[0], len(paths)
    if len(ids) > at_most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(ids), at_most, replace=False))
        plan = plan.filter(pc.is_in(plan["video_id"], value_set=ids.take(pa.array(chosen))))
    paths = gather_paths(Ledger(run, plan), config.trajectory)
    return reduce_trajectories(paths, config.reduce)[0], len(ids)
