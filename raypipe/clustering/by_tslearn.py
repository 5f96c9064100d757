"""What of `TimeSeriesKMeans` tslearn's estimator of the same name computes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from raypipe.softdtw import tslearn
from raypipe.softdtw.series import Series, pad_series

OURS = ("solver", "precision", "backend", "divergence")
"""Parameters of our estimator that tslearn's does not have."""


class TslearnFit(NamedTuple):
    """What tslearn has found.

    Attributes
    ----------
    labels
        (n,) int64.
    centers
        (k, T, d) float64.
    distances
        (n,) float64, from each series to its own center.
    n_iter
        Passes of the best run.
    inertia
        Mean of the squared distances; of the last pass before its update of the centers, where no cluster is empty.
    n_empty
        How many clusters are empty.
    """

    labels: np.ndarray
    centers: np.ndarray
    distances: np.ndarray
    n_iter: int
    inertia: float
    n_empty: int


def fit_by_tslearn(series: Series, parameters: dict[str, Any]) -> TslearnFit:
    """Fit tslearn's estimator of these parameters.

    Where all its runs fail it keeps the centers of the last one and the labels by them. It raises nevertheless if
    only the last labelling left a cluster empty, and otherwise leaves an ``inertia_`` of other centers.
    """
    fitted = _make(parameters)
    with suppress(tslearn.load("tslearn.clustering").EmptyClusterError):
        fitted.fit(pad_series(series))
    labels, centers = fitted.labels_, fitted.cluster_centers_
    distances = measure_by_tslearn(series, centers, parameters)[np.arange(len(series)), labels]
    n_empty = parameters["n_clusters"] - len(np.unique(labels))
    inertia = float((distances**2).mean() if n_empty else fitted.inertia_)
    return TslearnFit(labels, centers, distances, fitted.n_iter_, inertia, n_empty)


def measure_by_tslearn(series: Series, centers: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
    """Return the distance of each series to each of k centers, (n, k) float64."""
    fitted = _make(parameters)
    fitted.cluster_centers_ = centers
    return fitted.transform(pad_series(series))


def _make(parameters: dict[str, Any]) -> Any:
    """Make tslearn's estimator."""
    theirs = {name: value for name, value in parameters.items() if name not in OURS}
    return tslearn.load("tslearn.clustering").TimeSeriesKMeans(**theirs)
