"""The map that is learned: how good it is, that it repeats itself, and what it makes of odd points."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from test_reduction import make_trajectories

from raypipe.config import ReduceConfig
from raypipe.reduction import find_consecutive, make_reducer, reduce_trajectories, restore_reducer
from raypipe.reduction.stretch import Stretch, measure_fill

SOME_STEPS = 60
"""A budget that is enough for what holds of any map."""


@pytest.fixture
def learn_for(monkeypatch):
    from raypipe.reduction import geometric_means

    return lambda n_steps: monkeypatch.setattr(geometric_means, "_BUDGET", n_steps)


@pytest.fixture
def briefly(learn_for):
    learn_for(SOME_STEPS)


def sphere(n: int = 500, seed: int = 0) -> np.ndarray:
    """Return points on a sphere in ten dimensions, with some noise."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0][:3]
    return (points @ turn + rng.normal(0, 0.01, (n, 10))).astype(np.float32)


def config(**values) -> ReduceConfig:
    return ReduceConfig(method="autoencoder", n_components=2, **values)


def test_it_keeps_neighbours_better_than_pca_and_places_others_as_well(learn_for):
    learn_for(400)
    points, others = sphere(), sphere(seed=5)
    reducer = make_reducer(config(stretch=False)).fit(points)
    linear = PCA(2).fit(points)
    for each in (points, others):
        learned = trustworthiness(each, reducer.transform(each), n_neighbors=15)
        assert learned > trustworthiness(each, linear.transform(each), n_neighbors=15) + 0.01


def test_its_arrays_alone_give_the_same_places(briefly):
    points = sphere()
    reducer = make_reducer(config())
    placed = reducer.fit_transform(points)
    arrays = reducer.arrays()
    assert placed.dtype == np.float32 and not any(array.dtype.hasobject for array in arrays.values())
    restored = restore_reducer(arrays)
    np.testing.assert_array_equal(restored.transform(points), placed)
    np.testing.assert_allclose(restored.transform(points[7:8]), placed[7:8], atol=1e-5)  # It depends on no other.
    assert restored.transform(points[:0]).shape == (0, 2)
    assert reducer.implementation.startswith("autoencoder, torch ") and reducer.reason is None


def test_the_numpy_encoder_is_the_trained_one(briefly):
    import torch

    from raypipe.reduction.autoencoder import LearnedMap
    from raypipe.reduction.geometric_means import Autoencoder

    network = Autoencoder(6, 3, torch.Generator().manual_seed(0))
    x = 3 * torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        network.encode(x)  # The batch norms learn.
    arrays = {"mean": np.zeros(6, np.float32), "axes": np.eye(6, dtype=np.float32), **network.layer_arrays()}
    with torch.inference_mode():
        np.testing.assert_allclose(LearnedMap(arrays).transform(x.numpy()), network.eval().encode(x), atol=1e-5)


def test_a_layer_is_a_weighted_geometric_mean():
    import torch

    from raypipe.reduction.geometric_means import GeometricMean

    layer = GeometricMean(3, 2, torch.Generator().manual_seed(0)).eval()
    z = torch.tensor([[0.5, -2.0, 3.0], [-30.0, 0.0, 1e4]])
    means = np.prod(
        (1 + torch.nn.functional.elu(z.double()).numpy()[:1, None]) ** layer.weights.detach().numpy(), axis=2
    )
    scale = 1 / np.sqrt(1 + layer.norm.eps)
    np.testing.assert_allclose(layer(z).detach().numpy()[:1], means * scale, rtol=1e-5)
    np.testing.assert_allclose(layer.weights.abs().sum(1).detach(), 1, rtol=1e-6)
    assert torch.isfinite(layer(z)).all()


def test_another_default_type_of_torch_changes_no_bit(briefly):
    import torch

    points = sphere(200)
    expected = make_reducer(config()).fit_transform(points)
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(make_reducer(config()).fit_transform(points), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_seed_is_another_map(briefly):
    points = sphere(100)
    one, other = (make_reducer(config(seed=seed)).fit_transform(points) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("lengths", [[1], [1, 1], [3], [10], [16, 3]])
@pytest.mark.parametrize("dim", [1, 2, 12])
def test_few_points_or_dimensions(briefly, lengths, dim):
    paths = make_trajectories(*lengths, dim=dim)
    reduced, reducer = reduce_trajectories(paths, config())
    steps = np.concatenate(list(reduced.values))
    assert steps.shape == (sum(lengths), 2) and np.isfinite(steps).all()
    replaced = sum(lengths) < 10 or dim == 1
    assert (reducer.reason or "").startswith("PCA instead of the autoencoder: ") == replaced
    again = restore_reducer(reducer.arrays()).transform(np.concatenate(list(paths.values)))
    np.testing.assert_allclose(again, steps, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_and_duplicates_do_no_harm(briefly, scale, dtype):
    points = np.repeat(sphere(40), 5, axis=0).astype(dtype) * scale
    placed = make_reducer(config()).fit_transform(points)
    assert np.isfinite(placed).all() and measure_fill(placed) > 0.05
    np.testing.assert_allclose(placed[0::5], placed[4::5], atol=1e-5)


def test_codes_that_differ_by_rounding_share_a_place():
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.uniform(-1, 1, (30, 2)), 7, axis=0)
    noisy = codes + rng.uniform(-5e-7, 5e-7, codes.shape)
    placed = Stretch.fit(noisy).transform(noisy).reshape(30, 7, 2)
    assert np.ptp(placed, axis=1).max() < 1e-5
    assert np.ptp(placed, axis=(0, 1)).min() > 1.9


def test_ends_that_several_points_share_are_ends_too():
    codes = np.array([-1, -1, -0.9, 0, 0.5, 1, 1, 1])[:, None]
    placed = Stretch.fit(codes).transform(codes)[:, 0]
    np.testing.assert_allclose(placed[[0, 1, -3, -1]], [-1, -1, 1, 1], atol=1e-6)
    assert (np.diff(placed[1:6]) > 0).all()


def test_points_that_are_all_the_same_go_to_one_place():
    reducer = make_reducer(config())
    np.testing.assert_allclose(reducer.fit_transform(np.ones((30, 4), np.float32)), 0, atol=1e-6)
    assert reducer.reason == "PCA instead of the autoencoder: all points are the same"


@pytest.mark.parametrize("n_components", [1, 3])
def test_any_number_of_components(learn_for, n_components):
    learn_for(200)
    placed = make_reducer(config().model_copy(update={"n_components": n_components})).fit_transform(sphere(200))
    assert placed.shape == (200, n_components)
    np.testing.assert_allclose([placed.min(), placed.max()], [-1, 1], atol=1e-6)


def test_the_stretch_turns_a_slanted_cloud_and_fills_the_plane():
    rng = np.random.default_rng(0)
    slanted = (rng.uniform(size=(4000, 2)) ** 3 @ [[1.0, 0.9], [-0.2, 0.25]]).astype(np.float32)
    stretch = Stretch.fit(slanted)
    placed = stretch.transform(slanted)
    assert measure_fill(slanted) < 0.5 and measure_fill(placed) > 0.9
    beyond = stretch.transform(slanted[np.argsort(slanted[:, 0])[-2:]] * 3)
    assert np.abs(beyond).max() > 1.1 and not np.array_equal(*beyond), "new points beyond the others stay distinct"
    same = Stretch.of(stretch.arrays()).transform(slanted)
    np.testing.assert_array_equal(same, placed)


def test_consecutive_steps_are_those_of_one_video_that_were_both_chosen():
    chosen = np.array([0, 1, 2, 3, 5, 6, 8])
    np.testing.assert_array_equal(find_consecutive([3, 6], chosen), [1, 1, 0, 0, 1, 0])


def test_smoothness_shortens_steps(learn_for):
    learn_for(200)
    paths = make_trajectories(*[12] * 20)
    paths.values[:] += np.random.default_rng(0).normal(0, 0.7, paths.values.shape)  # Steps jump within a video.
    rough, smooth = (
        reduce_trajectories(paths, config(smoothness=weight, stretch=False))[0].values for weight in (0, 10)
    )
    lengths = [np.linalg.norm(np.diff(each, axis=1), axis=2).mean() / each.std() for each in (rough, smooth)]
    assert lengths[1] < 0.95 * lengths[0]
