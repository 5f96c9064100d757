"""UMAP by umap-learn, which compiles in every process, and by a cuML that umap-learn stands in for."""

import inspect
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE, trustworthiness
from test_reduction import digits, make_trajectories

import raypipe.reduction.umap as umap_room
from raypipe import packages
from raypipe.config import ReduceConfig
from raypipe.errors import RaypipeError
from raypipe.reduction import make_reducer, reduce, reduce_trajectories


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


# cuml.manifold.UMAP of cuml 26.10, as its source and documentation give it; all by keyword.
CUML_PARAMETERS = """
    n_neighbors n_components metric metric_kwds n_epochs learning_rate min_dist spread set_op_mix_ratio
    local_connectivity repulsion_strength negative_sample_rate transform_queue_size init a b target_n_neighbors
    target_weight target_metric hash_input random_state force_serial_epochs precomputed_knn callback build_algo
    build_kwds device_ids verbose output_type
""".split()


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
