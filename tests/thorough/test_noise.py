"""Noise, which density clustering leaves, on its way through the steps, the tables, the pictures and the page."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from embedded import make_embedded
from PIL import Image
from test_report import HOSTILE, Page, frames_of, make_run, size_of, write

from raypipe import pipeline
from raypipe.clustering import density
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.report import write_report_files
from raypipe.report.facts import read_facts
from raypipe.report.figures.plots import draw_points
from raypipe.report.page import hover
from raypipe.report.style import COLORS, NOISE_COLOR, color_of, marker_of
from raypipe.runs.results import read_barycenters
from raypipe.sources.videos import Video


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def replace_columns(run, name: str, **columns) -> None:
    table = run.read_table(name)
    for column, values in columns.items():
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    run.write_table(name, table)


def make_noise(run, rows: list[int]) -> None:
    """Make some videos of a run noise, as the steps write it."""
    table = run.read_table("clusters.parquet")
    n = table.num_rows
    odd = np.isin(np.arange(n), rows)
    clusters = np.where(odd, -1, table["cluster"].to_numpy())
    distances = np.where(odd, np.nan, table["distance"].to_numpy())
    scores = np.where(odd, np.nan, table["outlier_score"].to_numpy())
    flags = table["outlier"].to_numpy() & ~odd
    replace_columns(run, "clusters.parquet", cluster=clusters, distance=distances, outlier_score=scores, outlier=flags)
    sizes = np.bincount(clusters[~odd]).tolist()
    run.write_json("metrics.json", {**run.read_json("metrics.json"), "sizes": sizes, "n_noise": len(rows)})


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "run", [f"{i:02d}.mp4" for i in range(24)], groups=["north", "south"] * 12, k=3)
    replace_columns(run, "videos.parquet", caption=[f"caption {i}" if i % 5 else None for i in range(24)])
    make_noise(run, [1, 5, 6, 11, 22])
    return run


def test_noise_is_a_group_of_its_own_and_last(run):
    page = Page(write(run))
    assert "24 videos in 3 clusters and noise" in page.text
    assert "5 of 24 videos are noise" in page.text
    anchors = [value for key, value in page.attributes if key == "id" and value.startswith("cluster-")]
    assert anchors == ["cluster-0", "cluster-1", "cluster-2", "cluster-noise"]
    jumps = [value for key, value in page.attributes if key == "href" and value.startswith("#cluster-")]
    assert jumps == [f"#{anchor}" for anchor in anchors]
    assert run.exists("plots/cluster_noise.png") and not run.exists("plots/cluster_-1.png")
    summary = run.read_json("summary.json")
    assert summary["n_clusters"] == 3 and [c["cluster"] for c in summary["clusters"]] == [0, 1, 2]
    assert summary["n_noise"] == summary["noise"]["size"] == 5
    assert summary["noise"]["groups"] == {"south": 3, "north": 2}
    assert list(summary["channels"]["clusters"]) == ["cluster_0", "cluster_1", "cluster_2", "noise"]
    assert summary["channels"]["clusters"]["noise"]["channel_distribution"] == {"south": 3, "north": 2}
    json.dumps(summary, allow_nan=False)
    rows = list(csv.DictReader(io.StringIO(run.read_bytes("video_cluster_mapping.csv").decode())))
    noise = [row for row in rows if row["cluster"] == "-1"]
    assert [row["video"] for row in noise] == ["01.mp4", "05.mp4", "06.mp4", "11.mp4", "22.mp4"]
    assert {(row["distance"], row["outlier_score"], row["outlier"]) for row in noise} == {("", "", "false")}


def test_noise_is_gray_and_no_cluster_is():
    assert color_of(-1) == NOISE_COLOR not in COLORS
    assert marker_of(-1) == "o"
    channels = [int(NOISE_COLOR[i : i + 2], 16) for i in (1, 3, 5)]
    assert max(channels) - min(channels) < 20


def test_the_map_knows_where_each_video_is(run):
    """The picture's pixel at a video's spot has the colour of its cluster."""
    replace_columns(run, "clusters.parquet", x=np.arange(24.0) % 6, y=np.arange(24.0) // 6 * 1.3)
    facts = read_facts(run)
    drawn = draw_points(facts)
    with Image.open(io.BytesIO(drawn.png)) as image:
        assert image.size == drawn.size
        pixels = np.asarray(image.convert("RGB")).astype(int)
    seen = 0
    for member in facts.members:
        x, y = drawn.spots[member.video_id]
        color = np.array([int(color_of(member.cluster)[i : i + 2], 16) for i in (1, 3, 5)])
        shown = pixels[round(y), round(x)]
        seen += np.abs(shown - (0.85 * color + 0.15 * 255)).max() < 12
    assert seen >= 20, "a number may stand on a few of them"


@pytest.mark.parametrize("scale", [1e-12, 1e-17])
def test_a_map_may_be_as_small_as_rounding(tmp_path, scale):
    """As that of a video alone is; matplotlib draws no number that stands a million widths off the map."""
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    replace_columns(run, "clusters.parquet", x=[0.0, 0.0], y=[scale, 3 * scale])
    assert len(draw_points(read_facts(run)).spots) == 2


def test_names_and_captions_show_under_the_pointer(run, monkeypatch):
    replace_columns(run, "videos.parquet", caption=[HOSTILE, *["x" * 999] * 23])
    html = write(run)
    page = Page(html)
    assert page.tags.count("circle") == 24 and page.tags.count("script") == 2  # the page's own data and script
    assert "00.mp4 · cluster 0" in page.text and HOSTILE in page.text
    assert "01.mp4 · noise" in page.text and "x" * 200 not in page.text
    monkeypatch.setattr(hover, "MAX_TOLD", 7)
    page = Page(write(run))
    assert page.tags.count("circle") == 7 and "7 of 24 says its name" in page.text


def test_random_videos_of_a_cluster_are_a_grid_with_captions(run):
    write(run, sheet_choice="random", sheet_videos=5)
    first = run.read_bytes("plots/cluster_0.png")
    assert size_of(run, "plots/cluster_0.png")[0] == 3 * 200 - 8 + 40
    cluster = read_facts(run).clusters[0]
    assert [m.video_id for m in cluster.sample(5, 0)] != [m.video_id for m in cluster.sample(5, 1)]
    assert len({m.video_id for m in cluster.sample(99, 3)}) == len(cluster)
    page = Page(write(run, sheet_choice="random", sheet_videos=5))
    assert run.read_bytes("plots/cluster_0.png") == first
    shown = [m.caption or "" for m in cluster.sample(5, 0)]
    assert all(caption in page.text for caption in shown) and "Farthest" not in page.text
    replace_columns(run, "videos.parquet", caption=["other"] * 24)
    write(run, sheet_choice="random", sheet_videos=5)
    assert run.read_bytes("plots/cluster_0.png") != first


def test_a_page_of_nothing_but_noise(tmp_path):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(6)], k=1)
    make_noise(run, list(range(6)))
    page = Page(write(run))
    assert "6 videos, all of them noise" in page.text
    assert "no cluster was found, all 6 videos are noise" in page.text
    assert "There are no clusters." in page.text and "farther from its center" not in page.text
    assert not run.exists("plots/outliers.png"), "there is no distance to draw"
    summary = run.read_json("summary.json")
    assert (summary["n_clusters"], summary["clusters"], summary["n_noise"]) == (0, [], 6)


def make_paths(seed: int = 0) -> tuple[list[np.ndarray], list[Video]]:
    """Clips of videos that go forth or back over the same ground, and of four that do neither."""
    rng = np.random.default_rng(seed)
    forth = np.outer(np.linspace(-1, 1, 9), rng.normal(size=6))
    paths = [forth if i % 2 else forth[::-1] for i in range(20)] + [rng.normal(0, 4, (9, 6)) for _ in range(4)]
    names = ["forth" if i % 2 else "back" for i in range(20)] + [None] * 4
    videos = [Video(f"v{i}", f"file:///{i}.mp4", label=name) for i, name in enumerate(names)]
    return [path + rng.normal(0, 0.05, path.shape) for path in paths], videos


def run_steps(folder, **flags):
    clips, videos = make_paths()
    config = make_config(flags={**flags, "report": {"sheet_videos": 1, "sheet_frames": 1}})
    run, heard = make_embedded(folder, clips, videos), Heard()
    pipeline.cluster(run, config, heard)
    write_report_files(run, frames_of, config.report)
    return run, heard.lines


def test_density_of_paths_from_the_clips_to_the_page(tmp_path):
    run, lines = run_steps(tmp_path / "run", cluster={"method": "density"})
    clusters = run.read_table("clusters.parquet")["cluster"].to_numpy()
    np.testing.assert_array_equal(clusters[20:], -1)
    assert {*clusters[:20:2]} | {*clusters[1:20:2]} == {0, 1}
    metrics = run.read_json("metrics.json")
    assert (metrics["sizes"], metrics["n_noise"], metrics["ari"], metrics["inertia"]) == ([10, 10], 4, 1.0, None)
    assert metrics["silhouette_softdtw"] > 0.9
    assert "clustering by density" in lines
    assert any(line.startswith("4 of 24 videos are noise") for line in lines)
    assert list(read_barycenters(run)) == [0, 1]
    assert np.load(io.BytesIO(run.read_bytes("model/centers.npy"))).shape == (2, 16, 5)


def test_more_paths_than_can_be_compared_are_clustered_by_their_means_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(density, "MAX_COMPARED", 23)
    run, _ = run_steps(tmp_path / "run", cluster={"method": "density"})
    reason = "on mean vectors: 24 trajectories are more than the 23 that are compared in pairs"
    assert run.info()["fallbacks"]["cluster"] == reason
    assert reason in Page(run.read_bytes("report.html").decode()).text
    assert np.load(io.BytesIO(run.read_bytes("model/centers.npy"))).shape[1:] == (1, 5)


@pytest.mark.parametrize("picture", ["umap", "tsne"])
@pytest.mark.parametrize("pool", ["mean", None])
def test_no_cluster_at_all_is_a_result(tmp_path, picture, pool):
    run, lines = run_steps(
        tmp_path / "run",
        trajectory={"pool": pool},
        reduce={"picture": picture},
        cluster={"method": "density", "min_cluster_size": 13, "assign_all": True},
    )
    assert any(line.startswith("no cluster was found, all 24 videos are noise") for line in lines)
    assert set(run.read_table("clusters.parquet")["cluster"].to_pylist()) == {-1}
    assert np.load(io.BytesIO(run.read_bytes("model/centers.npy"))).shape[0] == 0
    assert read_barycenters(run) == {}
    assert run.read_json("summary.json")["n_clusters"] == 0
    run_again = make_config(base=run.info()["config"], flags={"cluster": {"method": "kmeans", "n_clusters": 2}})
    pipeline.cluster(run, run_again, Progress())
    assert run.read_json("metrics.json")["n_noise"] == 0


def test_centers_are_drawn_on_a_map_by_tsne_of_paths(tmp_path):
    run, _ = run_steps(tmp_path / "run", reduce={"picture": "tsne"}, cluster={"n_clusters": 2, "n_init": 1})
    centers = read_barycenters(run)
    assert [center.shape for center in centers.values()] == [(16, 2)] * 2
    assert run.info()["implementations"]["picture"].startswith("scikit-learn")
    assert run.exists("plots/trajectories.png")
