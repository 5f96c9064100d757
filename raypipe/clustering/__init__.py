"""Trajectories into groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raypipe.clustering.parameters import constraint_of
from raypipe.clustering.result import Clustering, expecting_empty
from raypipe.errors import UsageError
from raypipe.packages import require
from raypipe.progress import counted

if TYPE_CHECKING:  # pydantic is not needed to use the estimator alone
    from raypipe.clustering.shards import Shards
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
    from raypipe.config import ClusterConfig

_VECTOR_INITS = 10
"""Plain k-means makes at least so many runs: they cost little, and a single one often ends in a poor optimum."""


def fit_clusters(values: Any, config: ClusterConfig) -> Clustering:
    """Group trajectories by the method, the number of clusters and the seed that ``config`` names.

    Some clusters may stay empty, if many trajectories are the same; that is no reason to warn here.

    Parameters
    ----------
    values
        (n, T, c), or a list of (T_i, c) arrays where lengths differ.
    config
        Under "kmeans" at least ten runs are made, whatever ``n_init``. Under "density" there may be noise, which has
        the label −1, and ``n_clusters`` does not count.

    Raises
    ------
    UsageError
        If there are fewer trajectories than clusters (or than a dense group has), or their lengths differ under
        "euclidean".
    """
    check_number(len(values), config)
    if config.method == "density":
        from raypipe.clustering.density import cluster_density

        return cluster_density(values, config)
    if config.method == "kmeans":
        from raypipe.clustering.vectors import cluster_vectors, pool_steps

        n_init = max(config.n_init, _VECTOR_INITS)
        return cluster_vectors(
            pool_steps(values), config.n_clusters, n_init=n_init, max_iter=config.max_iter, seed=config.seed
        )
    with expecting_empty():
        return from_estimator(make_estimator(config).fit(values))


def check_number(n_videos: int, config: ClusterConfig) -> None:
    """Raise `UsageError` if so many videos are too few for the clusters that the config asks for."""
    there = f"there {'is' if n_videos == 1 else 'are'} only {counted(n_videos, 'video')}: lower"
    if config.method == "density":
        for name in ("min_cluster_size", "min_samples"):
            if (least := getattr(config, name) or 0) > n_videos:
                raise UsageError(f"cluster.{name} is {least}, but {there} it")
    elif config.n_clusters > n_videos:
        raise UsageError(f"{config.n_clusters} clusters asked for, but {there} n_clusters")


def fit_shards(shards: Shards, config: ClusterConfig) -> Clustering:
    """Group series that may lie on many machines as `fit_clusters` does; it raises the same errors."""
    with expecting_empty():
        return from_estimator(make_estimator(config).fit_shards(shards))


def make_estimator(config: ClusterConfig) -> TimeSeriesKMeans:
    """Make the estimator of series that ``config`` describes, without fitting it."""
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans

    return TimeSeriesKMeans(
        n_clusters=config.n_clusters,
        max_iter=config.max_iter,
        n_init=config.n_init,
        metric=config.method,
        metric_params=_metric_params(config),
        random_state=config.seed,
        solver=config.solver,
        precision=config.precision,
        backend=config.backend,
        divergence=config.divergence,
    )


def _metric_params(config: ClusterConfig) -> dict[str, Any]:
    found = {"gamma": config.gamma} if config.method == "softdtw" else {}
    return found if config.method == "euclidean" else found | constraint_of(config)


def from_estimator(model: TimeSeriesKMeans) -> Clustering:
    """Return what a fitted `TimeSeriesKMeans` found."""
    return Clustering(
        labels=model.labels_.astype(np.int64),
        distances=model.distances_,
        centers=model.cluster_centers_,
        inertia=model.objective_,
        n_iter=model.n_iter_,
        gamma=model.gamma_,
        implementation=f"{model.backend_} {require(model.backend_).__version__}",
    )
