"""What clustering leaves in a run directory: trajectories, clusters, the model and the metrics."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.clustering import Clustering
from raypipe.config import Config, to_yaml
from raypipe.reduction import Reducer
from raypipe.runs import Run
from raypipe.schema import CLUSTERS, OK, Trajectories
from raypipe.trajectories import to_table

ROWS_PER_FILE = 10_000  # a few hundred MB at 16 steps of 512 numbers


def write_trajectories(run: Run, paths: Trajectories, reduced: Any, picture: Any) -> None:
    """Write ``trajectories/``: each video's path, its reduction, and its 2-D path for pictures."""
    for number, start in enumerate(range(0, len(paths), ROWS_PER_FILE)):
        rows = slice(start, start + ROWS_PER_FILE)
        table = to_table(paths, rows, {"reduced": reduced, "picture": picture})
        run.write_table(f"trajectories/{number:05d}.parquet", table)


def write_clusters(run: Run, clustering: Clustering, scores: np.ndarray, flags: np.ndarray, picture: Any) -> None:
    """Write ``clusters.parquet``: a row an ok video, in source order."""
    videos = run.read_table("videos.parquet")
    videos = videos.filter(pa.compute.equal(videos["status"], OK))
    middle = np.array([path.mean(axis=0) for path in picture])
    columns = {name: videos[name] for name in ("video_id", "uri", "group", "label")}
    columns.update(cluster=clustering.labels, distance=clustering.distances, outlier_score=scores, outlier=flags)
    columns.update(x=middle[:, 0], y=middle[:, 1])
    run.write_table("clusters.parquet", pa.table(columns).cast(CLUSTERS))


def write_model(run: Run, config: Config, clustering: Clustering, reducer: Reducer) -> None:
    """Write ``model/``: all that predicting a new video needs, without pickles."""
    run.write_bytes("model/centers.npy", _npy(clustering.centers))
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **reducer.arrays())
    run.write_bytes("model/reducer.npz", sink.getvalue())
    run.write_bytes("model/config.yaml", to_yaml(config).encode())


def read_truth(run: Run) -> tuple[str | None, list[str | None]]:
    """Return the column that a clustering can be compared with, and its values for the ok videos.

    It is ``label``, or ``group`` where there is no label; None where neither tells videos apart.
    """
    videos = run.read_table("videos.parquet", ["status", "label", "group"])
    videos = videos.filter(pa.compute.equal(videos["status"], OK))
    for name in ("label", "group"):
        values = videos[name].to_pylist()
        if len(set(values) - {None}) > 1:
            return name, values
    return None, []


def _npy(centers: Any) -> bytes:
    sink = io.BytesIO()
    if isinstance(centers, list):  # unequal lengths: shorter ones end in NaN, as tslearn has it
        longest = max(len(center) for center in centers)
        padded = [np.pad(c, ((0, longest - len(c)), (0, 0)), constant_values=np.nan) for c in centers]
        centers = np.stack(padded)
    np.save(sink, np.asarray(centers), allow_pickle=False)
    return sink.getvalue()
