"""k-means for time series: tslearn's estimator, with more ways to run it."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from raypipe.errors import UsageError
from raypipe.softdtw import auto_gamma, check_gamma, tslearn
from raypipe.softdtw.series import pad_series, series_lengths

METRICS = ("euclidean", "dtw", "softdtw")
SOLVERS = ("lbfgs",)
BACKENDS = ("auto", "tslearn")


class TimeSeriesKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means for time series under the Euclidean distance, DTW or soft-DTW.

    A drop-in for ``tslearn.clustering.TimeSeriesKMeans``: the same parameters, defaults and attributes, and the same
    clusters for the same ``random_state``. What is wrong with the data is said before the work begins, and a fit that
    found no clustering raises, where tslearn returns without one.

    Parameters
    ----------
    n_clusters
        Number of clusters.
    max_iter, tol
        Stop after so many passes, or when ``inertia_`` changes by less than ``tol``.
    n_init
        So many runs from different seeds; the one of the lowest inertia is kept.
    metric
        ``"euclidean"``, ``"dtw"`` (centers by DBA) or ``"softdtw"``.
    max_iter_barycenter
        Steps of the solver for each update of a center; "dtw" and "softdtw".
    metric_params
        Parameters of the metric. For "softdtw" ``gamma`` is its smoothness (default 1.0); ``"auto"`` fits it to the
        data (`raypipe.softdtw.auto_gamma`).
    n_jobs
        Threads for distances; "dtw" and "softdtw".
    dtw_inertia
        Count ``inertia_`` in DTW whatever the metric.
    verbose
        Print the inertia while fitting.
    random_state
        An int makes fits repeatable.
    init
        ``"k-means++"``, ``"random"``, or (n_clusters, T, d) centers to begin with.
    solver
        How centers are found under "softdtw": ``"lbfgs"``, as tslearn does.
    backend
        What computes: ``"tslearn"``; ``"auto"`` takes the fastest that is there.

    Attributes
    ----------
    labels_
        (n,) int64, the cluster of each series.
    cluster_centers_
        (n_clusters, T, d) float64.
    inertia_
        Mean over series of the squared distance to the nearest center, before the last update of the centers.
    n_iter_
        Passes that the best run took.
    n_features_in_
        d.
    distances_
        (n,) float64, from each series to its own center; tslearn has no such attribute.
    gamma_
        The γ that was used; None where the metric is not "softdtw".
    backend_
        The backend that ran.
    """

    def __init__(
        self,
        n_clusters=3,
        max_iter=50,
        tol=1e-6,
        n_init=1,
        metric="euclidean",
        max_iter_barycenter=100,
        metric_params=None,
        n_jobs=None,
        dtw_inertia=False,
        verbose=0,
        random_state=None,
        init="k-means++",
        *,
        solver="lbfgs",
        backend="auto",
    ):
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.n_init = n_init
        self.metric = metric
        self.max_iter_barycenter = max_iter_barycenter
        self.metric_params = metric_params
        self.n_jobs = n_jobs
        self.dtw_inertia = dtw_inertia
        self.verbose = verbose
        self.random_state = random_state
        self.init = init
        self.solver = solver
        self.backend = backend

    def fit(self, X: Any, y: Any = None) -> "TimeSeriesKMeans":
        """Find the clusters of series.

        Parameters
        ----------
        X
            n series: (n, T, d), trailing all-NaN steps meaning a shorter one; (n, T); or a list of (T_i, d).
        y
            Ignored.

        Raises
        ------
        UsageError
            If a parameter is out of range, the series are unfit (empty, not finite, fewer than clusters, of unequal
            lengths under "euclidean"), or every run ended with an empty cluster.
        """
        self._check_parameters()
        series = self._check_series(X)
        if len(series) < self.n_clusters:
            raise UsageError(f"{self.n_clusters} clusters of only {len(series)} series: lower n_clusters")
        self.gamma_ = self._resolve_gamma(series)
        fitted = self._fit_tslearn(series)
        self.backend_ = "tslearn"
        self.labels_ = fitted.labels_
        self.cluster_centers_ = fitted.cluster_centers_
        self.inertia_ = float(fitted.inertia_)
        self.n_iter_ = fitted.n_iter_
        self.n_features_in_ = series.shape[2]
        self.distances_ = self.transform(series)[np.arange(len(series)), self.labels_]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the nearest cluster of each of n series: (n,) int64."""
        return self.transform(X).argmin(axis=1)

    def transform(self, X: Any) -> np.ndarray:
        """Return the distance of each of n series to each center, (n, n_clusters) float64.

        It is the value of the metric: soft-DTW sums squared distances and may be negative.
        """
        check_is_fitted(self, "cluster_centers_")
        series = self._check_series(X)
        n_steps, dim = self.cluster_centers_.shape[1:]
        if series.shape[2] != dim or (self.metric == "euclidean" and series.shape[1] != n_steps):
            raise UsageError(f"fitted on series of shape ({n_steps}, {dim}), got {series.shape[1:]}")
        fitted = self._make_tslearn()
        fitted.cluster_centers_ = self.cluster_centers_
        return fitted.transform(series)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.metric != "euclidean"  # trailing NaN steps pad shorter series
        tags.input_tags.three_d_array = True
        return tags

    def _check_parameters(self) -> None:
        for name, allowed in (("metric", METRICS), ("solver", SOLVERS), ("backend", BACKENDS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        for name in ("n_clusters", "max_iter", "n_init"):
            if not getattr(self, name) >= 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if isinstance(self.init, str):
            if self.init not in ("k-means++", "random"):
                raise UsageError(f"init must be k-means++, random or an array of centers; got {self.init!r}")
        elif len(self.init) != self.n_clusters:
            raise UsageError(f"init holds {len(self.init)} centers, n_clusters is {self.n_clusters}")

    def _check_series(self, X: Any) -> np.ndarray:
        series = pad_series(X)
        if self.metric == "euclidean" and series_lengths(series).min() < series.shape[1]:
            raise UsageError("series of unequal lengths have no Euclidean distance: take metric 'softdtw' or 'dtw'")
        return series

    def _resolve_gamma(self, series: np.ndarray) -> float | None:
        if self.metric != "softdtw":
            return None
        gamma = (self.metric_params or {}).get("gamma", 1.0)
        return auto_gamma(series) if isinstance(gamma, str) and gamma == "auto" else check_gamma(gamma)

    def _make_tslearn(self) -> Any:
        """Make tslearn's estimator with these parameters, γ resolved."""
        parameters = self.get_params(deep=False)
        for ours in ("solver", "backend"):
            del parameters[ours]
        if self.gamma_ is not None:
            parameters["metric_params"] = {**(self.metric_params or {}), "gamma": self.gamma_}
        return tslearn.load("tslearn.clustering").TimeSeriesKMeans(**parameters)

    def _fit_tslearn(self, series: np.ndarray) -> Any:
        """Fit tslearn's estimator; where all its runs fail it raises or returns silently, by where they failed."""
        fitted = self._make_tslearn()
        try:
            fitted.fit(series)
        except tslearn.load("tslearn.clustering").EmptyClusterError:
            found = 0
        else:
            found = len(np.unique(fitted.labels_))
        if found < self.n_clusters:
            raise UsageError(
                f"no run found {self.n_clusters} clusters of these {len(series)} series, one was always left empty: "
                "lower n_clusters (are many series the same?) or change the seed"
            )
        return fitted
