"""The k-means of series beside tslearn's own."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from test_time_series_kmeans import Theirs, make_paths, pad

from raypipe.clustering import fit_clusters, from_estimator
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.config import ClusterConfig
from raypipe.softdtw import auto_gamma, soft_dtw, tslearn


def read_data(path, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Every so many-th series of a file of series and labels, padded with NaN."""
    stored = np.load(path)
    ends = np.cumsum(stored["lengths"])
    series = [stored["values"][end - length : end] for end, length in zip(ends, stored["lengths"], strict=True)]
    return pad(series[::step]), stored["labels"][::step]


@pytest.mark.parametrize("seed", [0, 1, 353550416])
@pytest.mark.parametrize(
    "parameters",
    [
        {"metric": "euclidean"},
        {"metric": "dtw", "n_clusters": 4, "max_iter": 5},
        {"metric": "softdtw"},
        {"metric": "softdtw", "metric_params": {"gamma": 0.05}, "n_clusters": 5},
        {"metric": "softdtw", "init": "random", "n_init": 3, "max_iter": 4},
        {"metric": "softdtw", "n_clusters": 2, "max_iter": 3, "max_iter_barycenter": 2, "tol": 1.0},
        {"metric": "softdtw", "dtw_inertia": True, "max_iter": 3},
    ],
    ids=str,
)
def test_it_finds_what_tslearn_finds(parameters, seed):
    series = make_paths()
    ours = TimeSeriesKMeans(random_state=seed, solver="lbfgs", **parameters).fit(series)
    theirs = Theirs(random_state=seed, **parameters).fit(series)
    own = parameters["metric"] == "softdtw" and "dtw_inertia" not in parameters
    assert ours.backend_ == ("numba" if own else "tslearn")
    assert_same_fit(ours, theirs, series)


@pytest.mark.parametrize(
    ("name", "step", "n_clusters", "seed"),
    [
        pytest.param("Trace", 16, 4, 0, marks=pytest.mark.slow),
        pytest.param("JapaneseVowels", 10, 9, 1, marks=pytest.mark.slow),
        ("SyntheticControl", 15, 6, 2),
    ],
)
def test_lbfgs_finds_what_tslearn_finds_in_real_series(data_dir, name, step, n_clusters, seed):
    """In some of the series, from a seed each; the slow test below has all of them from three."""
    series, _ = read_data(data_dir / "timeseries" / f"{name}.npz", step)
    parameters = {"metric": "softdtw", "random_state": seed, "max_iter": 2, "max_iter_barycenter": 3}
    ours = TimeSeriesKMeans(n_clusters, solver="lbfgs", **parameters).fit(series)
    assert_same_fit(ours, Theirs(n_clusters, **parameters).fit(series), series)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # tslearn takes minutes for Trace.
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["Trace", "JapaneseVowels", "SyntheticControl"])
def test_lbfgs_finds_what_tslearn_finds_in_all_of_the_series(data_dir, name, seed):
    series, labels = read_data(data_dir / "timeseries" / f"{name}.npz")
    n_clusters = len(np.unique(labels))
    parameters = {"metric": "softdtw", "random_state": seed, "max_iter": 10, "max_iter_barycenter": 20}
    ours = TimeSeriesKMeans(n_clusters, solver="lbfgs", **parameters).fit(series)
    assert_same_fit(ours, Theirs(n_clusters, **parameters).fit(series), series)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lbfgs_finds_what_tslearn_finds_in_random_walks(seed):
    series = np.random.default_rng(seed).normal(size=(40, 24, 2)).cumsum(axis=1)
    ours = TimeSeriesKMeans(4, metric="softdtw", random_state=seed, solver="lbfgs", max_iter=10).fit(series)
    assert_same_fit(ours, Theirs(4, metric="softdtw", random_state=seed, max_iter=10).fit(series), series)


def assert_same_fit(ours, theirs, series):
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    scale = abs(theirs.cluster_centers_).max()
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=1e-6 * scale)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-6)
    assert ours.n_features_in_ == theirs.n_features_in_
    distances = theirs.transform(pad(series))
    np.testing.assert_allclose(ours.transform(series), distances, rtol=1e-5, atol=1e-6 * abs(distances).max())
    np.testing.assert_array_equal(ours.predict(series), theirs.predict(pad(series)))


@pytest.mark.parametrize("metric", ["dtw", "softdtw"])
def test_unequal_lengths_as_tslearn_takes_them(metric):
    series = make_paths(ragged=True)
    theirs = Theirs(3, metric=metric, max_iter=5, random_state=0).fit(pad(series))
    for form in (series, pad(series)):
        ours = TimeSeriesKMeans(3, metric=metric, max_iter=5, random_state=0, solver="lbfgs").fit(form)
        assert_same_fit(ours, theirs, form)


@pytest.mark.parametrize("metric", ["euclidean", "softdtw"])
def test_centers_to_begin_with(metric):
    series = make_paths()
    begin = series[[3, 4, 5]].copy()
    ours = TimeSeriesKMeans(3, metric=metric, init=begin, solver="lbfgs").fit(series)
    assert_same_fit(ours, Theirs(3, metric=metric, init=begin).fit(series), series)
    np.testing.assert_array_equal(begin, series[[3, 4, 5]])


def test_a_generator_of_random_numbers_goes_on():
    series = make_paths()
    ours, theirs = np.random.RandomState(3), np.random.RandomState(3)
    for _ in range(2):
        fitted = TimeSeriesKMeans(3, metric="softdtw", max_iter=2, random_state=ours, solver="lbfgs").fit(series)
        assert_same_fit(fitted, Theirs(3, metric="softdtw", max_iter=2, random_state=theirs).fit(series), series)
    assert ours.random_sample() == theirs.random_sample()


def test_auto_gamma_is_learned_and_used():
    series = make_paths()
    parameters = {"metric": "softdtw", "metric_params": {"gamma": "auto"}, "random_state": 0}
    ours = TimeSeriesKMeans(3, solver="lbfgs", **parameters).fit(series)
    assert ours.gamma_ == auto_gamma(series)
    theirs = Theirs(3, metric="softdtw", metric_params={"gamma": ours.gamma_}, random_state=0).fit(series)
    assert_same_fit(ours, theirs, series)
    assert TimeSeriesKMeans(3, metric="softdtw", max_iter=1, random_state=0).fit(series).gamma_ == 1.0
    assert TimeSeriesKMeans(3, random_state=0).fit(series).gamma_ is None


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("gamma", [0.05, 1.0])
def test_mm_goes_as_low_as_lbfgs_from_the_same_centers(gamma, seed):
    series = make_paths(60, 16, seed=seed)
    parameters = {"metric": "softdtw", "metric_params": {"gamma": gamma}, "init": series[:3].copy()}
    ours = TimeSeriesKMeans(3, **parameters).fit(series)
    theirs = Theirs(3, **parameters).fit(series)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    theirs_sum = theirs.transform(series).min(axis=1).sum()
    assert ours.distances_.sum() <= theirs_sum + 1e-4 * abs(theirs_sum)


def test_given_centers_of_which_one_draws_nothing_are_returned_as_tslearn_returns_them():
    series = make_paths()
    begin = np.concatenate([series[:2], series[:1] + 1e3])
    for metric in ("dtw", "euclidean", "softdtw"):
        theirs = Theirs(3, metric=metric, init=begin).fit(series)
        with pytest.warns(ConvergenceWarning, match="only 2 of 3 clusters"):
            ours = TimeSeriesKMeans(3, metric=metric, init=begin, solver="lbfgs").fit(series)
        np.testing.assert_array_equal(ours.labels_, theirs.labels_)
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_)
        np.testing.assert_array_equal(ours.predict(series), theirs.predict(series))


@pytest.mark.parametrize("metric", ["euclidean", "dtw", "softdtw"])
def test_the_objective_is_the_mean_of_what_is_made_small(metric):
    series = make_paths(30)
    model = TimeSeriesKMeans(3, metric=metric, max_iter=5, random_state=0).fit(series)
    theirs = tslearn.load("tslearn.metrics")
    if metric == "euclidean":
        made_small = cdist(series.reshape(30, -1), model.cluster_centers_.reshape(3, -1), "sqeuclidean")
    elif metric == "dtw":
        made_small = theirs.cdist_dtw(series, model.cluster_centers_) ** 2
    else:
        made_small = theirs.cdist_soft_dtw(series, model.cluster_centers_)
    assert model.objective_ == pytest.approx(made_small.min(axis=1).mean())
    assert model.score(series) == pytest.approx(-model.objective_)
    assert from_estimator(model).inertia == model.objective_


EVERY_METRIC = pytest.mark.parametrize(
    "parameters",
    [{"metric": "euclidean"}, {"metric": "dtw"}, {"metric": "softdtw"}, {"metric": "softdtw", "solver": "lbfgs"}],
    ids=lambda parameters: " ".join(parameters.values()),
)


ELASTIC = pytest.mark.parametrize(*EVERY_METRIC.args[:1], EVERY_METRIC.args[1][1:], **EVERY_METRIC.kwargs)


class TestCasesThatTslearnPublishes:
    """What the tests of tslearn's own estimator ask, of every metric."""

    @EVERY_METRIC
    def test_labels_are_those_of_the_nearest_center(self, parameters):
        series = np.random.RandomState(0).randn(15, 10, 3)
        model = TimeSeriesKMeans(3, max_iter=5, random_state=np.random.RandomState(0), **parameters).fit(series)
        metrics = tslearn.load("tslearn.metrics")
        if parameters["metric"] == "euclidean":
            theirs = cdist(series.reshape(15, -1), model.cluster_centers_.reshape(3, -1))
        else:
            theirs = getattr(metrics, f"cdist_{parameters['metric'].replace('softdtw', 'soft_dtw')}")(
                series, model.cluster_centers_
            )
        np.testing.assert_array_equal(model.labels_, theirs.argmin(axis=1))
        np.testing.assert_array_equal(model.labels_, model.predict(series))
        if parameters["metric"] == "euclidean":
            assert model.inertia_ == pytest.approx((theirs.min(axis=1) ** 2).mean(), rel=1e-12)

    def test_inertia_in_dtw_of_a_euclidean_fit(self):
        series = np.random.RandomState(0).randn(15, 10, 3)
        plain, counted = (
            TimeSeriesKMeans(3, max_iter=5, dtw_inertia=dtw, random_state=0).fit(series) for dtw in (False, True)
        )
        aligned = tslearn.load("tslearn.metrics").cdist_dtw(series, counted.cluster_centers_)
        assert counted.inertia_ == pytest.approx((aligned[np.arange(15), counted.labels_] ** 2).mean())
        assert counted.inertia_ < plain.inertia_
        assert counted.objective_ == plain.objective_

    @pytest.mark.parametrize("init", ["k-means++", "random", "given"])
    @ELASTIC
    def test_three_series_of_unequal_lengths(self, parameters, init):
        series = pad([[1, 2, 3, 4], [1, 2, 3], [2, 5, 6, 7, 8, 9]])
        begin = series[:2] if init == "given" else init
        model = TimeSeriesKMeans(2, max_iter=5, random_state=0, init=begin, **parameters).fit(series)
        assert model.cluster_centers_.shape == (2, 6, 1)
        assert np.isfinite(model.cluster_centers_).all()
        assert model.labels_[0] == model.labels_[1] != model.labels_[2]

    @EVERY_METRIC
    def test_centers_have_the_length_of_the_series(self, parameters):
        series = np.random.RandomState(1).randn(15, 10, 1)
        for init in ("k-means++", "random"):
            model = TimeSeriesKMeans(3, max_iter=5, init=init, random_state=0, **parameters).fit(series)
            assert model.cluster_centers_.shape == (3, 10, 1)
            assert np.isfinite(model.cluster_centers_).all()

    @pytest.mark.filterwarnings("ignore:only . of 3 clusters")
    @ELASTIC
    def test_centers_have_the_length_of_those_to_begin_with(self, parameters):
        begin = pad([[1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 3.0, 4.0], [3.0, 2.0, 1.0]])
        for seed in range(3):
            series = np.random.RandomState(seed).randn(15, 10, 1)
            model = TimeSeriesKMeans(3, max_iter=5, init=begin, **parameters).fit(series)
            assert model.cluster_centers_.shape == (3, 5, 1)
            assert np.isfinite(model.cluster_centers_).all()
            assert model.labels_.shape == (15,)
        with pytest.raises(ValueError, match="shape"):
            TimeSeriesKMeans(3, init=begin).fit(series)

    @ELASTIC
    def test_every_cluster_of_a_simple_set_is_found(self, parameters):
        series = pad([[1, 2, 3], [7, 8, 9, 11], [0.1, 0.2, 2.0], [1, 1, 1, 9], [10, 20, 30, 1000]])
        random = np.random.RandomState(0)
        for n_clusters in (3, 4):
            labels = TimeSeriesKMeans(n_clusters, max_iter=5, random_state=random, **parameters).fit_predict(series)
            assert set(labels) == set(range(n_clusters))

    @EVERY_METRIC
    def test_more_clusters_than_series(self, parameters):
        with pytest.raises(ValueError, match="101 clusters of only 15 series"):
            TimeSeriesKMeans(101, **parameters).fit(np.random.RandomState(0).randn(15, 10, 3))


@pytest.mark.parametrize("method", ["softdtw", "dtw", "euclidean"])
def test_fit_clusters_by_series(method):
    paths = make_paths().astype(np.float32)
    found = fit_clusters(paths, ClusterConfig(method=method, n_clusters=3, seed=2))
    assert found.implementation.startswith("numba 0." if method == "softdtw" else "tslearn 0.")
    assert found.centers.shape == (3, 8, 2)
    assert len(set(found.labels[:3])) == 3
    np.testing.assert_array_equal(found.labels, np.tile(found.labels[:3], 6))
    assert found.gamma == (auto_gamma(paths) if method == "softdtw" else None)
    if method == "softdtw":
        own = [soft_dtw(path, found.centers[c], found.gamma) for path, c in zip(paths, found.labels, strict=True)]
        np.testing.assert_allclose(found.distances, own, rtol=1e-12)
