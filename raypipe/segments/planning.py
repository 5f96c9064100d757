"""Videos cut into segments: the rows of the plan, which say what each segment is made from and with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import SampleConfig
from raypipe.schema import PLAN, Failure, Probe, embeddings_schema, numbers_of
from raypipe.segments.sampling import MAX_SEGMENT_FRAMES, align_span, cut, frames_per_clip
from raypipe.sources.videos import Video, Videos

# A container that claims a longer video is broken, and the plan of its segments would take all memory.
_LONGEST_S = 30 * 86400.0
_BATCH = 10_000  # So many videos at a time are Python objects.


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
    found = videos.table if isinstance(videos, Videos) else Videos(videos).table
    probes = list(probes)
    versions = [None] * len(probes) if versions is None else list(versions)
    if not found.num_rows == len(probes) == len(versions):
        raise ValueError(f"{found.num_rows} videos, {len(probes)} probes and {len(versions)} versions")
    parts = [PLAN.empty_table()]
    for start in range(0, len(probes), _BATCH):
        rows = slice(start, start + _BATCH)
        some = found.slice(start, _BATCH)
        parts.append(_plan_some(some, probes[rows], versions[rows], sample, made_with))
    return pa.concat_tables(parts).combine_chunks()


def plan_precomputed(
    videos: Iterable[Video],
    paths: Sequence[np.ndarray],
    fingerprint: str,
    spans_s: Sequence[np.ndarray] | None = None,
    reasons: Mapping[str, str] | None = None,
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
    reasons
        By ``video_id``, why a path is empty.

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
            plan.append(
                {**row, "error_stage": "find", "error": (reasons or {}).get(video.video_id, "the trajectory is empty")}
            )
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
        return min(float(sample.n_frames), MAX_SEGMENT_FRAMES)
    seconds = np.asarray(plan.column("end_s")) - np.asarray(plan.column("start_s"))
    if sample.every_n is not None:
        return max(1.0, float(np.mean(seconds * np.asarray(plan.column("fps")) / sample.every_n)))
    return max(1.0, float(np.mean(seconds)) / (sample.stride_s or sample.clip_s) * frames_per_clip(sample))


def _plan_some(
    found: pa.Table,
    probes: Sequence[Probe | Failure],
    versions: Sequence[str | None],
    sample: SampleConfig,
    made_with: str,
) -> pa.Table:
    """Plan some videos, rows of `raypipe.sources.videos.FOUND`."""
    origin_s, span_s, fps, failures = _find_spans(found, probes)
    has_failed = np.array([failure is not None for failure in failures])
    # A video that cannot be embedded has one row: what has no length is one piece.
    video, starts_s, ends_s = cut(origin_s, np.where(has_failed, 0.0, span_s), sample, fps)
    fingerprints = {
        version: hashlib.sha256(f"{made_with}\n{version}".encode()).hexdigest()[:16] for version in set(versions)
    }
    columns = {name: found[name].take(pa.array(video)) for name in ("video_id", "uri")}
    of_video: dict[str, Sequence[Any]] = {
        field.name: [None if isinstance(probe, Failure) else getattr(probe, field.name) for probe in probes]
        for field in fields(Probe)
    }
    of_video["version"] = versions
    of_video["fingerprint"] = [fingerprints[version] for version in versions]
    of_video["error_stage"] = [failure and failure.stage for failure in failures]
    of_video["error"] = [failure and failure.error for failure in failures]
    columns |= {
        name: pa.array(values, PLAN.field(name).type).take(pa.array(video)) for name, values in of_video.items()
    }
    times = {"start_s": starts_s, "end_s": ends_s, "origin_s": origin_s[video], "span_s": span_s[video]}
    columns |= {name: pa.array(values, mask=has_failed[video]) for name, values in times.items()}
    columns["segment"] = pa.array(np.arange(len(video)) - np.searchsorted(video, video))
    return pa.table({name: columns[name] for name in PLAN.names}).cast(PLAN)


def find_failures(found: pa.Table, probes: Sequence[Probe | Failure]) -> list[Failure | None]:
    """Return why each video cannot be embedded, or None if its file could be probed and holds its span.

    Parameters
    ----------
    found
        Rows of `raypipe.sources.videos.FOUND`.
    probes
        Those of their files, in the same order.
    """
    return _find_spans(found, probes)[-1]


def _find_spans(
    found: pa.Table, probes: Sequence[Probe | Failure]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Failure | None]]:
    """Return where each video begins in its file, its length and its rate, (n,) each; and why it cannot be embedded.

    A file that could not be probed has no length.
    """
    length_s = np.array([probe.duration_s if isinstance(probe, Probe) else 0.0 for probe in probes])
    fps = np.array([probe.fps if isinstance(probe, Probe) else 0.0 for probe in probes])
    origin_s = numbers_of(found["start_s"].fill_null(0.0))
    until_end = found["end_s"].is_null().to_numpy()
    end_s = np.minimum(np.where(until_end, np.inf, numbers_of(found["end_s"].fill_null(0.0))), length_s)
    origin_s, after_s = align_span(origin_s, end_s, fps)
    end_s = np.where(until_end, end_s, after_s)
    span_s = end_s - origin_s
    failures = [probe if isinstance(probe, Failure) else None for probe in probes]
    for row in np.flatnonzero(~(span_s > 0) | (span_s > _LONGEST_S)).tolist():
        if failures[row] is None:
            failures[row] = Failure("probe", _describe_span(origin_s[row], end_s[row], length_s[row]))
    return origin_s, span_s, fps, failures


def _describe_span(origin_s: float, end_s: float, length_s: float) -> str:
    """Return why a span of a file of some length cannot be embedded."""
    if end_s - origin_s > _LONGEST_S:
        return f"the file claims to last {end_s - origin_s:.3g} s"
    if origin_s >= length_s > 0:
        return f"its span begins at {origin_s:g} s, and the file lasts {length_s:g} s"
    return f"nothing between {origin_s:g} s and {end_s:g} s: the file lasts {length_s:g} s"
