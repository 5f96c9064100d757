"""An episode's cameras joined to one trajectory."""

import numpy as np
import pytest
from embedded import make_embedded

import raypipe as rp
from raypipe.config import make_config
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.results import read_clustered, write_trajectories
from raypipe.sources.videos import Video
from raypipe.trajectories.samples import sample_trajectories

STEPS, DIM = 4, 3


def make_run(folder, lacking=(), episodes=3):
    """Episodes of two cameras; those that lack a camera have no clips of it."""
    videos, clips = [], []
    for episode in range(episodes):
        for number, camera in enumerate(("top", "wrist")):
            video_id = f"{episode}/{camera}"
            videos.append(Video(video_id, f"file:///{video_id}.mp4", camera, extra={"episode_index": episode}))
            n = 0 if (episode, camera) in lacking else STEPS
            clips.append(np.full((n, DIM), 10 * episode + number, np.float32) + np.arange(n, dtype=np.float32)[:, None])
    return make_embedded(folder, clips, videos)


def test_steps_of_all_cameras_are_concatenated(tmp_path):
    run = make_run(tmp_path)
    apart = rp.build_trajectories(run, STEPS)
    joined = rp.build_trajectories(run, STEPS, join="camera")
    assert joined.video_ids == ("0/top", "1/top", "2/top")
    assert joined.values.shape == (3, STEPS, 2 * DIM)
    np.testing.assert_array_equal(joined.values, np.concatenate([apart.values[::2], apart.values[1::2]], axis=2))
    np.testing.assert_array_equal(joined.n_clips, 2 * STEPS)
    assert joined.notes == ("6 trajectories of 2 cameras are joined to 3, one an episode",)
    assert rp.build_trajectories(run, pool="mean", join="camera").values.shape == (3, 1, 2 * DIM)


def test_an_episode_that_lacks_a_camera_is_left_out_and_that_is_said(tmp_path):
    run = make_run(tmp_path, lacking={(1, "wrist")})
    joined = rp.build_trajectories(run, STEPS, join="camera")
    assert joined.video_ids == ("0/top", "2/top")
    assert joined.notes == (
        "4 trajectories of 2 cameras are joined to 2, one an episode",
        "1 of 3 episodes are left out of the clusters, since not all of their cameras were embedded (1 lack wrist): 1; "
        "1 trajectories of other cameras are not used",
    )
    write_trajectories(run, joined, {})
    assert read_clustered(run, ["uri"])["uri"].to_pylist() == ["file:///0/top.mp4", "file:///2/top.mp4"]


def test_nothing_to_join_is_an_error(tmp_path):
    with pytest.raises(
        RaypipeError, match=r"no episode has all cameras: 1 of 1 episodes are left out .*\(1 lack top\): 0"
    ):
        rp.build_trajectories(make_run(tmp_path / "a", {(0, "top")}, 1), STEPS, join="camera")
    plain = make_embedded(tmp_path / "b", [np.ones((2, DIM), np.float32)], [Video("a", "file:///a.mp4")])
    with pytest.raises(UsageError, match=r"trajectory\.join=camera needs a LeRobot dataset: .* belong to no episode"):
        rp.build_trajectories(plain, STEPS, join="camera")
    with pytest.raises(UsageError, match="join needs paths of equal lengths: give n_steps or pool"):
        rp.build_trajectories(plain, None, join="camera")


def test_a_sample_is_one_of_joined_episodes(tmp_path):
    run = make_run(tmp_path)
    config = make_config(sets=["trajectory.join=camera", f"trajectory.n_steps={STEPS}", "reduce.method=none"])
    some, n = sample_trajectories(run, config, at_most=2)
    assert n == 3
    assert some.values.shape == (2, STEPS, 2 * DIM)
