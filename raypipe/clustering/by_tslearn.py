"""What of `TimeSeriesKMeans` tslearn's estimator of the same name computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from raypipe.errors import UsageError
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
    """

    labels: np.ndarray
    centers: np.ndarray
    distances: np.ndarray
    n_iter: int
    inertia: float


@contextmanager
def _saying_what_to_do() -> Iterator[None]:
    try:
        yield
    except RuntimeWarning as error:
        if "itakura_max_slope" not in str(error):  # A warning that the caller has made an error.
            raise
        raise UsageError(
            "no alignment of series of such different lengths keeps to itakura_max_slope: raise the slope, or bring "
            "the series to one length"
        ) from error


@_saying_what_to_do()
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
    is_full = len(np.unique(labels)) == parameters["n_clusters"]
    inertia = float(fitted.inertia_ if is_full else (distances**2).mean())
    return TslearnFit(labels, centers, distances, fitted.n_iter_, inertia)


@_saying_what_to_do()
def measure_by_tslearn(series: Series, centers: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
    """Return the distance of each series to each of k centers, (n, k) float64."""
    fitted = _make(parameters)
    fitted.cluster_centers_ = centers
    return fitted.transform(pad_series(series))


def _make(parameters: dict[str, Any]) -> Any:
    """Make tslearn's estimator."""
    theirs = {name: value for name, value in parameters.items() if name not in OURS}
    return tslearn.load("tslearn.clustering").TimeSeriesKMeans(**theirs)
