"""New videos, decoded and embedded as a run's were."""

import numpy as np
import pytest
from commands import call_raypipe

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run


@pytest.fixture
def known(ray_local, make_video, tmp_path):
    """Return a clustered run of six small videos below ``videos/``."""
    for i in range(6):
        make_video(f"videos/{i}.mp4", n_frames=30, seed=i % 2 * 10)
    run = Run(str(tmp_path / "run"))
    sets = ("encode.encoder=descriptor", "trajectory.n_steps=3", "cluster.n_clusters=2", "reduce.n_components=2")
    config = make_config(sets=sets)
    pipeline.embed(tmp_path / "videos", run, config, Progress())
    pipeline.cluster(run, config, Progress())
    return run


def test_the_same_videos_get_the_same_clusters_and_one_more_gets_its_kinds(known, make_video, tmp_path):
    make_video("videos/more/new.mp4", n_frames=40, seed=10)
    (tmp_path / "videos/broken.mp4").write_text("no video")
    result = call_raypipe("predict", known.url, tmp_path / "videos", "-o", tmp_path / "new", "--max-failed", "0.5")
    assert result.exit_code == 0, result.stderr
    assert "8 found = 7 ok + 1 failed + 0 skipped" in result.stderr
    new = Run(str(tmp_path / "new"))
    clusters = {run.url: run.read_table("clusters.parquet") for run in (known, new)}
    ids, labels = (clusters[new.url][name].to_pylist() for name in ("video_id", "cluster"))
    of = dict(zip(ids, labels, strict=True))
    own = clusters[known.url]
    assert [of[video_id] for video_id in own["video_id"].to_pylist()] == own["cluster"].to_pylist()
    (added,) = set(ids) - set(own["video_id"].to_pylist())
    assert of[added] == own["cluster"].to_pylist()[1]
    np.testing.assert_allclose(clusters[new.url]["distance"].to_numpy()[:6], own["distance"].to_numpy(), atol=1e-4)
    assert new.exists("report.html")


def test_another_encoder_is_refused_before_anything_is_embedded(known, tmp_path):
    known.record(encoder={"fingerprint": "descriptor/another/l2"})
    result = call_raypipe("predict", known.url, tmp_path / "videos", "-o", tmp_path / "new")
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raypipe:")]
    assert "was embedded by the encoder descriptor (descriptor/another/l2), and these videos would be by" in line
    assert not (tmp_path / "new/embeddings").exists()
