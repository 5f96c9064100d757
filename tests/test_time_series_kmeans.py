import inspect
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from raypipe.clustering import fit_clusters
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.clustering.vectors import pool_steps
from raypipe.config import ClusterConfig
from raypipe.errors import UsageError
from raypipe.softdtw import auto_gamma, soft_dtw, tslearn
from raypipe.softdtw.series import pad_series

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


def assert_same_fit(ours, theirs, series):
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_array_equal(ours.cluster_centers_, theirs.cluster_centers_)
    assert (ours.inertia_, ours.n_iter_) == (theirs.inertia_, theirs.n_iter_)
    assert ours.n_features_in_ == theirs.n_features_in_
    np.testing.assert_array_equal(ours.transform(series), theirs.transform(pad_series(series)))
    np.testing.assert_array_equal(ours.predict(series), theirs.predict(pad_series(series)))


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
    ours = TimeSeriesKMeans(random_state=seed, **parameters).fit(series)
    theirs = Theirs(random_state=seed, **parameters).fit(series)
    assert ours.backend_ == "tslearn"
    assert_same_fit(ours, theirs, series)


@pytest.mark.parametrize("metric", ["dtw", "softdtw"])
def test_unequal_lengths_as_tslearn_takes_them(metric):
    series = make_paths(ragged=True)
    theirs = Theirs(3, metric=metric, max_iter=5, random_state=0).fit(pad_series(series))
    for form in (series, pad_series(series)):
        ours = TimeSeriesKMeans(3, metric=metric, max_iter=5, random_state=0).fit(form)
        assert_same_fit(ours, theirs, form)


@pytest.mark.parametrize("metric", ["euclidean", "softdtw"])
def test_centers_to_begin_with(metric):
    series = make_paths()
    begin = series[[3, 4, 5]].copy()
    ours = TimeSeriesKMeans(3, metric=metric, init=begin).fit(series)
    assert_same_fit(ours, Theirs(3, metric=metric, init=begin).fit(series), series)
    np.testing.assert_array_equal(begin, series[[3, 4, 5]])


def test_a_generator_of_random_numbers_goes_on():
    series = make_paths()
    ours, theirs = np.random.RandomState(3), np.random.RandomState(3)
    for _ in range(2):
        fitted = TimeSeriesKMeans(3, metric="softdtw", max_iter=2, random_state=ours).fit(series)
        assert_same_fit(fitted, Theirs(3, metric="softdtw", max_iter=2, random_state=theirs).fit(series), series)
    assert ours.random_sample() == theirs.random_sample()


def test_the_parameters_are_tslearns_in_order_and_then_ours_by_keyword():
    theirs = list(inspect.signature(Theirs).parameters.values())
    ours = list(inspect.signature(TimeSeriesKMeans).parameters.values())
    assert ours[: len(theirs)] == theirs
    assert {p.name: p.default for p in ours[len(theirs) :]} == {"solver": "lbfgs", "backend": "auto"}
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
    ours = TimeSeriesKMeans(3, metric="softdtw", metric_params={"gamma": "auto"}, random_state=0).fit(series)
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
        ({"solver": "newton"}, make_paths(), "solver must be one of lbfgs"),
        ({"backend": "abacus"}, make_paths(), "backend must be one of auto, tslearn"),
        ({"n_clusters": 0}, make_paths(), "n_clusters must be at least 1"),
        ({"max_iter": 0}, make_paths(), "max_iter must be at least 1"),
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
    assert found.implementation.startswith("tslearn 0.")
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
