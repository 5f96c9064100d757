"""New videos, decoded and embedded as a run's were."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import call_raypipe
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run


@pytest.fixture(scope="module")
def known(chain_here, tmp_path_factory):
    """Return a clustered run of four small videos below ``videos/`` beside it."""
    folder = tmp_path_factory.mktemp("known")
    for i in range(4):
        write_video(folder / f"videos/{i}.mp4", n_frames=30, seed=i % 2 * 10)
    run = Run(str(folder / "run"))
    sets = ("encode.encoder=descriptor", "trajectory.n_steps=3", "cluster.n_clusters=2", "reduce.n_components=2")
    config = make_config(sets=sets)
    pipeline.embed(folder / "videos", run, config, Progress())
    pipeline.cluster(run, config, Progress())
    return run


def test_the_same_videos_get_the_same_clusters_and_one_more_gets_its_kinds(known, tmp_path):
    videos = Path(known.path("../videos"))
    write_video(videos / "more/new.mp4", n_frames=40, seed=10)
    (videos / "broken.mp4").write_text("no video")
    result = call_raypipe("predict", known.url, videos, "-o", tmp_path / "new", "--max-failed", "0.5")
    assert result.exit_code == 0, result.stderr
    assert "6 found = 5 ok + 1 failed + 0 skipped" in result.stderr
    new = Run(str(tmp_path / "new"))
    own, more = (run.read_table("clusters.parquet").to_pylist() for run in (known, new))
    of = {row["video_id"]: row for row in more}
    for row in own:
        assert of[row["video_id"]]["cluster"] == row["cluster"]
        np.testing.assert_allclose(of[row["video_id"]]["distance"], row["distance"], atol=1e-4)
    (added,) = of.keys() - {row["video_id"] for row in own}
    assert of[added]["cluster"] == own[1]["cluster"]
    assert new.exists("report.html")


def test_another_encoder_is_refused_before_anything_is_embedded(known, tmp_path):
    other = Run(str(tmp_path / "other"))
    shutil.copytree(known.path(), other.path())
    other.record(encoder={"fingerprint": "descriptor/another/l2"})
    result = call_raypipe("predict", other.url, known.path("../videos"), "-o", tmp_path / "new")
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raypipe:")]
    assert "was embedded by the encoder descriptor (descriptor/another/l2), and these videos would be by" in line
    assert not (tmp_path / "new/embeddings").exists()
