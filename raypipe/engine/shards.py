"""Series held by Ray actors, and the passes of k-means summed over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import ray

from raypipe.clustering.shards import Assignment, LocalShards, Outcome
from raypipe.clustering.stores import LocalStore, Measure, find_middle
from raypipe.engine.actors import Actors, Call, Holder, Share, plan_share
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.directory import Run
from raypipe.runs.results import from_table
from raypipe.softdtw.series import Series, Statistics, read_series

Loader = Callable[[], tuple[Any, np.ndarray | None]]
"""Returns a shard's series, in any form that `raypipe.softdtw` takes or an empty list, and their weights or None. It is
pickled to the shard's actor and called there, and again wherever the actor must be made anew: to the same result."""


@dataclass(frozen=True)
class ParquetLoader:
    """Reads some files of a run's ``trajectories/``.

    Attributes
    ----------
    run
        The run.
    files
        Names of files, relative to the run.
    column
        The paths to read: "trajectory", or "reduced".
    """

    run: Run
    files: tuple[str, ...]
    column: str = "reduced"

    def __call__(self) -> tuple[Any, None]:
        """Read them."""
        columns = ["video_id", "n_clips", self.column]
        found = [from_table(self.run.read_table(name, columns), self.column).values for name in self.files]
        if found and all(isinstance(values, np.ndarray) for values in found):
            return np.concatenate(found), None
        return [path for values in found for path in values], None

    def __str__(self) -> str:
        """Name the first and the last file."""
        return " to ".join(dict.fromkeys([*self.files[:1], *self.files[-1:]])) or "no files"


def split_trajectories(run: Run, n_shards: int, column: str = "reduced") -> list[ParquetLoader]:
    """Deal a run's files of trajectories out to shards, in their order.

    Raises
    ------
    RaypipeError
        If the run has none.
    """
    files = run.files("trajectories", ".parquet")
    if not files:
        raise RaypipeError(f"{run.url} has no trajectories/: run raypipe cluster on it first")
    ends = [len(files) * i // n_shards for i in range(n_shards + 1)]
    return [ParquetLoader(run, tuple(files[a:b]), column) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class _Sizes:
    n_series: int = 0
    n_points: int = 0
    n_heard: int = 0
    n_steps: int = 0
    dim: int = 0
    largest: float = 0.0
    heaviest: float | None = None


class _Shard(Holder):
    """An actor: some of the series."""

    store: LocalStore
    shards: LocalShards

    def load(self, loader: Loader) -> None:
        values, weights = loader()
        self.sizes = _Sizes()
        if len(values) == 0:
            return
        series = read_series(values)
        if isinstance(series.values, np.ndarray) and not series.values.flags.writeable:
            # For arrays such as Ray hands out numba would compile every kernel once more.
            series = replace(series, values=series.values.copy())
        if weights is not None:
            weights = np.asarray(weights, np.float64)
            if weights.shape != (len(series),) or not (np.isfinite(weights).all() and (weights >= 0).all()):
                raise UsageError(f"weights must be {len(series)} finite numbers, none negative; got {weights!s:.60}")
        self.store = store = LocalStore(series, weights)
        n_steps, dim = series.values.shape[1:]
        self.sizes = _Sizes(store.n_series, store.n_points, store.n_heard, n_steps, dim, series.largest, store.heaviest)

    def measure(self) -> _Sizes:
        return self.sizes

    def open(self, measure: Measure, weighted: bool, origin: np.ndarray, heaviest: float | None) -> str:
        self.shards = self.store.shards(measure, weighted, origin.copy(), heaviest)  # as above
        return self.shards.backend_name

    def farthest(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.shards.farthest(n)
        return rows, self.shards.values[rows]


class RayStore:
    """Series that lie with actors, a shard each: a `SeriesStore`. A context manager: at its end the actors end.

    Parameters
    ----------
    loaders
        One a shard. The series of the first come first; some may have none.
    share
        What each actor takes; by default as much as the Ray cluster's machines hold (`plan_share`).
    patience
        ``placing_s`` and ``answer_s`` of `raypipe.engine.actors.Actors`.

    Raises
    ------
    UsageError
        If no shard has series, their dimensions differ, or all weigh nothing.
    RaypipeError
        From here on and from any pass: if a loader fails, if a shard is lost again and again, finds no place or does
        not answer. One that is lost now and then is loaded again, and the result is the same.
    """

    def __init__(self, loaders: Sequence[Loader], share: Share | None = None, **patience: float):
        if share is None:
            share = plan_share([node["Resources"] for node in ray.nodes() if node["Alive"]], len(loaders))
        first = [("load", loader) for loader in loaders]
        names = [f"shard {number} ({loader})" for number, loader in enumerate(loaders)]
        self.actors = Actors(_Shard, first, names, share, **patience)
        try:
            self._sizes = self.actors.ask_all(range(len(loaders)), "measure")
            self._describe([size for size in self._sizes if size.n_series])
        except BaseException:
            self.actors.close()
            raise
        self._origin: np.ndarray | None = None

    def _describe(self, sizes: list[_Sizes]) -> None:
        if not sizes:
            raise UsageError(f"no series in any of {len(self._sizes)} shards")
        dims = sorted({size.dim for size in sizes})
        if len(dims) > 1:
            raise UsageError(f"series of different dimensions: {', '.join(map(str, dims))}")
        self.n_series = sum(size.n_series for size in sizes)
        self.n_points = sum(size.n_points for size in sizes)
        n_steps = max(size.n_steps for size in sizes)
        self.outline = Series(np.empty((0, n_steps, dims[0])), None, max(size.largest for size in sizes))
        self._heaviest = None
        if any(size.heaviest is not None for size in sizes):
            self._heaviest = max(1.0 if size.heaviest is None else size.heaviest for size in sizes)
            if self._heaviest == 0:
                raise UsageError("weights must not all be 0")

    def __enter__(self) -> RayStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors."""
        self.actors.close()

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Fetch series of these numbers: (len(rows), T, d) float64, shorter ones padded with NaN."""
        sizes = [size.n_series for size in self._sizes]
        return _fetch(self.actors, "store.paths", rows, sizes, self.outline.values.shape[1:])

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Fetch steps of these numbers, counted through all series: (len(points), d) float64."""
        sizes = [size.n_points for size in self._sizes]
        return _fetch(self.actors, "store.steps", points, sizes, self.outline.values.shape[2:])

    def shards(self, measure: Measure, weighted: bool = True) -> RayShards:
        """Make ready for passes over the series that weigh something; or over all, without weights."""
        if self._origin is None:
            self._origin = find_middle(self)
        counts = [size.n_heard if weighted else size.n_series for size in self._sizes]
        how = (measure, weighted, self._origin, self._heaviest)
        return RayShards(self.actors, counts, self.outline.values.shape[1:], how)


class RayShards:
    """Passes over the series of a `RayStore`: `raypipe.clustering.shards.Shards`."""

    def __init__(self, actors: Actors, sizes: list[int], shape: tuple[int, ...], how: tuple[Any, ...]):
        self.n_series = sum(sizes)
        self.n_steps, _ = self._shape = shape
        self._actors = actors
        self._sizes = sizes
        self._starts = np.cumsum([0, *sizes])
        self._all = [shard for shard, size in enumerate(sizes) if size]
        self._assigned: list[Call] = []
        self._counts: dict[int, np.ndarray] = {}
        self._seeded: list[Call] = []
        self._tried: tuple[np.ndarray, dict[int, list[Fraction]]]
        self._potential: dict[int, Fraction] = {}
        self._opened: list[Call] = []
        actors.history = self._history
        names = sorted(set(self._ask("open", *how)))
        self._opened = [("open", *how)]
        if len(names) > 1:
            raise RaypipeError(f"some shards are computed by {names[0]}, others by {names[1]}: name one as the backend")
        self.backend_name = names[0]

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Fetch the series."""
        return _fetch(self._actors, "shards.paths", rows, self._sizes, self._shape)

    def assign(self, centers: np.ndarray, offsets: np.ndarray, exact: bool = False) -> Assignment:
        """Make a pass over the series; counts and exact sums come back."""
        self._assigned, self._seeded = [], []
        call = ("shards.assign", centers.copy(), offsets, exact)
        found = self._ask(*call)
        self._assigned = [call]
        self._counts = {shard: each.counts for shard, each in zip(self._all, found, strict=True)}
        return reduce(add, found)

    def statistics(self, centers: np.ndarray, cluster: int | None = None) -> Statistics:
        """Make a pass over the series, or over those of one cluster where there are some; add up in order."""
        having = [shard for shard in self._all if cluster is None or self._counts[shard][cluster]]
        found = self._actors.ask_all(having, "shards.statistics", centers, cluster)
        return Statistics(*(reduce(add, (getattr(each, field.name) for each in found)) for field in fields(Statistics)))

    def farthest(self, n: int) -> np.ndarray:
        """Sort the farthest of each shard."""
        found = self._ask("farthest", n)
        rows = np.concatenate([self._starts[shard] + each for shard, (each, _) in zip(self._all, found, strict=True)])
        values = np.concatenate([each for _, each in found])
        return rows[np.lexsort((rows, -values))][:n]

    def outcome(self) -> Outcome:
        """Gather what each shard holds."""
        found = self._ask("shards.outcome")
        weights = None if found[0].weights is None else np.concatenate([each.weights for each in found])
        labels, distances = (
            np.concatenate([getattr(each, name) for each in found]) for name in ("labels", "distances")
        )
        return Outcome(labels, distances, weights)

    def begin_seeding(self) -> None:
        """Set the potential to infinity."""
        self._seeded = []
        self._ask("shards.begin_seeding")
        self._seeded = [("shards.begin_seeding",)]

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Compute the distances to the candidates where the series lie; a sum for each comes back."""
        found = self._ask("shards.try_seeds", candidates)
        self._tried = candidates.copy(), dict(zip(self._all, found, strict=True))
        return [sum(each, Fraction()) for each in zip(*found, strict=True)]

    def take_seed(self, candidate: int) -> None:
        """Lower the potential to the candidate's distances."""
        candidates, sums = self._tried
        tried, self._seeded = self._seeded, [*self._seeded, ("shards.try_seeds", candidates)]
        self._ask("shards.take_seed", candidate)
        taken = candidates[candidate : candidate + 1]
        self._seeded = [*tried, ("shards.try_seeds", taken), ("shards.take_seed", 0)]
        self._potential = {shard: each[candidate] for shard, each in sums.items()}

    def draw(self, targets: Any) -> np.ndarray:
        """Find the shard in which the running sum reaches each target, and have it search there."""
        wanted: dict[int, list[tuple[int, Fraction]]] = {}
        for place, each in enumerate(targets):
            target = Fraction(each)
            for shard in self._all:
                if target <= self._potential[shard] or shard == self._all[-1]:
                    wanted.setdefault(shard, []).append((place, target))
                    break
                target -= self._potential[shard]
        found = self._actors.ask({s: ("shards.draw", [target for _, target in each]) for s, each in wanted.items()})
        rows = np.empty(len(targets), np.int64)
        for shard, each in wanted.items():
            rows[[place for place, _ in each]] = self._starts[shard] + found[shard]
        return rows

    def _ask(self, *call: Any) -> list[Any]:
        return self._actors.ask_all(self._all, *call)

    def _history(self) -> list[Call]:
        """Return what leads to the present state: a shard that was lost goes through it again."""
        return [*self._opened, *self._assigned, *self._seeded]


def _deal(numbers: np.ndarray, sizes: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Find the shard of each number: by shard, the places in ``numbers`` and the numbers within the shard."""
    ends = np.cumsum(sizes)
    owners = np.searchsorted(ends, numbers, side="right")
    places = {int(shard): np.flatnonzero(owners == shard) for shard in np.unique(owners)}
    return {shard: (at, numbers[at] - (ends[shard] - sizes[shard])) for shard, at in places.items()}


def _fetch(actors: Actors, name: str, numbers: np.ndarray, sizes: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Gather (len(numbers), *shape) float64 from the shards that hold them, shorter ones padded with NaN."""
    dealt = _deal(numbers, sizes)
    found = actors.ask({shard: (name, within) for shard, (_, within) in dealt.items()})
    gathered = np.full((len(numbers), *shape), np.nan)
    for shard, (at, _) in dealt.items():
        gathered[at, : found[shard].shape[1]] = found[shard]
    return gathered
