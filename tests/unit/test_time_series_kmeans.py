import inspect
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raypipe.clustering import fit_clusters
from raypipe.clustering.shard import Measure
from raypipe.clustering.shards import LocalShards
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.clustering.vectors import pool_steps
from raypipe.config import ClusterConfig
from raypipe.errors import UsageError
from raypipe.softdtw import cdist_soft_dtw, tslearn
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
        ({"metric": "softdtw", "backend": "numba", "dtw_inertia": True}, make_paths(), "'numba' does not know dtw_i"),
        ({"metric": "softdtw", "metric_params": {"radius": 1}}, make_paths(), "metric_params has no 'radius'"),
        ({"metric": "dtw", "metric_params": {"radius": 1}}, make_paths(), "metric_params has no 'radius'"),
        ({"metric": "softdtw", "metric_params": [1.0]}, make_paths(), "metric_params must be a dict, got"),
        ({"n_clusters": 0}, make_paths(), "n_clusters must be at least 1"),
        ({"n_clusters": 2.5}, make_paths(), "n_clusters must be at least 1 and whole, got 2.5"),
        ({"max_iter": 0}, make_paths(), "max_iter must be at least 1"),
        ({"max_iter_barycenter": None}, make_paths(), "max_iter_barycenter must be at least 0 and whole, got None"),
        ({"tol": None}, make_paths(), "tol must be a number"),
        ({"tol": float("nan")}, make_paths(), "tol must be a number, got nan"),
        ({"init": None}, make_paths(), "init must be k-means"),
        ({"metric": "softdtw", "init": make_paths(3, dim=3)}, make_paths(), "init has centers of 3 dimensions"),
        ({"metric": "softdtw", "init": 1e30 * make_paths(3)}, make_paths(), "leave the range of float32"),
        ({"metric": "softdtw"}, make_paths().astype(complex), "real numbers, got complex128"),
        ({"init": "best"}, make_paths(), "init must be k-means"),
        ({"init": 5}, make_paths(), "init must be k-means"),
        ({"metric": "dtw", "metric_params": {"gamma": 1.0}}, make_paths(), "a gamma, which metric 'dtw' does not"),
        ({"init": make_paths(2)}, make_paths(), "init holds 2 centers, n_clusters is 3"),
        ({"metric": "softdtw", "metric_params": {"gamma": 0}}, make_paths(), "gamma must be a number greater than 0"),
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


@pytest.mark.parametrize("method", ["softdtw", "dtw", "euclidean", "kmeans"])
def test_videos_that_are_the_same_come_back_in_fewer_clusters(method):
    found = fit_clusters(np.ones((4, 3, 2)), ClusterConfig(method=method, n_clusters=2))
    assert found.n_clusters == len(found.centers) == 2
    assert len(set(found.labels)) == 1
    assert np.isfinite(found.distances).all()
    assert np.isfinite(found.inertia)


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


@pytest.mark.parametrize("solver", ["mm", "lbfgs"])
def test_what_is_learned_belongs_together(solver):
    series = make_paths(30, ragged=True)
    model = TimeSeriesKMeans(3, metric="softdtw", random_state=0, solver=solver).fit(series)
    np.testing.assert_array_equal(model.labels_, model.predict(series))
    distances = cdist_soft_dtw(series, model.cluster_centers_)
    np.testing.assert_allclose(model.transform(series), distances)
    np.testing.assert_allclose(model.distances_, distances[np.arange(30), model.labels_])
    assert model.objective_ == pytest.approx(distances.min(axis=1).mean())
    assert model.score(series) == pytest.approx(-model.objective_)
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


def make_spectra(n: int = 20, seed: int = 0) -> np.ndarray:
    """Series like OliveOil's: 570 steps of one smooth curve, of which four kinds differ by a thousandth."""
    rng = np.random.default_rng(seed)
    at = np.linspace(0, 1, 570)
    curve = np.exp(-(((at - 0.3) / 0.02) ** 2)) + np.exp(-(((at - 0.6) / 0.05) ** 2))
    kinds = [np.sin(2 * np.pi * (3 + kind) * at) for kind in range(4)]
    return np.stack([curve * (1 + 0.002 * rng.normal()) + 0.002 * kinds[i % 4] for i in range(n)])[..., None]


@pytest.mark.parametrize("begin", [0, 1, 2, "far"])
def test_series_that_are_nearly_the_same_fill_all_clusters(begin):
    series = make_spectra()
    begins = {"init": np.concatenate([series[:3], series[:1] + 100])} if begin == "far" else {"random_state": begin}
    fits = [TimeSeriesKMeans(4, metric="softdtw", **begins).fit(series) for _ in range(2)]
    assert (np.bincount(fits[0].labels_, minlength=4) > 0).all()
    np.testing.assert_array_equal(fits[0].labels_, fits[0].predict(series))
    np.testing.assert_array_equal(fits[0].labels_, fits[1].labels_)
    np.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)


@pytest.mark.parametrize("divergence", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_refilling_never_raises_the_objective(capsys, ragged, divergence):
    series = make_paths(40, 12, ragged=ragged)
    begin = np.concatenate([pad(series)[:2, :10], *(pad(series)[:1, :10] + shift for shift in (1e3, -1e3, 2e3))])
    parameters = {"init": begin, "tol": 0, "divergence": divergence, "precision": "float64"}
    passes = objectives(series, capsys, n_clusters=5, **parameters)
    # Under the divergence centers may rise once, and then the pass before is kept.
    falling = passes[:-1] if divergence else passes
    assert len(passes) > 3
    assert (np.diff(falling) <= 1e-5 * abs(passes[0])).all()
    labels = TimeSeriesKMeans(5, metric="softdtw", **parameters).fit(series).labels_
    assert len(set(labels)) == 5


def test_the_best_of_what_was_found_comes_back_where_a_cluster_stays_empty():
    series = np.repeat(make_paths(2), 4, axis=0)
    for parameters in (
        {"metric": "softdtw"},
        {"metric": "softdtw", "divergence": True},
        {"metric": "softdtw", "solver": "lbfgs", "max_iter_barycenter": 5},
        {"metric": "dtw"},
        {"metric": "euclidean"},
    ):
        model = TimeSeriesKMeans(3, random_state=0, max_iter=5, **parameters)
        with pytest.warns(ConvergenceWarning, match="only 2 of 3 clusters hold any series, the others are empty"):
            model.fit(series)
        np.testing.assert_array_equal(model.labels_, np.repeat(model.labels_[[0, 4]], 4))
        assert len(set(model.labels_)) == 2
        assert model.cluster_centers_.shape == (3, 8, 2)
        np.testing.assert_array_equal(model.predict(series), model.labels_)
        distances = model.transform(series).min(axis=1)
        np.testing.assert_allclose(model.distances_, distances, atol=1e-9)
        assert model.inertia_ == pytest.approx((distances**2).mean(), abs=1e-9)
    with pytest.warns(ConvergenceWarning, match="only 1 of 3 clusters"):
        assert not TimeSeriesKMeans(3, metric="softdtw").fit(np.ones((6, 4, 2))).labels_.any()


def test_weights_count_in_the_objective():
    series, weights = make_paths(24), np.arange(24) % 3
    model = TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit(series, sample_weight=weights)
    assert model.objective_ == pytest.approx(np.average(model.distances_, weights=weights))


def test_of_several_runs_the_one_of_the_least_objective_is_kept():
    """At γ = 1 its values are negative: the least mean of squares, by which tslearn chooses, is that of the worst."""
    random = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, 16)
    kinds = np.repeat(np.arange(4), 12)
    series = np.stack([np.sin((kind + 1) * angles + kind) + 0.1 * random.normal(size=16) for kind in kinds])[..., None]
    parameters = {"metric": "softdtw", "max_iter": 10, "max_iter_barycenter": 10}

    def runs(solver):
        draws = np.random.RandomState(0)
        fits = [TimeSeriesKMeans(4, random_state=draws, solver=solver, **parameters).fit(series) for _ in range(5)]
        kept = TimeSeriesKMeans(4, random_state=0, n_init=5, solver=solver, **parameters).fit(series)
        return [fit.objective_ for fit in fits], [fit.inertia_ for fit in fits], kept

    objectives, inertias, kept = runs("mm")
    assert kept.objective_ == min(objectives) < max(objectives) < 0
    assert np.argmin(inertias) == np.argmax(objectives)
    objectives, inertias, kept = runs("lbfgs")
    assert kept.inertia_ == min(inertias)
    assert kept.objective_ == pytest.approx(max(objectives))


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


def test_frames_of_pandas_as_output():
    pytest.importorskip("pandas")
    series = make_paths()
    for parameters in ({"metric": "softdtw"}, {"metric": "euclidean"}):
        model = TimeSeriesKMeans(3, random_state=0, **parameters).set_output(transform="pandas").fit(series)
        assert list(model.transform(series).columns) == list(model.get_feature_names_out())
        np.testing.assert_array_equal(model.predict(series), model.labels_)


def test_columns_are_named_behind_others_that_had_names():
    frame = pytest.importorskip("pandas").DataFrame(make_paths(dim=1)[:, :, 0]).add_prefix("t")
    model = TimeSeriesKMeans(2, metric="softdtw", random_state=0)
    names = ["timeserieskmeans0", "timeserieskmeans1"]
    assert [*make_pipeline(StandardScaler(), model).fit(frame).get_feature_names_out()] == names
    parts = ColumnTransformer([("early", model, ["t0", "t1", "t2"]), ("late", model, ["t5", "t6"])])
    found = parts.set_output(transform="pandas").fit_transform(frame)
    assert [*found.columns] == [f"{part}__{name}" for part in ("early", "late") for name in names]


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
    with pytest.raises(UsageError, match="init has centers of 3 dimensions"):
        model.set_params(metric_params={"gamma": 50.0}, init=make_paths(3, dim=3)).fit(series)
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
    shards.assign(centers)
    shards.statistics(centers)
    assert peak(lambda: shards.assign(centers)) <= 16 * n + limit
    assert peak(lambda: shards.statistics(centers)) <= 16 * n + limit


def test_series_without_weight_fill_a_cluster():
    series, weights = make_paths(), np.zeros(18)
    weights[:2] = 1
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ConvergenceWarning)
        labels = TimeSeriesKMeans(3, metric="softdtw", random_state=0).fit_predict(series, sample_weight=weights)
    n_filled = len(set(labels.tolist()))
    assert [f"only {n_filled} of 3 clusters hold any series" in str(each.message) for each in warned] == [True] * (
        n_filled < 3
    )
