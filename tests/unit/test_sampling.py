"""Which frames and clips a segment has."""

import numpy as np
import pytest
from clips import cut_one

from raypipe.config import SampleConfig
from raypipe.segments.sampling import (
    MAX_SEGMENT_FRAMES,
    Span,
    describe_rate,
    frames_per_clip,
    pool_frames,
    sample_span,
)


def whole(length_s, origin_s=0.0):
    return Span(origin_s, length_s, origin_s, origin_s + length_s)


def test_by_rate():
    sampling = sample_span(whole(3.2), SampleConfig(fps=2))
    np.testing.assert_allclose(sampling.times_s, [0, 0.5, 1, 1.5, 2, 2.5, 3])
    np.testing.assert_array_equal(sampling.clip_index, [0, 1, 2, 3])
    np.testing.assert_allclose(sampling.clip_end_s, [1, 2, 3, 3.2])
    np.testing.assert_array_equal(sampling.members, [[0, 0], [0, 1], [1, 2], [1, 3], [2, 4], [2, 5], [3, 6]])


def test_overlapping_clips_share_frames():
    sampling = sample_span(whole(4), SampleConfig(fps=4, clip_s=1, stride_s=0.5))
    assert len(sampling.clip_index) == 8
    assert len(sampling.times_s) == 16
    counts = np.bincount(sampling.members[:, 0])
    np.testing.assert_array_equal(counts, [4] * 7 + [2])


def test_a_clip_shorter_than_a_frame_has_one():
    sample = SampleConfig(fps=2, clip_s=0.1)
    assert frames_per_clip(sample) == 1
    assert len(sample_span(whole(1), sample).times_s) == 10


def test_a_video_shorter_than_a_frame_has_one():
    assert len(sample_span(whole(0.04), SampleConfig()).times_s) == 1


def test_by_count():
    sampling = sample_span(whole(10, origin_s=5), SampleConfig(n_frames=5))
    np.testing.assert_allclose(sampling.times_s, [6, 8, 10, 12, 14])
    np.testing.assert_allclose(sampling.clip_start_s, [5, 7, 9, 11, 13])


def test_by_stride_takes_real_frames_of_a_variable_rate():
    frame_times = np.array([0, 0.1, 0.2, 1.0, 1.1, 3.0, 3.1])
    sampling = sample_span(whole(3.5), SampleConfig(every_n=2), frame_times)
    np.testing.assert_allclose(sampling.times_s, [0, 0.2, 1.1, 3.1])
    np.testing.assert_allclose(sampling.clip_end_s, [0.2, 1.1, 3.1, 3.5])


@pytest.mark.parametrize(
    "sample",
    [
        SampleConfig(),
        SampleConfig(fps=0.01),
        SampleConfig(fps=30, clip_s=0.7, stride_s=0.3),
        SampleConfig(fps=1 / 3, clip_s=10, stride_s=250),
        SampleConfig(every_n=7),
        SampleConfig(n_frames=5),
        SampleConfig(n_frames=1000),
    ],
    ids=lambda sample: str(sample.model_dump(exclude_defaults=True)),
)
@pytest.mark.parametrize("length_s", [0.04, 1.0, 119.99, 120.0, 120.01, 1801.3])
@pytest.mark.parametrize("origin_s", [0.0, 7.77])
def test_segments_together_are_the_whole(sample, length_s, origin_s):
    frame_times = np.arange(0, length_s + origin_s + 0.04, 0.04)
    spans = cut_one(origin_s, length_s, sample, fps=25)
    at_once = sample_span(whole(length_s, origin_s), sample, frame_times)
    parts = [sample_span(span, sample, frame_times) for span in spans]
    np.testing.assert_array_equal(np.concatenate([part.clip_index for part in parts]), at_once.clip_index)
    starts = np.concatenate([part.clip_start_s for part in parts])
    np.testing.assert_array_equal(starts, at_once.clip_start_s)
    np.testing.assert_array_equal(np.unique(np.concatenate([part.times_s for part in parts])), at_once.times_s)
    for span, part in zip(spans, parts, strict=True):
        assert len(part.times_s) <= 1.2 * MAX_SEGMENT_FRAMES + frames_per_clip(sample)
        assert span.end_s - span.start_s <= 120 + 1e-6 or sample.fps is None or sample.stride_s
        assert np.all(np.diff(part.times_s) > 0)
        assert set(part.members[:, 0]) == set(range(len(part.clip_index)))  # every clip has a frame


def test_pooling():
    values = np.array([[1, 10], [3, 20], [5, 60], [7, 0]], np.float32)
    members = np.array([[0, 0], [0, 1], [0, 2], [2, 2], [2, 3]])
    for pool, expected in {
        "mean": [[3, 30], [6, 30]],
        "max": [[5, 60], [7, 60]],
        "median": [[3, 20], [6, 30]],
        "first": [[1, 10], [5, 60]],
    }.items():
        clips, pooled = pool_frames(values, members, pool)
        np.testing.assert_array_equal(clips, [0, 2])  # the clip without a frame is left out
        np.testing.assert_allclose(pooled, expected)
        assert pooled.dtype == np.float32
    assert pool_frames(values[:0], members[:0], "mean")[1].shape == (0, 2)


@pytest.mark.parametrize(
    ("fps", "clip_s", "said"),
    [
        (0.1, 1.0, "asks for 0.1 frames a clip of 1 s, which has 1: sample.clip_s=10 holds whole ones"),
        (1.5, 1.0, "asks for 1.5 frames a clip of 1 s, which has 1: sample.clip_s=1.333 holds whole ones"),
        (2.0, 1.0, None),
        (30.0, 0.1, None),
        (29.97, 100 / 29.97, None),
    ],
)
def test_a_rate_that_no_clip_can_have_is_told_of(fps, clip_s, said):
    lines = describe_rate(SampleConfig(fps=fps, clip_s=clip_s))
    assert [line.partition(" ")[2] for line in lines] == ([said] if said else [])
    assert describe_rate(SampleConfig(n_frames=3)) == describe_rate(SampleConfig(every_n=3)) == []
