"""Some of the series that k-means passes over, in one process: what each pass computes of them."""

from dataclasses import dataclass
from fractions import Fraction
from operator import add
from typing import Any

import numpy as np

from raypipe.clustering.potential import Potential
from raypipe.clustering.sums import add_exactly, cut
from raypipe.softdtw import half_self_values
from raypipe.softdtw.backends import load_backend
from raypipe.softdtw.constraints import Constraint
from raypipe.softdtw.series import Series, Statistics, pad_series, read_series, to_host


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
class Sizes:
    """What a shard tells of its series; zeros where it has none.

    Attributes
    ----------
    n_series, n_points
        The number of series, and of their steps.
    n_steps, dim
        Steps of the longest series, and numbers of a step.
    largest
        The largest magnitude among the numbers.
    heaviest
        The largest weight; None if there are no weights.
    """

    n_series: int = 0
    n_points: int = 0
    n_steps: int = 0
    dim: int = 0
    largest: float = 0.0
    heaviest: float | None = None


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


class SeriesShard:
    """Series in this process, for `raypipe.clustering.shards.Shards`, where the methods of these names are described.

    Parameters
    ----------
    series
        n series, at least one.
    weights
        (n,) not negative, or None.

    Attributes
    ----------
    sizes
        What the shards as a whole must know of the series.
    labels, values
        (n_series,) int32 and float, of the last pass: the cluster, and soft-DTW less the center's offset.
    potential
        While seeds are drawn, that of k-means++; else None.
    """

    values: np.ndarray
    _n_clusters: int

    def __init__(self, series: Series, weights: np.ndarray | None = None):
        self._all, self._all_weights = series, weights
        self.series = series
        n, n_steps, dim = series.values.shape
        self.sizes = Sizes(
            n_series=n,
            n_points=series.n_points,
            n_steps=n_steps,
            dim=dim,
            largest=series.largest,
            heaviest=None if weights is None else float(weights.max()),
        )

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Copy the steps out."""
        return self._all.steps(points)

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Copy the series out."""
        return pad_series(self.series.take(rows))

    def open(self, measure: Measure, origin: np.ndarray, heaviest: float | None) -> tuple[str, int]:
        """Prepare passes; return the name of the backend, and how many series take part.

        ``origin`` (d,) is the point that all series are seen from, and ``heaviest`` the largest weight in all shards;
        without it weights do not count.
        """
        self._prepared: Any = None  # This frees what an earlier call has prepared.
        self.series = self._all
        self.weights: np.ndarray | None = None
        if heaviest is not None:
            given = np.ones(len(self._all)) if self._all_weights is None else self._all_weights
            self.weights = given / heaviest
            if not self.weights.all():  # A series of weight 0 is not drawn, and is no seed and no member of a cluster.
                self.series = self._all.take(np.flatnonzero(self.weights))
                self.weights = self.weights[self.weights > 0]
        self.origin, self.measure = origin, measure
        self.gamma, self.constraint = measure.gamma, measure.constraint
        self.turned = measure.constraint and measure.constraint.turned
        self.backend = load_backend(measure.backend, self.series.values)
        self._prepared = self._prepare(self.series)
        self.labels = np.zeros(len(self.series), np.int32)
        self._members: Any = None  # The last cluster asked for, with its series, weights and labels.
        self.potential: Potential | None = None
        return self.backend.NAME, len(self.series)

    def assign(self, centers: np.ndarray, exact: bool = False) -> Assignment:
        """Make a pass over the series."""
        self._members = self.potential = None
        prepared = self._prepare(self.series, "float64") if exact else self._prepared
        offsets = self._offsets(centers)
        labels, values = self.backend.assign(prepared, centers, self.gamma, offsets, self.constraint)
        self._n_clusters = len(centers)
        self.labels, self.values = to_host(labels), to_host(values)
        found = Assignment(np.zeros(len(centers), np.int64), (Fraction(),) * 4)
        for part in cut(len(self.series)):
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
        own = self._self_values(self._prepared)
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
            distances -= self._self_values(self._prepare(self.series, "float64")) / 2
        return Outcome(self.labels, distances, self.weights)

    def begin_seeding(self) -> None:
        """Forget all seeds."""
        own = self._self_values(self._prepared) / 2 if self.measure.divergence else None
        self.potential = Potential(lambda seeds: self._compare(seeds, own), len(self.series), self.weights)

    def _compare(self, candidates: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        """Compare the series with (c, T, d) candidates, less half of both sides' self-values if ``own`` is given."""
        seeds = self._prepare(read_series(candidates))
        if len(self.series) >= len(candidates):
            apart = to_host(self.backend.cdist(self._prepared, seeds, self.gamma, self.turned))
        else:  # A backend may exchange both arguments, which changes the last bit.
            each = [self._prepare(read_series(one[None])) for one in candidates]
            compare = self.backend.cdist
            apart = np.hstack([to_host(compare(self._prepared, one, self.gamma, self.turned)) for one in each])
        if own is not None:
            apart -= own[:, None]
            apart -= self._self_values(seeds) / 2
        return apart

    def _offsets(self, centers: np.ndarray) -> np.ndarray:
        """Return what is subtracted from soft-DTW to each center: half its self-value under the divergence, else 0."""
        if not self.measure.divergence:
            return np.zeros(len(centers))
        return half_self_values(centers, self.gamma, self.measure.backend, self.constraint)

    def _self_values(self, prepared: Any) -> np.ndarray:
        return to_host(self.backend.self_values(prepared, self.gamma, self.constraint))

    def _prepare(self, series: Series, precision: str | None = None) -> Any:
        return self.backend.prepare(series, precision or self.measure.precision, self.origin)
