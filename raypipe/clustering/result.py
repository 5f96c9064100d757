"""The result of clustering trajectories, by whatever method."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clustering:
    """Groups of n trajectories, in the trajectories' order.

    Attributes
    ----------
    labels
        (n,) int64, the cluster of each trajectory, 0 to k − 1, numbered as the method found them.
    distances
        (n,) float64, from each trajectory to its own center, in the method's distance. Soft-DTW may be negative.
    centers
        (k, T, c) float64; T is 1 where the method clusters mean vectors.
    inertia
        Mean squared distance to the nearest center, as the method minimised it.
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
