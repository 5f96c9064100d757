"""Series that k-means passes over, wherever they lie: the passes over all of them, as sums over shards.

Each pass of k-means, and each draw of its seeding, is a sum over series or a choice among them. So series may lie on
many machines: centers go out, and sums come back. The sums that a choice depends on are exact, as fractions, and every
series is seen from the same origin. Therefore labels, objectives, draws and the farthest series are the same bits
however the series are dealt out. Expected alignments are summed in float64, in the order in which the series lie, and
differ by rounding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import reduce
from operator import add, attrgetter
from typing import Any, TypeVar

import numpy as np

from raypipe.clustering.shard import Assignment, Measure, Outcome, SeriesShard, Sizes
from raypipe.errors import RaypipeError, UsageError
from raypipe.softdtw.series import Series, Statistics

T = TypeVar("T")

# The origin is the mean step of so many series.
_SAMPLED = 256


class Shards(ABC):
    """Series to pass over, numbered from 0 through all shards, with the labels of the last pass.

    `open` says how series are compared, and which of them take part in the passes until it is called again. Where the
    shards lie is known to `ask` and `attempt` alone.

    Parameters
    ----------
    sizes
        What each shard tells of its series. The series of the first come first; a shard may have none.

    Attributes
    ----------
    outline
        Values (0, T, d), and the largest magnitude among all series: their shape without their number.
    n_total, n_points
        The number of series, and of their steps.
    n_series
        The number of series that take part: all until `open` is called. `paths`, `farthest`, `move`, `outcome`
        and `draw` number these.
    measure
        How series are compared.
    backend_name
        The backend that passes are computed by.

    Raises
    ------
    UsageError
        If no shard has series, their dimensions differ, or all weights are 0.
    """

    measure: Measure
    backend_name: str

    def __init__(self, sizes: Sequence[Sizes]):
        held = [each for each in sizes if each.n_series]
        if not held:
            raise UsageError(f"no series in any of {len(sizes)} shards")
        dims = sorted({each.dim for each in held})
        if len(dims) > 1:
            raise UsageError(f"series of different dimensions: {', '.join(map(str, dims))}")
        self._heaviest = None
        if any(each.heaviest is not None for each in held):
            self._heaviest = max(1.0 if each.heaviest is None else each.heaviest for each in held)
            if self._heaviest == 0:
                raise UsageError("weights must not all be 0")
        self._sizes = sizes
        self.n_total = sum(each.n_series for each in sizes)
        self.n_points = sum(each.n_points for each in sizes)
        n_steps = max(each.n_steps for each in held)
        self.outline = Series(np.empty((0, n_steps, dims[0])), None, max(each.largest for each in held))
        self._origin: np.ndarray | None = None
        self._take_part([each.n_series for each in sizes])

    @abstractmethod
    def ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Have each of these shards do what the name says, a method of `SeriesShard` or of its ``potential``."""

    def ask_all(self, shards: Sequence[int], name: str, *arguments: Any) -> list[Any]:
        """Have several shards do the same; return what they return, in order."""
        found = self.ask(name, dict.fromkeys(shards, arguments))
        return [found[shard] for shard in shards]

    def attempt(self, work: Callable[[], T]) -> T:
        """Call work that makes passes, and return its result; call it again if series were lost in the meantime.

        The work must be deterministic, and call `open` before its first pass.
        """
        return work()

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Return the series of these numbers: (len(rows), T, d) float64, shorter ones padded with NaN."""
        return self._fetch("paths", rows, self._counts, self.outline.values.shape[1:])

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Return the steps of these numbers, counted through all series: (len(points), d) float64."""
        return self._fetch("steps", points, [each.n_points for each in self._sizes], self.outline.values.shape[2:])

    def open(self, measure: Measure, weighted: bool = True) -> None:
        """Prepare passes over the series that have a weight above 0; or over all series, without weights.

        Raises
        ------
        RaypipeError
            If not all shards are computed by the same backend.
        """
        self._take_part([each.n_series for each in self._sizes])
        if self._origin is None:
            self._origin = find_origin(self)
        found = self._ask("open", measure, self._origin, self._heaviest if weighted else None)
        names = sorted({name for name, _ in found})
        if len(names) > 1:
            raise RaypipeError(f"some shards are computed by {names[0]}, others by {names[1]}: name one as the backend")
        self.measure, self.backend_name = measure, names[0]
        counts = dict(zip(self._having, (n for _, n in found), strict=True))
        self._take_part([counts.get(shard, 0) for shard in range(len(self._sizes))])

    def assign(self, centers: np.ndarray, exact: bool = False) -> Assignment:
        """Label each series with the nearest of (k, T, d) centers, by soft-DTW less the center's offset.

        The offset is half the center's self-value under the divergence, else 0. ``exact`` asks for float64, whatever
        the precision of the other passes.
        """
        found = self._ask("assign", centers, exact)
        self._members = {shard: each.counts for shard, each in zip(self._having, found, strict=True)}
        return reduce(add, found)

    def statistics(self, centers: np.ndarray, cluster: int | None = None) -> Statistics:
        """Sum expected alignments by the labels; of one cluster only, for its one center (1, T, d)."""
        having = [shard for shard in self._having if cluster is None or self._members[shard][cluster]]
        return reduce(add, self.ask_all(having, "statistics", centers, cluster))

    def farthest(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the n series that would gain most by being centers themselves, and their clusters and gains.

        The gain is soft-DTW to the center less soft-DTW to itself, or the divergence from the center. The largest comes
        first, and equal ones come in the order of their numbers.
        """
        rows, labels, gains = map(np.concatenate, zip(*self._ask("farthest", n), strict=True))
        rows = rows + np.repeat(self._starts[self._having], [min(n, self._counts[shard]) for shard in self._having])
        order = np.lexsort((rows, -gains))[:n]
        return rows[order], labels[order], gains[order]

    def move(self, rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
        """Label series anew, each with the cluster beside it, until the next pass that assigns.

        Returns
        -------
        (k,) int64, how many series each cluster has now.
        """
        places = _deal(rows, self._starts[1:])
        moves = {shard: (rows[at] - self._starts[shard], clusters[at]) for shard, at in places.items()}
        self._members.update(self.ask("move", moves))
        return reduce(add, self._members.values())

    def outcome(self) -> Outcome:
        """Gather the labels and distances of the last pass; no other result is of the size of all series."""
        found = self._ask("outcome")
        weights = None if found[0].weights is None else np.concatenate([each.weights for each in found])
        labels = np.concatenate([each.labels for each in found])
        return Outcome(labels, np.concatenate([each.distances for each in found]), weights)

    def begin_seeding(self) -> None:
        """Forget all seeds."""
        self._ask("begin_seeding")

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Return the exact potential with each of (c, T, d) candidates as a further seed.

        It is Σ weight · squared soft-DTW to the nearest seed.
        """
        found = self._ask("potential.try_seeds", candidates)
        self._sums = dict(zip(self._having, found, strict=True))
        return [sum(each, Fraction()) for each in zip(*found, strict=True)]

    def take_seed(self, candidate: int) -> None:
        """Make one of the candidates last tried a seed."""
        self._ask("potential.take_seed", candidate)
        self._potential = {shard: each[candidate] for shard, each in self._sums.items()}

    def draw(self, targets: Any) -> np.ndarray:
        """Return the series at which the exact running sum of the potential reaches each target, or the last one."""
        dealt: dict[int, list[tuple[int, Fraction]]] = {}
        for place, each in enumerate(targets):
            target = Fraction(each)
            for shard in self._having:
                if target <= self._potential[shard] or shard == self._having[-1]:
                    dealt.setdefault(shard, []).append((place, target))
                    break
                target -= self._potential[shard]
        found = self.ask("potential.draw", {s: ([target for _, target in each],) for s, each in dealt.items()})
        rows = np.empty(len(targets), np.int64)
        for shard, each in dealt.items():
            rows[[place for place, _ in each]] = self._starts[shard] + found[shard]
        return rows

    def _take_part(self, counts: list[int]) -> None:
        """Set how many series of each shard take part in passes, and so their numbers."""
        self._counts, self.n_series = counts, sum(counts)
        self._starts = np.cumsum([0, *counts])
        self._having = [shard for shard, count in enumerate(counts) if count]

    def _ask(self, name: str, *arguments: Any) -> list[Any]:
        """Have every shard that takes part do the same."""
        return self.ask_all(self._having, name, *arguments)

    def _fetch(self, name: str, numbers: np.ndarray, sizes: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
        """Gather (len(numbers), *shape) float64 from the shards that hold them, shorter ones padded with NaN."""
        ends = np.cumsum(sizes)
        places = _deal(numbers, ends)
        found = self.ask(name, {shard: (numbers[at] - (ends[shard] - sizes[shard]),) for shard, at in places.items()})
        if len(found) == 1 and (only := next(iter(found.values()))).shape[1:] == shape:
            return only
        gathered = np.full((len(numbers), *shape), np.nan)
        for shard, at in places.items():
            gathered[at, : found[shard].shape[1]] = found[shard]
        return gathered


class LocalShards(Shards):
    """Series in this process, all in one shard.

    Parameters
    ----------
    series
        n series.
    weights
        (n,) not negative and not all 0, or None.
    """

    def __init__(self, series: Series, weights: np.ndarray | None = None):
        self.shard = SeriesShard(series, weights)
        super().__init__([self.shard.sizes])

    def ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call the one shard."""
        return {shard: attrgetter(name)(self.shard)(*each) for shard, each in arguments.items()}


def find_origin(shards: Shards) -> np.ndarray:
    """Return the mean step of a few series, evenly taken: (d,), the point that all series are seen from."""
    few = shards.paths(np.arange(0, shards.n_series, -(-shards.n_series // _SAMPLED)))
    return np.nanmean(few.reshape(-1, few.shape[2]), axis=0)


def _deal(numbers: np.ndarray, ends: np.ndarray) -> dict[int, np.ndarray]:
    """Return which of the numbers each shard holds, where those of a shard end at one of ``ends``."""
    owners = np.searchsorted(ends, numbers, side="right")
    return {int(shard): np.flatnonzero(owners == shard) for shard in np.unique(owners)}
