"""The result of clustering trajectories, by whatever method."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clustering:
    """Groups of n trajectories, in the trajectories' order.

    Attributes
    ----------
    labels
        (n,) int64, the cluster of each trajectory, 0 to k − 1, numbered as the method found them. Some may have none.
    distances
        (n,) float64, from each trajectory to its own center, in the method's distance. Soft-DTW may be negative.
    centers
        (k, T, c) float64; T is 1 where the method clusters mean vectors.
    inertia
        Mean of what the method made small, so that the lower of two is the better: soft-DTW to the nearest center, or
        the squared distance where the method has another (`raypipe.TimeSeriesKMeans.objective_`, not ``inertia_``).
    n_iter
        Passes of the run that was kept.
    gamma
        The γ of soft-DTW; None under any other distance.
    implementation
        What computed it, with its version.
    """

    labels: np.ndarray
    distances: np.ndarray
    centers: np.ndarray
    inertia: float
    n_iter: int
    gamma: float | None
    implementation: str

    @property
    def n_clusters(self) -> int:
        """The number of clusters that were asked for, k."""
        return len(self.centers)


@contextmanager
def expecting_empty() -> Iterator[None]:
    """Keep estimators from warning of empty clusters, where a `Clustering` tells of them."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
