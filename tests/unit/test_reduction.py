import inspect
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

import raypipe.reduction.umap as umap_room
from raypipe import packages
from raypipe.config import ReduceConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.reduction import make_reducer, reduce, reduce_trajectories, reduce_with_centers
from raypipe.schema import Trajectories

# cuml.manifold.UMAP of cuml 26.10, as its source and documentation give it; all by keyword.
CUML_PARAMETERS = """
    n_neighbors n_components metric metric_kwds n_epochs learning_rate min_dist spread set_op_mix_ratio
    local_connectivity repulsion_strength negative_sample_rate transform_queue_size init a b target_n_neighbors
    target_weight target_metric hash_input random_state force_serial_epochs precomputed_knn callback build_algo
    build_kwds device_ids verbose output_type
""".split()


def make_trajectories(*lengths: int, dim: int = 12, dtype: type = np.float32, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    values = [
        (rng.normal(size=dim) + np.outer(np.linspace(0, 1, n), rng.normal(size=dim))).astype(dtype) for n in lengths
    ]
    if len(set(lengths)) == 1:
        values = np.stack(values)
    return Trajectories(tuple(f"v{i}" for i in range(len(lengths))), values, np.array(lengths))


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_trajectories_are_reduced_step_by_step_in_one_space(method):
    paths = make_trajectories(*[6] * 8)
    config = ReduceConfig(method=method, n_components=3, backend="cpu")
    reduced, reducer = reduce_trajectories(paths, config)
    assert reduced.values.shape == (8, 6, 3)
    assert reduced.video_ids == paths.video_ids
    assert reducer.reason is None
    np.testing.assert_array_equal(
        reduced.values.reshape(-1, 3), make_reducer(config).fit_transform(paths.values.reshape(-1, 12))
    )


def test_unequal_lengths_stay_unequal():
    paths = make_trajectories(3, 9, 1, 7)
    reduced = reduce(paths, "pca", n_components=2)
    assert [path.shape for path in reduced.values] == [(3, 2), (9, 2), (1, 2), (7, 2)]
    expected = PCA(2).fit_transform(np.concatenate(paths.values))
    np.testing.assert_allclose(np.concatenate(reduced.values), expected, atol=1e-5)


def test_none_leaves_paths_as_they_are():
    paths = make_trajectories(4, 4)
    reduced, reducer = reduce_trajectories(paths, ReduceConfig(method="none"))
    np.testing.assert_array_equal(reduced.values, paths.values)
    assert (reducer.implementation, reducer.reason, reducer.arrays()) == ("none", None, {})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pca_is_scikit_learns_in_its_dtype_and_its_arrays_suffice(dtype):
    points = make_trajectories(*[10] * 6, dtype=dtype).values.reshape(-1, 12)
    reducer = make_reducer(ReduceConfig(method="pca", n_components=3, seed=1234))
    reduced = reducer.fit_transform(points)
    np.testing.assert_array_equal(reduced, PCA(n_components=3, random_state=1234).fit_transform(points))
    assert reduced.dtype == reducer.transform(points).dtype == dtype
    arrays = reducer.arrays()
    by_hand = (points - arrays["mean"]) @ arrays["components"].T
    np.testing.assert_allclose(reducer.transform(points), by_hand, atol=1e-5 if dtype == np.float32 else 1e-12)
    assert reducer.implementation.startswith("scikit-learn ")


def test_umap_repeats_itself_and_its_arrays_suffice_to_fit_again():
    points = make_trajectories(*[6] * 8).values.reshape(-1, 12)
    new = points[::7] + 0.01
    config = ReduceConfig(method="umap", n_components=2, seed=7, backend="cpu")
    reducer = make_reducer(config)
    reduced = reducer.fit_transform(points)
    assert reduced.dtype == np.float32
    assert reducer.implementation.startswith("umap-learn 0.")
    arrays = reducer.arrays()
    assert all(array.dtype != object for array in arrays.values())  # np.savez needs no pickle
    again = make_reducer(
        ReduceConfig(
            method="umap",
            n_components=int(arrays["n_components"]),
            n_neighbors=int(arrays["n_neighbors"]),
            min_dist=float(arrays["min_dist"]),
            metric=str(arrays["metric"]),
            seed=int(arrays["seed"]),
            backend="cpu",
        )
    ).fit(arrays["points"])
    np.testing.assert_array_equal(again.transform(points), arrays["embedding"])
    np.testing.assert_array_equal(again.transform(points), reduced)
    np.testing.assert_array_equal(again.transform(new), reducer.transform(new))
    other = make_reducer(ReduceConfig(method="umap", n_components=2, seed=8, backend="cpu")).fit_transform(points)
    assert not np.array_equal(other, reduced)


def test_quick_umap_repeats_itself_and_places_each_point_alone():
    points = make_trajectories(*[10] * 12).values.reshape(-1, 12)
    config = ReduceConfig(method="umap", n_components=2, backend="quick")
    reducer = make_reducer(config).fit(points[::2])
    assert reducer.implementation.startswith("fastumap ")
    embedding = reducer.arrays()["embedding"]
    placed = reducer.transform(points)
    assert placed.dtype == np.float32
    np.testing.assert_array_equal(make_reducer(config).fit(points[::2]).transform(points), placed)
    np.testing.assert_allclose(reducer.transform(points[5:6]), placed[5:6], atol=1e-5)
    spread = embedding.max(axis=0) - embedding.min(axis=0)
    assert (np.median(np.abs(placed[::2] - embedding), axis=0) < 0.05 * spread).all()
    np.testing.assert_array_equal(reducer.transform(np.zeros((2, 12))).shape, (2, 2))
    twice = make_reducer(config).fit(np.repeat(points[:8], 5, axis=0))
    assert np.isfinite(twice.transform(points)).all(), "three nearest points at the same distance"


def test_quick_umap_keeps_neighbours_as_umap_learn_does():
    points = load_digits().data[::2]
    trust = {}
    for backend in ("cpu", "quick"):
        config = ReduceConfig(method="umap", n_components=2, backend=backend)
        whole = make_reducer(config).fit_transform(points)
        some = make_reducer(config).fit(points[::2]).transform(points)
        trust[backend] = [trustworthiness(points, flat, n_neighbors=15, metric="cosine") for flat in (whole, some)]
    assert trust["quick"][0] > trust["cpu"][0] - 0.01
    assert trust["quick"][1] > trust["cpu"][1] - 0.01


@pytest.mark.parametrize("lengths", [[1], [1, 1], [3], [4], [6], [16]])
@pytest.mark.parametrize("dim", [1, 2, 12])
def test_quick_umap_of_few_points_or_dimensions(lengths, dim):
    paths = make_trajectories(*lengths, dim=dim)
    reduced, reducer = reduce_trajectories(paths, ReduceConfig(method="umap", n_components=2, backend="quick"))
    steps = np.concatenate(list(reduced.values))
    assert steps.shape == (sum(lengths), 2) and np.isfinite(steps).all()
    assert reducer.implementation.startswith("scikit-learn" if sum(lengths) < 4 or dim == 1 else "fastumap")


def test_pictures_are_quick_unless_the_reduction_is_one(monkeypatch):
    picture = ReduceConfig(seed=3).for_picture()
    assert (picture.method, picture.n_components, picture.backend, picture.seed) == ("umap", 2, "quick", 3)
    assert picture.fit_points == 2000 and ReduceConfig(fit_points=50).for_picture().fit_points == 50
    assert ReduceConfig(method="umap", backend="cpu").for_picture().backend == "cpu"
    flat = ReduceConfig(method="umap", n_components=2)
    assert flat.for_picture() is flat
    monkeypatch.setattr(packages, "sees_gpu", lambda: False)
    monkeypatch.setattr(packages, "is_installed", lambda name: name != "fastumap")
    library, reason = umap_room.choose_library("quick")
    assert library == "umap-learn" and "fastumap is not installed" in reason


def test_many_points_are_mapped_by_a_fit_on_some():
    paths = make_trajectories(*[10] * 12)
    one, reducer = reduce_trajectories(paths, ReduceConfig(method="umap", n_components=2, fit_points=60, backend="cpu"))
    assert reducer.arrays()["points"].shape == (60, 12)
    assert one.values.shape == (12, 10, 2)
    two = reduce(paths, "umap", n_components=2, fit_points=60, backend="cpu")
    np.testing.assert_array_equal(one.values, two.values)
    drawn = {tuple(point) for point in reducer.arrays()["points"]}
    assert drawn <= {tuple(point) for point in paths.values.reshape(-1, 12)}


@pytest.mark.parametrize(
    ("lengths", "n_components", "reason"),
    [
        (
            [1],
            2,
            "PCA instead of UMAP: 2 components need at least 4 points, there are 1; all but 1 components are 0: 1",
        ),
        ([1, 1], 2, "PCA instead of UMAP: 2 components need at least 4 points, there are 2"),
        ([3], 1, "PCA instead of UMAP: 1 components need at least 4 points, there are 3"),
        ([4], 2, "n_neighbors lowered to 3: there are 4 points"),
        ([6], 5, "PCA instead of UMAP: 5 components need at least 7 points, there are 6"),
        ([7], 5, "n_neighbors lowered to 6: there are 7 points"),
        ([2, 13], 13, "n_neighbors lowered to 14: there are 15 points"),
        ([16], 5, None),
    ],
)
def test_umap_of_few_points_says_what_it_did(lengths, n_components, reason):
    config = ReduceConfig(method="umap", n_components=n_components, backend="cpu")
    reduced, reducer = reduce_trajectories(make_trajectories(*lengths), config)
    steps = np.concatenate(list(reduced.values))
    assert np.isfinite(steps).all()
    assert steps.shape == (sum(lengths), n_components)
    assert (reducer.reason or "").startswith(reason or "") and bool(reducer.reason) == bool(reason)
    used_pca = "PCA instead" in (reason or "")
    assert reducer.implementation.startswith("scikit-learn" if used_pca else "umap-learn")
    assert ("mean" in reducer.arrays()) == used_pca
    assert reducer.transform(np.zeros((2, 12), np.float32)).shape == (2, steps.shape[1])


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_points_that_are_all_the_same_go_to_one_place(method):
    still = Trajectories(("a", "b"), np.ones((2, 10, 4), np.float32), np.array([10, 10]))
    reduced, reducer = reduce_trajectories(still, ReduceConfig(method=method, n_components=2, backend="cpu"))
    np.testing.assert_allclose(reduced.values, 0, atol=1e-6)
    assert reducer.reason == ("PCA instead of UMAP: all points are the same" if method == "umap" else None)


def test_pca_leaves_dimensions_that_there_are_not_at_zero():
    paths = make_trajectories(5, 5, dim=3)
    reduced, reducer = reduce_trajectories(paths, ReduceConfig(method="pca", n_components=8))
    assert reducer.reason == "all but 3 components are 0: 10 points of 3 dimensions"
    assert reduced.values.shape == (2, 5, 8)
    np.testing.assert_array_equal(reduced.values[..., 3:], 0)
    points = paths.values.reshape(-1, 3)
    arrays = reducer.arrays()
    np.testing.assert_allclose(reducer.transform(points), (points - arrays["mean"]) @ arrays["components"].T, atol=1e-5)


def test_broken_embeddings_name_their_video():
    paths = make_trajectories(3, 2, 4)
    paths.values[2][0, 5] = np.nan
    with pytest.raises(RaypipeError, match="trajectory of video v2 has NaN"):
        reduce(paths, "pca")


def test_a_reducer_must_be_fitted_first():
    for method in ("pca", "umap"):
        with pytest.raises(RuntimeError, match="not fitted"):
            make_reducer(ReduceConfig(method=method, backend="cpu")).transform(np.zeros((3, 2)))


class FakeCumlUMAP:
    """cuml.manifold.UMAP's interface over umap-learn: by keyword only, of its parameters only."""

    def __init__(self, **parameters):
        assert set(parameters) <= set(CUML_PARAMETERS)
        assert parameters.pop("output_type") == "numpy"
        self._model = umap_room._import_umap().UMAP(**parameters, n_jobs=1)
        self.n_neighbors = parameters["n_neighbors"]

    def fit_transform(self, points):
        self.embedding_ = self._model.fit_transform(points)
        return self.embedding_

    def transform(self, points):
        return self._model.transform(points)


def pretend_cuml(monkeypatch, n_gpus: int) -> None:
    class NoDriverError(RuntimeError):
        pass

    def count():
        if n_gpus == 0:
            raise NoDriverError
        return n_gpus

    runtime = SimpleNamespace(getDeviceCount=count, CUDARuntimeError=NoDriverError)
    modules: dict[str, object] = {
        "cuml": ModuleType("cuml"),
        "cuml.manifold": SimpleNamespace(UMAP=FakeCumlUMAP),
        "cupy": SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)),
    }
    modules["cuml"].__version__ = "26.10.00"  # type: ignore[attr-defined]
    monkeypatch.setattr(packages, "is_installed", lambda name: name in modules)
    monkeypatch.setattr(packages, "require", modules.__getitem__)
    monkeypatch.setattr(packages, "sees_gpu", lambda: True)


def test_cuml_is_taken_where_it_and_a_gpu_are(monkeypatch):
    pretend_cuml(monkeypatch, n_gpus=1)
    points = make_trajectories(*[6] * 8).values.reshape(-1, 12)
    for backend in ("auto", "cuml"):
        reducer = make_reducer(ReduceConfig(method="umap", n_components=2, backend=backend))
        reduced = reducer.fit_transform(points)
        assert (reducer.implementation, reducer.reason) == ("cuml 26.10.00", None)
        np.testing.assert_array_equal(reducer.transform(points), reduced)
        np.testing.assert_array_equal(reducer.arrays()["embedding"], reduced)
    pinned = make_reducer(ReduceConfig(method="umap", n_components=2, backend="cpu"))
    np.testing.assert_array_equal(pinned.fit_transform(points), reduced)
    assert pinned.implementation.startswith("umap-learn")


def test_with_a_gpu_that_cuml_does_not_see_auto_takes_the_cpu_and_says_why(monkeypatch):
    pretend_cuml(monkeypatch, n_gpus=0)
    reducer = make_reducer(ReduceConfig(method="umap", n_components=2))
    assert "there is none" in (reducer.reason or "")
    with pytest.raises(RaypipeError, match="cuml needs a GPU and there is none"):
        make_reducer(ReduceConfig(method="umap", backend="cuml"))


def test_without_a_gpu_the_cpu_is_no_fallback(monkeypatch):
    monkeypatch.setattr(packages, "sees_gpu", lambda: False)
    assert make_reducer(ReduceConfig(method="umap")).reason is None


def test_without_cuml_auto_takes_the_cpu_and_says_why(monkeypatch):
    if packages.is_installed("cuml"):
        pytest.skip("cuml is installed here")
    monkeypatch.setattr(packages, "sees_gpu", lambda: True)
    assert "pip install 'raypipe[gpu]'" in (make_reducer(ReduceConfig(method="umap")).reason or "")
    with pytest.raises(RaypipeError, match=r"pip install 'raypipe\[gpu\]'"):
        make_reducer(ReduceConfig(method="umap", backend="cuml"))
    with pytest.raises(UsageError, match=r"backend=cuml is for method umap, not pca"):
        make_reducer(ReduceConfig(method="pca", backend="cuml"))


def test_the_installed_cuml_has_the_parameters_that_are_passed():
    if not packages.is_installed("cuml"):
        pytest.skip("cuml is not installed here: pip install 'raypipe[gpu]'")
    parameters = inspect.signature(packages.require("cuml.manifold").UMAP).parameters
    assert set(parameters) >= {"n_neighbors", "n_components", "min_dist", "metric", "random_state", "output_type"}


# cuml.manifold.TSNE of cuml 26.10, as its source gives it; all by keyword.
CUML_TSNE_PARAMETERS = """
    n_components perplexity early_exaggeration late_exaggeration learning_rate n_iter n_iter_without_progress
    min_grad_norm metric metric_params init random_state method angle n_neighbors perplexity_max_iter exaggeration_iter
    pre_momentum post_momentum learning_rate_method square_distances precomputed_knn verbose handle output_type
""".split()


def digits(n: int) -> np.ndarray:
    return load_digits().data[:n].astype(np.float32)


def test_tsne_is_scikit_learns_with_its_own_defaults():
    points = digits(60)
    reducer = make_reducer(ReduceConfig(method="tsne", n_components=2, seed=28, backend="cpu"))
    placed = reducer.fit_transform(points)
    np.testing.assert_array_equal(placed, TSNE(n_components=2, random_state=28).fit_transform(points))
    assert reducer.implementation.startswith("scikit-learn") and reducer.reason is None
    between = reducer.transform(points)
    assert between.shape == (60, 2) and between.dtype == np.float32
    assert np.linalg.norm(between - placed, axis=1).max() < 0.1 * np.ptp(placed)
    assert set(reducer.arrays()) == {"points", "embedding", "perplexity", "n_components", "metric", "seed"}


def test_tsne_of_few_points_has_a_lower_perplexity_and_says_so():
    reducer = make_reducer(ReduceConfig(method="tsne", n_components=2))
    assert np.isfinite(reducer.fit_transform(digits(13))).all()
    assert "perplexity lowered to 4: there are 13 points" in (reducer.reason or "")


@pytest.mark.parametrize(
    "points, why",
    [
        (digits(3), "need at least 4 points, there are 3"),
        (np.ones((9, 5), np.float32), "all points are the same"),
        (digits(9)[:, 20:21], "points of 1 dimensions"),
    ],
)
def test_where_tsne_cannot_be_pca_is_and_says_so(points, why):
    reducer = make_reducer(ReduceConfig(method="tsne", n_components=2))
    assert reducer.fit(points).transform(points).shape == (len(points), 2)
    assert reducer.implementation.startswith("scikit-learn")
    assert why in (reducer.reason or "") and "PCA instead of t-SNE" in reducer.reason


def test_tsne_of_four_components_is_an_error_of_one_line():
    with pytest.raises(UsageError, match="t-SNE has at most 3 components"):
        reduce(make_trajectories(4, 4), "tsne", n_components=4)


def test_cumls_tsne_is_taken_where_it_and_a_gpu_are(monkeypatch):
    class FakeCumlTSNE:
        def __init__(self, **parameters):
            assert set(parameters) <= set(CUML_TSNE_PARAMETERS)
            assert (parameters.pop("output_type"), parameters["init"], parameters["perplexity"]) == ("numpy", "pca", 30)
            self._model = TSNE(**parameters)

        def fit_transform(self, points):
            return self._model.fit_transform(points)

    pretend_cuml(monkeypatch, n_gpus=1)
    packages.require("cuml.manifold").TSNE = FakeCumlTSNE
    for backend in ("auto", "quick", "cuml"):
        reducer = make_reducer(ReduceConfig(method="tsne", n_components=2, backend=backend))
        assert reducer.fit_transform(digits(31)).shape == (31, 2)
        assert (reducer.implementation, reducer.reason) == ("cuml 26.10.00", None)
    wide = make_reducer(ReduceConfig(method="tsne", n_components=3))
    assert wide.fit_transform(digits(31)).shape == (31, 3)
    assert "cuML's t-SNE has 2 components, not 3" in (wide.reason or "")


def test_centers_are_placed_together_with_their_videos():
    paths = make_trajectories(*[1] * 40)
    centers = {3: paths.values[:5].mean(axis=0).astype(np.float64), 7: paths.values[5:9].mean(axis=0)}
    config = ReduceConfig(method="tsne", n_components=2, backend="cpu", seed=1)
    videos, placed, _ = reduce_with_centers(paths, centers, config)
    together = TSNE(n_components=2, random_state=1).fit_transform(
        np.concatenate([paths.values[:, 0], *centers.values()], dtype=np.float32)
    )
    np.testing.assert_array_equal(videos.values[:, 0], together[:40])
    assert list(placed) == [3, 7] and videos.video_ids == paths.video_ids
    np.testing.assert_array_equal(np.concatenate(list(placed.values())), together[40:])


def test_the_picture_is_what_its_key_says():
    assert ReduceConfig(picture="tsne", fit_points=50_000).for_picture().model_dump(
        include={"method", "n_components", "backend", "fit_points"}
    ) == {"method": "tsne", "n_components": 2, "backend": "quick", "fit_points": 10_000}
    own = ReduceConfig(method="umap", n_components=2)
    assert own.for_picture() == own
    assert own.model_copy(update={"picture": "tsne"}).for_picture().method == "tsne"
    assert ReduceConfig(method="tsne", n_components=2).for_picture().method == "umap"


def test_a_spectral_start_that_does_not_converge_is_replaced_and_noted(monkeypatch):
    """ARPACK gave up on 192 steps of twelve short videos of two kinds; which data it gives up on is its own affair."""
    import fastumap
    from scipy.sparse.linalg import ArpackNoConvergence

    original = fastumap.umap_project

    def give_up(points, n_components, *, init=None, **options):
        if init is None:
            raise ArpackNoConvergence("No convergence", np.empty(0), np.empty((len(points), 0)))
        return original(points, n_components, init=init, **options)

    monkeypatch.setattr(fastumap, "umap_project", give_up)
    groups = np.repeat(np.eye(3) * 20, 30, axis=0)
    points = (groups + np.random.default_rng(0).normal(size=groups.shape)).astype(np.float32)
    reducer = make_reducer(ReduceConfig(method="umap", n_components=2, backend="quick", metric="euclidean"))
    places = reducer.fit_transform(points)
    assert reducer.reason == "Spectral initialisation failed: it began from PCA instead"
    middles = places.reshape(3, 30, 2).mean(axis=1)
    nearest = np.linalg.norm(places[:, None] - middles, axis=2).argmin(axis=1)
    assert (nearest == np.repeat(range(3), 30)).all()
