"""LeRobot datasets through the pipeline: probed once a file, clustered by camera, an episode's cameras joined."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from lerobot_sets import CAMERA, write_joined, write_v3

import raypipe as rp
from raypipe import pipeline
from raypipe.analysis.outliers import score_outliers
from raypipe.config import make_config
from raypipe.errors import UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.runs.plan import Plan
from raypipe.sources import read_versions
from raypipe.trajectories.steps import LocalSteps


def test_a_file_is_probed_once_however_many_episodes_it_holds(tmp_path, monkeypatch):
    from raypipe.engine import probing

    cameras = [CAMERA, "wrist"]
    for camera in cameras:
        spans = write_joined(tmp_path / f"set/videos/{camera}/chunk-000/file-000.mp4", [2, 3, 1, 4], 10)
    spans = [*spans, (1, 0.0, 1.0)]  # The last episode's file is not there.
    videos = rp.find_videos(write_v3(tmp_path / "set", [2, 3, 1, 4, 9], cameras, 10, dict.fromkeys(cameras, spans)))
    probed: list[str] = []
    real = probing.probe_uris

    def probe_uris(uris, *more):
        probed.extend(uris.to_pylist())
        yield from real(uris, *more)

    monkeypatch.setattr(probing, "probe_uris", probe_uris)
    pools = SimpleNamespace(decoders=1)
    pools.for_tasks = lambda n: pools
    plan = Plan(Run(str(tmp_path / "run")), videos, portion_size=3)
    counted: list[float] = []
    config = make_config()
    probing.probe_videos(plan, read_versions(videos), "", config, pools, counted.append)
    plan = Plan(plan.run, videos, portion_size=3)
    plan.settle()
    assert Counter(probed) == Counter(set(probed)) == Counter(videos.table["uri"].unique().to_pylist())
    assert sum(counted) == len(videos) == 10
    rows = plan.run.read_table("plan.parquet").to_pylist()
    assert [row["video_id"] for row in rows] == [video.video_id for video in videos]
    assert [row["error"] is None for row in rows] == [True] * 8 + [False] * 2
    np.testing.assert_allclose([row["span_s"] for row in rows[:8]], [0.2, 0.2, 0.3, 0.3, 0.1, 0.1, 0.4, 0.4])


@pytest.fixture(scope="module")
def cloth(data_dir, chain_here, tmp_path_factory) -> Run:
    """The two wrist cameras of six episodes, clustered: the first episode of one comes from a dead camera."""
    run = Run(str(tmp_path_factory.mktemp("cloth") / "run"))
    config = make_config(
        flags={"encode": {"encoder": "descriptor"}, "cluster": {"n_clusters": 2}},
        sets=("reduce.picture=tsne",),  # which compiles nothing
    )
    pipeline.run_all(str(data_dir / "lerobot_v21/so101_cloth"), run, config, Progress())
    return run


def test_camera_streams_are_clustered_by_camera_and_the_dead_one_is_the_farthest(cloth):
    assert cloth.info()["counts"] == {"found": 12, "ok": 12, "failed": 0, "skipped": 0, "ignored": 0}
    page = cloth.read_bytes("report.html").decode()
    assert "observation.images.cam0" in page
    assert [fault["kind"] for fault in cloth.read_json("dataset_faults.json")["faults"]] == ["no statistics"]
    assert "meta/episodes_stats.jsonl cannot be read" in page and cloth.read_json("duplicates.json")["groups"] == []
    clusters = cloth.read_table("clusters.parquet").to_pylist()
    config = make_config(base=cloth.info()["config"])
    for seed in range(5):
        reduce, cluster = (each.model_copy(update={"seed": seed}) for each in (config.reduce, config.cluster))
        steps = LocalSteps(cloth, config.model_copy(update={"reduce": reduce, "cluster": cluster}))
        steps.build()
        steps.reduce()
        found = steps.fit()
        scores = score_outliers(steps.reduced.values, found.labels, found.centers, found.gamma, found.distances)
        farthest = clusters[int(np.argmax(scores.values))]
        assert farthest["uri"].endswith("observation.images.cam0/episode_000000.mp4")
        own = {(row["group"], int(label)) for row, label in zip(clusters, found.labels, strict=True) if row != farthest}
        assert len(own) == 2, "each camera has a cluster of its own"


def test_an_episode_whose_cameras_are_joined_is_a_row(cloth, data_dir, tmp_path):
    config = make_config(base=cloth.info()["config"], sets=["trajectory.join=camera"])
    said: list[str] = []
    progress = SimpleNamespace(say=said.append)
    pipeline.cluster(cloth, config, progress)
    pipeline.report(cloth, config, progress)
    rows = cloth.read_table("clusters.parquet").to_pylist()
    assert [row["uri"].rpartition("/")[2] for row in rows] == [f"episode_{n:06d}.mp4" for n in range(6)]
    assert {row["group"] for row in rows} == {"observation.images.cam0"}
    assert "12 trajectories of 2 cameras are joined to 6, one an episode" in said
    assert cloth.info()["counts"]["ok"] == 12
    with pytest.raises(UsageError, match=r"the name of its video by observation\.images\.cam0: give that one"):
        rp.search(cloth, "3/observation.images.cam1")
    html = cloth.read_bytes("report.html").decode()
    assert "/chunk-000</code>, grouped by" in html, "the folder is all cameras', and not that of the rows'"
    sharded = make_config(base=config.model_dump(), sets=["ray.shards=2", "reduce.picture=umap"])
    with pytest.raises(UsageError, match=r"trajectory\.join works in one process only"):
        pipeline.cluster(cloth, sharded, progress)
    for setting, fact in (("sample.fps=5.0", "2.0"), ("encode.encoder=clip", "descriptor")):
        key, value = setting.split("=")
        with pytest.raises(UsageError, match=f"was embedded with {key}={fact}, not {value}: raypipe embed --re-embed"):
            pipeline.cluster(cloth, make_config(base=config.model_dump(), sets=[setting]), progress)
    one = make_config(base={**config.model_dump(), "source": {"camera": "observation.images.cam0"}})
    with pytest.raises(UsageError, match=r"joins the cameras observation\.images\.cam0, .*, and these videos are of "):
        rp.predict(cloth, data_dir / "lerobot_v21/so101_cloth", tmp_path / "new", config=one)
