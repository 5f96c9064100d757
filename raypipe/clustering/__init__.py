"""Trajectories into groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raypipe.errors import UsageError
from raypipe.packages import require

if TYPE_CHECKING:  # pydantic is not needed to use the estimator alone
    from raypipe.clustering.stores import SeriesStore
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
    from raypipe.config import ClusterConfig

_VECTOR_INITS = 10  # runs of plain k-means, at least: they cost next to nothing, and one often ends in a poor optimum


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


def fit_clusters(values: Any, config: ClusterConfig) -> Clustering:
    """Group trajectories by the method, the number of clusters and the seed that ``config`` names.

    Parameters
    ----------
    values
        (n, T, c), or a list of (T_i, c) arrays where lengths differ.
    config
        Under "kmeans" at least ten runs are made, whatever ``n_init``.

    Raises
    ------
    UsageError
        If there are fewer trajectories than clusters, too many are the same to tell so many clusters apart, or their
        lengths differ under "euclidean".
    """
    if config.n_clusters > len(values):
        raise UsageError(
            f"{config.n_clusters} clusters asked for, but there are only {len(values)} videos: lower n_clusters"
        )
    if config.method == "kmeans":
        from raypipe.clustering.vectors import cluster_vectors, pool_steps

        n_init = max(config.n_init, _VECTOR_INITS)
        return cluster_vectors(
            pool_steps(values), config.n_clusters, n_init=n_init, max_iter=config.max_iter, seed=config.seed
        )
    return _fit_series(values, config)


def fit_store(store: SeriesStore, config: ClusterConfig) -> Clustering:
    """Group the series of a store, which may lie on many machines, as `fit_clusters` does; raises as that does."""
    check_shardable(config)
    return from_estimator(_make_estimator(config).fit_store(store))


def check_shardable(config: ClusterConfig) -> None:
    """Raise `UsageError` unless `fit_store` can do what the config asks for."""
    if config.method != "softdtw" or config.backend == "tslearn":
        what = f"method={config.method}" if config.method != "softdtw" else "backend=tslearn"
        raise UsageError(f"cluster.{what} works in one process only: leave ray.shards out")


def _fit_series(values: Any, config: ClusterConfig) -> Clustering:
    return from_estimator(_make_estimator(config).fit(values))


def _make_estimator(config: ClusterConfig) -> TimeSeriesKMeans:
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans

    return TimeSeriesKMeans(
        n_clusters=config.n_clusters,
        max_iter=config.max_iter,
        n_init=config.n_init,
        metric=config.method,
        metric_params={"gamma": config.gamma} if config.method == "softdtw" else None,
        random_state=config.seed,
        solver=config.solver,
        precision=config.precision,
        backend=config.backend,
        divergence=config.divergence,
    )


def from_estimator(model: TimeSeriesKMeans) -> Clustering:
    """Return what a fitted `TimeSeriesKMeans` found."""
    return Clustering(
        labels=model.labels_.astype(np.int64),
        distances=model.distances_,
        centers=model.cluster_centers_,
        inertia=model.inertia_,
        n_iter=model.n_iter_,
        gamma=model.gamma_,
        implementation=f"{model.backend_} {require(model.backend_).__version__}",
    )
