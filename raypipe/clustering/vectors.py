"""Clustering of trajectories as single points, their order in time forgotten: the baseline."""

from typing import Any

import numpy as np
import sklearn
from sklearn.cluster import KMeans

from raypipe.clustering.result import Clustering, expecting_empty


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
    """k-means of (n, c) points by scikit-learn, in their own precision; centers are paths of one step.

    The best of ``n_init`` runs is kept.

    If fewer points are distinct than there are clusters, some clusters are empty.
    """
    with expecting_empty():
        model = KMeans(n_clusters, n_init=n_init, max_iter=max_iter, random_state=seed).fit(points)
    centers = model.cluster_centers_.astype(np.float64)
    return Clustering(
        labels=model.labels_.astype(np.int64),
        distances=np.linalg.norm(points - centers[model.labels_], axis=1),
        centers=centers[:, None, :],
        inertia=float(model.inertia_) / len(points),
        n_iter=int(model.n_iter_),
        gamma=None,
        implementation=f"scikit-learn {sklearn.__version__}",
    )
