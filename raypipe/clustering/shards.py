"""Series that k-means passes over, wherever they lie: the protocol, and the passes of one process.

Each pass of k-means, and each draw of its seeding, is a sum over series or a choice among them. So series may lie on
many machines: centers go out, and sums come back. The sums that a choice depends on are exact, as fractions, and every
series is seen from the same origin. Therefore labels, objectives, draws and the farthest series are the same bits
however the series are dealt out. Expected alignments are summed in float64, in the order in which the series lie, and
differ by rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from operator import add
from typing import Any, Protocol, TypeVar

import numpy as np

from raypipe.clustering.sums import add_exactly
from raypipe.softdtw import choose_steps
from raypipe.softdtw.backends import load_backend
from raypipe.softdtw.constraints import Constraint
from raypipe.softdtw.series import Series, Statistics, pad_series, pick, read_series, to_host

T = TypeVar("T")

# Sums over all series take so many at a time: that fits a core's cache, and needs no further array of all series.
_CHUNK = 1 << 13
# The origin is the mean step of so many series.
_SAMPLED = 256


@dataclass(frozen=True)
class Measure:
    """How series are compared; see `raypipe.TimeSeriesKMeans`.

    The rows of the constraint are the steps of a series, and its columns those of a center.
    """

    gamma: float
    precision: str = "float64"
    backend: str = "auto"
    divergence: bool = False
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Assignment:
    """The result of a pass that assigns n series to clusters, as sums over them.

    Attributes
    ----------
    counts
        (k,) int64, how many series each cluster has.
    sums
        Exact sums of weight · v, weight · |v|, weight · v² and weight, where v is a series' soft-DTW less the offset.
    """

    counts: np.ndarray
    sums: tuple[Fraction, ...]

    def __add__(self, other: "Assignment") -> "Assignment":
        """Return the sums over these and other series."""
        return Assignment(self.counts + other.counts, tuple(map(add, self.sums, other.sums)))

    @property
    def objective(self) -> float:
        """Σ weight · v, which the fit minimises."""
        return float(self.sums[0])

    @property
    def magnitude(self) -> float:
        """Σ weight · abs(v), the objective's scale: v may be of either sign."""
        return float(self.sums[1])

    @property
    def mean_square(self) -> float:
        """Σ weight · v² / Σ weight."""
        return float(self.sums[2] / self.sums[3])


@dataclass(frozen=True)
class Outcome:
    """The cluster of each of n series.

    Attributes
    ----------
    labels
        (n,) int32.
    distances
        (n,) float64, the soft-DTW of each series and its center, or their divergence.
    weights
        (n,) float64, the largest of which is 1; or None.
    """

    labels: np.ndarray
    distances: np.ndarray
    weights: np.ndarray | None


class Shards(Protocol):
    """Series to pass over, numbered from 0, with the labels of the last pass.

    `open` says how series are compared, and which of them take part in the passes until it is called again.

    Attributes
    ----------
    outline
        Values (0, T, d) or more, and the largest magnitude among all series: their shape without their number.
    n_total, n_points
        The number of series, and of their steps.
    n_series
        The number of series that take part: all until `open` is called. `paths`, `farthest`, `move`, `outcome`
        and `draw` number these.
    backend_name
        The backend that passes are computed by.
    """

    outline: Series
    n_total: int
    n_points: int
    n_series: int
    backend_name: str

    def attempt(self, work: Callable[[], T]) -> T:
        """Call work that makes passes, and return its result; call it again if series were lost in the meantime.

        The work must be deterministic, and call `open` before its first pass.
        """
        ...

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Return the series of these numbers: (len(rows), T, d) float64, shorter ones padded with NaN."""
        ...

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Return the steps of these numbers, counted through all series: (len(points), d) float64."""
        ...

    def open(self, measure: Measure, weighted: bool = True) -> None:
        """Prepare passes over the series that have a weight above 0; or over all series, without weights."""
        ...

    def assign(self, centers: np.ndarray, offsets: np.ndarray, exact: bool = False) -> Assignment:
        """Label each series with the nearest of (k, T, d) centers, by soft-DTW less the center's offset.

        ``exact`` asks for float64, whatever the precision of the other passes.
        """
        ...

    def statistics(self, centers: np.ndarray, cluster: int | None = None) -> Statistics:
        """Sum expected alignments by the labels; of one cluster only, for its one center (1, T, d)."""
        ...

    def farthest(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the n series that would gain most by being centers themselves, and their clusters and gains.

        The gain is soft-DTW to the center less soft-DTW to itself, or the divergence from the center. The largest comes
        first, and equal ones come in the order of their numbers.
        """
        ...

    def move(self, rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
        """Label series anew, each with the cluster beside it, until the next pass that assigns.

        Returns
        -------
        (k,) int64, how many series each cluster has now.
        """
        ...

    def outcome(self) -> Outcome:
        """Gather the labels and distances of the last pass; no other result is of the size of all series."""
        ...

    def begin_seeding(self) -> None:
        """Forget all seeds."""
        ...

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Return the exact potential with each candidate as a further seed.

        It is Σ weight · squared soft-DTW to the nearest seed.
        """
        ...

    def take_seed(self, candidate: int) -> None:
        """Make one of the candidates last tried a seed."""
        ...

    def draw(self, targets: Any) -> np.ndarray:
        """Return the series at which the exact running sum of the potential reaches each target."""
        ...


def find_origin(shards: Shards) -> np.ndarray:
    """Return the mean step of a few series, evenly taken: (d,), the point that all series are seen from."""
    few = shards.paths(np.arange(0, shards.n_series, -(-shards.n_series // _SAMPLED)))
    return np.nanmean(few.reshape(-1, few.shape[2]), axis=0)


def sample_steps(shards: Shards) -> np.ndarray:
    """Return the steps that `raypipe.softdtw.auto_gamma` would sample, as one series: (1, m, d)."""
    return shards.steps(choose_steps(shards.n_points))[None]


class LocalShards:
    """Series in this process: see `Shards`.

    Parameters
    ----------
    series
        n series.
    weights
        (n,) not negative, or None.

    Attributes
    ----------
    labels, values
        (n_series,) int32 and float, of the last pass: the cluster, and soft-DTW less the center's offset.
    """

    backend_name = ""
    weights: np.ndarray | None
    values: Any
    _prepared: Any
    _members: Any
    _potential: Any
    _own: Any
    _tried: Any
    _n_clusters: int

    def __init__(self, series: Series, weights: np.ndarray | None = None):
        self.outline = self.series = series
        self.n_total = self.n_series = len(series)
        self.heaviest = None if weights is None else float(weights.max())
        self._given_weights = weights
        self._ends = None if series.lengths is None else np.cumsum(to_host(series.lengths))
        self.n_points = len(series) * series.values.shape[1] if self._ends is None else int(self._ends[-1])

    @property
    def n_weighted(self) -> int:
        """Number of series that have a weight above 0."""
        return self.n_total if self._given_weights is None else int(np.count_nonzero(self._given_weights))

    def attempt(self, work: Callable[[], T]) -> T:
        """Call once: nothing gets lost here."""
        return work()

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Copy the steps out."""
        if self._ends is None:
            rows, at = np.divmod(points, self.outline.values.shape[1])
        else:
            rows = np.searchsorted(self._ends, points, side="right")
            at = points - (self._ends[rows] - to_host(self.outline.lengths)[rows])
        return to_host(pick(self.outline.values, rows, at)).astype(np.float64)

    def open(
        self, measure: Measure, weighted: bool = True, origin: np.ndarray | None = None, heaviest: float | None = None
    ) -> None:
        """Prepare passes; ``origin`` and ``heaviest`` are given for a part of a larger whole."""
        self._prepared = None  # This frees what an earlier call has prepared.
        self.series, self.weights, self.n_series = self.outline, None, self.n_total
        self.origin = find_origin(self) if origin is None else origin
        heaviest = self.heaviest if heaviest is None else heaviest
        if weighted and heaviest is not None:
            given = np.ones(self.n_total) if self._given_weights is None else self._given_weights
            self.weights = given / heaviest
            if not self.weights.all():  # A series of weight 0 is not drawn, and is no seed and no member of a cluster.
                self.series = self.outline.take(np.flatnonzero(self.weights))
                self.weights = self.weights[self.weights > 0]
        self.n_series = len(self.series)
        self.measure, self.gamma, self.constraint = measure, measure.gamma, measure.constraint
        self.turned = measure.constraint and measure.constraint.turned
        self.backend = load_backend(measure.backend, self.series.values)
        self.backend_name = self.backend.NAME
        self._prepared = self._prepare(self.series)
        self.labels, self.values = np.zeros(self.n_series, np.int32), None
        self._members = None  # The last cluster asked for, with its series, weights and labels.
        # While seeding: (n,) float64; (n,) half self-values; (n, c) distances to the candidates.
        self._potential = self._own = self._tried = None

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Copy the series out."""
        return pad_series(self.series.take(rows))

    def assign(self, centers: np.ndarray, offsets: np.ndarray, exact: bool = False) -> Assignment:
        """Make a pass over the series."""
        self._members = self._potential = self._tried = self._own = None
        prepared = self._prepare(self.series, "float64") if exact else self._prepared
        labels, values = self.backend.assign(prepared, centers, self.gamma, offsets, self.constraint)
        self._n_clusters = len(centers)
        self.labels, self.values = to_host(labels), to_host(values)
        found = Assignment(np.zeros(len(centers), np.int64), (Fraction(),) * 4)
        for part in self._parts():
            self.values[part] -= offsets[self.labels[part]]
            less = self.values[part].astype(np.float64)
            weights = np.ones(len(less)) if self.weights is None else self.weights[part]
            terms = np.stack([weights * less, weights * abs(less), weights * less**2, weights])
            counts = np.bincount(self.labels[part], minlength=len(centers))
            found += Assignment(counts, tuple(add_exactly(terms)))
        return found

    def statistics(self, centers: np.ndarray, cluster: int | None = None) -> Statistics:
        """Make a pass over the series, or over those of one cluster, which are kept prepared."""
        if cluster is None:
            found = self.backend.statistics
            return found(self._prepared, centers, self.labels, self.gamma, self.weights, self.turned)
        if self._members is None or self._members[0] != cluster:
            rows = np.flatnonzero(self.labels == cluster)
            prepared = self._prepare(self.series.take(rows))
            weights = None if self.weights is None else self.weights[rows]
            self._members = cluster, prepared, weights, np.zeros(len(rows), np.int32)
        _, prepared, weights, labels = self._members
        # As in tslearn, where a barycenter's steps are the rows, though series were assigned by the mask turned.
        return self.backend.statistics(prepared, centers, labels, self.gamma, weights, self.constraint)

    def farthest(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sort by the values of the last pass, less what a series has to itself."""
        own = to_host(self.backend.self_values(self._prepared, self.gamma, self.constraint))
        gains = self.values - (own / 2 if self.measure.divergence else own)
        rows = np.argsort(-gains, kind="stable")[:n]
        return rows, self.labels[rows], gains[rows]

    def move(self, rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
        """Change the labels."""
        self.labels[rows], self._members = clusters, None
        return np.bincount(self.labels, minlength=self._n_clusters)

    def outcome(self) -> Outcome:
        """Return the last pass's results, under the divergence less half of the series' self-values."""
        distances = self.values.astype(np.float64)
        if self.measure.divergence:
            own = self.backend.self_values(self._prepare(self.series, "float64"), self.gamma, self.constraint)
            distances -= to_host(own) / 2
        return Outcome(self.labels, distances, self.weights)

    def begin_seeding(self) -> None:
        """Set the potential to infinity."""
        self._potential = np.full(self.n_series, np.inf)
        self._own = None
        if self.measure.divergence:
            self._own = to_host(self.backend.self_values(self._prepared, self.gamma, self.constraint)) / 2

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Compute the distances to the candidates, and keep them."""
        seeds = self._prepare(read_series(candidates))
        if self.n_series >= len(candidates):
            self._tried = to_host(self.backend.cdist(self._prepared, seeds, self.gamma, self.turned))
        else:  # A backend may exchange both arguments, which changes the last bit.
            each = [self._prepare(read_series(one[None])) for one in candidates]
            compare = self.backend.cdist
            self._tried = np.hstack([to_host(compare(self._prepared, one, self.gamma, self.turned)) for one in each])
        if self._own is not None:
            self._tried -= self._own[:, None]
            self._tried -= to_host(self.backend.self_values(seeds, self.gamma, self.constraint)) / 2
        sums = [add_exactly(self._nearest(part)) for part in self._parts()]
        return [sum(each, Fraction()) for each in zip(*sums, strict=True)]

    def take_seed(self, candidate: int) -> None:
        """Lower the potential to the candidate's distances."""
        for part in self._parts():
            self._potential[part] = self._nearest(part, slice(candidate, candidate + 1))[0]

    def draw(self, targets: Any) -> np.ndarray:
        """Search the running sum of the potential, first by parts and then by halves of a part."""
        parts = self._parts()
        sums = [add_exactly(self._potential[None, part])[0] for part in parts]
        return np.array([self._find(Fraction(target), parts, sums) for target in targets], np.int64)

    def _find(self, target: Fraction, parts: list[slice], sums: list[Fraction]) -> int:
        """Return the first row at which the running sum reaches the target, or the last row."""
        for part, total in zip(parts, sums, strict=True):
            if target <= total:
                return self._halve(target, part)
            target -= total
        return self.n_series - 1

    def _halve(self, target: Fraction, part: slice) -> int:
        low, high = part.start, min(part.stop, self.n_series)
        while high - low > 1:
            middle = (low + high) // 2
            half = add_exactly(self._potential[None, low:middle])[0]
            if target <= half:
                high = middle
            else:
                low, target = middle, target - half
        return low

    def _nearest(self, part: slice, candidates: slice = slice(None)) -> np.ndarray:
        """Return weighted squared soft-DTW to the nearest seed, with each candidate as a further seed: (c, n)."""
        squared = self._tried[part, candidates].T.astype(np.float64, order="C")
        squared *= squared
        if self.weights is not None:
            squared *= self.weights[part]
        return np.minimum(self._potential[part], squared, out=squared)

    def _prepare(self, series: Series, precision: str | None = None) -> Any:
        return self.backend.prepare(series, precision or self.measure.precision, self.origin)

    def _parts(self) -> list[slice]:
        return [slice(start, start + _CHUNK) for start in range(0, self.n_series, _CHUNK)]
