"""A LeRobot dataset through the pipeline, its signals joined to its videos."""

import numpy as np
from lerobot_sets import CAMERA
from whole_sets import STATE, state_of, write_set

import raypipe as rp
from raypipe import pipeline
from raypipe.progress import Progress
from raypipe.runs.clip_signals import average_clips, read_signals_of

LENGTHS = (6, 5, 7, 6)
OTHER = "observation.images.side"


def test_embedding_keeps_the_signals_of_each_clip(chain_here, tmp_path):
    """Two cameras of an episode have the same signals, and spans of a file those of their own frames."""
    root = write_set(tmp_path / "set", LENGTHS, (CAMERA, OTHER))
    flags = {
        "source": {"features": f"video,{STATE}"},
        "encode": {"encoder": "descriptor"},
        "sample": {"fps": 10, "clip_s": 0.2},
    }
    run = rp.Run(str(tmp_path / "run"))
    config = rp.make_config(flags=flags)
    pipeline.embed(str(root), run, config, Progress())
    videos = run.read_table("videos.parquet").to_pylist()
    assert [video["status"] for video in videos] == ["ok"] * 8
    signals = read_signals_of(run, [video["video_id"] for video in videos])
    saved = run.info()["signals"]
    assert saved["features"] == [STATE] and saved["origin"] == "meta/stats.json"
    for video in videos:
        episode = video["episode_index"]
        path = (np.array(state_of(episode, LENGTHS[episode])) - saved["mean"]) / saved["std"]
        starts = np.arange(0, LENGTHS[episode] - 1, 2) / 10
        found = signals[video["video_id"]]
        np.testing.assert_allclose(found[: len(starts)], average_clips(path, 10, starts, starts + 0.2), atol=1e-5)
    dim = run.info()["encoder"]["dim"]
    assert rp.build_trajectories(run, 4).values.shape == (8, 4, dim + 3)
    assert rp.build_trajectories(run, 4, join="camera").values.shape == (4, 4, 2 * (dim + 3))
    pipeline.embed(str(root), run, rp.make_config(flags={**flags, "source": {}}), Progress())
    assert not run.exists("signals"), "they are not asked for any more"
