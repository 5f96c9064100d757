"""LeRobot datasets, written per their layout: every picture carries its number, episode * 100 + frame."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench.numbered import draw_number, own_scheduling

SIZE = 96, 64
CAMERA = "observation.images.top"
X264 = {"preset": "ultrafast", "x264-params": "keyint=24:scenecut=0:bframes=3:b-adapt=0"}


def numbers_of(episode: int, length: int) -> list[int]:
    """Return what the pictures of an episode show: twelve bits are enough to tell neighbours apart."""
    return [(episode * 100 + frame) % 4096 for frame in range(length)]


def write_info(root: Path, features: dict[str, Any], n_episodes: int, fps: float, **more: Any) -> None:
    """Write ``meta/info.json`` of v3.0, or of another version if ``more`` says so."""
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "features": features,
        "total_episodes": n_episodes,
        "chunks_size": 1000,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info | more))


def camera_feature(dtype: str = "video", **info: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [3, 64, 96], "names": ["height", "width", "channel"], "info": info}


def write_v3(
    root: Path,
    lengths: Sequence[int],
    cameras: Sequence[str] = (CAMERA,),
    fps: int = 30,
    spans: dict[str, list[tuple[int, float, float]]] | None = None,
    tasks: Sequence[list[str]] | None = None,
    per_meta_file: int = 1000,
    **more: Any,
) -> Path:
    """Write the metadata of v3.0: episode by episode, for each camera its file's number and its span.

    Without ``spans`` all episodes follow one another in file 0.
    """
    starts = np.cumsum([0, *lengths])
    steady = [(0, float(a) / fps, float(b) / fps) for a, b in pairwise(starts)]
    rows = []
    for episode, length in enumerate(lengths):
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": tasks[episode] if tasks else ["stack"],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "stats/action/mean": [0.5, 0.5],
        }
        for camera in cameras:
            file, start_s, end_s = (spans or {}).get(camera, steady)[episode]
            row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
            row |= {f"videos/{camera}/from_timestamp": start_s, f"videos/{camera}/to_timestamp": end_s}
        rows.append(row)
    for number, start in enumerate(range(0, len(rows), per_meta_file)):
        path = root / f"meta/episodes/chunk-000/file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows[start : start + per_meta_file]), path)
    features = more.pop("features", {camera: camera_feature() for camera in cameras})
    write_info(root, features, len(lengths), fps, **more)
    return root


@own_scheduling()
def write_joined(
    path: Path,
    lengths: Sequence[int],
    fps: int,
    first: int = 0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> list[tuple[int, float, float]]:
    """Write episodes one after another into one mp4; by default as H.264 with B-frames, across their edges too.

    Returns
    -------
    For each episode file 0 and its span: the running sum of the durations.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    spans, at = [], 0.0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or X264)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for episode, length in enumerate(lengths, first):
            for number in numbers_of(episode, length):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_number(number, *SIZE), format="gray")))
            spans.append((0, at, at + length / fps))
            at += length / fps
        container.mux(stream.encode())
    return spans


def picture_bytes(number: int, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(draw_number(number, *SIZE)).convert("RGB").save(sink, kind)
    return sink.getvalue()


def write_frames(
    path: Path, episodes: dict[int, int], fps: int, pictures: str | None = None, kind: str = "PNG", **columns: Any
) -> Path:
    """Write a file of ``data/`` with a row group an episode.

    Parameters
    ----------
    episodes
        The length of each episode by its number.
    pictures
        The name of a column of pictures.
    columns
        Further columns: by name the values of each episode's frames by its number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for episode, length in episodes.items():
        table: dict[str, Any] = {
            "timestamp": pa.array(np.arange(length, dtype=np.float32) / np.float32(fps)),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
        }
        if pictures:
            data = [{"bytes": picture_bytes(number, kind), "path": None} for number in numbers_of(episode, length)]
            table[pictures] = pa.array(data, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        table |= {name: values[episode] for name, values in columns.items()}
        rows = pa.table(table)
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)
    if writer:
        writer.close()
    return path
