"""k-means for time series: tslearn's estimator, with more ways to run it."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from raypipe.clustering.by_tslearn import fit_by_tslearn, measure_by_tslearn
from raypipe.clustering.lloyd import Rules, fit
from raypipe.clustering.parameters import check_parameters, find_constraint, is_tslearns
from raypipe.clustering.shard import Measure
from raypipe.clustering.shards import LocalShards, Shards
from raypipe.errors import UsageError
from raypipe.softdtw import auto_gamma, check_gamma, check_weights, choose_steps, compare
from raypipe.softdtw.series import Series, check_range, pad_series, read_series, to_host


class TimeSeriesKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means for time series under the Euclidean distance, DTW or soft-DTW.

    A drop-in for ``tslearn.clustering.TimeSeriesKMeans``: the same parameters, defaults and attributes (but it is
    stored by pickle or joblib alone). Under "softdtw" it is raypipe's own; ``solver="lbfgs"`` finds what tslearn finds,
    the same clusters for the same ``random_state``, and "mm" as good ones in a fraction of the time. The other metrics
    are tslearn's. What is wrong with the data is said before the work begins. A fit that leaves a cluster empty returns
    what it found, with a scikit-learn ``ConvergenceWarning``.

    Parameters
    ----------
    n_clusters
        Number of clusters.
    max_iter, tol
        Stop after so many passes, or when the sum of soft-DTW to the centers changes by less than ``tol`` of itself;
        but under "lbfgs", and other metrics, when ``inertia_`` changes by less than ``tol``.
    n_init
        So many runs from different seeds, of which the one of the lowest ``objective_`` is kept. But under "lbfgs", and
        other metrics, the choice is tslearn's: the lowest ``inertia_``. Under soft-DTW that may be the worst of the
        runs, because its values are negative for series that are alike; there take "mm", or fit several times with
        ``n_init=1`` and compare ``objective_``.
    metric
        ``"euclidean"``, ``"dtw"`` (centers by DBA) or ``"softdtw"``.
    max_iter_barycenter
        Steps of the solver for each update of a center; "dtw", and "softdtw" under "lbfgs".
    metric_params
        Parameters of the metric. For "softdtw" ``gamma`` is its smoothness (default 1.0); ``"auto"`` fits it to the
        data (`raypipe.softdtw.auto_gamma`). ``global_constraint``, ``sakoe_chiba_radius`` and ``itakura_max_slope``
        say which cells an alignment may pass through, as in `raypipe.softdtw`.
    n_jobs
        Threads for distances by tslearn; the other backends use all cores.
    dtw_inertia
        Count ``inertia_`` in DTW whatever the metric; takes backend "tslearn".
    verbose
        Print the objective while fitting.
    random_state
        An int makes fits repeatable.
    init
        ``"k-means++"``, ``"random"``, or (n_clusters, T, d) centers to begin with.
    solver
        How centers are found under "softdtw": ``"mm"``, a few steps a pass that begin from majorise–minimise and
        never raise the sum (`raypipe.softdtw.barycenter.Descent`), or ``"lbfgs"``, each barycenter solved for in each
        pass, as tslearn does. What backend "tslearn" does is always by L-BFGS. Under "mm" a cluster that becomes empty
        gets the series that lies farthest off; otherwise, as in tslearn, the run is given up for one from other seeds,
        until ten have failed.
    precision
        Of the passes: ``"float32"`` or ``"float64"``; ``"auto"`` is float32 under "mm" and float64 under "lbfgs".
        The final labels and distances are always float64's.
    backend
        What computes: ``"cupy"`` (an NVIDIA GPU), ``"numba"`` (the CPU's cores) or ``"tslearn"``; ``"auto"`` takes the
        first of them that is there and can do what is asked.
    divergence
        Assign by the soft-DTW divergence, which does not favour some centers for being smooth. Under "mm".

    Attributes
    ----------
    labels_
        (n,) int64, the cluster of each series.
    cluster_centers_
        (n_clusters, T, d) float64.
    objective_
        Mean over series of what k-means makes small, for the final centers: soft-DTW to the nearest center (or the
        divergence), and under "dtw" and "euclidean" the squared distance. The lower of two fits is the better one.
        tslearn has no such attribute.
    inertia_
        Mean over series of the squared value of the metric for the nearest center, as in tslearn; under "lbfgs" and
        other metrics that of the last pass, before its update of the centers. Soft-DTW is squared too, although it is a
        sum of squares already and negative for series that are alike. So it says nothing of which fit is better.
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

    gamma_: Any  # a number or None

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
        solver="mm",
        precision="auto",
        backend="auto",
        divergence=False,
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
        self.precision = precision
        self.backend = backend
        self.divergence = divergence

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "TimeSeriesKMeans":
        """Find the clusters of series.

        Parameters
        ----------
        X
            n series: (n, T, d), trailing all-NaN steps meaning a shorter one; (n, T); or a list of (T_i, d).
        y
            Ignored.
        sample_weight
            (n,) how much each series counts; not with backend "tslearn".

        Raises
        ------
        UsageError
            If a parameter is out of range, two of them exclude each other, the series are unfit (empty, not finite,
            fewer than clusters, of unequal lengths under "euclidean").

        Warns
        -----
        ConvergenceWarning
            If every run ended with an empty cluster. Of our own runs the one that fills most clusters is kept, and of
            several such the one of the lowest ``objective_``; of tslearn's the last.
        """
        check_parameters(vars(self))
        series = self._check_series(X)
        shards = LocalShards(series, None if sample_weight is None else check_weights(sample_weight, len(series)))
        self._check_number(shards)
        gamma = self._resolve_gamma(shards)
        if gamma is None or is_tslearns(vars(self)):
            if sample_weight is not None:
                raise UsageError("tslearn's k-means knows no sample_weight: take metric 'softdtw' and another backend")
            self._fit_tslearn(series, gamma)
        else:
            self._fit(shards, gamma, check_random_state(self.random_state))
        self._warn_of_empty()
        return self

    def fit_shards(self, shards: Shards) -> "TimeSeriesKMeans":
        """Find the clusters of series that lie elsewhere: the same that `fit` finds of all of them together.

        Labels and distances are gathered here at the end; nothing else of the size of all series is.

        Parameters
        ----------
        shards
            n series, perhaps with weights. If some are lost meanwhile, the fit starts again from the same random state.

        Raises
        ------
        UsageError
            As `fit`; or if they are to be compared otherwise than by our own soft-DTW.

        Warns
        -----
        ConvergenceWarning
            As `fit`.
        """
        check_parameters(vars(self))
        self._check_ours()
        self._check_number(shards)
        random = check_random_state(self.random_state)
        state = random.get_state()

        def work() -> None:
            random.set_state(state)
            gamma = self._resolve_gamma(shards)
            assert gamma is not None
            self._fit(shards, gamma, random)

        shards.attempt(work)
        self._warn_of_empty()
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, and return ``labels_``: (n,) int64."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def predict(self, X: Any) -> np.ndarray:
        """Return the nearest cluster of each of n series: (n,) int64."""
        series = self._check_fitted(X)
        if self.backend_ == "tslearn":
            return self._distances(series).argmin(axis=1)
        return self._label(LocalShards(series))[0]

    def predict_shards(self, shards: Shards) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest cluster of each series that lies elsewhere, (n,) int64, and its distance, (n,) float64."""
        check_is_fitted(self, "cluster_centers_")
        self._check_ours()
        self._check_shape(shards.outline)
        return shards.attempt(lambda: self._label(shards))

    def transform(self, X: Any) -> np.ndarray:
        """Return the distance of each of n series to each center, (n, n_clusters) float64.

        It is the value of the metric: soft-DTW sums squared distances and may be negative.
        """
        return self._distances(self._check_fitted(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the opposite of what ``objective_`` is for these series, and (n,) weights: the more the better."""
        series = self._check_fitted(X)
        weights = None if sample_weight is None else check_weights(sample_weight, len(series))
        if self.backend_ == "tslearn":
            return -self._average(self._distances(series).min(axis=1), weights)
        return -self._average(self._label(LocalShards(series))[1], weights)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return a name for each column of `transform`; those of the steps that a series came in do not count."""
        return super().get_feature_names_out()

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.metric != "euclidean"  # Trailing NaN steps pad shorter series.
        tags.input_tags.three_d_array = True
        return tags

    def _check_series(self, X: Any) -> Series:
        series = read_series(X)
        if self.metric == "euclidean" and series.lengths is not None:
            raise UsageError("series of unequal lengths have no Euclidean distance: take metric 'softdtw' or 'dtw'")
        return series

    def _check_ours(self) -> None:
        if is_tslearns(vars(self)):
            raise UsageError("series in shards are compared by metric 'softdtw' and raypipe's own backends")

    def _check_number(self, shards: Shards) -> None:
        if shards.n_total < self.n_clusters:
            raise UsageError(f"{self.n_clusters} clusters of only {shards.n_total} series: lower n_clusters")

    def _resolve_gamma(self, shards: Shards) -> float | None:
        if self.metric != "softdtw":
            return None
        gamma = (self.metric_params or {}).get("gamma", 1.0)
        if isinstance(gamma, str) and gamma == "auto":  # of the steps that it would sample of all series
            return auto_gamma(shards.steps(choose_steps(shards.n_points))[None])
        return check_gamma(gamma)

    def _check_fitted(self, X: Any) -> Series:
        """Return the series of an X that the fitted centers can be held against."""
        check_is_fitted(self, "cluster_centers_")
        series = self._check_series(X)
        self._check_shape(series)
        return series

    def _check_shape(self, series: Series) -> None:
        n_steps, dim = self.cluster_centers_.shape[1:]
        if series.values.shape[2] != dim or (self.metric == "euclidean" and series.values.shape[1] != n_steps):
            raise UsageError(f"fitted on series of shape ({n_steps}, {dim}), got {series.values.shape[1:]}")

    def _distances(self, series: Series) -> np.ndarray:
        """Return the distance of each series to each center, (n, k) float64."""
        if self.backend_ == "tslearn":
            return measure_by_tslearn(series, self.cluster_centers_, self._resolve_parameters(series, self.gamma_))
        how = self.gamma_, self.divergence, find_constraint(vars(self))
        return to_host(compare(series, self.cluster_centers_, *how, precision="float64", backend=self.backend))

    def _label(self, shards: Shards) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest cluster of each series and its distance, without a matrix of all: (n,) both."""
        check_range(shards.outline, read_series(self.cluster_centers_), self.gamma_, "float64")
        shards.open(self._measure(self.gamma_, "float64"), weighted=False)
        shards.assign(self.cluster_centers_)
        found = shards.outcome()
        return found.labels.astype(np.int64), found.distances

    def _measure(self, gamma: float, precision: str) -> Measure:
        return Measure(gamma, precision, self.backend, self.divergence, find_constraint(vars(self)))

    def _fit(self, shards: Shards, gamma: float, random: np.random.RandomState) -> None:
        """Fit by our own passes over the series; everything has been checked but given centers to begin with."""
        rules = Rules(
            n_clusters=self.n_clusters,
            solver=self.solver,
            init=self.init if isinstance(self.init, str) else self._check_init(shards.outline),
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            max_iter_barycenter=self.max_iter_barycenter,
            report=(lambda line: print(line, end=" ")) if self.verbose else lambda line: None,
        )
        precision = self.precision
        if precision == "auto":
            precision = "float32" if self.solver == "mm" else "float64"
        begin = shards.outline if isinstance(rules.init, str) else read_series(rules.init)
        check_range(shards.outline, begin, gamma, precision)
        shards.open(self._measure(gamma, precision))
        found = fit(shards, rules, random)
        if self.verbose:
            print()
        outcome = shards.outcome()
        self.gamma_ = gamma
        self.n_features_in_ = shards.outline.values.shape[2]
        self.backend_ = shards.backend_name
        self.cluster_centers_ = found.centers
        self.n_iter_ = found.n_iter
        self.labels_, self.distances_ = outcome.labels.astype(np.int64), outcome.distances
        self.objective_ = self._average(self.distances_, outcome.weights)
        as_tslearn = self.solver == "lbfgs" and not found.n_empty
        self.inertia_ = found.score if as_tslearn else float(np.average(self.distances_**2, weights=outcome.weights))
        if shards.n_series < shards.n_total:
            self.labels_, self.distances_ = self._label(shards)

    def _check_init(self, series: Series) -> np.ndarray:
        """Return the centers given to begin with, (k, T, d) float64, shorter ones padded with NaN.

        An array keeps its width, even if no center fills it: like tslearn, the fit stretches them all to it.
        """
        centers = read_series(self.init)
        if centers.values.shape[2] != series.values.shape[2]:
            raise UsageError(
                f"init has centers of {centers.values.shape[2]} dimensions, the series have {series.values.shape[2]}"
            )
        padded = pad_series(centers)
        n_steps = self.init.shape[1] if getattr(self.init, "ndim", 1) > 1 else padded.shape[1]
        return np.pad(padded, ((0, 0), (0, n_steps - padded.shape[1]), (0, 0)), constant_values=np.nan)

    def _resolve_parameters(self, series: Series, gamma: float | None) -> dict[str, Any]:
        """Return the parameters for such series: γ as a number, and given centers to begin with as an array."""
        parameters = self.get_params(deep=False)
        if not isinstance(self.init, str):
            parameters["init"] = self._check_init(series)
        if gamma is not None:
            parameters["metric_params"] = {**(self.metric_params or {}), "gamma": gamma}
        return parameters

    def _fit_tslearn(self, series: Series, gamma: float | None) -> None:
        """Fit by tslearn."""
        found = fit_by_tslearn(series, self._resolve_parameters(series, gamma))
        self.gamma_ = gamma
        self.n_features_in_ = series.values.shape[2]
        self.backend_ = "tslearn"
        self.labels_, self.cluster_centers_, self.distances_ = found.labels, found.centers, found.distances
        self.n_iter_, self.inertia_ = found.n_iter, found.inertia
        self.objective_ = self._average(self.distances_)

    def _average(self, distances: np.ndarray, weights: np.ndarray | None = None) -> float:
        """Return the mean of what k-means makes small: soft-DTW is a sum of squares already, other distances a root."""
        return float(np.average(distances if self.metric == "softdtw" else distances**2, weights=weights))

    def _warn_of_empty(self) -> None:
        n_filled = len(np.unique(self.labels_))
        if n_filled < self.n_clusters:
            warnings.warn(
                f"only {n_filled} of {self.n_clusters} clusters hold any series, the others are "
                "empty: lower n_clusters (are many series the same?) or change the seed",
                ConvergenceWarning,
                stacklevel=3,
            )
