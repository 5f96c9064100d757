"""Series that Ray actors hold, and the passes of k-means summed over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any, TypeVar

import numpy as np

from raypipe.clustering.shards import Assignment, Measure, Outcome, find_origin
from raypipe.engine.nodes import machines
from raypipe.engine.pools import Resources, plan_resources
from raypipe.engine.shard_actors import REBUILDS, ActorLost, Actors, Loader, Sizes
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.contents import TRAJECTORIES_FOLDER
from raypipe.runs.directory import Run
from raypipe.runs.results import from_table
from raypipe.softdtw.series import Series, Statistics

T = TypeVar("T")


@dataclass(frozen=True)
class ParquetLoader:
    """Reads the reduced paths in some files of a run's ``trajectories/``.

    Attributes
    ----------
    run
        The run.
    files
        Names of files, relative to the run.
    """

    run: Run
    files: tuple[str, ...]

    def __call__(self) -> tuple[Any, None]:
        """Read them."""
        columns = ["video_id", "n_clips", "reduced"]
        found = [from_table(self.run.read_table(name, columns), "reduced").values for name in self.files]
        if found and all(isinstance(values, np.ndarray) for values in found):
            return np.concatenate(found), None
        return [path for values in found for path in values], None

    def __str__(self) -> str:
        """Name the first and the last file."""
        return " to ".join(dict.fromkeys([*self.files[:1], *self.files[-1:]])) or "no files"


def list_trajectories(run: Run) -> list[str]:
    """Return the names of a run's files of trajectories, in order.

    Raises
    ------
    RaypipeError
        If the run has none.
    """
    files = run.files(TRAJECTORIES_FOLDER, ".parquet")
    if not files:
        raise RaypipeError(f"{run} has no trajectories/: run raypipe cluster on it first")
    return files


def split_trajectories(run: Run, n_shards: int) -> list[ParquetLoader]:
    """Deal a run's files of trajectories out to shards in order; raise what `list_trajectories` raises."""
    files = list_trajectories(run)
    ends = [len(files) * i // n_shards for i in range(n_shards + 1)]
    return [ParquetLoader(run, tuple(files[a:b])) for a, b in pairwise(ends)]


class RayShards:
    """Series that lie with actors, one a shard: see `raypipe.clustering.shards.Shards`.

    It is a context manager, at whose end the actors end. An actor that is lost is made anew and loads its series again;
    whatever was being computed starts again from its beginning, with the same result.

    Parameters
    ----------
    loaders
        One a shard. The series of the first come first; a shard may have none.
    resources
        What each actor takes; by default as much as the Ray cluster's machines hold (`plan_resources`).
    patience
        ``placing_s`` and ``answer_s`` of `raypipe.engine.shard_actors.Actors`.

    Raises
    ------
    UsageError
        If no shard has series, their dimensions differ, or all weights are 0.
    RaypipeError
        Now or in any pass: if a loader fails, or if a shard is lost again and again, finds no place or does not answer.
    """

    backend_name = ""

    def __init__(self, loaders: Sequence[Loader], resources: Resources | None = None, **patience: float):
        if resources is None:
            resources = plan_resources(machines(), len(loaders))
        self.actors = Actors(loaders, resources, **patience)
        try:
            self._sizes = self.attempt(lambda: self.actors.ask_all(range(len(loaders)), "measure"))
            self._describe([size for size in self._sizes if size.n_series])
        except BaseException:
            self.actors.close()
            raise
        self._origin: np.ndarray | None = None
        self._take_part([size.n_series for size in self._sizes])

    def _describe(self, sizes: list[Sizes]) -> None:
        if not sizes:
            raise UsageError(f"no series in any of {len(self._sizes)} shards")
        dims = sorted({size.dim for size in sizes})
        if len(dims) > 1:
            raise UsageError(f"series of different dimensions: {', '.join(map(str, dims))}")
        self.n_total = sum(size.n_series for size in sizes)
        self.n_points = sum(size.n_points for size in sizes)
        n_steps = max(size.n_steps for size in sizes)
        self.outline = Series(np.empty((0, n_steps, dims[0])), None, max(size.largest for size in sizes))
        self._heaviest = None
        if any(size.heaviest is not None for size in sizes):
            self._heaviest = max(1.0 if size.heaviest is None else size.heaviest for size in sizes)
            if self._heaviest == 0:
                raise UsageError("weights must not all be 0")

    def _take_part(self, counts: list[int]) -> None:
        """Set how many series of each shard take part in passes, and so their numbers."""
        self._counts, self.n_series = counts, sum(counts)
        self._starts = np.cumsum([0, *counts])
        self._all = [shard for shard, count in enumerate(counts) if count]

    def __enter__(self) -> RayShards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors."""
        self.actors.close()

    def attempt(self, work: Callable[[], T]) -> T:
        """Call work that makes passes, and call it again from its beginning whenever a shard is lost."""
        losses: Counter[str] = Counter()
        farthest = 0  # So many calls were answered at most; an attempt that comes further may lose shards again.
        while True:
            begun = self.actors.n_answered
            try:
                return work()
            except ActorLost as lost:
                if self.actors.n_answered - begun > farthest:
                    farthest = self.actors.n_answered - begun
                    losses.clear()
                losses[lost.name] += 1
                if losses[lost.name] > REBUILDS:
                    raise RaypipeError(
                        f"{lost.name} was lost {losses[lost.name]} times, and made anew in vain; the last time: {lost}"
                    ) from lost

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Fetch the series."""
        return self._fetch("shards.paths", rows, self._counts, self.outline.values.shape[1:])

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Fetch the steps."""
        sizes = [size.n_points for size in self._sizes]
        return self._fetch("shards.steps", points, sizes, self.outline.values.shape[2:])

    def open(self, measure: Measure, weighted: bool = True) -> None:
        """Prepare passes in every shard."""
        if self._origin is None:
            self._origin = find_origin(self)
        self._take_part([size.n_weighted if weighted else size.n_series for size in self._sizes])
        names = sorted(set(self._ask("open", measure, weighted, self._origin, self._heaviest)))
        if len(names) > 1:
            raise RaypipeError(f"some shards are computed by {names[0]}, others by {names[1]}: name one as the backend")
        self.backend_name = names[0]

    def assign(self, centers: np.ndarray, offsets: np.ndarray, exact: bool = False) -> Assignment:
        """Make a pass over the series; counts and exact sums come back."""
        found = self._ask("shards.assign", centers, offsets, exact)
        self._members = {shard: each.counts for shard, each in zip(self._all, found, strict=True)}
        return reduce(add, found)

    def statistics(self, centers: np.ndarray, cluster: int | None = None) -> Statistics:
        """Make a pass over the series, or over the shards that have some of one cluster; add up in order."""
        having = [shard for shard in self._all if cluster is None or self._members[shard][cluster]]
        found = self.actors.ask_all(having, "shards.statistics", centers, cluster)
        return Statistics(*(reduce(add, (getattr(each, field.name) for each in found)) for field in fields(Statistics)))

    def farthest(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sort the farthest of each shard."""
        rows, labels, gains = map(np.concatenate, zip(*self._ask("shards.farthest", n), strict=True))
        rows = rows + np.repeat(self._starts[self._all], [min(n, self._counts[shard]) for shard in self._all])
        order = np.lexsort((rows, -gains))[:n]
        return rows[order], labels[order], gains[order]

    def move(self, rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
        """Change the labels where the series lie."""
        owners = np.searchsorted(self._starts[1:], rows, side="right")
        places = {int(shard): owners == shard for shard in np.unique(owners)}
        calls = {shard: ("shards.move", rows[at] - self._starts[shard], clusters[at]) for shard, at in places.items()}
        self._members.update(self.actors.ask(calls))
        return reduce(add, self._members.values())

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
        self._ask("shards.begin_seeding")

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Compute the distances to the candidates where the series lie; a sum for each comes back."""
        found = self._ask("shards.try_seeds", candidates)
        self._sums = dict(zip(self._all, found, strict=True))
        return [sum(each, Fraction()) for each in zip(*found, strict=True)]

    def take_seed(self, candidate: int) -> None:
        """Lower the potential to the candidate's distances."""
        self._ask("shards.take_seed", candidate)
        self._potential = {shard: each[candidate] for shard, each in self._sums.items()}

    def draw(self, targets: Any) -> np.ndarray:
        """Find the shard in which the running sum reaches each target, and have it search there."""
        dealt: dict[int, list[tuple[int, Fraction]]] = {}
        for place, each in enumerate(targets):
            target = Fraction(each)
            for shard in self._all:
                if target <= self._potential[shard] or shard == self._all[-1]:
                    dealt.setdefault(shard, []).append((place, target))
                    break
                target -= self._potential[shard]
        found = self.actors.ask({s: ("shards.draw", [target for _, target in each]) for s, each in dealt.items()})
        rows = np.empty(len(targets), np.int64)
        for shard, each in dealt.items():
            rows[[place for place, _ in each]] = self._starts[shard] + found[shard]
        return rows

    def _ask(self, *call: Any) -> list[Any]:
        """Have every shard that takes part do the same."""
        return self.actors.ask_all(self._all, *call)

    def _fetch(self, name: str, numbers: np.ndarray, sizes: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
        """Gather (len(numbers), *shape) float64 from the shards that hold them, shorter ones padded with NaN."""
        ends = np.cumsum(sizes)
        owners = np.searchsorted(ends, numbers, side="right")
        places = {int(shard): np.flatnonzero(owners == shard) for shard in np.unique(owners)}
        calls = {shard: (name, numbers[at] - (ends[shard] - sizes[shard])) for shard, at in places.items()}
        found = self.actors.ask(calls)
        gathered = np.full((len(numbers), *shape), np.nan)
        for shard, at in places.items():
            gathered[at, : found[shard].shape[1]] = found[shard]
        return gathered
