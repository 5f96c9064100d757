"""The whole of clustering on Ray: trajectories are built, reduced and grouped where they lie."""

from functools import partial

import numpy as np
import pytest
from waves import embed_waves

from raypipe import find_outliers, pipeline
from raypipe.config import make_config
from raypipe.errors import UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.runs.results import read_trajectories
from raypipe.trajectories import build_trajectories

N = 60
CONFIG = make_config(sets=("cluster.n_clusters=3", "cluster.precision=float64", "reduce.n_components=3"))


@pytest.fixture
def run(tmp_path):
    """Return a run of trajectories of three shapes."""
    return embed_waves(tmp_path, N, CONFIG)


def outlier_ids(run: Run) -> list[str]:
    return [video.video_id for video in find_outliers(run) if video.reason]


def test_shards_find_what_one_process_finds(ray_local, run, monkeypatch):
    from raypipe.engine import transform as sharded

    pipeline.cluster(run, CONFIG, Progress())
    expected = {name: run.read_table(name) for name in ("clusters.parquet", "trajectories")}
    metrics, odd = run.read_json("metrics.json"), outlier_ids(run)
    files = run.files("model")

    original = sharded.build_files
    monkeypatch.setattr(sharded, "build_files", partial(original, per_file=13))
    config = CONFIG.model_copy(update={"ray": CONFIG.ray.model_copy(update={"shards": 2})})
    pipeline.cluster(run, config, Progress())
    assert len(run.files("trajectories")) == 5
    found = {name: run.read_table(name) for name in expected}
    for column in ("video_id", "cluster"):
        assert found["clusters.parquet"][column].to_pylist() == expected["clusters.parquet"][column].to_pylist()
    for column in ("distance", "outlier_score", "x", "y"):
        one, other = found["clusters.parquet"][column], expected["clusters.parquet"][column]
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    assert outlier_ids(run) == odd
    assert found["trajectories"]["trajectory"].to_pylist() == expected["trajectories"]["trajectory"].to_pylist()
    assert run.files("model") == files
    told = run.read_json("metrics.json")
    assert told["inertia"] == pytest.approx(metrics["inertia"], rel=1e-9)
    assert told["sizes"] == metrics["sizes"] == [20, 20, 20]
    assert read_trajectories(run, "reduced").values.shape == (N, 16, 3)
    pipeline.report(run, config, Progress())
    assert run.exists("report.html")


@pytest.mark.parametrize("setting", ["cluster.method=kmeans", "cluster.method=density", "reduce.picture=tsne"])
def test_what_shards_cannot_do_is_said_and_nothing_is_lost(ray_local, run, setting):
    run.write_bytes("clusters.parquet", b"of before")
    config = make_config(base=CONFIG.model_dump(), sets=("ray.shards=2", setting))
    with pytest.raises(UsageError, match=f"{setting} works in one process only"):
        pipeline.cluster(run, config, Progress())
    assert run.read_bytes("clusters.parquet") == b"of before"


def test_a_refused_clustering_is_not_the_runs_config(ray_local, run):
    before = run.info()["config"]
    config = make_config(base=CONFIG.model_dump(), sets=("ray.shards=2", "cluster.gamma=1e-300"))
    with pytest.raises(UsageError, match="leave the range"):
        pipeline.cluster(run, config, Progress())
    assert run.info()["config"] == before


def test_shards_build_pooled_videos_too(ray_local, run):
    from raypipe.engine.transform import build_files

    config = make_config(sets=("trajectory.pool=max", "trajectory.normalize=true")).trajectory
    assert build_files(run, config, per_file=25) == N
    found = read_trajectories(run, "trajectory")
    np.testing.assert_array_equal(found.values, build_trajectories(run, **config.model_dump()).values)
    assert found.values.shape == (N, 1, 8)
