"""Clips to trajectories."""

import numpy as np
import pyarrow as pa
import pytest

from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.directory import Run
from raypipe.runs.results import from_table, to_table
from raypipe.schema import PLAN, embeddings_schema
from raypipe.trajectories import build_trajectories, interpolate


def test_interpolation_matches_numpy():
    rng = np.random.default_rng(0)
    for n_clips in (2, 3, 17):
        values = rng.normal(size=(n_clips, 4))
        times = np.cumsum(rng.uniform(0.1, 5, n_clips))
        wanted = np.linspace(times[0], times[-1], 16)
        expected = np.stack([np.interp(wanted, times, column) for column in values.T], axis=1)
        np.testing.assert_allclose(interpolate(values, times, 16), expected, rtol=1e-12)


def test_interpolation_of_one_clip_repeats_it():
    np.testing.assert_array_equal(interpolate(np.array([[1.0, 2.0]]), np.array([3.0]), 3), [[1, 2]] * 3)


def test_interpolation_keeps_ends_and_dtype():
    values = np.array([[0.0], [10.0], [4.0]], np.float32)
    path = interpolate(values, np.array([0.0, 1.0, 4.0]), 5)
    np.testing.assert_allclose(path.ravel(), [0, 10, 8, 6, 4])
    assert path.dtype == np.float32
    np.testing.assert_array_equal(interpolate(values, np.array([0.0, 1.0, 4.0]), 1), [[0.0]])


def clips(rows):
    """Make an embeddings table of rows (video, segment, clip, start, value or None)."""
    names = ["video_id", "segment", "clip_index", "start_s", "embedding"]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    for record in records:
        record["end_s"] = None if record["start_s"] is None else record["start_s"] + 1
        record["fingerprint"] = "f"
        record["embedding"] = None if record["embedding"] is None else [record["embedding"]] * 2
    return pa.Table.from_pylist(records, schema=embeddings_schema(2))


def write_plan(run, segments):
    rows = [{"video_id": video_id, "segment": segment, "fingerprint": "f"} for video_id, segment in segments]
    run.write_table("plan.parquet", pa.Table.from_pylist(rows, schema=PLAN))


@pytest.fixture
def run(tmp_path):
    run = Run(str(tmp_path / "run"))
    plan = [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("dead", 0), ("one", 0)]
    write_plan(run, plan)
    # Files and rows in disorder, as actors write them; b's middle segment failed.
    run.write_table("embeddings/0.parquet", clips([("b", 2, 3, 3, 6), ("b", 2, 2, 2, 4), ("a", 0, 0, 0, 1)]))
    run.write_table("embeddings/1.parquet", clips([("dead", 0, None, None, None), ("b", 1, None, None, None)]))
    run.write_table("embeddings/2.parquet", clips([("one", 0, 0, 0, 9), ("b", 0, 0, 0, 0)]))
    return run


def test_build_by_time(run):
    paths = build_trajectories(run, n_steps=4)
    assert paths.video_ids == ("b", "a", "one")  # source order; the video without a clip has no path
    np.testing.assert_array_equal(paths.n_clips, [3, 1, 1])
    np.testing.assert_allclose(paths.values[0, :, 0], [0, 2, 4, 6])  # the gap is bridged in time
    np.testing.assert_allclose(paths.values[2, :, 1], 9)
    assert paths.values.dtype == np.float32


def test_a_segment_that_is_not_committed_does_not_hide_the_others(run):
    run.write_table("embeddings/1.parquet", clips([("dead", 0, None, None, None)]))
    paths = build_trajectories(run, n_steps=4)
    assert paths.video_ids == ("b", "a", "one")
    np.testing.assert_allclose(paths.values[0, :, 0], [0, 2, 4, 6])


def test_build_by_index(run):
    paths = build_trajectories(run, n_steps=3, time_axis="index")
    np.testing.assert_allclose(paths.values[0, :, 0], [0, 4, 6])


def test_build_ragged(run):
    paths = build_trajectories(run, n_steps=None)
    assert [len(path) for path in paths.values] == [3, 1, 1]
    np.testing.assert_allclose(paths.values[0][:, 0], [0, 4, 6])


@pytest.mark.parametrize("n_steps", [4, None])
def test_table_round_trip(run, n_steps):
    paths = build_trajectories(run, n_steps)
    picture = [path[:, :1] for path in paths.values]
    table = to_table(paths, slice(0, 2), {"picture": picture})
    back = from_table(table)
    assert back.video_ids == paths.video_ids[:2]
    for got, expected in zip(back.values, paths.values, strict=False):
        np.testing.assert_array_equal(got, expected)
    assert from_table(table, "picture").values[0].shape == (len(paths.values[0]), 1)


def test_no_clip_at_all(tmp_path):
    run = Run(str(tmp_path))
    write_plan(run, [("dead", 0)])
    run.write_table("embeddings/1.parquet", clips([("dead", 0, None, None, None)]))
    with pytest.raises(RaypipeError, match="no video of this run has a clip"):
        build_trajectories(run)


@pytest.mark.parametrize("pool, value", [("mean", 10 / 3), ("max", 6), ("median", 4), ("first", 0)])
def test_a_pooled_video_is_a_path_of_one_step(run, pool, value):
    found = build_trajectories(run, n_steps=None, pool=pool)
    assert found.video_ids == ("b", "a", "one")
    assert found.values.shape == (3, 1, 2) and found.values.dtype == np.float32
    np.testing.assert_allclose(found.values[:, 0, 0], [value, 1, 9], rtol=1e-6)
    np.testing.assert_array_equal(found.n_clips, [3, 1, 1])
    unit = build_trajectories(run, pool=pool, normalize=True).values[:, 0]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1 if value else 0, 1, 1], rtol=1e-6)


def test_an_unknown_pool_is_an_error_of_one_line(run):
    with pytest.raises(UsageError, match=r"pool: Input should be 'mean', 'max', 'median' or 'first'"):
        build_trajectories(run, pool="sum")
