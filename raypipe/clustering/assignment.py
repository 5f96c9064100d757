"""New trajectories to the clusters that were found before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from raypipe.clustering import make_estimator
from raypipe.clustering.parameters import constraint_of
from raypipe.clustering.result import NOISE
from raypipe.clustering.vectors import pool_steps
from raypipe.softdtw import cdist_soft_dtw

if TYPE_CHECKING:
    from raypipe.config import ClusterConfig

_OF_SERIES = ("softdtw", "dtw", "euclidean")
_BLOCK = 512  # So many trajectories are compared with all known ones at a time.


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
    """
    found = _measure(values, centers, config, gamma)
    labels = found.argmin(axis=1)
    return labels, found[np.arange(len(labels)), labels]


def assign_to_neighbours(
    values: Any, known: Any, known_labels: np.ndarray, centers: np.ndarray, config: ClusterConfig, gamma: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Give each trajectory the label of the nearest that was clustered, as a dense group need not lie around a center.

    Parameters
    ----------
    values, centers, config, gamma
        As in `assign_to_centers`.
    known, known_labels
        The m trajectories of a density clustering, and their (m,) labels: that of noise is −1.

    Returns
    -------
    labels, distances
        (n,) int64 and (n,) float64, to the own center; noise has none.
    """
    apart = _measure(values, centers, config, gamma)
    if gamma is None:
        near = NearestNeighbors(n_neighbors=1).fit(pool_steps(known).astype(np.float64))
        nearest = near.kneighbors(pool_steps(values).astype(np.float64), return_distance=False)[:, 0]
    else:
        blocks = (values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK))
        nearest = np.concatenate([_compare(block, known, config, gamma).argmin(axis=1) for block in blocks])
    labels = known_labels[nearest]
    return labels, np.where(labels == NOISE, np.nan, apart[np.arange(len(labels)), labels])


def _measure(values: Any, centers: np.ndarray, config: ClusterConfig, gamma: float | None) -> np.ndarray:
    """Return the distance of each trajectory to each center, (n, k) float64."""
    if config.method not in _OF_SERIES and centers.shape[1] == 1:
        return cdist(pool_steps(values).astype(np.float64), centers[:, 0])
    if config.method == "density":
        assert gamma is not None  # Whatever has centers of several steps has one.
        return np.sqrt(np.maximum(_compare(values, centers, config, gamma), 0))  # Only rounding makes any negative.
    backend = "tslearn" if config.backend == "tslearn" else "auto"
    model = make_estimator(config.model_copy(update={"backend": backend}))
    model.cluster_centers_, model.gamma_ = centers, gamma
    model.backend_ = "tslearn" if config.method != "softdtw" or backend == "tslearn" else "auto"
    return model.transform(values)


def _compare(values: Any, others: Any, config: ClusterConfig, gamma: float) -> np.ndarray:
    """Return the divergences by which a density of paths was found, (n, m) float64."""
    return cdist_soft_dtw(values, others, gamma, True, precision="float64", **constraint_of(config))
