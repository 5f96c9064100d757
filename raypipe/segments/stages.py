"""The stages: one probes a video, two turn a segment (the unit of work) into clip embeddings.

They are plain Python and know no Ray. A stage is a class whose ``__init__`` loads and whose ``__call__`` maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import DecodeConfig, SampleConfig
from raypipe.decoders.sandbox import Sandbox, open_sandbox
from raypipe.encoders import Encoder
from raypipe.errors import DecodeError, one_line
from raypipe.schema import FRAMES, UNIT, Failure, Probe, ThumbnailRequest, embeddings_schema
from raypipe.segments.sampling import Sampling, Span, choose_evenly, pool_frames, sample_span

# Where the frames of a file end so long before its length, it is asked whether the last one lasts until then.
_SILENT_S = 1.0
_LAST_S = 1e-3


class ProbeVideos:
    """Probe URIs in a sandbox: a URI in, its `Probe` or a `Failure` out."""

    def __init__(self, decode: DecodeConfig) -> None:
        self._sandbox = open_sandbox(decode)

    def __call__(self, uri: str) -> Probe | Failure:
        """Probe one file; never raises for what the file holds."""
        try:
            return self._sandbox.probe(uri)
        except DecodeError as error:
            return Failure.of("probe", error)

    def close(self) -> None:
        """End the child process."""
        self._sandbox.close()


class DecodeSegments:
    """Decode segments: a plan row in, the same row with its frames and their clips out.

    Parameters
    ----------
    sample, decode
        Which frames, by which decoder, for how long at most.
    image_size, resize_mode
        What the encoder takes.
    sandbox
        The sandbox to decode in; an ordinary one by default.
    """

    def __init__(
        self,
        sample: SampleConfig,
        decode: DecodeConfig,
        image_size: int,
        resize_mode: str,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._sample = sample
        self._sandbox = sandbox or open_sandbox(decode)
        self._image_size, self._resize_mode = image_size, resize_mode

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Decode one segment.

        Returns
        -------
        ``video_id, segment, fingerprint``; ``pixels`` (n, image_size, image_size, 3) uint8; the clips ``clip_index,
        clip_start_s, clip_end_s`` and ``members`` (p, 2) as in `sampling.Sampling`, its frames counted in ``pixels``;
        ``frames``, a `schema.FRAMES` table; ``decoder``; ``error_stage`` and ``error``, or None. A segment that cannot
        be decoded has no pixels.
        """
        span = Span(row["origin_s"], row["span_s"], row["start_s"], row["end_s"])
        size = self._image_size
        try:
            by_frame = self._sample.every_n is not None
            times = self._sandbox.frame_times(row["uri"], row.get("duration_s") or 0.0) if by_frame else None
            sampling = sample_span(span, self._sample, times)
            wanted_s = sampling.times_s
            if times is not None and span.end_s - times[-1] > _SILENT_S:
                # Nothing is asked for after the last frame, so the end of a file that was cut off would go unnoticed.
                wanted_s = np.append(wanted_s, span.end_s - _LAST_S)
            kept = self._first_frames(sampling)
            request = ThumbnailRequest(self._sample.thumbnail_px, frozenset(kept.values())) if kept else None
            frames = self._sandbox.frames(
                row["uri"], wanted_s, size, self._resize_mode, span_s=span.end_s - span.start_s, thumbnails=request
            )
        except DecodeError as error:
            return self.refuse(row, Failure.of("decode", error))
        position = np.full(len(wanted_s), -1)  # The place of each wanted frame among the decoded ones.
        position[frames.requested] = np.arange(len(frames.requested))
        members = np.stack([sampling.members[:, 0], position[sampling.members[:, 1]]], axis=1)
        n = np.searchsorted(frames.requested, len(sampling.times_s))
        out = {name: row[name] for name in UNIT}
        out.update(pixels=frames.pixels[:n], members=members[members[:, 1] >= 0], clip_index=sampling.clip_index)
        out.update(clip_start_s=sampling.clip_start_s, clip_end_s=sampling.clip_end_s)
        out.update(decoder=frames.decoder, error_stage=frames.error and "decode", error=frames.error)
        out["frames"] = _tabulate(out, kept, frames.thumbnails, frames.times_s, position)
        return out

    def _first_frames(self, sampling: Sampling) -> dict[int, int]:
        """Return the clips of which a small picture is kept, and for each the place of its first frame's time."""
        clips, first = np.unique(sampling.members[:, 0], return_index=True)
        chosen = choose_evenly(sampling, self._sample.thumbnails)[clips]
        return dict(zip(clips[chosen].tolist(), sampling.members[first[chosen], 1].tolist(), strict=True))

    def refuse(self, row: Mapping[str, Any], failure: Failure) -> dict[str, Any]:
        """Return what a segment that cannot be decoded comes to."""
        size = self._image_size
        out = {name: row[name] for name in UNIT}
        out.update(pixels=np.empty((0, size, size, 3), np.uint8), members=np.empty((0, 2), int))
        out.update(clip_index=np.empty(0, int), clip_start_s=np.empty(0), clip_end_s=np.empty(0))
        out.update(decoder=None, error_stage=failure.stage, error=failure.error, frames=FRAMES.empty_table())
        return out

    def close(self) -> None:
        """End the child process."""
        self._sandbox.close()


def _tabulate(
    segment: Mapping[str, Any],
    kept: Mapping[int, int],
    thumbnails: Mapping[int, bytes],
    times_s: np.ndarray,
    position: np.ndarray,
) -> pa.Table:
    """Return a segment's small pictures as a `FRAMES` table.

    Parameters
    ----------
    segment
        Its keys and its clips, as `DecodeSegments` returns them.
    kept
        For each clip with a picture the place of the picture's time among the requested ones.
    thumbnails
        The pictures by that place; one may be missing.
    times_s, position
        The time of each decoded frame, and for each requested time the place of its frame among these.
    """
    there = {clip: place for clip, place in kept.items() if place in thumbnails}
    clips, places = list(there), list(there.values())
    columns = {
        "video_id": [segment["video_id"]] * len(clips),
        "segment": [segment["segment"]] * len(clips),
        "clip_index": segment["clip_index"][clips],
        "start_s": segment["clip_start_s"][clips],
        "time_s": times_s[position[places]],
        "frame": [thumbnails[place] for place in places],
        "fingerprint": [segment["fingerprint"]] * len(clips),
    }
    return pa.table(columns, schema=FRAMES)


class EncodeSegments:
    """Encode decoded segments: rows of `DecodeSegments` in, for each a table of clip embeddings out.

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

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[pa.Table]:
        """Encode some segments, their frames in common batches.

        Returns
        -------
        An `embeddings_schema` table for each: a row a clip, or for want of any one row with a null embedding.
        """
        encoded, errors = self._encode([row["pixels"] for row in rows])
        return [self._clips(*each) for each in zip(rows, encoded, errors, strict=True)]

    def _encode(self, pixels: list[np.ndarray]) -> tuple[list[np.ndarray], list[str | None]]:
        """Encode all segments at once; if that fails, one by one, so that an error costs its own segment alone."""
        counts = [len(frames) for frames in pixels]
        if sum(counts) == 0:
            return [np.empty((0, self._encoder.dim), np.float32)] * len(pixels), [None] * len(pixels)
        try:
            vectors = self._encoder(np.concatenate(pixels) if len(pixels) > 1 else pixels[0])
        except Exception as error:  # A user's encoder may raise anything. The segment's row records it.
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
        stage, error = ("encode", error) if error else (row["error_stage"], row["error"])
        if len(clips) == 0:
            if error is None and len(row["clip_index"]):
                stage, error = "decode", "no frame decoded"
            return empty_segment(row, self._encoder.dim, stage, error)
        n = len(clips)
        columns = {
            "video_id": [row["video_id"]] * n,
            "segment": [row["segment"]] * n,
            "clip_index": row["clip_index"][clips],
            "start_s": row["clip_start_s"][clips],
            "end_s": row["clip_end_s"][clips],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(pooled.ravel()), self._encoder.dim),
            "fingerprint": [row["fingerprint"]] * n,
            "decoder": [row["decoder"]] * n,
            "error_stage": [stage] * n,
            "error": [error] * n,
        }
        return pa.table(columns, schema=embeddings_schema(self._encoder.dim))


def empty_segment(row: Mapping[str, Any], dim: int, stage: str | None, error: str | None) -> pa.Table:
    """Return the one row of a segment without a clip: it failed, or no clip starts in it."""
    unit = {name: row[name] for name in UNIT}
    return pa.Table.from_pylist([{**unit, "error_stage": stage, "error": error}], schema=embeddings_schema(dim))
