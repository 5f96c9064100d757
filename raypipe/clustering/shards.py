"""Passes over series, wherever they lie: here the protocol, and the passes of one process.

Each pass of k-means, and each draw of its seeding, is a sum over series or a choice among them. So series may lie on
many machines: out go centers, back come sums. The sums that choices hang on are exact, as fractions, and every series
is seen from the same point: labels, objectives, draws and the farthest series are the same bits however the series are
dealt out. Expected alignments are summed in float64, in the order in which the series lie, and differ by rounding.
"""

from dataclasses import dataclass
from fractions import Fraction
from operator import add
from typing import Any, Protocol

import numpy as np

from raypipe.clustering.sums import add_exactly
from raypipe.softdtw.backends import backend_name, load_backend
from raypipe.softdtw.series import Series, Statistics, pad_series, read_series, to_host

_CHUNK = 1 << 13  # series that a sum over all takes together: no array of all is needed, and a core's cache holds them


@dataclass(frozen=True)
class Assignment:
    """Where n series went: sums over them.

    Attributes
    ----------
    counts
        (k,) int64, series of each cluster.
    sums
        Exact: of weight · v, weight · |v|, weight · v² and weight, with v a series' soft-DTW less the offset.
    """

    counts: np.ndarray
    sums: tuple[Fraction, ...]

    def __add__(self, other: "Assignment") -> "Assignment":
        """Join with the assignment of other series."""
        return Assignment(self.counts + other.counts, tuple(map(add, self.sums, other.sums)))

    @property
    def objective(self) -> float:
        """Σ weight · v, what the fit minimises."""
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
    """Where each of n series went.

    Attributes
    ----------
    labels
        (n,) int32, its cluster.
    distances
        (n,) float64, its soft-DTW to the center, or their divergence.
    weights
        (n,) float64, the largest of all being 1; or None.
    """

    labels: np.ndarray
    distances: np.ndarray
    weights: np.ndarray | None


class Shards(Protocol):
    """n series, numbered from 0, with the labels of the last assignment and the potential of a seeding."""

    n_series: int
    n_steps: int
    backend_name: str

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Series of these numbers: (len(rows), n_steps, dim) float64, shorter ones padded with NaN."""
        ...

    def assign(self, centers: np.ndarray, offsets: np.ndarray, exact: bool = False) -> Assignment:
        """Label each series with the nearest of (k, T, dim) centers, by soft-DTW less the center's offset.

        ``exact`` asks for float64, whatever the precision of the passes before.
        """
        ...

    def statistics(self, centers: np.ndarray, cluster: int | None = None) -> Statistics:
        """Sum expected alignments by the labels; of one cluster only, and then for its one center (1, T, dim)."""
        ...

    def farthest(self, n: int) -> np.ndarray:
        """Numbers of the n series of the largest soft-DTW less offset to their center, the worst first.

        Of equal ones the first comes first.
        """
        ...

    def outcome(self) -> Outcome:
        """Gather where the last assignment put each series: what is of the size of all comes here and nowhere else."""
        ...

    def begin_seeding(self) -> None:
        """Forget the seeds there were."""
        ...

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Σ over series of weight · squared soft-DTW to the nearest seed, were each candidate one; exact."""
        ...

    def take_seed(self, candidate: int) -> None:
        """Make one of the candidates last tried a seed."""
        ...

    def draw(self, targets: Any) -> np.ndarray:
        """Numbers of the series at which the running sum of the potential, exact, reaches each target."""
        ...


class LocalShards:
    """Series in one process, and passes over them.

    Parameters
    ----------
    series
        n series.
    gamma
        Smoothness.
    precision, backend
        How soft-DTW is computed; see `raypipe.softdtw.cdist_soft_dtw`.
    weights
        (n,) or None.
    divergence
        Whether seeds are drawn by the divergence.
    origin
        (d,) that the series are seen from; by default each backend's own choice.

    Attributes
    ----------
    labels, values
        (n,) int32 and float, of the last assignment: the cluster, and soft-DTW less the center's offset.
    """

    def __init__(
        self,
        series: Series,
        gamma: float,
        precision: str,
        backend: str,
        weights: np.ndarray | None = None,
        divergence: bool = False,
        origin: np.ndarray | None = None,
    ):
        self.series = series
        self.gamma = gamma
        self.precision = precision
        self.backend = load_backend(backend, series.values)
        self.backend_name = backend_name(self.backend)
        self.weights = weights
        self.divergence = divergence
        self.origin = origin
        self.n_series, self.n_steps, _ = series.values.shape
        self.labels = np.zeros(self.n_series, np.int32)
        self.values: Any = None
        self._prepared = self._prepare(series)
        self._members: Any = None  # a cluster, and its series, weights and labels (0)
        self._potential: Any = None  # (n,) float64, while seeding; (n,) half self-values; (n, c) to candidates
        self._own: Any = None
        self._tried: Any = None

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Copy the series out."""
        return pad_series(self.series.take(rows))

    def assign(self, centers: np.ndarray, offsets: np.ndarray, exact: bool = False) -> Assignment:
        """Make a pass over the series."""
        self._members = self._potential = self._tried = self._own = None
        prepared = self._prepare(self.series, "float64") if exact else self._prepared
        labels, values = self.backend.assign(prepared, centers, self.gamma, offsets)
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
        """Make a pass over the series, or over those of one cluster, which are kept at hand."""
        if cluster is None:
            return self.backend.statistics(self._prepared, centers, self.labels, self.gamma, self.weights)
        if self._members is None or self._members[0] != cluster:
            rows = np.flatnonzero(self.labels == cluster)
            prepared = self._prepare(self.series.take(rows))
            weights = None if self.weights is None else self.weights[rows]
            self._members = cluster, prepared, weights, np.zeros(len(rows), np.int32)
        _, prepared, weights, labels = self._members
        return self.backend.statistics(prepared, centers, labels, self.gamma, weights)

    def farthest(self, n: int) -> np.ndarray:
        """Sort by the last assignment's values."""
        return np.argsort(-self.values, kind="stable")[:n]

    def outcome(self) -> Outcome:
        """Return the last assignment's, under the divergence less half of the series' own values."""
        distances = self.values.astype(np.float64)
        if self.divergence:
            own = self.backend.self_values(self._prepare(self.series, "float64"), self.gamma)
            distances -= to_host(own) / 2
        return Outcome(self.labels, distances, self.weights)

    def begin_seeding(self) -> None:
        """Set the potential to infinity."""
        self._potential = np.full(self.n_series, np.inf)
        own = self.backend.self_values(self._prepared, self.gamma) if self.divergence else None
        self._own = None if own is None else to_host(own) / 2

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Compute the distances to the candidates, and keep them."""
        seeds = self._prepare(read_series(candidates))
        if self.n_series >= len(candidates):
            self._tried = to_host(self.backend.cdist(self._prepared, seeds, self.gamma))
        else:  # a backend may exchange the two for its convenience, which costs the last bit
            each = [self._prepare(read_series(one[None])) for one in candidates]
            self._tried = np.hstack([to_host(self.backend.cdist(self._prepared, one, self.gamma)) for one in each])
        if self._own is not None:
            self._tried -= self._own[:, None]
            self._tried -= to_host(self.backend.self_values(seeds, self.gamma)) / 2
        sums = [add_exactly(self._nearest(part)) for part in self._parts()]
        return [sum(each, Fraction()) for each in zip(*sums, strict=True)]

    def take_seed(self, candidate: int) -> None:
        """Lower the potential to the candidate's distances."""
        for part in self._parts():
            self._potential[part] = self._nearest(part, slice(candidate, candidate + 1))[0]

    def draw(self, targets: Any) -> np.ndarray:
        """Search the running sum of the potential: first by parts, then by halves of the part."""
        parts = self._parts()
        sums = [add_exactly(self._potential[None, part])[0] for part in parts]
        return np.array([self._find(Fraction(target), parts, sums) for target in targets], np.int64)

    def _find(self, target: Fraction, parts: list[slice], sums: list[Fraction]) -> int:
        """Return the first row at which the running sum reaches the target; the last one if it never does."""
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
        """Weighted squared soft-DTW to the nearest seed of a part's series, were each candidate one: (c, n)."""
        squared = self._tried[part, candidates].T.astype(np.float64, order="C")
        squared *= squared
        if self.weights is not None:
            squared *= self.weights[part]
        return np.minimum(self._potential[part], squared, out=squared)

    def _prepare(self, series: Series, precision: str | None = None) -> Any:
        return self.backend.prepare(series, precision or self.precision, self.origin)

    def _parts(self) -> list[slice]:
        return [slice(start, start + _CHUNK) for start in range(0, self.n_series, _CHUNK)]
