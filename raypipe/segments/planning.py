"""Videos cut into segments: the rows of the plan, which say what each segment is made from and with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import SampleConfig
from raypipe.schema import PLAN, Failure, Probe, embeddings_schema
from raypipe.segments.sampling import align_span, cut, frames_per_clip
from raypipe.sources.videos import Video

# A container that claims a longer video is broken, and the plan of its segments would take all memory.
_LONGEST_S = 30 * 86400.0
_BATCH = 10_000  # Rows of so many videos are Python objects before they become an Arrow table.


def plan_segments(
    videos: Iterable[Video],
    probes: Iterable[Probe | Failure],
    sample: SampleConfig,
    versions: Iterable[str | None] | None = None,
    made_with: str = "",
) -> pa.Table:
    """Cut videos into segments.

    Parameters
    ----------
    videos, probes
        Each video, and what probing its file gave.
    sample
        The sampling pattern, which bounds a segment's size.
    versions
        The version of each video's file when it was probed (`raypipe.sources.read_versions`).
    made_with
        Text that identifies the encoder and the sampling, because embeddings of different ones must not be mixed.

    Returns
    -------
    A `schema.PLAN` table, a row a segment in source order. A video that cannot be embedded has one row with its error.
    """
    each: Iterator[tuple[Video, Probe | Failure, str | None]]
    if versions is None:
        each = ((video, probe, None) for video, probe in zip(videos, probes, strict=True))
    else:
        each = zip(videos, probes, versions, strict=True)
    parts = [PLAN.empty_table()]
    while some := list(islice(each, _BATCH)):
        rows = [row for video, probe, version in some for row in _plan_video(video, probe, sample, version, made_with)]
        parts.append(pa.Table.from_pylist(rows, schema=PLAN))
    return pa.concat_tables(parts).combine_chunks()


def plan_precomputed(
    videos: Iterable[Video],
    paths: Sequence[np.ndarray],
    fingerprint: str,
    spans_s: Sequence[np.ndarray] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Lay precomputed trajectories out as a plan and its clips.

    Parameters
    ----------
    videos, paths
        Each video and its (n_clips, dim) embeddings, float32 or float64; an empty one fails.
    fingerprint
        Text that identifies all of them together.
    spans_s
        (n_clips, 2) for each video, where each clip begins and ends, in seconds of the file. By default clip i lasts
        from i to i + 1 s.

    Returns
    -------
    The `schema.PLAN` table and the `embeddings_schema` table.
    """
    plan, clips = [], []
    dim, dtype = paths[0].shape[1], pa.from_numpy_dtype(paths[0].dtype)
    each = [np.arange(len(path))[:, None] + np.array([0.0, 1.0]) for path in paths] if spans_s is None else spans_s
    for video, path, spans in zip(videos, paths, each, strict=True):
        n = len(path)
        row: dict[str, Any] = {"video_id": video.video_id, "segment": 0, "uri": video.uri, "fingerprint": fingerprint}
        if n == 0:
            plan.append({**row, "error_stage": "find", "error": "the trajectory is empty"})
            continue
        start_s, end_s = float(spans[0, 0]), float(spans[:, 1].max())
        plan.append({**row, "start_s": start_s, "end_s": end_s, "origin_s": start_s, "span_s": end_s - start_s})
        columns = {
            "video_id": [video.video_id] * n,
            "segment": [0] * n,
            "clip_index": np.arange(n),
            "start_s": spans[:, 0],
            "end_s": spans[:, 1],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(path.ravel()), dim),
            "fingerprint": [fingerprint] * n,
            **{name: [None] * n for name in ("decoder", "error_stage", "error")},
        }
        clips.append(pa.table(columns, schema=embeddings_schema(dim, dtype)))
    clips.append(embeddings_schema(dim, dtype).empty_table())
    return pa.Table.from_pylist(plan, schema=PLAN), pa.concat_tables(clips)


def mean_frames(plan: pa.Table, sample: SampleConfig) -> float:
    """Estimate how many frames a segment of the plan has on average, to size batches by."""
    if plan.num_rows == 0:
        return 1.0
    if sample.n_frames is not None:
        return float(sample.n_frames)
    seconds = np.asarray(plan.column("end_s")) - np.asarray(plan.column("start_s"))
    if sample.every_n is not None:
        return max(1.0, float(np.mean(seconds * np.asarray(plan.column("fps")) / sample.every_n)))
    return max(1.0, float(np.mean(seconds)) / (sample.stride_s or sample.clip_s) * frames_per_clip(sample))


def _plan_video(
    video: Video, probe: Probe | Failure, sample: SampleConfig, version: str | None, made_with: str
) -> list[dict[str, Any]]:
    row: dict[str, Any] = {"video_id": video.video_id, "segment": 0, "uri": video.uri, "version": version}
    row["fingerprint"] = hashlib.sha256(f"{made_with}\n{version}".encode()).hexdigest()[:16]
    if isinstance(probe, Failure):
        return [{**row, "error_stage": probe.stage, "error": probe.error}]
    row |= vars(probe)
    origin = video.start_s or 0.0
    end = probe.duration_s if video.end_s is None else min(video.end_s, probe.duration_s)
    first, after = align_span(origin, end, probe.fps)
    origin, end = first, end if video.end_s is None else after
    if not end > origin:
        reason = f"nothing between {origin:g} s and {end:g} s: the file lasts {probe.duration_s:g} s"
        return [{**row, "error_stage": "probe", "error": reason}]
    if end - origin > _LONGEST_S:
        return [{**row, "error_stage": "probe", "error": f"the file claims to last {end - origin:.3g} s"}]
    spans = cut(origin, end - origin, sample, probe.fps)
    return [
        {**row, "segment": i, "start_s": s.start_s, "end_s": s.end_s, "origin_s": s.origin_s, "span_s": s.length_s}
        for i, s in enumerate(spans)
    ]
