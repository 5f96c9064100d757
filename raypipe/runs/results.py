"""The results of clustering in a run directory: trajectories, clusters and the model."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.clustering import Clustering
from raypipe.config import Config, from_yaml, to_yaml
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.contents import (
    BARYCENTERS_FILE,
    CENTERS_FILE,
    CLUSTERS_FILE,
    ENCODER_FILE,
    EXPORTS_FOLDER,
    MAP_NETWORK_FILE,
    METRICS_FILE,
    MODEL_CONFIG_FILE,
    OUTLIERS_FILE,
    REDUCER_FILE,
    TRAJECTORIES_FOLDER,
    VIDEOS_FILE,
)
from raypipe.runs.directory import Run
from raypipe.schema import CLUSTERS, Trajectories, numbers_of

# A file of 16 steps of 512 numbers a video has a few hundred MB then.
ROWS_PER_FILE = 10_000
_SAMPLED_FILES = 4

PREDICTED = "the clusters of "  # The name of the run follows, whose clusters were given to new videos.


def is_predicted(info: Mapping[str, Any]) -> bool:
    """Whether a run's videos were given the clusters of another one, by what its ``run.json`` holds."""
    return str(info.get("implementations", {}).get("cluster", "")).startswith(PREDICTED)


def write_trajectories(run: Run, paths: Trajectories, more: dict[str, Trajectories | None]) -> None:
    """Write ``trajectories/``: each video's path, and further paths of the same video as columns by name."""
    for number, start in enumerate(range(0, len(paths), ROWS_PER_FILE)):
        rows = slice(start, start + ROWS_PER_FILE)
        table = to_table(paths, rows, {name: each.values for name, each in more.items() if each})
        run.write_table(f"{TRAJECTORIES_FOLDER}/{number:05d}.parquet", table)


def read_trajectories(run: Run, column: str) -> Trajectories:
    """Read one path of every video back, such as "reduced"."""
    tables = run.iter_tables(TRAJECTORIES_FOLDER, ["video_id", "n_clips", column])
    parts = [from_table(table, column) for table in tables]
    values: Any = [path for part in parts for path in part.values]
    if all(isinstance(part.values, np.ndarray) for part in parts):
        values = np.concatenate([part.values for part in parts])
    ids = tuple(video_id for part in parts for video_id in part.video_ids)
    return Trajectories(ids, values, np.concatenate([part.n_clips for part in parts]))


def path_column(run: Run) -> str:
    """Return which column of ``trajectories/`` the clusters were found in: "reduced", or "trajectory" without it.

    Raises
    ------
    UsageError
        If the run has no trajectories, because it is not clustered.
    """
    names = run.files(TRAJECTORIES_FOLDER, ".parquet")
    if not names:
        raise UsageError(f"{run} has no trajectories, as it is not clustered: run raypipe cluster {run}")
    return "reduced" if "reduced" in run.column_names(names[0]) else "trajectory"


def read_labelled(run: Run) -> tuple[Any, np.ndarray]:
    """Read the paths that a run's clusters were found in, as `Trajectories.values`, and the (n,) clusters of these."""
    paths = read_trajectories(run, path_column(run))
    return paths.values, numbers_of(run.read_table(CLUSTERS_FILE, ["cluster"])["cluster"])


def iter_trajectories(run: Run, column: str) -> Iterator[Trajectories]:
    """Yield one path of every video, such as "reduced", a file in memory at a time."""
    for table in run.iter_tables(TRAJECTORIES_FOLDER, ["video_id", "n_clips", column]):
        paths = from_table(table, column)
        if isinstance(paths.values, np.ndarray):  # numba would compile everything anew for arrays that are read-only.
            paths = replace(paths, values=paths.values.copy())
        yield paths


def count_trajectories(run: Run) -> int:
    """Return the number of rows in ``trajectories/``."""
    names = run.files(TRAJECTORIES_FOLDER, ".parquet")
    return sum(run.for_each(names, lambda name: run.read_parquet(name, lambda file: file.metadata.num_rows)))


def read_path(run: Run, video_id: str, column: str) -> Any:
    """Read one path of one video, (T, c).

    Raises
    ------
    UsageError
        If it is that of a camera which is joined to another.
    RaypipeError
        If it is not there.
    """
    for name in run.files(TRAJECTORIES_FOLDER, ".parquet"):
        table = run.read_table(name, ["video_id"])
        if pc.any(pc.equal(table["video_id"], video_id)).as_py():
            paths = from_table(run.read_table(name, ["video_id", "n_clips", column]), column)
            return paths.values[paths.video_ids.index(video_id)]
    if run.info()["config"]["trajectory"].get("join"):
        camera = run.read_table(CLUSTERS_FILE, ["group"])["group"][0].as_py()
        raise UsageError(
            f"{run} joins the cameras of an episode, and each that has all of them bears the name of its "
            f"video by {camera}: give that one"
        )
    raise RaypipeError(f"{run} has no trajectory of {video_id}: run raypipe cluster {run}")


def to_table(trajectories: Trajectories, rows: slice, more: dict[str, Any]) -> pa.Table:
    """Make rows of ``trajectories/*.parquet`` of some trajectories.

    Parameters
    ----------
    trajectories
        All of them.
    rows
        Which to take.
    more
        Further paths of the same videos by column name, such as ``reduced``.

    Returns
    -------
    A table with a list column, row-major, for every path; the sizes stand in the schema's metadata as
    ``trajectory.n_steps`` (empty where lengths differ) and ``trajectory.dim``.
    """
    columns: dict[str, pa.Array] = {
        "video_id": pa.array(trajectories.video_ids[rows], pa.string()),
        "n_clips": pa.array(trajectories.n_clips[rows]),
    }
    metadata: dict[str, str] = {}
    for name, values in {"trajectory": trajectories.values, **more}.items():
        columns[name] = pa.array([np.ravel(path) for path in values[rows]])
        metadata[f"{name}.n_steps"] = str(values.shape[1]) if isinstance(values, np.ndarray) else ""
        metadata[f"{name}.dim"] = str(values[0].shape[-1])
    return pa.table(columns).replace_schema_metadata(metadata)


def from_table(table: pa.Table, column: str = "trajectory") -> Trajectories:
    """Read what `to_table` wrote."""
    dim = int(table.schema.metadata[f"{column}.dim".encode()])
    ragged = table.schema.metadata[f"{column}.n_steps".encode()] == b""
    lists = table.column(column).combine_chunks()
    points = numbers_of(lists.flatten()).reshape(-1, dim)
    lengths = numbers_of(lists.value_lengths()) // dim
    paths: Any = np.split(points, np.cumsum(lengths)[:-1]) if ragged else points.reshape(len(lists), -1, dim)
    return Trajectories(tuple(table.column("video_id").to_pylist()), paths, numbers_of(table.column("n_clips")))


def write_clusters(
    run: Run, clustering: Clustering, scores: np.ndarray, flags: np.ndarray, picture: Trajectories
) -> None:
    """Write ``clusters.parquet``: a row a video with a trajectory, in source order."""
    names = ["video_id", "uri", "group", "label"]
    videos = read_clustered(run, names)
    middle = np.array([path.mean(axis=0) for path in picture.values])
    columns = {name: videos[name] for name in names}
    columns.update(cluster=clustering.labels, distance=clustering.distances, outlier_score=scores, outlier=flags)
    columns.update(x=middle[:, 0], y=middle[:, 1])
    run.write_table(CLUSTERS_FILE, pa.table(columns).cast(CLUSTERS))


def read_clustered(run: Run, columns: list[str]) -> pa.Table:
    """Read columns of ``videos.parquet`` of the videos that have a trajectory, in source order.

    They are the ok ones; where an episode's cameras are joined, only the first camera's of each whole episode.
    """
    ids = run.read_table(TRAJECTORIES_FOLDER, ["video_id"])["video_id"]
    videos = run.read_table(VIDEOS_FILE, list(dict.fromkeys(["video_id", *columns])))
    return videos.filter(pc.is_in(videos["video_id"], value_set=ids.combine_chunks())).select(columns)


def mark_outliers(run: Run, scores: np.ndarray, flags: np.ndarray) -> None:
    """Write other scores, (n,) float64, and flags, (n,) bool, into ``clusters.parquet``."""
    run.remove(EXPORTS_FOLDER)
    table = run.read_table(CLUSTERS_FILE)
    for name, values in (("outlier_score", scores), ("outlier", flags)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    run.write_table(CLUSTERS_FILE, table.cast(CLUSTERS))


def read_reasons(run: Run) -> dict[str, tuple[str, float | None, float | None, str]]:
    """Return the reason, the span in seconds of the file and the verdict of each video that was examined, by its id."""
    if not run.exists(OUTLIERS_FILE):  # The run was clustered before there was this file.
        return {}

    def seconds(text: str) -> float | None:
        return float(text) if text else None

    return {
        row["video_id"]: (row["reason"], seconds(row["start_s"]), seconds(row["end_s"]), row["verdict"])
        for row in run.read_csv(OUTLIERS_FILE)
        if row["reason"]
    }


def write_barycenters(run: Run, centers: Mapping[int, np.ndarray]) -> None:
    """Write ``barycenters.parquet``: for each cluster the (n_steps, 2) path in its middle on the map, row-major."""
    columns = {
        "cluster": pa.array(list(centers), pa.int32()),
        "picture": pa.array([np.ravel(center) for center in centers.values()], pa.list_(pa.float64())),
    }
    run.write_table(BARYCENTERS_FILE, pa.table(columns))


def read_barycenters(run: Run) -> dict[int, np.ndarray]:
    """Read them back, by the cluster's number; a run that was clustered before there was this file has none."""
    if not run.exists(BARYCENTERS_FILE):
        return {}
    table = run.read_table(BARYCENTERS_FILE)
    return dict(zip(table["cluster"].to_pylist(), split_paths(table["picture"]), strict=True))


def split_paths(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Return the paths on the map that a list column holds, (n_steps, 2) float64 each."""
    if not len(column):
        return []
    lists = column.combine_chunks()
    ends = np.cumsum(numbers_of(lists.value_lengths()))
    return np.split(numbers_of(lists.flatten()).astype(np.float64).reshape(-1, 2), ends[:-1] // 2)


def write_model(run: Run, config: Config, clustering: Clustering, reducer: dict[str, np.ndarray]) -> None:
    """Write ``model/``, which has everything needed to predict a new video's cluster, without pickles."""
    sink = io.BytesIO()
    np.save(sink, clustering.centers, allow_pickle=False)
    run.write_bytes(CENTERS_FILE, sink.getvalue())
    _write_arrays(run, REDUCER_FILE, reducer)
    run.write_bytes(MODEL_CONFIG_FILE, to_yaml(config).encode())


def write_map_network(run: Run, arrays: dict[str, np.ndarray]) -> None:
    """Write ``model/picture.npz``, by which new videos are placed on the map of the pictures."""
    _write_arrays(run, MAP_NETWORK_FILE, arrays)


def read_map_network(run: Run) -> dict[str, np.ndarray] | None:
    """Read it back; None of a run whose map places new videos between those that it knows."""
    return _read_arrays(run, MAP_NETWORK_FILE) if run.exists(MAP_NETWORK_FILE) else None


def write_encoder(run: Run, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``model/encoder.npz``, the encoder of learned trajectories, without pickles."""
    _write_arrays(run, ENCODER_FILE, arrays)


def read_encoder(run: Run) -> dict[str, np.ndarray] | None:
    """Read it back; None if the run's trajectories are not learned."""
    return _read_arrays(run, ENCODER_FILE) if run.exists(ENCODER_FILE) else None


def _write_arrays(run: Run, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    sink = io.BytesIO()
    assert not any(array.dtype.hasobject for array in arrays.values()), "only objects would be pickled"
    np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
    run.write_bytes(name, sink.getvalue())


def _read_arrays(run: Run, name: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = _load(run, name)
    return arrays


def _load(run: Run, name: str) -> Any:
    """Load a file of numpy's, which clustering has written."""
    content = io.BytesIO(run.read_bytes(name))
    try:
        found = np.load(content, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else {**found}
    except Exception as error:  # Of a damaged file numpy, zipfile and zlib raise errors of their own.
        raise RaypipeError(f"{run} has a damaged {name}: run raypipe cluster {run} again") from error


@dataclass(frozen=True)
class SavedModel:
    """What `write_model` wrote, and the γ of the clustering beside it.

    Attributes
    ----------
    config
        The config of the run that was clustered.
    centers
        (k, T, c) float64.
    reducer
        The arrays of its `raypipe.reduction.Reducer`.
    gamma
        The γ of soft-DTW; None under any other distance.
    """

    config: Config
    centers: np.ndarray
    reducer: dict[str, np.ndarray]
    gamma: float | None


def read_model_centers(run: Run) -> np.ndarray:
    """Read the centers of a run's clusters, (k, T, c) float64; (0, 0, 0) of a run without a model."""
    if not run.exists(CENTERS_FILE):
        return np.empty((0, 0, 0))
    found: np.ndarray = _load(run, CENTERS_FILE)
    return found


def read_model(run: Run) -> SavedModel:
    """Read a run's model.

    Raises
    ------
    UsageError
        If the run has none, because it is not clustered, or because an estimator's clusters took the place of its own.
    """
    if not run.exists(CENTERS_FILE):
        others = ": its clusters are an estimator's that was fitted elsewhere" if run.exists(CLUSTERS_FILE) else ""
        raise UsageError(f"{run} has no model of its clusters{others}: run raypipe cluster {run}")
    reducer = _read_arrays(run, REDUCER_FILE)
    config = from_yaml(run.read_bytes(MODEL_CONFIG_FILE).decode())
    return SavedModel(config, read_model_centers(run), reducer, run.read_json(METRICS_FILE).get("gamma"))


def read_known_places(run: Run, at_most: int) -> tuple[np.ndarray, np.ndarray]:
    """Read steps of a run's trajectories, (n, dim), and their places on its map, (n, 2): evenly spread, n at most."""
    names = run.files(TRAJECTORIES_FOLDER, ".parquet")
    names = names[:: -(-len(names) // _SAMPLED_FILES)]  # A file may have some hundred MB.
    steps, places = [], []
    for name in names:
        table = run.read_table(name, ["video_id", "n_clips", "trajectory", "picture"])
        points = np.concatenate(list(from_table(table).values))
        taken = slice(None, None, -(-len(points) * len(names) // at_most))
        steps.append(points[taken])
        places.append(np.concatenate(list(from_table(table, "picture").values))[taken])
    return np.concatenate(steps), np.concatenate(places)


def read_truth(run: Run) -> tuple[str | None, list[str | None]]:
    """Return the name of the column that a clustering is compared with, and its values for the clustered videos.

    It is ``label``, or ``group`` if the labels do not differ; None if the groups do not differ either.
    """
    videos = read_clustered(run, ["label", "group"])
    for name in ("label", "group"):
        values = videos[name].to_pylist()
        if len(set(values) - {None}) > 1:
            return name, values
    return None, []
