"""Series that k-means works on, wherever they lie, before it is known how to compare them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raypipe.clustering.shards import LocalShards, Shards
from raypipe.softdtw import draw_steps
from raypipe.softdtw.series import Series, pad_series, pick, to_host

_SAMPLED = 256  # series whose mean all are seen from


@dataclass(frozen=True)
class Measure:
    """How series are compared; see `raypipe.TimeSeriesKMeans`."""

    gamma: float
    precision: str = "float64"
    backend: str = "auto"
    divergence: bool = False


class SeriesStore(Protocol):
    """n series, numbered from 0, before it is known how to compare them.

    Attributes
    ----------
    outline
        Values (0, T, d) or more, and the largest magnitude among all: their shape, but not their number.
    n_series, n_points
        Numbers of series, and of their steps.
    """

    outline: Series
    n_series: int
    n_points: int

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Series of these numbers: (len(rows), T, d) float64, shorter ones padded with NaN."""
        ...

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Return the steps of these numbers, counted through all series: (len(points), d) float64."""
        ...

    def shards(self, measure: Measure, weighted: bool = True) -> Shards:
        """Make ready for passes over the series that weigh something; or over all, without weights.

        It ends the passes over what was made before.
        """
        ...


def find_middle(store: SeriesStore) -> np.ndarray:
    """Mean step of a few series, evenly taken: (d,), the point that all are seen from."""
    few = store.paths(np.arange(0, store.n_series, -(-store.n_series // _SAMPLED)))
    return np.nanmean(few.reshape(-1, few.shape[2]), axis=0)


def sample_steps(store: SeriesStore) -> np.ndarray:
    """Return the steps that `raypipe.softdtw.auto_gamma` would look at, as one series: (1, m, d)."""
    return store.steps(draw_steps(store.n_points))[None]


class LocalStore:
    """Series in one process.

    Parameters
    ----------
    series
        n series.
    weights
        (n,) not negative, or None.
    """

    def __init__(self, series: Series, weights: np.ndarray | None = None):
        self.outline = series
        self.n_series = len(series)
        self.heaviest = None if weights is None else float(weights.max())
        self._weights = weights
        self._ends = None if series.lengths is None else np.cumsum(to_host(series.lengths))
        self.n_points = len(series) * series.values.shape[1] if self._ends is None else int(self._ends[-1])

    @property
    def n_heard(self) -> int:
        """Number of series that weigh something."""
        return self.n_series if self._weights is None else int(np.count_nonzero(self._weights))

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """Copy the series out."""
        return pad_series(self.outline.take(rows))

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Copy the steps out."""
        if self._ends is None:
            rows, at = np.divmod(points, self.outline.values.shape[1])
        else:
            rows = np.searchsorted(self._ends, points, side="right")
            at = points - (self._ends[rows] - to_host(self.outline.lengths)[rows])
        return to_host(pick(self.outline.values, rows, at)).astype(np.float64)

    def shards(
        self, measure: Measure, weighted: bool = True, origin: np.ndarray | None = None, heaviest: float | None = None
    ) -> LocalShards:
        """Take the series that weigh something; ``origin`` and ``heaviest`` are for a part of a larger whole."""
        series, weights = self.outline, None
        origin = find_middle(self) if origin is None else origin
        heaviest = self.heaviest if heaviest is None else heaviest
        if weighted and heaviest is not None:
            weights = (np.ones(len(series)) if self._weights is None else self._weights) / heaviest
            if not weights.all():  # what counts for nothing does not draw, seed or fill a cluster either
                series, weights = series.take(np.flatnonzero(weights)), weights[weights > 0]
        how = (measure.gamma, measure.precision, measure.backend)
        return LocalShards(series, *how, weights, measure.divergence, origin)
