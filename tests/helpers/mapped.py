"""Runs with a map and small pictures, as a poster needs them, made without Ray; each frame has a colour of its own."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from raypipe.config import make_config
from raypipe.runs.directory import Run
from raypipe.schema import CLUSTERS, FRAMES, VIDEOS


def color_of(video: int, clip: int) -> tuple[int, int, int]:
    return 40 + 40 * (video % 5), 40 + 40 * (video // 5), 20 + 30 * clip


def jpeg_of(color, size=(64, 48)) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, color).save(sink, "JPEG", quality=95, subsampling=0)
    return sink.getvalue()


def make_mapped(url, paths, n_clips=None, uris=None, captions=None, size=(64, 48)) -> Run:
    """Write a run of videos with these paths on the map, (T_i, 2) each, and a picture a clip."""
    run = Run(str(url))
    n_clips = n_clips or [len(path) for path in paths]
    ids = [f"video-{i}" for i in range(len(paths))]
    uris = uris or [f"file:///videos/{i}.mp4" for i in range(len(paths))]
    videos = [
        {"video_id": video_id, "uri": uri, "status": "ok", "caption": caption, "width": size[0], "height": size[1]}
        for video_id, uri, caption in zip(ids, uris, captions or [None] * len(paths), strict=True)
    ]
    run.write_table("videos.parquet", pa.Table.from_pylist(videos, schema=VIDEOS))
    plan = [
        {"video_id": i, "fingerprint": "f", "origin_s": 0.0, "span_s": float(n)}
        for i, n in zip(ids, n_clips, strict=True)
    ]
    run.write_table("plan.parquet", pa.Table.from_pylist(plan))
    clusters = [{"video_id": i, "uri": uri, "cluster": 0} for i, uri in zip(ids, uris, strict=True)]
    run.write_table("clusters.parquet", pa.Table.from_pylist(clusters, schema=CLUSTERS))
    picture = pa.array([np.ravel(path).tolist() for path in paths], pa.list_(pa.float32()))
    columns = {"video_id": ids, "n_clips": pa.array(n_clips, pa.int64()), "picture": picture}
    run.write_table("trajectories/00000.parquet", pa.table(columns))
    run.write_table("embeddings/0.parquet", pa.table({"n": [0]}))
    frames = [
        {"video_id": video_id, "fingerprint": "f", "clip_index": clip, "time_s": float(clip)}
        | {"frame": jpeg_of(color_of(video, clip), size)}
        for video, (video_id, n) in enumerate(zip(ids, n_clips, strict=True))
        for clip in range(n)
    ]
    run.write_table("frames/0.parquet", pa.Table.from_pylist(frames, schema=FRAMES))
    run.record(config=make_config().model_dump(mode="json"), state="embedded")
    return run
