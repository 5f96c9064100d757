"""Density clustering of trajectories by HDBSCAN (Campello, Moulavi & Sander 2013), which leaves some as noise.

A trajectory of one step is a vector, and vectors are compared by their Euclidean distance. Longer ones are compared by
the square root of the soft-DTW divergence, which for one step is that same distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from scipy.sparse import csr_array
from sklearn.cluster import HDBSCAN
from sklearn.neighbors import NearestNeighbors

from raypipe import packages
from raypipe.clustering.parameters import constraint_of
from raypipe.clustering.result import NOISE, Clustering
from raypipe.clustering.vectors import pool_steps
from raypipe.config import ClusterConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.softdtw import auto_gamma, cdist_soft_dtw, soft_dtw_barycenter
from raypipe.softdtw.barycenter import resample

MAX_COMPARED = 20_000  # The distances of all pairs of so many trajectories take 1.6 GB.
_BLOCK = 512  # So many rows of the distances are computed at a time, in float64.
_MOST_CUML_SAMPLES = 1023


def cluster_density(values: Any, config: ClusterConfig) -> Clustering:
    """Group trajectories by density; those that lie in no dense group are noise, with the label −1.

    ``config.min_samples`` counts the trajectory itself, as in scikit-learn. The packages hdbscan and cuML do not count
    it, so theirs is one less for the same labels.

    Parameters
    ----------
    values
        (n, T, c), or a list of (T_i, c) arrays. More than `MAX_COMPARED` trajectories are not compared in pairs: their
        means over the steps are clustered, and ``reason`` says so.
    config
        Its ``min_cluster_size``, ``min_samples`` and ``assign_all``; ``gamma``, ``seed`` and the constraint for
        soft-DTW.

    Returns
    -------
    Clusters numbered as HDBSCAN does. Their centers are mean vectors, or soft-DTW barycenters of trajectories, of the
    members without noise that was assigned to them.

    Raises
    ------
    UsageError
        If cuML is asked for and cannot count so few or so many samples.
    RaypipeError
        If cuML is asked for and cannot be used here.
    """
    n = len(values)
    if max(len(path) for path in values) == 1:
        return _cluster_vectors(pool_steps(values), config)
    if n <= MAX_COMPARED:
        return _cluster_paths(values, config)
    reason = f"on mean vectors: {n:,} trajectories are more than the {MAX_COMPARED:,} that are compared in pairs"
    return _cluster_vectors(pool_steps(values), config, reason)


def _cluster_vectors(points: np.ndarray, config: ClusterConfig, reason: str | None = None) -> Clustering:
    points = np.asarray(points, np.float64)
    labels, implementation, fallback = _label_vectors(points, config)
    centers = np.array([points[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    centers = centers.reshape(-1, points.shape[1])
    n_assigned = 0
    if config.assign_all and len(centers):
        noise = labels == NOISE
        n_assigned = int(noise.sum())
        if n_assigned:
            nearest = NearestNeighbors(n_neighbors=1).fit(points[~noise]).kneighbors(points[noise])[1][:, 0]
            labels[noise] = labels[~noise][nearest]
    return Clustering(
        labels=labels,
        distances=_measure(labels, lambda rows, k: np.linalg.norm(points[rows] - centers[k], axis=1)),
        centers=centers[:, None, :],
        inertia=None,
        n_iter=1,
        gamma=None,
        implementation=implementation,
        reason="; ".join(filter(None, (reason, fallback))) or None,
        n_assigned=n_assigned,
    )


def _cluster_paths(values: Any, config: ClusterConfig) -> Clustering:
    backend = config.backend if config.backend in ("cupy", "numba") else "auto"
    gamma = auto_gamma(values, config.seed) if config.gamma == "auto" else config.gamma
    constraint = constraint_of(config)
    apart = compare_paths(values, gamma, backend, **constraint)
    labels = _label_pairs(apart, config.min_cluster_size, config.min_samples or config.min_cluster_size)
    n_steps = max(len(path) for path in values)

    def center_of(paths: list[np.ndarray]) -> np.ndarray:
        start = np.mean([resample(path, n_steps) for path in paths], axis=0, dtype=np.float64)
        return soft_dtw_barycenter(paths, gamma, init=start, backend=backend, **constraint)

    centers = [center_of([values[i] for i in np.flatnonzero(labels == k)]) for k in range(labels.max() + 1)]
    n_assigned = 0
    if config.assign_all and centers:
        noise, held = np.flatnonzero(labels == NOISE), np.flatnonzero(labels != NOISE)
        n_assigned = len(noise)
        for i in noise:
            labels[i] = labels[held[np.argmin(apart[i, held])]]
    del apart

    def distances_of(rows: np.ndarray, k: int) -> np.ndarray:
        paths = [values[i] for i in rows]
        how = {"precision": "float64", "backend": backend, **constraint}
        found = cdist_soft_dtw(paths, [centers[k]], gamma, True, **how)
        return np.sqrt(np.maximum(found[:, 0], 0))

    return Clustering(
        labels=labels,
        distances=_measure(labels, distances_of),
        centers=np.stack(centers) if centers else np.empty((0, 1, values[0].shape[1])),
        inertia=None,
        n_iter=1,
        gamma=gamma,
        implementation=f"scikit-learn {sklearn.__version__}",
        n_assigned=n_assigned,
    )


def compare_paths(values: Any, gamma: float, backend: str = "auto", **constraint: Any) -> np.ndarray:
    """Return the square roots of the soft-DTW divergences between all trajectories.

    Parameters
    ----------
    values
        (n, T, c), or a list of (T_i, c) arrays.
    gamma
        Smoothness of soft-DTW.
    backend, constraint
        Those of `raypipe.softdtw.cdist_soft_dtw`.

    Returns
    -------
    (n, n) float32, symmetric, 0 on the diagonal. Nothing else of that size is held: blocks of rows are computed in
    float64, because of float32 the divergence of near trajectories would be lost.
    """
    n = len(values)
    apart = np.zeros((n, n), np.float32)
    for start in range(0, n, _BLOCK):
        rows = values[start : start + _BLOCK]
        block = cdist_soft_dtw(rows, values[start:], gamma, True, precision="float64", backend=backend, **constraint)
        block = np.sqrt(np.maximum(block, 0)).astype(np.float32)
        own = block[:, : len(rows)]
        own[:] = np.triu(own) + np.triu(own, 1).T  # Itakura's mask of two lengths may be another in the other order.
        apart[start : start + len(rows), start:] = block
        apart[start:, start : start + len(rows)] = block.T
    np.fill_diagonal(apart, 0)
    return apart


def _label_vectors(points: np.ndarray, config: ClusterConfig) -> tuple[np.ndarray, str, str | None]:
    """Return the labels, what computed them, and why that is not a GPU although there is one."""
    min_samples = config.min_samples or config.min_cluster_size
    library, reason = _choose_library(config.backend, min_samples)
    if library == "cuml":
        model = packages.require("cuml.cluster").HDBSCAN(
            min_cluster_size=config.min_cluster_size,
            min_samples=min_samples - 1,  # cuML does not count the point itself.
            output_type="numpy",
        )
        labels = model.fit_predict(points.astype(np.float32))
        return np.asarray(labels, np.int64), f"cuml {packages.require('cuml').__version__}", None
    model = HDBSCAN(min_cluster_size=config.min_cluster_size, min_samples=min_samples, copy=True)
    return model.fit_predict(points).astype(np.int64), f"scikit-learn {sklearn.__version__}", reason


def _choose_library(backend: str, min_samples: int) -> tuple[str, str | None]:
    if backend in ("sklearn", "numba") or (backend != "cuml" and not packages.sees_gpu()):
        return "scikit-learn", None
    if not 1 <= min_samples - 1 <= _MOST_CUML_SAMPLES:
        limits = f"min_samples from 2 to {_MOST_CUML_SAMPLES + 1}, not {min_samples}"
        if backend == "cuml":
            raise UsageError(f"cuML's HDBSCAN takes {limits}: set cluster.backend=sklearn")
        return "scikit-learn", f"cuML's HDBSCAN takes {limits}"
    try:
        packages.require_on_gpu("cuml.cluster", "set cluster.backend=sklearn")
    except RaypipeError as error:
        if backend == "cuml":
            raise
        return "scikit-learn", str(error)
    return "cuml", None


def _label_pairs(apart: np.ndarray, min_cluster_size: int, min_samples: int) -> np.ndarray:
    """Return HDBSCAN's labels of points with the distances ``apart``, (n, n), in little further memory.

    scikit-learn would make several copies of the matrix in float64. It is therefore given no more than it would find
    there: the points in the order in which a minimum spanning tree of the mutual reachability grows, each linked to
    the one before it at the distance at which it was reached. As groups that are nearer than some distance are
    contiguous in this order, the single-linkage hierarchy of that chain is the tree's.
    """
    order, reached = _grow_tree(apart, min_samples)
    # A sparse matrix takes 0 for no link.
    reached = np.maximum(reached, np.finfo(np.float32).eps * (reached.max() or 1.0))
    # A link backwards is longer by a rounding, so that scikit-learn takes all links forwards, in their order, as it
    # would find them itself: that decides where links are equal. With min_samples=1 a point's core distance is its
    # shortest entry, that to itself, which is no longer than any link and so changes none.
    n = len(apart)
    lengths = np.concatenate([reached, np.nextafter(reached, np.inf), np.full(n, reached.min())])
    before, after = np.arange(n - 1), np.arange(1, n)
    rows, columns = np.r_[before, after, :n], np.r_[after, before, :n]
    links = csr_array((lengths, (rows, columns)), shape=(n, n))
    model = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=1, metric="precomputed", copy=True)
    labels = np.empty(n, np.int64)
    labels[order] = model.fit_predict(links)
    return labels


def _grow_tree(apart: np.ndarray, min_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Grow a minimum spanning tree of the mutual reachability distances from the first point (Prim 1957).

    Returns
    -------
    The points in the order in which they were reached, (n,) int64, and the distances to all but the first, (n − 1,)
    float64.
    """
    n = len(apart)
    kth = min_samples - 1  # Each row has the point's distance 0 to itself.
    core = np.empty(n, np.float32)
    for start in range(0, n, _BLOCK):
        core[start : start + _BLOCK] = np.partition(apart[start : start + _BLOCK], kth, axis=1)[:, kth]
    order, reached = np.zeros(n, np.int64), np.zeros(n - 1)
    nearest, outside = np.full(n, np.inf, np.float32), np.ones(n, bool)
    at = 0
    for i in range(1, n):
        nearest[at], outside[at] = np.inf, False
        link = np.maximum(np.maximum(apart[at], core), core[at])
        np.minimum(nearest, link, out=nearest, where=outside)
        at = int(nearest.argmin())
        order[i], reached[i - 1] = at, nearest[at]
    return order, reached


def _measure(labels: np.ndarray, distances_of: Any) -> np.ndarray:
    """Return each trajectory's distance to its own center, by ``distances_of(rows, k)``; noise has none."""
    distances = np.full(len(labels), np.nan)
    for k in np.unique(labels[labels != NOISE]).tolist():
        rows = np.flatnonzero(labels == k)
        distances[rows] = distances_of(rows, k)
    return distances
