"""Clustering by density: HDBSCAN on vectors and on soft-DTW between paths, and how each package counts neighbours."""

import inspect
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN
from sklearn.datasets import make_blobs

from raypipe import packages
from raypipe.clustering import density, fit_clusters
from raypipe.clustering.assignment import assign_to_centers, assign_to_neighbours
from raypipe.clustering.density import compare_paths
from raypipe.config import ClusterConfig, make_config
from raypipe.errors import RaypipeError, UsageError
from raypipe.softdtw import cdist_soft_dtw

# The keyword arguments of cuml.cluster.HDBSCAN in cuml 26.10, as its source gives them.
CUML_PARAMETERS = (
    "min_cluster_size", "min_samples", "cluster_selection_epsilon", "max_cluster_size", "metric", "alpha", "p",
    "cluster_selection_method", "allow_single_cluster", "gen_min_span_tree", "handle", "verbose", "output_type",
    "prediction_data",
)  # fmt: skip


def by_density(**how) -> ClusterConfig:
    return ClusterConfig(**{"method": "density", "min_cluster_size": 5, "backend": "sklearn", **how})


def make_points(seed: int = 0, n: int = 80, n_noise: int = 15) -> np.ndarray:
    points = make_blobs(n, centers=4, cluster_std=0.6, random_state=seed)[0]
    noise = np.random.default_rng(seed).uniform(-14, 14, (n_noise, 2))
    return np.concatenate([points, noise])


def make_paths(n: int = 40, n_odd: int = 4, n_steps: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Paths forth and back over the same ground, which their means do not tell apart, and a few of neither."""
    rng = np.random.default_rng(seed)
    kinds = np.r_[np.arange(n) % 2, np.full(n_odd, -1)]
    forth = np.outer(np.linspace(-1, 1, n_steps), [1.0, 2.0])
    paths = [forth if kind == 1 else forth[::-1] if kind == 0 else rng.normal(0, 9, (n_steps, 2)) for kind in kinds]
    return np.stack(paths) + rng.normal(scale=0.05, size=(len(kinds), n_steps, 2)), kinds


def same_groups(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one)) == len(set(other)) and all((a == -1) == (b == -1) for a, b in pairs)


@pytest.mark.parametrize("min_samples", [None, 1, 2, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_vectors_have_scikit_learns_labels(seed, min_samples):
    points = make_points(seed)
    found = fit_clusters(points[:, None, :], by_density(min_samples=min_samples))
    labels = HDBSCAN(min_cluster_size=5, min_samples=min_samples, copy=True).fit_predict(points)
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.labels == -1).any() and found.n_clusters == labels.max() + 1 >= 3
    for k in range(found.n_clusters):
        np.testing.assert_allclose(found.centers[k, 0], points[labels == k].mean(axis=0))
    noise = labels == -1
    assert np.isnan(found.distances[noise]).all()
    own = np.linalg.norm(points - found.centers[labels, 0], axis=1)
    np.testing.assert_allclose(found.distances[~noise], own[~noise])
    assert (found.inertia, found.gamma, found.reason) == (None, None, None)


@pytest.mark.parametrize("min_samples", [1, 3, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairs_of_one_step_have_the_labels_of_vectors(seed, min_samples):
    """By another way: Prim's chain of the soft-DTW matrix against scikit-learn's tree of the points."""
    points = make_points(seed)
    apart = compare_paths(points[:, None, :], gamma=0.7)
    np.testing.assert_allclose(apart, np.linalg.norm(points[:, None] - points, axis=2), atol=2e-6)
    labels = HDBSCAN(min_cluster_size=5, min_samples=min_samples, copy=True).fit_predict(points)
    np.testing.assert_array_equal(density._label_pairs(apart, 5, min_samples), labels)


def test_paths_are_compared_by_the_root_of_the_divergence():
    values, kinds = make_paths()
    found = fit_clusters(values, by_density(gamma=0.05))
    assert same_groups(found.labels, kinds)
    apart = np.sqrt(np.maximum(cdist_soft_dtw(values, gamma=0.05, divergence=True, precision="float64"), 0))
    np.fill_diagonal(apart, 0)
    dense = HDBSCAN(min_cluster_size=5, metric="precomputed", copy=True).fit_predict(apart)
    np.testing.assert_array_equal(found.labels, dense)
    assert found.gamma == 0.05 and found.centers.shape == (2, 8, 2)
    for k in range(2):
        mean = values[found.labels == k].mean(axis=0)
        np.testing.assert_allclose(found.centers[k], mean, atol=0.2)
    assert np.isnan(found.distances).sum() == 4 and np.nanmax(found.distances) < 1


def test_blocks_of_rows_are_the_whole_matrix(monkeypatch):
    values, _ = make_paths(11, 0)
    whole = compare_paths(values, 0.1)
    monkeypatch.setattr(density, "_BLOCK", 4)
    np.testing.assert_allclose(compare_paths(values, 0.1), whole, rtol=1e-6)
    np.testing.assert_array_equal(whole, whole.T)
    assert whole.dtype == np.float32


def test_a_constraint_holds_for_distances_centers_and_new_paths():
    late, early = np.zeros((2, 12, 1))
    late[9:], early[3:] = 1, 1  # Within two steps of the diagonal neither can wait for the other.
    values = np.repeat([late, early], 12, axis=0) + np.random.default_rng(0).normal(0, 0.05, (24, 12, 1))
    free, bound = by_density(gamma=1e-3), by_density(gamma=1e-3, sakoe_chiba_radius=2)
    assert len(set(fit_clusters(values, free).labels)) == 1
    found = fit_clusters(values, bound)
    assert same_groups(found.labels, np.repeat([0, 1], 12))
    np.testing.assert_allclose(found.centers[found.labels[[0, 12]]], [late, early], atol=0.2)
    how = {"gamma": 1e-3, "divergence": True, "precision": "float64", "sakoe_chiba_radius": 2}
    apart = np.sqrt(np.maximum(cdist_soft_dtw(values, found.centers, **how), 0))
    np.testing.assert_allclose(found.distances, apart[np.arange(24), found.labels])
    for assigned in (
        assign_to_centers(values, found.centers, bound, 1e-3),
        assign_to_neighbours(values, values, found.labels, found.centers, bound, 1e-3),
    ):
        np.testing.assert_array_equal(assigned[0], found.labels)
        np.testing.assert_allclose(assigned[1], found.distances)


def test_of_neighbours_that_are_nearly_the_same_the_nearest_is_found():
    """A large gamma's self-values, which the divergence subtracts, leave nothing of such distances in float32."""
    rng = np.random.default_rng(0)
    known = (np.ones((20, 12, 2)) + rng.normal(0, 1e-4, (20, 12, 2))).astype(np.float32)
    numbers = np.arange(20)
    found, _ = assign_to_neighbours(known, known, numbers, known, by_density(gamma=1.0), 1.0)
    np.testing.assert_array_equal(found, numbers)


def test_distances_are_symmetric_where_masks_are_not():
    x = np.arange(11.0)[:, None]
    # Of the two masks one alone lets step 1 meet the other's step 13.
    y = np.interp(np.arange(19), [0, 13, 18], [0, 1, 10])[:, None]
    apart = compare_paths([x, y], 0.1, itakura_max_slope=7.5)
    whole = cdist_soft_dtw([x, y], gamma=0.1, divergence=True, itakura_max_slope=7.5)
    np.testing.assert_allclose(apart, np.sqrt(np.maximum(whole, 0)), rtol=1e-6)


def test_paths_of_unequal_lengths_have_centers_of_one_length():
    """As k-means has them: what comes after aligns with each step of a center."""
    values, kinds = make_paths()
    ragged = [np.repeat(path, 2, axis=0) if kind == 1 else path for path, kind in zip(values, kinds, strict=True)]
    found = fit_clusters(ragged, by_density())
    assert same_groups(found.labels, kinds)
    assert found.centers.shape == (2, 16, 2) and np.isfinite(found.centers).all()
    for k in range(2):
        ends = np.mean([(path[0], path[-1]) for path, label in zip(ragged, found.labels, strict=True) if label == k], 0)
        np.testing.assert_allclose(found.centers[k][[0, -1]], ends, atol=0.2)


def test_beyond_the_pairs_that_fit_means_are_clustered_and_it_says_so(monkeypatch):
    monkeypatch.setattr(density, "MAX_COMPARED", 50)
    points = make_points()
    values = points[:, None, :] + np.linspace(-1, 1, 4)[:, None]
    found = fit_clusters(values, by_density())
    labels = HDBSCAN(min_cluster_size=5, copy=True).fit_predict(values.mean(axis=1))
    np.testing.assert_array_equal(found.labels, labels)
    assert "95 trajectories are more than the 50" in found.reason
    assert found.centers.shape[1:] == (1, 2)


@pytest.mark.parametrize("steps", [1, 3])
def test_noise_goes_to_the_cluster_of_the_nearest_video_that_has_one(steps):
    points = make_points()
    values = np.repeat(points[:, None, :], steps, axis=1)
    left, given = (fit_clusters(values, by_density(gamma=1e-3, assign_all=on)) for on in (False, True))
    noise = left.labels == -1
    assert (given.n_assigned, left.n_assigned) == (noise.sum(), 0) and noise.any()
    np.testing.assert_array_equal(given.labels[~noise], left.labels[~noise])
    apart = np.linalg.norm(points[noise][:, None] - points[~noise], axis=2)
    np.testing.assert_array_equal(given.labels[noise], left.labels[~noise][apart.argmin(axis=1)])
    np.testing.assert_array_equal(given.centers, left.centers)
    assert np.isfinite(given.distances).all()


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("assign_all", [False, True])
def test_where_nothing_is_dense_all_is_noise(steps, assign_all):
    values = np.random.default_rng(0).uniform(size=(12, steps, 3))
    found = fit_clusters(values, by_density(min_cluster_size=7, assign_all=assign_all))
    assert set(found.labels) == {-1} and found.n_clusters == 0
    assert found.centers.shape == (0, 1, 3) and found.paths_of_centers() == {}


@pytest.mark.parametrize("steps", [1, 2])
def test_videos_that_are_the_same_are_one_group(steps):
    points = np.repeat([[0.0, 0.0], [5.0, 1.0], [5.0, 1.5]], [9, 8, 7], axis=0)
    found = fit_clusters(np.repeat(points[:, None], steps, axis=1), by_density(gamma=1e-3))
    assert len({*found.labels[:9]}) == 1 and -1 not in found.labels
    assert not {*found.labels[:9]} & {*found.labels[9:]}


def test_bad_input_is_one_line():
    values = np.zeros((4, 1, 2))
    with pytest.raises(UsageError, match="min_cluster_size is 5, but there are only 4 videos"):
        fit_clusters(values, by_density())
    with pytest.raises(UsageError, match="min_samples is 6, but there are only 4 videos"):
        fit_clusters(values, by_density(min_cluster_size=2, min_samples=6))
    for cluster in ({"method": "density", "backend": "tslearn"}, {"backend": "sklearn"}, {"backend": "cuml"}):
        with pytest.raises(UsageError, match=r"backend=.* is not for method .*: set cluster\.backend=auto"):
            make_config(flags={"cluster": cluster})


@pytest.mark.parametrize("min_samples", [2, 5, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_hdbscan_package_does_not_count_the_video_itself(seed, min_samples):
    hdbscan = pytest.importorskip("hdbscan")
    points = make_points(seed)
    found = fit_clusters(points[:, None, :], by_density(min_samples=min_samples))
    exact = {"algorithm": "generic"}  # Its default algorithm may take an approximate tree.
    theirs = hdbscan.HDBSCAN(min_cluster_size=5, min_samples=min_samples - 1, **exact).fit_predict(points)
    assert same_groups(found.labels, theirs)


class FakeCumlHDBSCAN:
    """cuml.cluster.HDBSCAN's interface over scikit-learn: it does not count the point itself, and works in float32."""

    def __init__(self, **parameters):
        assert set(parameters) <= set(CUML_PARAMETERS)
        assert parameters.pop("output_type") == "numpy"
        assert 1 <= parameters["min_samples"] <= 1023
        self._model = HDBSCAN(**{**parameters, "min_samples": parameters["min_samples"] + 1}, copy=True)

    def fit_predict(self, points):
        assert points.dtype == np.float32
        return self._model.fit_predict(points).astype(np.int64)


def pretend_cuml(monkeypatch, n_gpus: int) -> None:
    runtime = SimpleNamespace(getDeviceCount=lambda: n_gpus, CUDARuntimeError=RuntimeError)
    modules: dict[str, object] = {
        "cuml": ModuleType("cuml"),
        "cuml.cluster": SimpleNamespace(HDBSCAN=FakeCumlHDBSCAN),
        "cupy": SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)),
    }
    modules["cuml"].__version__ = "26.10.00"  # type: ignore[attr-defined]
    monkeypatch.setattr(packages, "require", modules.__getitem__)
    monkeypatch.setattr(packages, "sees_gpu", lambda: True)


@pytest.mark.parametrize("min_samples", [None, 2, 9])
def test_cuml_gives_the_same_labels_from_the_same_parameters(monkeypatch, min_samples):
    pretend_cuml(monkeypatch, n_gpus=1)
    values = make_points()[:, None, :]
    pinned = fit_clusters(values, by_density(min_samples=min_samples))
    for backend in ("auto", "cuml"):
        found = fit_clusters(values, by_density(min_samples=min_samples, backend=backend))
        np.testing.assert_array_equal(found.labels, pinned.labels)
        assert (found.implementation, found.reason) == ("cuml 26.10.00", None)
    assert pinned.implementation.startswith("scikit-learn")


def test_what_cuml_cannot_do_is_scikit_learns_and_it_says_so(monkeypatch):
    pretend_cuml(monkeypatch, n_gpus=1)
    values = make_points()[:, None, :]
    found = fit_clusters(values, by_density(min_samples=1, backend="auto"))
    assert found.implementation.startswith("scikit-learn") and "min_samples from 2 to 1024, not 1" in found.reason
    with pytest.raises(UsageError, match="min_samples from 2"):
        fit_clusters(values, by_density(min_samples=1, backend="cuml"))
    pretend_cuml(monkeypatch, n_gpus=0)
    assert "there is none" in fit_clusters(values, by_density(backend="auto")).reason
    with pytest.raises(RaypipeError, match=r"cuml needs a GPU and there is none: set cluster\.backend=sklearn"):
        fit_clusters(values, by_density(backend="cuml"))


def test_the_installed_cuml_has_the_parameters_that_are_passed():
    if not packages.is_installed("cuml"):
        pytest.skip("cuml is not installed here: pip install 'raypipe[gpu]'")
    parameters = inspect.signature(packages.require("cuml.cluster").HDBSCAN).parameters
    assert set(parameters) >= {"min_cluster_size", "min_samples", "output_type"}
