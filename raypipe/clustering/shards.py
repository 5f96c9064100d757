"""Series that k-means works on, wherever they lie: here the protocol, and the series of one machine.

Each pass of k-means, and each draw of its seeding, is a sum over series or a choice among them. So series may lie on
many machines: out go centers, back come sums.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from raypipe.softdtw.backends import load_backend
from raypipe.softdtw.series import Series, Statistics, pad_series, read_series, to_host

_CHUNK = 1 << 16  # series that a sum over all takes together, so that it needs no array of all


@dataclass(frozen=True)
class Assignment:
    """Where n series went: sums over them.

    Attributes
    ----------
    counts
        (k,) int64, series of each cluster.
    objective
        Σ weight · (soft-DTW − offset), what the fit minimises.
    magnitude
        Σ weight · |soft-DTW − offset|, its scale: soft-DTW may be of either sign.
    squares
        Σ weight · (soft-DTW − offset)².
    weight
        Σ weight.
    """

    counts: np.ndarray
    objective: float
    magnitude: float
    squares: float
    weight: float


class Shards(Protocol):
    """n series, numbered from 0, with the labels of the last assignment and the potential of a seeding."""

    n_series: int
    n_steps: int

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
        """Numbers of the n series of the largest soft-DTW less offset to their center, the worst first."""
        ...

    def begin_seeding(self) -> None:
        """Forget the seeds there were."""
        ...

    def try_seeds(self, candidates: np.ndarray) -> np.ndarray:
        """Σ over series of weight · squared soft-DTW to the nearest seed, were each candidate one: (n_candidates,)."""
        ...

    def take_seed(self, candidate: int) -> None:
        """Make one of the candidates last tried a seed."""
        ...

    def draw(self, targets: np.ndarray) -> np.ndarray:
        """Numbers of the series at which the running sum of the potential passes each target."""
        ...


class LocalShards:
    """Series in one process.

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
    ):
        self.series = series
        self.gamma = gamma
        self.precision = precision
        self.backend = load_backend(backend, series.values)
        self.weights = weights
        self.divergence = divergence
        self.n_series, self.n_steps, _ = series.values.shape
        self.labels = np.zeros(self.n_series, np.int32)
        self.values: Any = None
        self._prepared = self.backend.prepare(series, precision)
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
        prepared = self.backend.prepare(self.series, "float64") if exact else self._prepared
        labels, values = self.backend.assign(prepared, centers, self.gamma, offsets)
        self.labels, self.values = to_host(labels), to_host(values)
        sums, counts = np.zeros(3), np.zeros(len(centers), np.int64)
        for part in self._parts():
            counts += np.bincount(self.labels[part], minlength=len(centers))
            self.values[part] -= offsets[self.labels[part]]
            less = self.values[part].astype(np.float64)
            weights = 1.0 if self.weights is None else self.weights[part]
            sums += [(weights * less).sum(), (weights * abs(less)).sum(), (weights * less**2).sum()]
        total = self.n_series if self.weights is None else self.weights.sum()
        return Assignment(counts, *map(float, (*sums, total)))

    def statistics(self, centers: np.ndarray, cluster: int | None = None) -> Statistics:
        """Make a pass over the series, or over those of one cluster, which are kept at hand."""
        if cluster is None:
            return self.backend.statistics(self._prepared, centers, self.labels, self.gamma, self.weights)
        if self._members is None or self._members[0] != cluster:
            rows = np.flatnonzero(self.labels == cluster)
            prepared = self.backend.prepare(self.series.take(rows), self.precision)
            weights = None if self.weights is None else self.weights[rows]
            self._members = cluster, prepared, weights, np.zeros(len(rows), np.int32)
        _, prepared, weights, labels = self._members
        return self.backend.statistics(prepared, centers, labels, self.gamma, weights)

    def farthest(self, n: int) -> np.ndarray:
        """Sort by the last assignment's values."""
        return np.argsort(-self.values, kind="stable")[:n]

    def begin_seeding(self) -> None:
        """Set the potential to infinity."""
        self._potential = np.full(self.n_series, np.inf)
        self._own = self.backend.self_values(self._prepared, self.gamma) / 2 if self.divergence else None

    def try_seeds(self, candidates: np.ndarray) -> np.ndarray:
        """Compute the distances to the candidates, and keep them."""
        seeds = self.backend.prepare(read_series(candidates), self.precision)
        self._tried = self.backend.cdist(self._prepared, seeds, self.gamma)
        if self._own is not None:
            self._tried -= self._own[:, None]
            self._tried -= self.backend.self_values(seeds, self.gamma) / 2
        self._tried = to_host(self._tried)
        return np.sum([self._nearest(part).sum(axis=0) for part in self._parts()], axis=0)

    def take_seed(self, candidate: int) -> None:
        """Lower the potential to the candidate's distances."""
        for part in self._parts():
            self._potential[part] = self._nearest(part)[:, candidate]

    def draw(self, targets: np.ndarray) -> np.ndarray:
        """Search the running sum of the potential."""
        rows = np.searchsorted(np.cumsum(self._potential), targets)
        return np.minimum(rows, self.n_series - 1)

    def _nearest(self, part: slice) -> np.ndarray:
        """Weighted squared soft-DTW to the nearest seed of a part's series, were each candidate one: (n, c)."""
        squared = self._tried[part].astype(np.float64) ** 2
        if self.weights is not None:
            squared *= self.weights[part, None]
        return np.minimum(self._potential[part, None], squared)

    def _parts(self) -> list[slice]:
        return [slice(start, start + _CHUNK) for start in range(0, self.n_series, _CHUNK)]
