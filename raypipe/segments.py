"""The unit of work: planning a video's segments, and the two stages that turn a segment into clip embeddings.

Plain Python that knows no Ray: a stage is a class whose ``__init__`` loads and whose ``__call__`` maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import DecodeConfig, SampleConfig
from raypipe.decoders.sandbox import Sandbox
from raypipe.encoders import Encoder, one_line
from raypipe.errors import DecodeError
from raypipe.sampling import Span, cut, frames_per_clip, pool_frames, sample_span
from raypipe.schema import PLAN, Probe, Video, embeddings_schema


class ProbeVideos:
    """Probe URIs in a sandbox: a URI in, its `Probe` or the reason for having none out."""

    def __init__(self, decode: DecodeConfig) -> None:
        self._sandbox = Sandbox(decode.decoder, decode.deadline_s, decode.deadline_factor)

    def __call__(self, uri: str) -> Probe | str:
        """Probe one file; never raises for what the file holds."""
        try:
            return self._sandbox.probe(uri)
        except DecodeError as error:
            return str(error)

    def close(self) -> None:
        """End the child process."""
        self._sandbox.close()


def plan_segments(videos: Iterable[Video], probes: Iterable[Probe | str], sample: SampleConfig) -> pa.Table:
    """Cut videos into segments.

    Parameters
    ----------
    videos, probes
        Each video, and what probing its file gave: a `Probe`, or the error's text.
    sample
        The sampling pattern, which bounds a segment's size.

    Returns
    -------
    A `schema.PLAN` table, a row a segment in source order. A video that cannot be embedded has one row with its error.
    """
    rows = [row for video, probe in zip(videos, probes, strict=True) for row in _plan_video(video, probe, sample)]
    return pa.Table.from_pylist(rows, schema=PLAN)


def without_plan(videos: Sequence[Video], plan: pa.Table) -> list[Video]:
    """Return the videos that a plan does not have yet: a source may have grown since an earlier run."""
    planned = set(plan["video_id"].to_pylist())
    return [video for video in videos if video.video_id not in planned]


def in_order_of(videos: Sequence[Video], plan: pa.Table) -> pa.Table:
    """Return a plan's rows of these videos, in their order; those of other videos are left out."""
    place = {video.video_id: number for number, video in enumerate(videos)}
    places = np.array([place.get(video_id, -1) for video_id in plan["video_id"].to_pylist()], np.int64)
    order = np.argsort(places, kind="stable")
    return plan.take(order[places[order] >= 0])


class DecodeSegments:
    """Decode segments: a plan row in, the same row with its frames and their clips out.

    Parameters
    ----------
    sample, decode
        Which frames, by which decoder, for how long at most.
    image_size, resize_mode
        What the encoder takes.
    """

    def __init__(self, sample: SampleConfig, decode: DecodeConfig, image_size: int, resize_mode: str) -> None:
        self._sample = sample
        self._sandbox = Sandbox(decode.decoder, decode.deadline_s, decode.deadline_factor)
        self._image_size, self._resize_mode = image_size, resize_mode

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Decode one segment.

        Returns
        -------
        ``video_id, segment``; ``pixels`` (n, image_size, image_size, 3) uint8; the clips ``clip_index, clip_start_s,
        clip_end_s`` and ``members`` (p, 2) as in `sampling.Sampling`, its frames counted in ``pixels``; ``decoder``;
        ``error``, or None. A segment that cannot be decoded has no pixels.
        """
        span = Span(row["origin_s"], row["span_s"], row["start_s"], row["end_s"])
        size = self._image_size
        out: dict[str, Any] = {"video_id": row["video_id"], "segment": row["segment"], "decoder": None, "error": None}
        try:
            times = self._sandbox.frame_times(row["uri"]) if self._sample.every_n is not None else None
            sampling = sample_span(span, self._sample, times)
            frames = self._sandbox.frames(
                row["uri"], sampling.times_s, size, self._resize_mode, span_s=span.end_s - span.start_s
            )
        except DecodeError as error:
            out.update(error=str(error), pixels=np.empty((0, size, size, 3), np.uint8), members=np.empty((0, 2), int))
            out.update(clip_index=np.empty(0, int), clip_start_s=np.empty(0), clip_end_s=np.empty(0))
            return out
        position = np.full(len(sampling.times_s), -1)  # of each wanted frame among the decoded ones
        position[frames.requested] = np.arange(len(frames.requested))
        members = np.stack([sampling.members[:, 0], position[sampling.members[:, 1]]], axis=1)
        out.update(pixels=frames.pixels, members=members[members[:, 1] >= 0], clip_index=sampling.clip_index)
        out.update(clip_start_s=sampling.clip_start_s, clip_end_s=sampling.clip_end_s)
        out.update(decoder=frames.decoder, error=frames.error)
        return out

    def close(self) -> None:
        """End the child process."""
        self._sandbox.close()


class EncodeSegments:
    """Encode decoded segments: rows of `DecodeSegments` in, a table of clip embeddings out.

    Parameters
    ----------
    encoder
        Frames to vectors.
    sample
        Its ``pool`` says how the frames of a clip become one.
    normalize
        L2-normalise the clips as the frames were.
    """

    def __init__(self, encoder: Encoder, sample: SampleConfig, normalize: bool) -> None:
        self._encoder, self._pool, self._normalize = encoder, sample.pool, normalize

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Encode some segments, their frames in common batches.

        Returns
        -------
        An `embeddings_schema` table: a row a clip; a segment without any clip is one row with a null embedding.
        """
        encoded, errors = self._encode([row["pixels"] for row in rows])
        tables = [self._clips(*each) for each in zip(rows, encoded, errors, strict=True)]
        return pa.concat_tables(tables)

    def _encode(self, pixels: list[np.ndarray]) -> tuple[list[np.ndarray], list[str | None]]:
        """Encode all segments at once; if that fails, one by one, so that an error costs its own segment alone."""
        counts = [len(frames) for frames in pixels]
        if sum(counts) == 0:
            return [np.empty((0, self._encoder.dim), np.float32)] * len(pixels), [None] * len(pixels)
        try:
            vectors = self._encoder(np.concatenate(pixels) if len(pixels) > 1 else pixels[0])
        except Exception as error:  # a user's encoder may raise anything; the error is recorded on the segment's row
            if len(pixels) == 1:
                return [np.empty((0, self._encoder.dim), np.float32)], [one_line(error)]
            alone = [self._encode([frames]) for frames in pixels]
            return [vectors[0] for vectors, _ in alone], [errors[0] for _, errors in alone]
        return np.split(vectors, np.cumsum(counts)[:-1]), [None] * len(pixels)

    def _clips(self, row: Mapping[str, Any], vectors: np.ndarray, error: str | None) -> pa.Table:
        members = row["members"] if error is None else np.empty((0, 2), int)
        clips, pooled = pool_frames(vectors, members, self._pool)
        if self._normalize:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        stage = "encode" if error else "decode"
        error = error or row["error"]
        if len(clips) == 0:
            if error is None and len(row["clip_index"]):
                error = "no frame decoded"
            return empty_segment(row["video_id"], row["segment"], self._encoder.dim, stage if error else None, error)
        n = len(clips)
        columns = {
            "video_id": [row["video_id"]] * n,
            "segment": [row["segment"]] * n,
            "clip_index": row["clip_index"][clips],
            "start_s": row["clip_start_s"][clips],
            "end_s": row["clip_end_s"][clips],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(pooled.ravel()), self._encoder.dim),
            "decoder": [row["decoder"]] * n,
            "error_stage": [stage if error else None] * n,
            "error": [error] * n,
        }
        return pa.table(columns, schema=embeddings_schema(self._encoder.dim))


def empty_segment(video_id: str, segment: int, dim: int, stage: str | None, error: str | None) -> pa.Table:
    """Return the one row of a segment without a clip: it failed, or no clip starts in it."""
    row = {"video_id": video_id, "segment": segment, "error_stage": stage, "error": error}
    return pa.Table.from_pylist([row], schema=embeddings_schema(dim))


def plan_precomputed(videos: Sequence[Video], paths: Sequence[np.ndarray]) -> tuple[pa.Table, pa.Table]:
    """Lay precomputed trajectories out as a plan and its clips, clip i lasting from i to i + 1.

    Parameters
    ----------
    videos, paths
        Each video and its (n_clips, dim) embeddings, float32 or float64; an empty one fails.

    Returns
    -------
    The `schema.PLAN` table and the `embeddings_schema` table.
    """
    plan, clips = [], []
    dim, dtype = paths[0].shape[1], pa.from_numpy_dtype(paths[0].dtype)
    for video, path in zip(videos, paths, strict=True):
        n = len(path)
        row: dict[str, Any] = {"video_id": video.video_id, "segment": 0, "uri": video.uri}
        if n == 0:
            plan.append({**row, "error_stage": "find", "error": "the trajectory is empty"})
            continue
        plan.append({**row, "start_s": 0.0, "end_s": float(n), "origin_s": 0.0, "span_s": float(n)})
        columns = {
            "video_id": [video.video_id] * n,
            "segment": [0] * n,
            "clip_index": np.arange(n),
            "start_s": np.arange(n, dtype=float),
            "end_s": np.arange(1, n + 1, dtype=float),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(path.ravel()), dim),
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


def _plan_video(video: Video, probe: Probe | str, sample: SampleConfig) -> list[dict[str, Any]]:
    row: dict[str, Any] = {"video_id": video.video_id, "segment": 0, "uri": video.uri}
    if isinstance(probe, str):
        return [{**row, "error_stage": "probe", "error": probe}]
    for name in ("duration_s", "width", "height", "fps", "n_frames", "codec", "decoder"):
        row[name] = getattr(probe, name)
    origin = video.start_s or 0.0
    end = probe.duration_s if video.end_s is None else min(video.end_s, probe.duration_s)
    if not end > origin:
        reason = f"nothing between {origin:g} s and {end:g} s: the file lasts {probe.duration_s:g} s"
        return [{**row, "error_stage": "probe", "error": reason}]
    spans = cut(origin, end - origin, sample, probe.fps)
    return [
        {**row, "segment": i, "start_s": s.start_s, "end_s": s.end_s, "origin_s": s.origin_s, "span_s": s.length_s}
        for i, s in enumerate(spans)
    ]
