"""The potential of k-means++ (Arthur & Vassilvitskii 2007), of the series of one shard."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from raypipe.clustering.sums import add_exactly, cut, search_running_sum


class Potential:
    """How far each series of a shard lies from the nearest of the seeds so far: what k-means++ draws by.

    Parameters
    ----------
    compare
        Returns how far the n series lie from (c, T, d) candidates: (n, c), soft-DTW or the divergence.
    n
        The number of series.
    weights
        (n,), or None.

    Attributes
    ----------
    values
        (n,) float64, the weighted square of what ``compare`` returns for the nearest seed; infinite without a seed.
    """

    _apart: np.ndarray  # (n, c), from the candidates last tried.

    def __init__(self, compare: Callable[[np.ndarray], np.ndarray], n: int, weights: np.ndarray | None):
        self._compare, self._weights = compare, weights
        self.values = np.full(n, np.inf)

    def try_seeds(self, candidates: np.ndarray) -> list[Fraction]:
        """Return the exact sum of the potential with each of (c, T, d) candidates as a further seed."""
        self._apart = self._compare(candidates)
        sums = [add_exactly(self._lowered(part)) for part in cut(len(self.values))]
        return [sum(each, Fraction()) for each in zip(*sums, strict=True)]

    def take_seed(self, candidate: int) -> None:
        """Make one of the candidates last tried a seed."""
        for part in cut(len(self.values)):
            self.values[part] = self._lowered(part, slice(candidate, candidate + 1))[0]

    def draw(self, targets: Any) -> np.ndarray:
        """Return the series at which the exact running sum of the potential reaches each target, or the last one."""
        return search_running_sum(self.values, targets)

    def _lowered(self, part: slice, candidates: slice = slice(None)) -> np.ndarray:
        """Return the potential of a part with each candidate as a further seed: (c, n)."""
        squared = self._apart[part, candidates].T.astype(np.float64, order="C")
        squared *= squared
        if self._weights is not None:
            squared *= self._weights[part]
        return np.minimum(self.values[part], squared, out=squared)
