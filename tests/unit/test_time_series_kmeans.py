import inspect
import pickle
import tracemalloc

import numpy as np
import pytest
from sklearn.base import clone

from raypipe.clustering import fit_clusters
from raypipe.clustering.shards import LocalShards, Measure
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.clustering.vectors import pool_steps
from raypipe.config import ClusterConfig
from raypipe.errors import UsageError
from raypipe.softdtw import auto_gamma, cdist_soft_dtw, soft_dtw, tslearn
from raypipe.softdtw.series import pad_series, read_series

Theirs = tslearn.load("tslearn.clustering").TimeSeriesKMeans


def make_paths(n: int = 18, n_steps: int = 8, dim: int = 2, ragged: bool = False, seed: int = 0):
    """Paths of three shapes, in turn, at various speeds."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(n):
        time = np.linspace(0, 1, n_steps - (i % 3 if ragged else 0)) ** rng.uniform(0.7, 1.4)
        shape = (np.sin(6 * time), np.cos(6 * time), 2 * time - 1)[i % 3]
        paths.append(np.outer(shape, np.arange(1, dim + 1)) + rng.normal(scale=0.1, size=(len(time), dim)))
    return paths if ragged else np.stack(paths)


def pad(series) -> np.ndarray:
    return pad_series(read_series(series))


def read_data(path, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Every so many-th series of a file of series and labels, padded with NaN."""
    stored = np.load(path)
    ends = np.cumsum(stored["lengths"])
    series = [stored["values"][end - length : end] for end, length in zip(ends, stored["lengths"], strict=True)]
    return pad(series[::step]), stored["labels"][::step]


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


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "step", "n_clusters"), [("Trace", 8, 4), ("JapaneseVowels", 10, 9), ("SyntheticControl", 15, 6)]
)
def test_lbfgs_finds_what_tslearn_finds_in_real_series(data_dir, name, step, n_clusters, seed):
    """In some of the series; the slow test below has all of them."""
    series, _ = read_data(data_dir / "timeseries" / f"{name}.npz", step)
    parameters = {"metric": "softdtw", "random_state": seed, "max_iter": 3, "max_iter_barycenter": 10}
    ours = TimeSeriesKMeans(n_clusters, solver="lbfgs", **parameters).fit(series)
    assert_same_fit(ours, Theirs(n_clusters, **parameters).fit(series), series)


@pytest.mark.slow
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


def test_the_parameters_are_tslearns_in_order_and_then_ours_by_keyword():
    theirs = list(inspect.signature(Theirs).parameters.values())
    ours = list(inspect.signature(TimeSeriesKMeans).parameters.values())
    assert ours[: len(theirs)] == theirs
    assert {p.name: p.default for p in ours[len(theirs) :]} == {
        "solver": "mm",
        "precision": "auto",
        "backend": "auto",
        "divergence": False,
    }
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_it_is_a_scikit_learn_estimator():
    series = make_paths()
    model = TimeSeriesKMeans(3, metric="softdtw", metric_params={"gamma": 0.1}, random_state=0)
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert model.set_params(n_clusters=2).n_clusters == 2
    labels = copy.fit_predict(series)
    np.testing.assert_array_equal(labels, copy.labels_)
    np.testing.assert_array_equal(labels, copy.predict(series))
    np.testing.assert_array_equal(clone(copy).fit_transform(series), copy.transform(series))
    assert list(copy.get_feature_names_out()) == ["timeserieskmeans0", "timeserieskmeans1", "timeserieskmeans2"]
    assert copy.__sklearn_tags__().input_tags.allow_nan


def test_a_pickle_holds_arrays_and_no_tslearn():
    series = make_paths()
    model = TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit(series)
    stored = pickle.dumps(model)
    assert b"tslearn" not in stored.replace(model.backend_.encode(), b"", 1)
    np.testing.assert_array_equal(pickle.loads(stored).predict(series), model.labels_)


def test_auto_gamma_is_learned_and_used():
    series = make_paths()
    parameters = {"metric": "softdtw", "metric_params": {"gamma": "auto"}, "random_state": 0}
    ours = TimeSeriesKMeans(3, solver="lbfgs", **parameters).fit(series)
    assert ours.gamma_ == auto_gamma(series)
    theirs = Theirs(3, metric="softdtw", metric_params={"gamma": ours.gamma_}, random_state=0).fit(series)
    assert_same_fit(ours, theirs, series)
    assert TimeSeriesKMeans(3, metric="softdtw", max_iter=1, random_state=0).fit(series).gamma_ == 1.0
    assert TimeSeriesKMeans(3, random_state=0).fit(series).gamma_ is None


@pytest.mark.parametrize(
    ("parameters", "series", "message"),
    [
        ({"n_clusters": 4}, make_paths(3), "4 clusters of only 3 series"),
        ({"metric": "softdtw"}, [], "no series given"),
        ({"metric": "softdtw"}, [np.zeros((2, 1)), np.zeros((0, 1))], "series 1 is empty"),
        ({}, np.where(np.arange(8)[:, None] == 2, np.nan, make_paths()), "NaN or infinite value at step 2"),
        ({}, make_paths(ragged=True), "unequal lengths have no Euclidean distance"),
        ({"metric": "manhattan"}, make_paths(), "metric must be one of euclidean, dtw, softdtw; got 'manhattan'"),
        ({"solver": "newton"}, make_paths(), "solver must be one of mm, lbfgs"),
        ({"backend": "abacus"}, make_paths(), "backend must be one of auto, cupy, numba, tslearn"),
        ({"precision": "float16"}, make_paths(), "precision must be one of auto, float32, float64"),
        ({"metric": "softdtw", "backend": "tslearn"}, make_paths(), "by L-BFGS only: add solver='lbfgs'"),
        ({"metric": "softdtw", "divergence": True, "solver": "lbfgs"}, make_paths(), "divergence goes with"),
        ({"divergence": True}, make_paths(), "divergence goes with"),
        (
            {"metric": "softdtw", "backend": "numba", "metric_params": {"global_constraint": "sakoe_chiba"}},
            make_paths(),
            "backend 'numba' knows neither dtw_inertia",
        ),
        ({"n_clusters": 0}, make_paths(), "n_clusters must be at least 1"),
        ({"n_clusters": 2.5}, make_paths(), "n_clusters must be at least 1 and whole, got 2.5"),
        ({"max_iter": 0}, make_paths(), "max_iter must be at least 1"),
        ({"tol": None}, make_paths(), "tol must be a number"),
        ({"init": None}, make_paths(), "init must be k-means"),
        ({"metric": "softdtw", "init": make_paths(3, dim=3)}, make_paths(), "init has centers of 3 dimensions"),
        ({"metric": "softdtw", "init": 1e30 * make_paths(3)}, make_paths(), "leave the range of float32"),
        ({"metric": "softdtw"}, make_paths().astype(complex), "real numbers, got complex128"),
        ({"init": "best"}, make_paths(), "init must be k-means"),
        ({"init": make_paths(2)}, make_paths(), "init holds 2 centers, n_clusters is 3"),
        ({"metric": "softdtw", "metric_params": {"gamma": 0}}, make_paths(), "gamma must be a number greater than 0"),
        ({"metric": "softdtw"}, np.ones((6, 4, 2)), "no run found 3 clusters of these 6 series"),
    ],
)
def test_what_cannot_be_done_is_said(parameters, series, message):
    with pytest.raises(UsageError, match=message):
        TimeSeriesKMeans(random_state=0, **parameters).fit(series)


def test_prediction_is_for_series_of_the_same_kind():
    model = TimeSeriesKMeans(3, random_state=0).fit(make_paths())
    for other in (make_paths(dim=3), make_paths(n_steps=9)):
        with pytest.raises(UsageError, match=r"fitted on series of shape \(8, 2\)"):
            model.predict(other)
    longer = TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit(make_paths()).predict(make_paths(n_steps=12))
    assert len(set(longer[:3])) == 3
    with pytest.raises(ValueError, match="not fitted"):
        TimeSeriesKMeans().predict(make_paths())


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


def test_fit_clusters_of_unequal_lengths():
    found = fit_clusters(make_paths(ragged=True), ClusterConfig(n_clusters=3))
    np.testing.assert_array_equal(found.labels, np.tile(found.labels[:3], 6))
    assert found.distances.shape == (18,)


def test_fit_clusters_by_mean_vectors_forgets_order():
    paths = make_paths()
    found = fit_clusters(paths, ClusterConfig(method="kmeans", n_clusters=3))
    turned = fit_clusters([path[::-1] for path in paths], ClusterConfig(method="kmeans", n_clusters=3))
    np.testing.assert_array_equal(found.labels, turned.labels)
    assert found.implementation.startswith("scikit-learn")
    assert found.centers.shape == (3, 1, 2)
    own = pool_steps(paths) - found.centers[found.labels, 0]
    np.testing.assert_allclose(found.distances, np.linalg.norm(own, axis=1))
    assert found.inertia == pytest.approx((found.distances**2).mean())


def test_more_clusters_than_videos_is_a_wrong_request():
    for method in ("softdtw", "kmeans"):
        with pytest.raises(UsageError, match="5 clusters asked for, but there are only 2 videos"):
            fit_clusters(make_paths(2), ClusterConfig(method=method, n_clusters=5))
    with pytest.raises(UsageError, match="only 1 of 2 clusters found"):
        fit_clusters(np.ones((4, 3, 2)), ClusterConfig(method="kmeans", n_clusters=2))


def test_as_many_clusters_as_videos_and_one_cluster():
    paths = make_paths(3)
    assert sorted(fit_clusters(paths, ClusterConfig(n_clusters=3)).labels) == [0, 1, 2]
    assert fit_clusters(paths[:1], ClusterConfig(n_clusters=1)).labels.tolist() == [0]


def objectives(series, capsys, **parameters) -> list[float]:
    """Objective of each pass of a fit."""
    TimeSeriesKMeans(metric="softdtw", verbose=1, **parameters).fit(series)
    return [float(number) for number in capsys.readouterr().out.replace("-->", "").split()]


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("ragged", [False, True])
def test_mm_never_raises_the_objective(capsys, ragged, gamma):
    rng = np.random.default_rng(3)
    series = [rng.normal(size=(12 - (i % 5 if ragged else 0), 2)).cumsum(axis=0) for i in range(40)]
    parameters = {"metric_params": {"gamma": gamma}, "random_state": 1, "tol": 0, "max_iter": 30}
    passes = objectives(series, capsys, n_clusters=4, precision="float64", **parameters)
    assert len(passes) > 3
    assert (np.diff(passes) <= 1e-5 * abs(passes[0])).all()  # six digits are printed


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


@pytest.mark.parametrize("solver", ["mm", "lbfgs"])
def test_what_is_learned_belongs_together(solver):
    series = make_paths(30, ragged=True)
    model = TimeSeriesKMeans(3, metric="softdtw", random_state=0, solver=solver).fit(series)
    np.testing.assert_array_equal(model.labels_, model.predict(series))
    distances = cdist_soft_dtw(series, model.cluster_centers_)
    np.testing.assert_allclose(model.transform(series), distances)
    np.testing.assert_allclose(model.distances_, distances[np.arange(30), model.labels_])
    assert model.score(series) == pytest.approx(-(model.distances_**2).mean())
    assert model.inertia_ == pytest.approx((model.distances_**2).mean(), rel=1e-3)


@pytest.mark.parametrize("solver", ["mm", "lbfgs"])
def test_weights_count_like_copies(solver):
    series = make_paths(24)
    weights = 1 + np.arange(24) % 3
    parameters = {"metric": "softdtw", "init": series[:3], "solver": solver, "precision": "float64", "max_iter": 5}
    weighted = TimeSeriesKMeans(3, **parameters).fit(series, sample_weight=weights)
    copies = TimeSeriesKMeans(3, **parameters).fit(np.repeat(series, weights, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, copies.cluster_centers_, rtol=1e-6, atol=1e-8)
    assert weighted.inertia_ == pytest.approx(copies.inertia_)
    np.testing.assert_array_equal(np.repeat(weighted.labels_, weights), copies.labels_)
    drawn = TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit_predict(series, sample_weight=weights)
    assert len(set(drawn[:3])) == 3
    with pytest.raises(UsageError, match="weights must be 24 finite numbers"):
        TimeSeriesKMeans(3, metric="softdtw").fit(series, sample_weight=weights[:5])
    with pytest.raises(UsageError, match="tslearn's k-means knows no sample_weight"):
        TimeSeriesKMeans(3).fit(series, sample_weight=weights)


def test_an_empty_cluster_is_seeded_again_with_the_series_farthest_off():
    series = make_paths(30)
    far = series[0] + 100
    far_too = series[0] - 100
    series = np.concatenate([series, [far, far_too]])
    begin = np.concatenate([series[:3], series[:1] + 1e6, series[:1] - 1e6])
    fits = [TimeSeriesKMeans(5, metric="softdtw", init=begin).fit(series) for _ in range(2)]
    assert sorted(np.bincount(fits[0].labels_))[:2] == [1, 1]
    assert len(set(fits[0].labels_[-2:])) == 2
    np.testing.assert_array_equal(fits[0].labels_, fits[1].labels_)


def test_the_divergence_tells_what_smooth_centers_hide():
    series = make_paths(30, 20)
    parameters = {"metric": "softdtw", "metric_params": {"gamma": 50.0}, "random_state": 0}
    model = TimeSeriesKMeans(3, divergence=True, **parameters).fit(series)
    expected = cdist_soft_dtw(series, model.cluster_centers_, 50.0, divergence=True)
    np.testing.assert_allclose(model.transform(series), expected)
    np.testing.assert_allclose(model.distances_, expected.min(axis=1))
    np.testing.assert_array_equal(model.predict(series), model.labels_)
    assert model.distances_.min() > -1e-6
    assert model.inertia_ == pytest.approx((model.distances_**2).mean())


def test_more_runs_find_no_worse():
    series = make_paths(60, seed=4)
    sums = [
        TimeSeriesKMeans(6, metric="softdtw", n_init=n_init, random_state=0).fit(series).distances_.sum()
        for n_init in (1, 4)
    ]
    assert sums[1] <= sums[0] + 1e-9


def test_float32_and_float64_agree():
    series = make_paths(60, 30)
    parameters = {"metric": "softdtw", "random_state": 0}
    one, other = (TimeSeriesKMeans(3, precision=p, **parameters).fit(series) for p in ("float32", "float64"))
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_allclose(one.cluster_centers_, other.cluster_centers_, atol=1e-2)
    assert one.distances_.dtype == np.float64


class TestCasesThatTslearnPublishes:
    """What the tests of tslearn's own estimator ask of soft-DTW."""

    @pytest.mark.parametrize("solver", ["mm", "lbfgs"])
    def test_labels_are_those_of_the_nearest_center(self, solver):
        series = np.random.RandomState(0).randn(15, 10, 3)
        model = TimeSeriesKMeans(3, metric="softdtw", max_iter=5, random_state=0, solver=solver).fit(series)
        theirs = tslearn.load("tslearn.metrics").cdist_soft_dtw(series, model.cluster_centers_)
        np.testing.assert_array_equal(model.labels_, theirs.argmin(axis=1))
        np.testing.assert_array_equal(model.labels_, model.predict(series))

    @pytest.mark.parametrize("solver", ["mm", "lbfgs"])
    def test_three_series_of_unequal_lengths(self, solver):
        series = [[1, 2, 3, 4], [1, 2, 3], [2, 5, 6, 7, 8, 9]]
        model = TimeSeriesKMeans(2, metric="softdtw", max_iter=5, random_state=0, solver=solver).fit(series)
        assert model.cluster_centers_.shape == (2, 6, 1)
        assert model.labels_[0] == model.labels_[1] != model.labels_[2]

    @pytest.mark.parametrize("solver", ["mm", "lbfgs"])
    def test_centers_have_the_length_of_those_to_begin_with(self, solver):
        begin = pad([[1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 3.0, 4.0], [3.0, 2.0, 1.0]])
        shapes = [[1, 2, 3], [1, 2, 4], [3, 2, 1]]
        series = np.repeat(shapes, 5, axis=0).repeat(3, axis=1) + 0.1 * np.random.RandomState(0).randn(15, 9)
        model = TimeSeriesKMeans(3, metric="softdtw", max_iter=5, init=begin, solver=solver).fit(series)
        assert model.cluster_centers_.shape == (3, 5, 1)
        assert np.isfinite(model.cluster_centers_).all()
        with pytest.raises(ValueError, match="shape"):
            TimeSeriesKMeans(3, init=begin).fit(series)

    @pytest.mark.parametrize("solver", ["mm", "lbfgs"])
    def test_more_clusters_than_series(self, solver):
        with pytest.raises(ValueError, match="101 clusters of only 15 series"):
            TimeSeriesKMeans(101, metric="softdtw", solver=solver).fit(np.random.RandomState(0).randn(15, 10, 3))


def test_frames_of_pandas_as_output():
    pytest.importorskip("pandas")
    series = make_paths()
    for parameters in ({"metric": "softdtw"}, {"metric": "euclidean"}):
        model = TimeSeriesKMeans(3, random_state=0, **parameters).set_output(transform="pandas").fit(series)
        assert list(model.transform(series).columns) == list(model.get_feature_names_out())
        np.testing.assert_array_equal(model.predict(series), model.labels_)


def test_what_weighs_nothing_has_no_say_and_gets_a_label():
    series = np.concatenate([make_paths(30), make_paths(3) + 30])
    weights = np.repeat([1.0, 0.0], [30, 3])
    for seed in range(10):
        model = TimeSeriesKMeans(2, metric="softdtw", init="random", random_state=seed)
        model.fit(series, sample_weight=weights)
        assert (np.bincount(model.labels_[:30], minlength=2) > 0).all()
        np.testing.assert_array_equal(model.labels_, model.predict(series))
    few = TimeSeriesKMeans(3, metric="softdtw", random_state=0, precision="float64")
    labels = few.fit(series, sample_weight=weights).labels_[:30]
    np.testing.assert_array_equal(few.fit(series[:30], sample_weight=np.full(30, 1e39)).labels_, labels)


def test_a_fit_that_fails_leaves_the_model_as_it_was():
    series = make_paths()
    model = TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit(series)
    before = model.transform(series)
    with pytest.raises(UsageError, match="no run found"):
        model.set_params(metric_params={"gamma": 50.0}).fit(np.ones((6, 4, 2)))
    assert model.gamma_ == 1.0
    np.testing.assert_array_equal(model.transform(series), before)


def test_a_run_with_an_empty_cluster_is_tried_again():
    rng = np.random.default_rng(25)
    rng.integers(4, 14)
    rng.integers(2, 10)
    series = rng.normal(size=(9, int(rng.integers(1, 6)), 1)).round(int(rng.integers(0, 2)))
    model = TimeSeriesKMeans(3, metric="softdtw", random_state=25, metric_params={"gamma": 10.0}).fit(series)
    assert (np.bincount(model.labels_, minlength=3) > 0).all()


def test_the_threads_of_others_are_left_as_they_were():
    import numba

    series = make_paths(300, 30)
    every = numba.get_num_threads()
    for threads in {1, every}:
        numba.set_num_threads(threads)
        cdist_soft_dtw(series)
        cdist_soft_dtw(series[:2])
        assert numba.get_num_threads() == threads
    numba.set_num_threads(every)


def test_fits_at_the_same_time_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    series = make_paths(300, 24)
    alone = TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit(series)
    with ThreadPoolExecutor(3) as threads:
        fits = [threads.submit(TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit, series) for _ in range(6)]
        for fit in fits:
            np.testing.assert_array_equal(fit.result().cluster_centers_, alone.cluster_centers_)


def test_passes_take_little_memory():
    n, limit = 300_000, 4 << 20  # numpy's own; what blocks in hand need is not counted here, and does not grow
    series = np.zeros((n, 4, 1), np.float32)
    series[:, 0, 0] = np.arange(n) % 7
    shards = LocalShards(read_series(series))
    shards.open(Measure(1.0, "float32", "numba"))
    centers = series[:3].astype(np.float64)

    def peak(call) -> float:
        tracemalloc.start()
        call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    def seed():
        shards.begin_seeding()
        for _ in range(2):
            shards.try_seeds(np.concatenate([centers, centers[:1]]))
            shards.take_seed(0)
            shards.draw(np.array([0.5, 1.0]))

    seed()
    assert peak(seed) <= 64 * n + limit
    shards.assign(centers, np.zeros(3))
    shards.statistics(centers)
    assert peak(lambda: shards.assign(centers, np.zeros(3))) <= 16 * n + limit
    assert peak(lambda: shards.statistics(centers)) <= 16 * n + limit
