from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import raypipe.reduction.umap as umap_room
from raypipe import packages
from raypipe.config import ReduceConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.reduction import make_reducer, reduce, reduce_trajectories, reduce_with_centers, restore_reducer
from raypipe.schema import Trajectories


def make_trajectories(*lengths: int, dim: int = 12, dtype: type = np.float32, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    values = [
        (rng.normal(size=dim) + np.outer(np.linspace(0, 1, n), rng.normal(size=dim))).astype(dtype) for n in lengths
    ]
    if len(set(lengths)) == 1:
        values = np.stack(values)
    return Trajectories(tuple(f"v{i}" for i in range(len(lengths))), values, np.array(lengths))


def test_unequal_lengths_stay_unequal():
    paths = make_trajectories(3, 9, 1, 7)
    reduced = reduce(paths, "pca", n_components=2)
    assert [path.shape for path in reduced.values] == [(3, 2), (9, 2), (1, 2), (7, 2)]
    expected = PCA(2).fit_transform(np.concatenate(paths.values).astype(np.float64))
    np.testing.assert_allclose(np.concatenate(reduced.values), expected, atol=1e-5)


def test_none_leaves_paths_as_they_are():
    paths = make_trajectories(4, 4)
    reduced, reducer = reduce_trajectories(paths, ReduceConfig(method="none"))
    np.testing.assert_array_equal(reduced.values, paths.values)
    assert (reducer.implementation, reducer.reason, reducer.arrays()) == ("none", None, {})


def test_paths_are_reduced_in_whatever_array_they_come():
    import torch

    paths = make_trajectories(4, 4)
    expected = reduce(paths, "pca", n_components=2).values
    for values in (torch.from_numpy(paths.values), np.ma.masked_array(paths.values)):
        found = reduce(replace(paths, values=values), "pca", n_components=2)
        np.testing.assert_allclose(found.values, expected, atol=1e-6)
    with pytest.raises(UsageError, match="trajectory 0 cannot be read as a numpy array: TypeError"):
        reduce(replace(paths, values=[*torch.from_numpy(paths.values).bfloat16()]), "pca")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pca_is_scikit_learns_in_its_dtype_and_its_arrays_suffice(dtype):
    points = make_trajectories(*[10] * 6, dtype=dtype).values.reshape(-1, 12)
    reducer = make_reducer(ReduceConfig(method="pca", n_components=3, seed=1234))
    reduced = reducer.fit_transform(points)
    arrays = reducer.arrays()
    exact = points.astype(np.float64)
    expected = PCA(n_components=3, random_state=1234).fit(exact - exact.mean(axis=0)).components_
    np.testing.assert_array_equal(arrays["components"], expected.astype(dtype))
    centered = (points - arrays["mean"]).astype(np.float64)
    np.testing.assert_array_equal(reduced, (centered @ arrays["components"].T.astype(np.float64)).astype(dtype))
    np.testing.assert_array_equal(reduced, reducer.transform(points))
    assert reduced.dtype == reducer.transform(points).dtype == dtype
    expected = PCA(n_components=3, random_state=1234).fit_transform(exact)
    np.testing.assert_allclose(reduced, expected, atol=1e-5 if dtype == np.float32 else 1e-12)
    assert reducer.implementation.startswith("scikit-learn ")


def test_axes_do_not_depend_on_how_far_from_zero_the_points_lie():
    """Such as readings of a barometer in pascals, which float32 holds exactly: scikit-learn alone loses their axes."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(20, 3)))[0]
    spread = np.round((rng.normal(size=(2000, 3)) * [300, 100, 50]) @ axes.T + rng.normal(size=(2000, 20)) * 5)
    config = ReduceConfig(method="pca", n_components=3)
    near, far = (make_reducer(config).fit((shift + spread).astype(np.float32)).arrays() for shift in (0, 101_325))
    np.testing.assert_allclose(far["mean"] - 101_325, near["mean"], atol=0.01)
    true = PCA(3).fit(spread).components_
    for each in (near, far):
        np.testing.assert_allclose(each["components"], true, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_points_have_no_axes_and_noise_of_rounding_is_none(dtype):
    point = np.random.default_rng(0).normal(size=12).astype(dtype)
    reducer = make_reducer(ReduceConfig(method="pca", n_components=3))
    assert not reducer.fit_transform(np.tile(point, (47, 1))).any()
    line = np.outer(np.arange(47.0), point).astype(dtype)
    assert (np.abs(reducer.fit(line).arrays()["components"]).max(axis=1) > 0).tolist() == [True, False, False]


def test_small_columns_count_beside_large_ones_that_hardly_vary():
    """Such as a time in seconds since 1970 beside joints in radians: the time's rounding is not the joints'."""
    points = np.random.default_rng(0).normal(0, 0.05, (500, 6)).astype(np.float32)
    points[:, 0] = 1e6
    components = make_reducer(ReduceConfig(method="pca", n_components=5)).fit(points).arrays()["components"]
    np.testing.assert_allclose(np.linalg.norm(components, axis=1), 1, rtol=1e-6)
    assert np.abs(components[:, 0]).max() < 1e-6


def test_equal_points_stay_equal_wherever_they_stand():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(999, 512)).astype(np.float32)
    points[::7] = points[0]
    reduced = make_reducer(ReduceConfig(method="pca", n_components=5)).fit_transform(points)
    assert len(np.unique(reduced[::7], axis=0)) == 1


@pytest.mark.parametrize("exponent", [-60, 55])
def test_a_layout_by_tsne_does_not_depend_on_the_unit(exponent):
    points = digits(60).astype(np.float64)
    places = [
        make_reducer(ReduceConfig(method="tsne", n_components=2, backend="cpu")).fit_transform(each)
        for each in (points, np.ldexp(points, exponent))
    ]
    np.testing.assert_array_equal(*places)


def test_equal_points_have_one_place_by_tsne():
    points = digits(60)
    points[10:20] = points[10]
    reducer = make_reducer(ReduceConfig(method="tsne", n_components=2, backend="cpu"))
    placed = reducer.fit_transform(points)
    assert len(np.unique(placed[10:20], axis=0)) == 1
    np.testing.assert_array_equal(restore_reducer(reducer.arrays()).transform(points), placed)


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


@pytest.mark.parametrize("lengths", [[1], [1, 1], [3], [4], [6], [16]])
@pytest.mark.parametrize("dim", [1, 2, 12])
def test_quick_umap_of_few_points_or_dimensions(lengths, dim):
    paths = make_trajectories(*lengths, dim=dim)
    reduced, reducer = reduce_trajectories(paths, ReduceConfig(method="umap", n_components=2, backend="quick"))
    steps = np.concatenate(list(reduced.values))
    assert steps.shape == (sum(lengths), 2) and np.isfinite(steps).all()
    assert reducer.implementation.startswith("scikit-learn" if sum(lengths) < 4 or dim == 1 else "fastumap")


def test_who_has_numpy_raise_can_reduce_paths_that_are_the_same():
    values = np.repeat(make_trajectories(16).values[:1], 12, axis=0)
    paths = Trajectories(tuple(map(str, range(12))), values, np.full(12, 16))
    config = ReduceConfig(method="umap", n_components=2, backend="quick")
    with np.errstate(all="raise"):
        reduced, _ = reduce_trajectories(paths, config)
    assert np.isfinite(reduced.values).all()


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


@pytest.mark.parametrize(("method", "scale", "most"), [("pca", 1e200, 150), ("umap", 1e30, 15)])
def test_numbers_whose_squares_leave_the_range_are_refused(method, scale, most):
    paths = make_trajectories(5, 5)
    large = Trajectories(paths.video_ids, paths.values.astype(np.float64) * -scale, paths.n_clips)
    with pytest.raises(RaypipeError, match=rf"hold .*e\+\d+; {method} squares numbers, .* 1e\+{most} leaves"):
        reduce(large, method)
    np.testing.assert_array_equal(reduce(large, "none").values, large.values)


def test_a_reducer_must_be_fitted_first():
    for method in ("pca", "umap"):
        with pytest.raises(RuntimeError, match="not fitted"):
            make_reducer(ReduceConfig(method=method, backend="cpu")).transform(np.zeros((3, 2)))


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
