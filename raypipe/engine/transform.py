"""The steps from embeddings to clusters on Ray, where no machine holds all trajectories: a Parquet file is a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from raypipe.clustering import Clustering, fit_shards
from raypipe.config import Config, ReduceConfig, TrajectoryConfig
from raypipe.engine.devices import as_task
from raypipe.engine.nodes import machines
from raypipe.engine.ray_shards import RayShards, list_trajectories, split_trajectories
from raypipe.engine.shard_actors import ANSWER_S
from raypipe.errors import RaypipeError, one_line
from raypipe.reduction import Reducer, choose_points, find_consecutive, make_reducer, split_steps, stack_steps
from raypipe.runs.beginnings import remove_clusters
from raypipe.runs.contents import TRAJECTORIES_FOLDER
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.plan import read_ledger
from raypipe.runs.results import ROWS_PER_FILE, from_table, read_trajectories, to_table
from raypipe.schema import Trajectories
from raypipe.trajectories.interpolation import gather_paths

RETRIES = 3  # A file's task is run again so many times when its worker or machine is lost.


@dataclass(frozen=True)
class Fitted:
    """What is known here of a reducer that was fitted on another machine, perhaps on a GPU that this one lacks.

    Attributes
    ----------
    implementation, reason
        Those of the `raypipe.reduction.Reducer`.
    n_points
        The number of points that it was fitted on.
    """

    implementation: str
    reason: str | None
    n_points: int
    _arrays: dict[str, np.ndarray] = field(repr=False)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that is needed to map new points, as plain arrays."""
        return self._arrays


def reduce_files(run: Run, config: ReduceConfig, column: str = "reduced") -> Fitted:
    """Reduce the paths in a run's ``trajectories/``, and write them as another column beside "trajectory".

    With at most ``config.fit_points`` steps, the result is that of `raypipe.reduction.reduce_trajectories`. With more,
    the reducer is fitted on the same sample of steps and maps the files one by one; the result does not depend on the
    machines or their number. (UMAP would map all files together a little differently, because it places a point
    depending on the points that it is given with. PCA would not.) A lost worker or machine costs the files that it was
    working on; a file is replaced whole.

    Parameters
    ----------
    run
        A run that has ``trajectories/``.
    config
        The reducer, and ``fit_points``.
    column
        The column's name.

    Raises
    ------
    RaypipeError
        If the run has no trajectories, if a trajectory has a NaN or infinite value, or if a task keeps failing.
    """
    files = list_trajectories(run)
    has_gpu = any(node.get("GPU") for node in machines())
    maps_on_gpu = has_gpu and config.method == "umap" and config.backend != "cpu"
    fits_on_gpu = maps_on_gpu or (has_gpu and config.method == "autoencoder")  # It is trained there, and maps without.
    options: dict[str, Any] = {"num_cpus": 1, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}

    def each(task: Any, *columns: Sequence[Any]) -> list[Any]:
        remote = as_task(task, **options, num_gpus=int(maps_on_gpu and task is _map_file))
        arguments = zip(files, *columns, strict=True)
        return gather([remote.remote(run, name, *more) for name, *more in arguments])

    lengths = each(_list_lengths)
    sizes = [sum(file) for file in lengths]
    ends = np.cumsum(sizes)
    sampled = choose_points(int(ends[-1]), config)
    parts = np.split(sampled, np.searchsorted(sampled, ends[:-1]))
    points = np.concatenate(
        each(_take_points, [part - end + n for part, end, n in zip(parts, ends, sizes, strict=True)])
    )
    follows = find_consecutive([length for file in lengths for length in file], sampled)
    fit = as_task(_fit, **options, num_gpus=int(fits_on_gpu), num_returns=2)
    reducer, found = fit.remote(config, points, follows, len(sampled) == ends[-1])
    fitted, reduced = gather([found])[0]
    if reduced is None:
        each(_map_file, [column] * len(files), [reducer] * len(files))
    else:
        each(_write_reduced, [column] * len(files), np.split(reduced, ends[:-1]))
    return fitted


def gather(tasks: list[Any]) -> list[Any]:
    """Wait for tasks and return their results; raise if none of them ends for `ANSWER_S` seconds."""
    waiting = list(tasks)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=ANSWER_S)
        if not done:
            raise RaypipeError(
                f"no task has ended for {ANSWER_S:.0f} s: is there room on the Ray cluster? See Ray's logs"
            )
        try:
            ray.get(done)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, RaypipeError | OSError) else error) from None
        except RayError as error:
            raise RaypipeError(f"a task failed: {one_line(error)}") from error
    return ray.get(tasks)


def map_tasks(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
    """Call a function on each job in Ray tasks of a CPU each, and yield the results in the jobs' order.

    What the function holds, arrays perhaps, is stored once, and not with each job; there they are read-only.
    """
    task = as_task(_call, num_cpus=1)
    stored = ray.put(function)
    for waiting in [task.remote(stored, job) for job in jobs]:
        yield gather([waiting])[0]


def _call(function: Callable[[Any], Any], job: Any) -> Any:
    return function(job)


def _read(run: Run, name: str) -> Trajectories:
    return from_table(run.read_table(name, ["video_id", "n_clips", "trajectory"]))


def _list_lengths(run: Run, name: str) -> list[int]:
    return [len(path) for path in _read(run, name).values]


def _take_points(run: Run, name: str, numbers: np.ndarray) -> np.ndarray:
    return stack_steps(_read(run, name))[numbers]


def _fit(
    config: ReduceConfig, points: np.ndarray, follows: np.ndarray, everything: bool
) -> tuple[Reducer, tuple[Fitted, np.ndarray | None]]:
    """Fit a reducer, and map its points if they are all that there are."""
    reducer = make_reducer(config, follows)
    points = points.copy()  # Arrays from Ray are read-only.
    reduced = reducer.fit_transform(points) if everything else None
    if not everything:
        reducer.fit(points)
    return reducer, (Fitted(reducer.implementation, reducer.reason, len(points), reducer.arrays()), reduced)


def _map_file(run: Run, name: str, column: str, reducer: Reducer) -> None:
    _write_reduced(run, name, column, reducer.transform(stack_steps(_read(run, name))))


def _write_reduced(run: Run, name: str, column: str, reduced: np.ndarray) -> None:
    """Write the file again with the column beside its others."""
    before = run.read_table(name)
    paths = from_table(before)
    table = to_table(paths, slice(None), {column: split_steps(reduced, paths).values})
    for other in before.column_names:
        if other not in table.column_names:
            table = table.append_column(before.schema.field(other), before.column(other))
    run.write_table(name, table.replace_schema_metadata({**before.schema.metadata, **table.schema.metadata}))


def build_files(run: Run, config: TrajectoryConfig, per_file: int = ROWS_PER_FILE) -> int:
    """Build a run's trajectories in Ray tasks, some videos each, and write them to ``trajectories/``.

    Returns
    -------
    The number of trajectories.

    Raises
    ------
    RaypipeError
        If no video has a clip.
    """
    ledger = read_ledger(run)
    plan = ledger.plan
    bounds = [*ledger.first[::per_file].tolist(), plan.num_rows]
    build = as_task(_build_file, num_cpus=1, scheduling_strategy="SPREAD")
    tasks = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        rows = slice(start, stop)
        name = f"{TRAJECTORIES_FOLDER}/{number:05d}.parquet"
        tasks.append(build.remote(run, name, plan.slice(start, stop - start), ledger.files_of(rows), config))
    n = sum(gather(tasks))
    if n == 0:
        raise RaypipeError("no video of this run has a clip: see the errors in videos.parquet")
    return n


def _build_file(run: Run, name: str, plan: pa.Table, files: list[str], config: TrajectoryConfig) -> int:
    paths = gather_paths(Ledger(run, plan, files), config)
    if len(paths):
        run.write_table(name, to_table(paths, slice(None), {}))
    return len(paths)


class RaySteps:
    """The steps of `raypipe.pipeline.cluster` on Ray, where no machine holds all trajectories.

    Parameters and attributes are those of `raypipe.trajectories.steps.LocalSteps`.
    """

    def __init__(self, run: Run, config: Config):
        self._run, self._config, self._n_shards = run, config, config.ray.shards or 1
        self.where = f" over {self._n_shards} shards"
        self.centers = None
        self.notes: tuple[str, ...] = ()

    def build(self) -> int:
        """Gather each video's clips into a trajectory, in Ray tasks; return the number of trajectories.

        They are written at once, so what the run holds of an earlier clustering goes before.
        """
        remove_clusters(self._run)
        return build_files(self._run, self._config.trajectory)

    def reduce(self) -> Fitted:
        """Reduce the trajectories file by file; return what is known of the reducer."""
        return reduce_files(self._run, self._config.reduce)

    def fit(self) -> Clustering:
        """Group the reduced trajectories, which actors hold among them; the run has this config when that is done."""
        with RayShards(split_trajectories(self._run, self._n_shards)) as shards:
            clustering = fit_shards(shards, self._config.cluster)
        self._run.record(config=self._config.model_dump(mode="json"))
        return clustering

    def project(self, clustering: Clustering | None = None) -> Fitted:
        """Reduce the trajectories to the two dimensions of the pictures, as a further column of their files."""
        return reduce_files(self._run, self._config.reduce.for_picture(), "picture")

    @property
    def reduced(self) -> Trajectories:
        """The reduced trajectories, read back."""
        return read_trajectories(self._run, "reduced")

    @property
    def picture(self) -> Trajectories:
        """The trajectories of the pictures, read back."""
        return read_trajectories(self._run, "picture")
