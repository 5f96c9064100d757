"""The result of clustering trajectories, by whatever method."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

NOISE = -1
"""The cluster of trajectories that belong to none."""


def name_cluster(number: int, before: str = "cluster ") -> str:
    """Return what a cluster is called: its number behind a word, or "noise"."""
    return "noise" if number == NOISE else f"{before}{number}"


@dataclass(frozen=True)
class Clustering:
    """Groups of n trajectories, in the trajectories' order.

    Attributes
    ----------
    labels
        (n,) int64, the cluster of each trajectory, 0 to k − 1, numbered as the method found them. Some may have none.
        Density clustering gives −1 (`NOISE`) to trajectories that belong to none.
    distances
        (n,) float64, from each trajectory to its own center, in the method's distance. Soft-DTW may be negative. Noise
        has no center: not a number.
    centers
        (k, T, c) float64; T is 1 where the method clusters mean vectors, and that of the longest trajectory where
        lengths differ. A density finds no cluster at all where nothing is dense: k is 0.
    inertia
        Mean of what the method made small, so that the lower of two is the better: soft-DTW to the nearest center, or
        the squared distance where the method has another (`raypipe.TimeSeriesKMeans.objective_`, not ``inertia_``).
        None where it made nothing small, as a density.
    n_iter
        Passes of the run that was kept.
    gamma
        The γ of soft-DTW; None under any other distance.
    implementation
        What computed it, with its version.
    reason
        Why it was computed otherwise than asked for, or None if it was not.
    n_assigned
        How many trajectories were noise, and were given to the nearest cluster.
    """

    labels: np.ndarray
    distances: np.ndarray
    centers: np.ndarray
    inertia: float | None
    n_iter: int
    gamma: float | None
    implementation: str
    reason: str | None = None
    n_assigned: int = 0

    def paths_of_centers(self) -> dict[int, np.ndarray]:
        """Return the center of each cluster that holds a trajectory, (T, c), by the cluster's number."""
        held = np.unique(self.labels[self.labels != NOISE]).tolist()
        return {k: self.centers[k] for k in held}

    @property
    def n_clusters(self) -> int:
        """The number of clusters that were asked for, or that a density found: k."""
        return len(self.centers)


@contextmanager
def expecting_empty() -> Iterator[None]:
    """Keep estimators from warning of empty clusters, where a `Clustering` tells of them."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
