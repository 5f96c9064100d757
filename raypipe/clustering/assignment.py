"""New trajectories to the clusters that were found before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist

from raypipe.clustering import make_estimator
from raypipe.clustering.vectors import pool_steps
from raypipe.errors import UsageError
from raypipe.softdtw import cdist_soft_dtw

if TYPE_CHECKING:
    from raypipe.config import ClusterConfig

_OF_SERIES = ("softdtw", "dtw", "euclidean")


def assign_to_centers(
    values: Any, centers: np.ndarray, config: ClusterConfig, gamma: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest center of each trajectory, by the distance that the clustering used.

    Parameters
    ----------
    values
        n trajectories in the centers' space: (n, T, c), or a list of (T_i, c) arrays.
    centers
        (k, T, c), as in `raypipe.clustering.Clustering`. Those of one step are of mean vectors, under any method that
        does not compare series.
    config
        The clustering's. Its backend serves only if it is tslearn, because another machine may not have the others.
    gamma
        The γ that the clustering used; None under any distance but soft-DTW.

    Returns
    -------
    labels, distances
        (n,) int64 and (n,) float64, in the distance of `raypipe.clustering.Clustering`.

    Raises
    ------
    UsageError
        If there is no center.
    """
    if not len(centers):
        raise UsageError("the clustering found no cluster, so there is none for other videos: cluster that run again")
    if config.method not in _OF_SERIES and centers.shape[1] == 1:
        found = cdist(pool_steps(values).astype(np.float64), centers[:, 0])
    elif config.method == "density":
        assert gamma is not None  # as for all that has centers of several steps
        found = cdist_soft_dtw(values, centers, gamma, divergence=True, precision="float64")
        found = np.sqrt(np.maximum(found, 0))  # Only rounding makes any negative.
    else:
        backend = "tslearn" if config.backend == "tslearn" else "auto"
        model = make_estimator(config.model_copy(update={"backend": backend}))
        model.cluster_centers_, model.gamma_ = centers, gamma
        model.backend_ = "tslearn" if config.method != "softdtw" or backend == "tslearn" else "auto"
        found = model.transform(values)
    labels = found.argmin(axis=1)
    return labels, found[np.arange(len(labels)), labels]
