"""The notebooks that the presets for pooled videos stand for, in their own lines with the real packages."""

import csv
import io
import json
import warnings
from collections import defaultdict

import numpy as np
import pytest
from embedded import make_embedded
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.metrics.pairwise import euclidean_distances

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.report import write_report_files
from raypipe.runs.results import read_barycenters
from raypipe.schema import Frames
from raypipe.sources.videos import Video


def make_clips(n: int, n_groups: int, seed: int = 0, dim: int = 32, n_between: int = 0) -> list[np.ndarray]:
    """Frames of videos in groups, float32, of unequal numbers; the last ``n_between`` videos lie between two groups."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(n_groups, dim)) * 2
    videos = []
    for i in range(n):
        middle = middles[i % n_groups] + rng.normal(scale=0.4, size=dim)
        if i >= n - n_between:
            middle += rng.uniform(0.2, 0.8) * (middles[rng.integers(n_groups)] - middle)
        videos.append((middle + rng.normal(scale=0.6, size=(rng.integers(2, 9), dim))).astype(np.float32))
    return videos


def make_videos(n: int) -> list[Video]:
    return [
        Video(f"v{i}", f"file:///clips/{i:03d}.mp4", group=f"channel {i % 3}", caption=f"a person does thing {i}")
        for i in range(n)
    ]


def gray_frames(uri, times_s, image_size):
    pixels = np.full((len(times_s), image_size, image_size, 3), 128, np.uint8)
    return Frames(pixels, np.asarray(times_s), np.arange(len(times_s)), "fake")


def cluster(folder, clips, videos, preset, flags):
    """Run the steps of ``raypipe cluster`` with a preset, and write the report; return the run and its clusters."""
    sheet = {"sheet_videos": 2, "sheet_frames": 2}
    config = make_config(preset=preset, flags={**flags, "report": sheet})
    run = make_embedded(folder, clips, videos)
    pipeline.cluster(run, config, Progress())
    write_report_files(run, gray_frames, config.report)
    return run, run.read_table("clusters.parquet")


def test_video_kmeans_is_its_notebook(tmp_path):
    clips, videos = make_clips(90, 22), make_videos(90)

    embeddings = np.stack([np.mean(frames, axis=0) for frames in clips])
    kmeans = KMeans(n_clusters=20, random_state=28, n_init=10)
    clusters = kmeans.fit_predict(embeddings)
    silhouette = silhouette_score(embeddings, clusters)
    davies_bouldin = davies_bouldin_score(embeddings, clusters)
    tsne = TSNE(n_components=2, random_state=28)
    on_map = tsne.fit_transform(np.vstack([embeddings, kmeans.cluster_centers_]))

    run, table = cluster(tmp_path / "run", clips, videos, "video-kmeans", {})
    np.testing.assert_array_equal(table["cluster"].to_numpy(), clusters)
    metrics = run.read_json("metrics.json")
    assert metrics["silhouette"] == pytest.approx(silhouette, rel=1e-5)
    assert metrics["davies_bouldin"] == pytest.approx(davies_bouldin, rel=1e-5)
    np.testing.assert_array_equal(np.stack([table["x"], table["y"]], axis=1), on_map[:90])
    centers = read_barycenters(run)
    np.testing.assert_array_equal(np.concatenate([centers[k] for k in range(20)]), on_map[90:])
    rows = list(csv.DictReader(io.StringIO(run.read_bytes("video_cluster_mapping.csv").decode())))
    assert [(row["video"], int(row["cluster"])) for row in rows] == [
        (f"{i:03d}.mp4", cluster) for i, cluster in enumerate(clusters)
    ]
    np.testing.assert_allclose(np.load(io.BytesIO(run.read_bytes("model/centers.npy")))[:, 0], kmeans.cluster_centers_)
    html = run.read_bytes("report.html").decode()
    assert all(f"a person does thing {i}</title>" in html for i in range(90))
    assert run.exists("plots/sizes.png") and run.exists("plots/cluster_19.png")
    assert not run.exists("plots/trajectories.png"), "a vector has no path"


@pytest.fixture(scope="module")
def reduced():
    """The clusterer's first steps: videos' clips, and these averaged, normalised and reduced by UMAP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap
    clips = make_clips(90, 4, seed=1, n_between=40)
    embeddings = []
    for frames in clips:
        average = np.mean(frames, axis=0)
        embeddings.append(average / np.linalg.norm(average))
    reducer = umap.UMAP(n_neighbors=8, n_components=5, min_dist=0.0, metric="cosine", random_state=42)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a seed means one thread
        return clips, reducer.fit_transform(np.array(embeddings))


@pytest.mark.parametrize("assign_all", [False, True])
def test_video_density_is_its_clusterer(tmp_path, reduced, assign_all):
    (clips, points), videos = reduced, make_videos(90)
    # Its hdbscan does not count the video itself, which scikit-learn does: there min_samples is 1.
    labels = HDBSCAN(min_cluster_size=6, min_samples=2, copy=True).fit_predict(points)
    n_noise = int(np.sum(labels == -1))
    if assign_all:
        held = np.where(labels != -1)[0]
        for i in np.where(labels == -1)[0]:
            labels[i] = labels[held[np.argmin(euclidean_distances(points[i][None], points[held]))]]
    report = {"summary": {"total_videos": 90, "num_clusters": len(set(labels) - {-1})}, "clusters": {}}
    report["summary"]["num_noise"] = int(np.sum(labels == -1))
    for number in sorted(set(labels.tolist())):
        mine = [videos[i] for i in np.where(labels == number)[0]]
        counts: dict[str, int] = defaultdict(int)
        for video in mine:
            counts[video.group] += 1
        report["clusters"]["noise" if number == -1 else f"cluster_{number}"] = {
            "id": number,
            "size": len(mine),
            "channel_distribution": dict(counts),
            "sample_videos": [video.uri.rpartition("/")[2] for video in mine[:10]],
        }

    flags = {"reduce": {"n_neighbors": 8}, "cluster": {"min_cluster_size": 6, "assign_all": assign_all}}
    run, table = cluster(tmp_path / "run", clips, videos, "video-density", flags)
    np.testing.assert_array_equal(table["cluster"].to_numpy(), labels)
    assert max(labels) == 3
    summary = run.read_json("summary.json")
    assert summary["channels"] == report
    assert summary["n_noise"] == report["summary"]["num_noise"]
    metrics = run.read_json("metrics.json")
    assert metrics["n_noise"] == report["summary"]["num_noise"]
    if not n_noise:
        pytest.skip("on the map of this version of umap-learn no video is noise")
    assert metrics["n_assigned"] == (n_noise if assign_all else 0)
    assert run.exists("plots/cluster_noise.png") != assign_all
    stages = run.info()["implementations"]
    assert stages["reduce"].startswith("umap-learn") and stages["cluster"].startswith("scikit-learn")
    json.dumps(summary, allow_nan=False)


def test_the_clusterers_own_package_finds_the_same_groups(reduced):
    hdbscan = pytest.importorskip("hdbscan")
    points = reduced[1]
    clusterer = hdbscan.HDBSCAN(min_cluster_size=6, min_samples=1, prediction_data=True)
    theirs = clusterer.fit_predict(points)
    ours = HDBSCAN(min_cluster_size=6, min_samples=2, copy=True).fit_predict(points)
    assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == len(set(ours)) == len(set(theirs)) == 5
    np.testing.assert_array_equal(ours == -1, theirs == -1)
    # It asks `approximate_predict` for the noise's clusters first, which leaves all of it noise.
    assert set(hdbscan.approximate_predict(clusterer, points[theirs == -1])[0]) == {-1}
