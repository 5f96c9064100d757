"""Which frames of a video are sampled, and how they are gathered into clips. This is arithmetic alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raypipe.config import SampleConfig

# A frame rate outside these bounds is not believed, whatever the container says.
_LEAST_FPS, _MOST_FPS = 1 / 120, 1000.0
# The frames of one segment lie in the object store together: 38 MB at 224 pixels.
MAX_SEGMENT_FRAMES = 256


@dataclass(frozen=True)
class Span:
    """A piece of a video, in seconds of its file.

    Attributes
    ----------
    origin_s, length_s
        Where the whole video starts in its file, and how long it is: the sampling grid is counted from there.
    start_s, end_s
        The piece: clips that start in [start_s, end_s) belong to it.
    """

    origin_s: float
    length_s: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Sampling:
    """The frames that a segment needs, and the clips made of them.

    Attributes
    ----------
    times_s
        (m,) float64 ascending, the times of the frames to decode.
    n_clips
        How many clips the whole video has, whatever the segment.
    clip_index
        (c,) int64, each clip's number within its video.
    clip_start_s, clip_end_s
        (c,) float64.
    members
        (p, 2) int64, pairs (clip, frame) of positions in the arrays above, ascending: clip ``a`` pools the frames
        ``b`` of its pairs.
    """

    times_s: np.ndarray
    n_clips: int
    clip_index: np.ndarray
    clip_start_s: np.ndarray
    clip_end_s: np.ndarray
    members: np.ndarray


def cut(
    origin_s: np.ndarray, length_s: np.ndarray, sample: SampleConfig, fps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut videos into pieces of at most ``segment_s`` seconds and about ``MAX_SEGMENT_FRAMES`` sampled frames.

    Parameters
    ----------
    origin_s, length_s
        (n,) float64 each, the videos' spans in their files, in seconds.
    sample
        The sampling pattern.
    fps
        (n,) float64, each file's average frame rate, 0 where unknown; it only bounds the size of a piece.

    Returns
    -------
    (m,) int64, the number of each piece's video, ascending; and (m,) float64 each, where the piece starts and ends. The
    pieces of a video are equally long.
    """
    n_pieces = _count_pieces(length_s, sample, fps)
    video = np.repeat(np.arange(len(n_pieces)), n_pieces)
    before = np.arange(len(video)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    starts_s, ends_s = (origin_s[video] + length_s[video] * n / n_pieces[video] for n in (before, before + 1))
    return video, starts_s, ends_s


def _count_pieces(length_s: np.ndarray, sample: SampleConfig, fps: np.ndarray) -> np.ndarray:
    if sample.n_frames is not None:
        # Few frames are fetched by seeking, so the length of the video does not matter.
        return np.where(length_s > 0, math.ceil(sample.n_frames / MAX_SEGMENT_FRAMES), 1)
    if sample.fps is not None:
        stride_s = np.full(len(length_s), sample.stride_s or sample.clip_s)
        is_sparse = stride_s >= sample.clip_s
        rate = np.where(is_sparse, np.minimum(sample.fps, frames_per_clip(sample) / stride_s), sample.fps)
    else:
        stride_s = (sample.every_n or 1) / np.where(_is_plausible(fps), fps, 30.0)
        rate = 1 / stride_s
    longest_s = np.maximum(np.minimum(sample.segment_s, MAX_SEGMENT_FRAMES / rate), stride_s)
    return np.maximum(1, np.ceil(length_s / longest_s - 1e-9)).astype(np.int64)


def _is_plausible(fps: np.ndarray) -> np.ndarray:
    return (fps >= _LEAST_FPS) & (fps <= _MOST_FPS)


def align_span(start_s: np.ndarray, end_s: np.ndarray, fps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move the edges of spans onto the frames that they were meant for.

    A frame belongs to a span if it is on display in it for most of its first half: so a frame that begins less than a
    quarter of a frame after the start is the first, and one that begins less than a quarter before the end is none of
    it. Edges that were rounded, to a millisecond or to float32, lie a hair's breadth beside the frames: a start before
    its first frame would begin with the last frame of the episode before it. Such a start moves on to that frame, and
    such an end back to the next one's beginning. Where the rate is not steady, a quarter of a frame is too little to
    pass one.

    Parameters
    ----------
    start_s, end_s
        (n,) float64, the spans, in seconds of their files.
    fps
        (n,) float64, each file's average frame rate, 0 where unknown: then the edges stay.
    """
    known = _is_plausible(fps)
    rate = np.where(known, fps, 1.0)
    first, after = np.ceil(start_s * rate - 1e-9) / rate, np.floor(end_s * rate + 1e-9) / rate
    is_late, is_early = (known & (0 < gap) & (gap < 0.25 / rate) for gap in (first - start_s, end_s - after))
    return np.where(is_late, first, start_s), np.where(is_early, after, end_s)


def frames_per_clip(sample: SampleConfig) -> int:
    """Return how many frames a whole clip has under rate sampling; at least one."""
    return max(1, math.floor(sample.clip_s * (sample.fps or 0) + 1e-9))


def describe_rate(sample: SampleConfig) -> list[str]:
    """Return a line that says how many frames a clip has, if those that the rate asks for are no whole number."""
    asked = sample.clip_s * (sample.fps or 0)
    taken = frames_per_clip(sample)
    if sample.fps is None or math.isclose(asked, taken, rel_tol=1e-6):
        return []
    whole_s = math.ceil(asked) / sample.fps
    return [
        f"sample.fps={sample.fps:g} asks for {asked:.3g} frames a clip of {sample.clip_s:g} s, which has {taken}: "
        f"sample.clip_s={whole_s:.4g} holds whole ones"
    ]


def sample_span(span: Span, sample: SampleConfig, frame_times_s: np.ndarray | None = None) -> Sampling:
    """Choose a segment's frames and clips.

    Parameters
    ----------
    span
        The segment.
    sample
        The pattern. Under ``fps`` a clip starts every ``stride_s`` and takes a frame every 1 / fps; under ``n_frames``
        the video is cut into n equal parts and each part's middle is a clip of one frame; under ``every_n`` each n-th
        frame is a clip that lasts until the next.
    frame_times_s
        (n,) presentation times of all the file's frames, ascending; needed under ``every_n`` alone.
    """
    if sample.fps is not None:
        return _by_rate(span, sample, sample.fps)
    end_of_video = span.origin_s + span.length_s
    if sample.n_frames is not None:
        edges = span.origin_s + span.length_s * np.arange(sample.n_frames + 1) / sample.n_frames
        times, starts, ends = (edges[:-1] + edges[1:]) / 2, edges[:-1], edges[1:]
    else:
        assert sample.every_n is not None and frame_times_s is not None
        # As in `align_span`, by each frame's own time on display; nothing follows the last that the end could meet.
        quarters = np.append(np.diff(frame_times_s), 0.0) / 4
        is_inside = (frame_times_s + quarters > span.origin_s - 1e-9) & (frame_times_s + quarters < end_of_video - 1e-9)
        times = frame_times_s[is_inside][:: sample.every_n]
        starts = np.maximum(times, span.origin_s)
        ends = np.append(starts[1:], max(end_of_video, starts[-1])) if len(starts) else starts
    mine = np.flatnonzero((starts >= span.start_s - 1e-9) & (starts < span.end_s - 1e-9))
    pairs = np.repeat(np.arange(len(mine))[:, None], 2, axis=1)
    return Sampling(times[mine], len(starts), mine, starts[mine], ends[mine], pairs)


def choose_evenly(sampling: Sampling, at_most: int) -> np.ndarray:
    """Return which of a segment's clips are among ``at_most`` of the video's that are evenly spread: (c,) bool.

    They are the clips in the middles of so many equal parts of the video, or all if it has no more. That depends on a
    clip's number alone, so however a video is cut into segments, the same clips are chosen.
    """
    if sampling.n_clips <= at_most:
        return np.ones(len(sampling.clip_index), bool)
    middles = ((np.arange(at_most) + 0.5) * sampling.n_clips / max(at_most, 1)).astype(np.int64)
    return np.isin(sampling.clip_index, middles)


def pool_frames(embeddings: np.ndarray, members: np.ndarray, pool: str) -> tuple[np.ndarray, np.ndarray]:
    """Pool the frames of each clip.

    Parameters
    ----------
    embeddings
        (n, dim) float32, a row a frame.
    members
        (p, 2) pairs (clip, frame), ascending by clip; clips with no pair are left out.
    pool
        "mean", "max", "median" or "first".

    Returns
    -------
    clips, pooled
        (c,) the numbers of the clips that have a frame, and (c, dim) float32.
    """
    clips, first = np.unique(members[:, 0], return_index=True)
    rows = embeddings[members[:, 1]]
    if len(clips) == 0:
        return clips, np.empty((0, embeddings.shape[1]), np.float32)
    if pool == "first":
        return clips, rows[first]
    if pool == "max":
        return clips, np.maximum.reduceat(rows, first, axis=0)
    if pool == "mean":
        counts = np.diff(np.append(first, len(rows)))[:, None]
        return clips, (np.add.reduceat(rows.astype(np.float64), first, axis=0) / counts).astype(np.float32)
    return clips, np.stack([np.median(group, axis=0) for group in np.split(rows, first[1:])]).astype(np.float32)


def _by_rate(span: Span, sample: SampleConfig, fps: float) -> Sampling:
    stride = sample.stride_s or sample.clip_s
    end_of_video = span.origin_s + span.length_s
    first = math.ceil((span.start_s - span.origin_s) / stride - 1e-9)
    last = math.ceil((span.end_s - span.origin_s) / stride - 1e-9)
    index = np.arange(first, last)
    starts = span.origin_s + index * stride
    wanted = starts[:, None] + np.arange(frames_per_clip(sample))[None, :] / fps
    wanted = np.round(wanted, 6)  # Times equal to a microsecond are one frame, which overlapping clips share.
    clip, _ = kept = np.nonzero((wanted < end_of_video - 1e-6) | (np.arange(wanted.shape[1]) == 0)[None, :])
    times, frame = np.unique(wanted[kept], return_inverse=True)
    ends = np.minimum(starts + sample.clip_s, end_of_video)
    n_clips = max(math.ceil(span.length_s / stride - 1e-9), 1)
    return Sampling(times, n_clips, index, starts, ends, np.stack([clip, frame], axis=1))
