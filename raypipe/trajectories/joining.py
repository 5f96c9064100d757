"""The trajectories of an episode's cameras joined to one, so that an episode is a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.contents import VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.schema import Trajectories
from raypipe.sources.lerobot import EPISODE

_NAMED = 3  # So many episodes are named of those that are left out.


def join_cameras(run: Run, paths: Trajectories) -> Trajectories:
    """Join the trajectories of each episode's cameras step by step.

    Parameters
    ----------
    run
        A run whose ``videos.parquet`` says of each video which camera (``group``) and which episode it is.
    paths
        (n_videos, n_steps, dim), the trajectories of its videos.

    Returns
    -------
    (n_episodes, n_steps, n_cameras * dim): at each step the vectors of all cameras one after another, in the order in
    which the cameras come in the source. An episode has the id of its first camera's video, and the clips of all. One
    that lacks a camera has no such path and is left out; ``notes`` say so.

    Raises
    ------
    UsageError
        If the videos are not those of episodes.
    RaypipeError
        If every episode lacks a camera.
    """
    has_episodes = EPISODE in run.column_names(VIDEOS_FILE)
    videos = run.read_table(VIDEOS_FILE, ["video_id", "group", EPISODE]) if has_episodes else None
    if videos is None or videos[EPISODE].null_count:
        raise UsageError(f"trajectory.join=camera needs a LeRobot dataset: videos of {run} belong to no episode")
    cameras = videos["group"].unique().to_pylist()
    camera_of = pc.index_in(videos["group"], value_set=videos["group"].unique()).to_numpy()
    episodes, episode_of = np.unique(videos[EPISODE].to_numpy(), return_inverse=True)
    # The place of each episode's and camera's trajectory; -1 where there is none.
    place_of = np.full((len(episodes), len(cameras)), -1)
    ids = {video_id: place for place, video_id in enumerate(paths.video_ids)}
    place_of[episode_of, camera_of] = [ids.get(video_id, -1) for video_id in videos["video_id"].to_pylist()]
    is_whole = (place_of >= 0).all(axis=1)
    rows = place_of[is_whole]
    rows = rows[np.argsort(rows[:, 0])]
    notes = _describe_left_out(episodes, cameras, place_of)
    if not len(rows):
        raise RaypipeError(f"no episode has all cameras: {'; '.join(notes)}")
    values: Any = np.concatenate([paths.values[rows[:, camera]] for camera in range(len(cameras))], axis=2)
    told = f"{rows.size} trajectories of {len(cameras)} cameras are joined to {len(rows)}, one an episode"
    joined_ids = tuple(paths.video_ids[place] for place in rows[:, 0].tolist())
    return Trajectories(joined_ids, values, paths.n_clips[rows].sum(axis=1), (told, *notes))


def _describe_left_out(episodes: np.ndarray, cameras: list[str], place_of: np.ndarray) -> list[str]:
    is_left_out = (place_of < 0).any(axis=1)
    if not is_left_out.any():
        return []
    lacking = (place_of[is_left_out] < 0).sum(axis=0).tolist()
    reasons = ", ".join(f"{n} lack {name}" for name, n in zip(cameras, lacking, strict=True) if n)
    named = ", ".join(str(number) for number in episodes[is_left_out][:_NAMED].tolist())
    more = ", …" if is_left_out.sum() > _NAMED else ""
    n_unused = int((place_of[is_left_out] >= 0).sum())
    return [
        f"{is_left_out.sum()} of {len(episodes)} episodes are left out of the clusters, since not all of their cameras "
        f"were embedded ({reasons}): {named}{more}; {n_unused} trajectories of other cameras are not used"
    ]
