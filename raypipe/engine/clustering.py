"""Trajectories built, reduced and grouped where they lie, for more videos than one machine should hold."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
import ray

from raypipe.clustering import Clustering, fit_store
from raypipe.config import ClusterConfig, TrajectoryConfig
from raypipe.embeddings import Ledger
from raypipe.engine.shards import RayStore, split_trajectories
from raypipe.engine.transform import gather, reduce_files
from raypipe.errors import RaypipeError
from raypipe.results import ROWS_PER_FILE
from raypipe.runs import Run
from raypipe.trajectories import gather_paths, to_table

__all__ = ["build_files", "fit_shards", "reduce_files"]


def build_files(run: Run, config: TrajectoryConfig, per_file: int = ROWS_PER_FILE) -> int:
    """Build a run's trajectories in Ray tasks, each of some videos of the plan, and write them to ``trajectories/``.

    Returns
    -------
    The number of trajectories.

    Raises
    ------
    RaypipeError
        If no video has a clip.
    """
    plan = run.read_table("plan.parquet", ["video_id", "segment", "fingerprint", "error"])
    ledger = Ledger(run, plan)
    bounds = [*ledger.first[::per_file].tolist(), plan.num_rows]
    build: Any = ray.remote(_build_file).options(num_cpus=1, scheduling_strategy="SPREAD")
    tasks = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        rows = slice(start, stop)
        name = f"trajectories/{number:05d}.parquet"
        tasks.append(build.remote(run, name, plan.slice(start, stop - start), ledger.files_of(rows), config))
    n = sum(gather(tasks))
    if n == 0:
        raise RaypipeError("no video of this run has a clip: see the errors in videos.parquet")
    return n


def _build_file(run: Run, name: str, plan: pa.Table, files: list[str], config: TrajectoryConfig) -> int:
    paths = gather_paths(Ledger(run, plan, files), config.n_steps, config.time_axis)
    if len(paths):
        run.write_table(name, to_table(paths, slice(None), {}))
    return len(paths)


def fit_shards(run: Run, config: ClusterConfig, n_shards: int) -> Clustering:
    """Group the reduced trajectories, which so many actors hold among them."""
    with RayStore(split_trajectories(run, n_shards)) as store:
        return fit_store(store, config)
