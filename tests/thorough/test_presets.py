"""The published recipes, written out with their libraries, against the presets that stand for them."""

import json
import warnings

import numpy as np
import pytest
from commands import call_raypipe
from scipy.interpolate import interp1d
from sklearn.decomposition import PCA
from sklearn.metrics import davies_bouldin_score, silhouette_score

from raypipe.analysis.evaluation import evaluate
from raypipe.analysis.outliers import find_threshold
from raypipe.clustering import fit_clusters
from raypipe.config import make_config
from raypipe.reduction import reduce_trajectories
from raypipe.schema import Trajectories
from raypipe.softdtw import soft_dtw
from raypipe.trajectories.interpolation import interpolate


def make_clips(n_videos: int, dim: int, seed: int) -> list[np.ndarray]:
    """Videos of unequal numbers of clips, the last of one clip: float64, three ways of moving, noise."""
    rng = np.random.default_rng(seed)
    ways = rng.normal(size=(3, 2, dim))
    videos = []
    for i in range(n_videos):
        time = np.linspace(0, 1, rng.integers(3, 30) if i < n_videos - 1 else 1)
        there, back = ways[i % 3]
        path = np.outer(time, there) + np.outer(np.sin(3 * time), back) + rng.normal(size=dim) * 0.3
        videos.append(path + rng.normal(scale=0.15, size=path.shape))
    return videos


def recipe_interpolate(clips: np.ndarray, n_steps: int) -> np.ndarray:
    if len(clips) == 1:
        return np.repeat(clips, n_steps, axis=0)
    old, new = np.linspace(0, 1, len(clips)), np.linspace(0, 1, n_steps)
    return np.stack([interp1d(old, clips[:, i], kind="linear")(new) for i in range(clips.shape[1])], axis=1)


def our_trajectories(videos: list[np.ndarray], n_steps: int) -> Trajectories:
    values = [interpolate(clips, np.linspace(0, 1, len(clips)), n_steps) for clips in videos]
    ids = tuple(str(i) for i in range(len(videos)))
    return Trajectories(ids, np.stack(values), np.array([len(clips) for clips in videos]))


@pytest.fixture(scope="module")
def libraries():
    """umap-learn and tslearn, imported as a user would, their complaints of missing extras put aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap
        from tslearn.clustering import TimeSeriesKMeans
    return umap.UMAP, TimeSeriesKMeans


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_embedding_analysis_is_its_recipe(libraries, seed):
    UMAP, TimeSeriesKMeans = libraries
    videos = make_clips(40, 48, seed)

    trajectories = [recipe_interpolate(clips, 6) for clips in videos]
    reducer = UMAP(n_neighbors=15, min_dist=0.1, n_components=2, metric="cosine", random_state=353550416)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a seed means one thread
        reduced = reducer.fit_transform(np.vstack(trajectories)).reshape(len(videos), 6, 2)
    kmeans = TimeSeriesKMeans(n_clusters=3, metric="softdtw", max_iter=50, random_state=353550416)
    labels = kmeans.fit_predict(reduced)
    means = reduced.mean(axis=1)

    config = make_config(preset="embedding-analysis")
    ours, reduction = reduce_trajectories(our_trajectories(videos, config.trajectory.n_steps), config.reduce)
    found = fit_clusters(ours.values, config.cluster)
    figures = evaluate(ours.values, found.labels, gamma=found.gamma, inertia=found.inertia)
    assert reduction.implementation.startswith("umap-learn")
    assert reduction.reason is None
    assert found.implementation.startswith("numba")
    np.testing.assert_array_equal(ours.values, reduced)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.centers, kmeans.cluster_centers_, rtol=1e-6)
    assert figures["inertia"] == pytest.approx(kmeans.transform(reduced).min(axis=1).mean(), rel=1e-6)
    assert figures["silhouette"] == pytest.approx(silhouette_score(means, labels), rel=1e-5)
    assert figures["davies_bouldin"] == pytest.approx(davies_bouldin_score(means, labels), rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_outlier_detection_is_its_recipe(libraries, seed):
    _, TimeSeriesKMeans = libraries
    videos = make_clips(42, 32, seed)

    trajectories = np.stack([recipe_interpolate(clips, 20) for clips in videos])
    flat = PCA(n_components=3, random_state=1234).fit_transform(trajectories.reshape(-1, 32))
    reduced = flat.reshape(len(videos), 20, 3)
    kmeans = TimeSeriesKMeans(n_clusters=6, metric="softdtw", max_iter=50, random_state=1234)
    labels = kmeans.fit_predict(reduced)
    distances = np.array([soft_dtw(x, kmeans.cluster_centers_[c]) for x, c in zip(reduced, labels, strict=True)])
    outliers = distances > np.percentile(distances, 95)

    config = make_config(preset="outlier-detection")
    ours, reduction = reduce_trajectories(our_trajectories(videos, config.trajectory.n_steps), config.reduce)
    found = fit_clusters(ours.values, config.cluster)
    assert config.cluster.outlier_by == "distance"
    flags = found.distances > find_threshold(found.distances, config.cluster.outlier_quantile)
    assert ours.values.dtype == np.float64
    assert reduction.reason is None
    np.testing.assert_allclose(ours.values, reduced, atol=1e-12)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.distances, distances, atol=1e-6)
    np.testing.assert_array_equal(flags, outliers)
    assert flags.sum() == 3


def test_outlier_detection_says_and_draws_what_its_recipe_does(libraries, tmp_path):
    """The threshold, how many lie beyond it, the ten worst, and the histogram with the threshold."""
    _, TimeSeriesKMeans = libraries
    videos = make_clips(42, 32, 0)
    file = tmp_path / "trajectories.json"
    file.write_text(json.dumps([clips.tolist() for clips in videos]))
    result = call_raypipe("run", file, "-o", tmp_path / "run", "--preset", "outlier-detection")
    assert result.exit_code == 0, result.stderr

    trajectories = np.stack([recipe_interpolate(clips, 20) for clips in videos])
    reduced = PCA(n_components=3, random_state=1234).fit_transform(trajectories.reshape(-1, 32)).reshape(42, 20, 3)
    kmeans = TimeSeriesKMeans(n_clusters=6, metric="softdtw", max_iter=50, random_state=1234)
    labels = kmeans.fit_predict(reduced)
    distances = np.array([soft_dtw(x, kmeans.cluster_centers_[c]) for x, c in zip(reduced, labels, strict=True)])
    threshold = np.percentile(distances, 95)
    worst = np.argsort(-distances)[:10]

    lines = result.stderr.splitlines()
    said = f"outliers: 3 of 42 videos have a distance beyond {threshold:.4g}, its 95 % quantile;"
    first = next(number for number, line in enumerate(lines) if line.startswith(said))
    assert lines[first + 1] == "the 10 farthest:"
    for place, (line, row) in enumerate(zip(lines[first + 2 : first + 12], worst, strict=True), 1):
        expected = f"{place:4d}. distance {distances[row]:.4g}  cluster {labels[row]}  trajectories.json#{row}"
        assert line.startswith(expected)
    assert (tmp_path / "run/plots/outliers.png").stat().st_size > 5_000
    page = (tmp_path / "run/report.html").read_text()
    assert "the threshold beyond which they are outliers" in page and page.count("data:image/png") >= 4
    assert json.loads((tmp_path / "run/metrics.json").read_text())["outliers"]["threshold"] == pytest.approx(threshold)
