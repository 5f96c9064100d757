"""Clustering of trajectories as single points, their order in time forgotten: the baseline."""

import warnings
from typing import Any

import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from raypipe.clustering.result import Clustering
from raypipe.errors import UsageError


def pool_steps(values: Any) -> np.ndarray:
    """Mean of each trajectory over its steps.

    Parameters
    ----------
    values
        (n, T, c), or a list of (T_i, c) arrays.

    Returns
    -------
    (n, c) of the dtype of ``values``.
    """
    if isinstance(values, np.ndarray):
        return values.mean(axis=1)
    return np.stack([np.mean(path, axis=0) for path in values])


def cluster_vectors(points: np.ndarray, n_clusters: int, *, n_init: int, max_iter: int, seed: int) -> Clustering:
    """k-means of (n, c) points by scikit-learn, the best of ``n_init`` runs; centers are paths of one step.

    Raises
    ------
    UsageError
        If fewer points are distinct than there are clusters.
    """
    points = points.astype(np.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters", category=ConvergenceWarning)
        model = KMeans(n_clusters, n_init=n_init, max_iter=max_iter, random_state=seed).fit(points)
    found = len(np.unique(model.labels_))
    if found < n_clusters:
        raise UsageError(f"only {found} of {n_clusters} clusters found: the points are too alike, lower n_clusters")
    return Clustering(
        labels=model.labels_.astype(np.int64),
        distances=np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1),
        centers=model.cluster_centers_[:, None, :],
        inertia=float(model.inertia_) / len(points),
        n_iter=int(model.n_iter_),
        gamma=None,
        implementation=f"scikit-learn {sklearn.__version__}",
    )
