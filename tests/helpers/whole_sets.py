"""Whole LeRobot datasets of v3.0: videos, frames, tasks and statistics that fit one another, and how to spoil them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot_sets import CAMERA, camera_feature, write_frames, write_joined, write_v3

EPISODES = "meta/episodes/chunk-000/file-000.parquet"
FRAMES = "data/chunk-000/file-000.parquet"
STATE = "observation.state"


def state_of(episode: int, length: int) -> list[list[float]]:
    """Return three numbers a frame: two kinds of paths by turns, in units of their own."""
    t = np.linspace(0, 1, length)
    turn = -1 if episode % 2 else 1
    rows = np.stack([40 + 10 * turn * t, turn * np.sin(3 * t) + 0.01 * episode, t**2], axis=1)
    return rows.tolist()


def write_set(
    root: Path,
    lengths: Sequence[int] = (6, 5, 7),
    cameras: Sequence[str] = (CAMERA,),
    fps: int = 10,
    states: dict[int, list[list[float]]] | None = None,
) -> Path:
    """Write a dataset with nothing wrong; each picture carries its number, episode * 100 + frame."""
    write_v3(root, lengths, cameras, fps)
    for camera in cameras:
        write_joined(video_of(root, camera), lengths, fps)
    of = dict(enumerate(lengths))
    states = states or {episode: state_of(episode, n) for episode, n in of.items()}
    tasks = {episode: [0] * n for episode, n in of.items()}
    write_frames(root / FRAMES, of, fps, **{STATE: states, "task_index": tasks})
    pq.write_table(pa.table({"task_index": [0], "task": ["stack"]}), root / "meta/tasks.parquet")
    every = np.concatenate([np.array(states[episode]) for episode in of])
    stats = {"mean": every.mean(axis=0).tolist(), "std": every.std(axis=0).tolist()}
    picture = {"mean": [[[0.5]]] * 3, "std": [[[0.2]]] * 3}
    (root / "meta/stats.json").write_text(json.dumps({STATE: stats, **dict.fromkeys(cameras, picture)}))
    features: dict[str, Any] = {camera: camera_feature() for camera in cameras}
    features[STATE] = {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}
    for name, dtype in (("timestamp", "float32"), ("frame_index", "int64"), ("episode_index", "int64")):
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    features["task_index"] = features["frame_index"]
    change_info(root, features=features, total_frames=sum(lengths))
    return root


def write_set_v21(root: Path, lengths: Sequence[int] = (6, 5, 7), fps: int = 10) -> Path:
    """Write a dataset of v2.1 with nothing wrong: a file an episode."""
    write_set(root, lengths, fps=fps)
    shutil.rmtree(root / "data")
    shutil.rmtree(root / "videos")
    for episode, length in enumerate(lengths):
        video = root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        write_joined(video, (length,), fps, first=episode)
        state, frames = state_of(episode, length), {episode: length}
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        write_frames(path, frames, fps, **{STATE: {episode: state}, "task_index": {episode: [0] * length}})
    stats = json.loads((root / "meta/stats.json").read_text())
    episodes = [{"episode_index": i, "tasks": ["stack"], "length": n} for i, n in enumerate(lengths)]
    lists: dict[str, list[dict[str, Any]]] = {
        "episodes": episodes,
        "tasks": [{"task_index": 0, "task": "stack"}],
        "episodes_stats": [{"episode_index": i, "stats": stats} for i in range(len(lengths))],
    }
    for name, rows in lists.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("stats.json", "tasks.parquet", EPISODES.removeprefix("meta/")):
        (root / "meta" / name).unlink()
    change_info(
        root,
        codebase_version="v2.1",
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    return root


def video_of(root: Path, camera: str = CAMERA, file: int = 0) -> Path:
    return root / f"videos/{camera}/chunk-000/file-{file:03d}.mp4"


def change_info(root: Path, **changes: Any) -> None:
    """Change entries of ``meta/info.json``."""
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_rows(root: Path, name: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the rows of a Parquet file in place; what the function returns takes their place, if it is a list."""
    table = pq.read_table(root / name)
    rows = table.to_pylist()
    changed = change(rows)
    rows = changed if isinstance(changed, list) else rows
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / name)
