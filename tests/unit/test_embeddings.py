"""The ledger: what of a plan has been committed, whatever was written twice, and by whom."""

import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from waiting import wait_for

from raypipe.errors import RaypipeError
from raypipe.runs import ledger as embeddings
from raypipe.runs.committer import Committer
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.plan import Plan
from raypipe.schema import PLAN, embeddings_schema
from raypipe.sources.videos import Video, Videos
from raypipe.trajectories import build_trajectories

DIM = 2


def plan_of(segments: dict[str, int], fingerprint="f") -> pa.Table:
    rows = [
        {"video_id": video_id, "segment": i, "fingerprint": fingerprint}
        for video_id, n in segments.items()
        for i in range(n)
    ]
    return pa.Table.from_pylist(rows, schema=PLAN)


def clips(video_id, segment, values, fingerprint="f", error=None) -> pa.Table:
    """A segment's rows: one a value, or the one row of a segment without a clip."""
    unit = {"video_id": video_id, "segment": segment, "fingerprint": fingerprint}
    if error or not values:
        rows = [{**unit, "error_stage": error and "decode", "error": error}]
    else:
        rows = [{**unit, "clip_index": i, "embedding": [value] * DIM} for i, value in enumerate(values)]
    return pa.Table.from_pylist(rows, schema=embeddings_schema(DIM))


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path):
    return Run(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}/run")


def write(run, number, *tables):
    run.write_table(f"embeddings/{number:08d}-x.parquet", pa.concat_tables(tables))


def content(ledger) -> dict[tuple, list]:
    """What the ledger lets through: the values of each segment's clips."""
    found: dict[tuple, list] = {}
    for table in ledger.iter_clips():
        for row in table.to_pylist():
            value = row["embedding"] and row["embedding"][0]
            found.setdefault((row["video_id"], row["segment"]), []).append(value)
    return found


def left(ledger, **options) -> list[tuple]:
    return [(row["video_id"], row["segment"]) for row in ledger.remaining(**options).to_pylist()]


def test_nothing_committed(run):
    ledger = Ledger(run, plan_of({"a": 2, "b": 1}))
    assert left(ledger) == [("a", 0), ("a", 1), ("b", 0)]
    assert content(ledger) == {}
    assert ledger.n_clips.tolist() == [-1, -1, -1]
    ledger.compact(DIM)
    assert Ledger(run, PLAN.empty_table()).remaining().num_rows == 0


def test_what_is_left(run):
    plan = plan_of({"a": 3, "b": 1, "c": 1, "d": 1})
    plan = plan.set_column(plan.schema.get_field_index("error"), PLAN.field("error"), pa.array([None] * 5 + ["broken"]))
    write(run, 0, clips("b", 0, [1, 2]), clips("a", 2, []))
    write(run, 1, clips("a", 0, [5]), clips("c", 0, [], error="spins"))
    ledger = Ledger(run, plan)
    assert ledger.n_clips.tolist() == [1, -1, 0, 2, 0, -1]
    assert left(ledger) == [("a", 1)]
    assert left(ledger, retry_failed=True) == [("a", 1), ("c", 0)]
    assert ledger.outcome["error"].to_pylist() == [None, None, None, None, "spins", None]
    assert content(ledger) == {("b", 0): [1, 2], ("a", 2): [None], ("a", 0): [5], ("c", 0): [None]}


def test_what_an_absent_server_cost_is_always_left(run):
    away = clips("a", 0, [], error="connection refused")
    away = away.set_column(away.schema.get_field_index("error_stage"), "error_stage", pa.array(["source"]))
    write(run, 0, away, clips("b", 0, [], error="spins"))
    assert left(Ledger(run, plan_of({"a": 1, "b": 1}))) == [("a", 0)]


def test_the_newest_of_a_segment_counts(run):
    write(run, 0, clips("a", 0, [1, 1, 1]), clips("b", 0, [], error="spins"))
    write(run, 1, clips("a", 1, [2]), clips("a", 0, [9, 9]))
    write(run, 2, clips("b", 0, [3]))
    plan = plan_of({"a": 2, "b": 1})
    ledger = Ledger(run, plan)
    expected = {("a", 0): [9, 9], ("a", 1): [2], ("b", 0): [3]}
    assert content(ledger) == expected
    assert ledger.n_clips.tolist() == [2, 1, 1]
    assert ledger.outcome["error"].null_count == 3
    ledger.compact(DIM)
    assert len(run.files("embeddings")) == 1
    assert sum(table.num_rows for table in run.iter_tables("embeddings")) == 4
    assert content(Ledger(run, plan)) == expected


def test_the_newest_counts_of_many_segments_too(run):
    names = [f"v{i:02d}" for i in range(20)]
    for number in range(3):
        write(run, number, *(clips(name, 0, [number]) for name in names))
    assert content(Ledger(run, plan_of(dict.fromkeys(names, 1)))) == {(name, 0): [2] for name in names}


def timed(table: pa.Table, origin_s: float) -> pa.Table:
    """Set the times of a segment's clips, one a second."""
    for name, offset in (("start_s", 0.0), ("end_s", 1.0)):
        number = table["clip_index"].cast(pa.float64())
        table = table.set_column(table.schema.get_field_index(name), name, pc.add(number, origin_s + offset))
    return table


FIRST = timed(clips("a", 0, [4, 1, 7]), 0.0)
SECOND = timed(clips("a", 1, [3, 8]), 3.0)
FAILED = clips("a", 0, [], error="timed out")


@pytest.mark.parametrize(
    "written",
    [
        [[FIRST, FIRST, SECOND]],
        [[FIRST, SECOND, FIRST, SECOND, FIRST]],
        [[FIRST.take([0, 0, 1, 2, 2]), SECOND.take([0, 1, 0])]],
        [[FIRST.take([0, 1]), FIRST, SECOND]],
        [[FIRST, FIRST.take([0, 1]), SECOND]],
        [[FAILED, FIRST, SECOND]],
        [[FIRST, FAILED, SECOND]],
        [[FIRST, SECOND, FAILED]],
        [[FAILED, FAILED, SECOND], [FIRST, FIRST]],
        [[FIRST, FIRST, SECOND], [FAILED, FAILED]],
    ],
)
def test_a_clip_counts_once_however_often_it_was_committed(tmp_path, written):
    run, plan = Run(str(tmp_path / "run")), plan_of({"a": 2, "b": 1})
    run.write_table("plan.parquet", plan)
    for number, tables in enumerate(written):
        write(run, number, *tables, clips("b", 0, [], error="spins"))
    for _ in range(2):
        ledger = Ledger(run, plan)
        assert ledger.n_clips.tolist() == [3, 2, 0]
        assert ledger.outcome["error"].to_pylist() == [None, None, "spins"]
        assert content(ledger) == {("a", 0): [4, 1, 7], ("a", 1): [3, 8], ("b", 0): [None]}
        for axis in ("time", "index"):
            (path,) = build_trajectories(run, 9, axis).values
            assert path[:, 0].tolist() == [4, 2.5, 1, 4, 7, 5, 3, 5.5, 8]
        assert build_trajectories(run, None).n_clips.tolist() == [5]
        ledger.compact(DIM)
        assert run.read_table("embeddings").num_rows == 6


def test_a_segment_that_failed_twice_has_failed_once(run):
    write(run, 0, FAILED, FAILED)
    ledger = Ledger(run, plan_of({"a": 1}))
    assert (ledger.n_clips.tolist(), ledger.is_failed().tolist()) == ([0], [True])
    ledger.compact(DIM)
    assert run.read_table("embeddings").num_rows == 1


def test_other_fingerprints_count_for_nothing(run):
    write(run, 0, clips("a", 0, [1], fingerprint="old"), clips("b", 0, [1], fingerprint="old"))
    write(run, 1, clips("a", 0, [2]), clips("gone", 0, [7]), clips("b", 5, [7]))
    ledger = Ledger(run, plan_of({"a": 1, "b": 1}))
    assert content(ledger) == {("a", 0): [2]}
    assert left(ledger) == [("b", 0)]
    ledger.compact(DIM)
    rows = run.read_table("embeddings").to_pylist()
    assert sorted((row["video_id"], row["fingerprint"]) for row in rows) == [("a", "f"), ("gone", "f")]
    with_gone = Ledger(run, plan_of({"a": 1, "b": 1, "gone": 1}))
    assert left(with_gone) == [("b", 0)], "what a smaller plan left out has not been lost"


def test_a_kill_within_compaction_loses_nothing(run, monkeypatch):
    for number in range(4):
        write(run, number, clips("a", number, [number]))
    plan = plan_of({"a": 4})
    expected = content(Ledger(run, plan))
    removed = []

    def killed(self, name):
        if removed:
            raise KeyboardInterrupt
        removed.append(name)
        original(self, name)

    original = Run.remove
    monkeypatch.setattr(Run, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        Ledger(run, plan).compact(DIM)
    monkeypatch.undo()
    assert len(run.files("embeddings")) == 4
    assert content(Ledger(run, plan)) == expected
    Ledger(run, plan).compact(DIM)
    assert len(run.files("embeddings")) == 1
    assert content(Ledger(run, plan)) == expected


def test_compaction_leaves_full_files_alone(run, monkeypatch):
    monkeypatch.setattr(embeddings, "FILE_BYTES", 10 * (4 * DIM + 100))
    write(run, 0, clips("a", 0, [0] * 8))
    for number in range(1, 9):
        write(run, number, clips("a", number, [number] * 3))
    plan = plan_of({"a": 9})
    expected = content(Ledger(run, plan))
    Ledger(run, plan).compact(DIM)
    files = run.files("embeddings")
    assert files[0] == "embeddings/00000000-x.parquet"
    assert [run.read_table(name, ["segment"]).num_rows for name in files] == [8, 12, 12]
    assert content(Ledger(run, plan)) == expected
    Ledger(run, plan).compact(DIM)
    assert run.files("embeddings") == files


def test_a_file_that_vanishes_while_it_is_read(run, monkeypatch):
    for number in range(2):
        write(run, number, clips("a", number, [number]))
    original = Run.read_table
    vanished = []

    def read(self, name, columns=None):
        if not vanished and name.endswith("0-x.parquet"):
            vanished.append(name)
            write(run, 7, clips("a", 0, [0]), clips("a", 1, [1]))  # as another process compacts
            run.remove(name)
        return original(self, name, columns)

    monkeypatch.setattr(Run, "read_table", read)
    assert Ledger(run, plan_of({"a": 2})).n_clips.tolist() == [1, 1]


def test_a_broken_file_is_named(run):
    run.write_bytes("embeddings/00000000-x.parquet", b"PAR1 and no more")
    with pytest.raises(RaypipeError, match=r"cannot read .*00000000-x\.parquet: .*; remove it"):
        Ledger(run, plan_of({"a": 1}))


def test_commits_by_size_and_by_time(run):
    told = []
    with Committer(run, told.append, every_s=0.3, max_bytes=400) as committer:
        committer.add(clips("a", 0, [1]))
        assert run.files("embeddings") == []
        wait_for(lambda: len(run.files("embeddings")) == 1)
        for segment in range(1, 9):
            committer.add(clips("a", segment, [1, 2]))
        wait_for(lambda: len(run.files("embeddings")) >= 2)
        committer.add(clips("b", 0, [3]))
    assert content(Ledger(run, plan_of({"a": 9, "b": 1}))).keys() == {*(("a", i) for i in range(9)), ("b", 0)}
    assert sum(told) == 1 + 16 + 1
    assert not any(thread.name == "raypipe-committer" for thread in threading.enumerate())


def test_work_that_is_old_waits_no_longer(run):
    with Committer(run, every_s=60) as committer:
        committer.add(clips("a", 0, [1]), age_s=1)
        committer.add(clips("a", 1, [2]), age_s=59.5)
        wait_for(lambda: len(run.files("embeddings")) == 1, limit_s=10)
        committer.add(clips("a", 2, [3]))
        time.sleep(0.2)
        assert len(run.files("embeddings")) == 1


def test_old_work_does_not_make_a_file_each(run):
    began = time.monotonic()
    with Committer(run, every_s=2) as committer:
        for segment in range(20):
            committer.add(clips("a", segment, [segment]), age_s=5)
            time.sleep(0.05)
    waited_s = time.monotonic() - began  # A second and little more, but on a machine that stood still.
    assert 2 <= len(run.files("embeddings")) <= 2 + waited_s / 0.5, "one at once, one each half second, one at the end"


def test_a_part_is_compacted_beside_the_others(run):
    write(run, 0, clips("a", 0, [1]), clips("b", 0, [], error="spins"))
    write(run, 1, clips("a", 1, [2]))
    write(run, 2, clips("b", 0, [3]))
    part = plan_of({"a": 2})
    Ledger(run, part).compact(DIM)
    zero, two, merged = run.files("embeddings")
    assert (zero, two) == ("embeddings/00000000-x.parquet", "embeddings/00000002-x.parquet")
    assert run.read_table(zero)["video_id"].to_pylist() == ["b"], "older than what came after it, as before"
    assert run.read_table(merged)["video_id"].to_pylist() == ["a", "a"]
    assert content(Ledger(run, plan_of({"a": 2, "b": 1}))) == {("a", 0): [1], ("a", 1): [2], ("b", 0): [3]}
    before = run.files("embeddings")
    Ledger(run, part).compact(DIM)
    assert run.files("embeddings") == before, "there is nothing left to do"


def test_what_an_encoder_of_another_size_made_goes(run):
    write(run, 0, clips("a", 0, [1], fingerprint="old"))
    wide = clips("a", 0, [2])
    wide = wide.set_column(
        wide.schema.get_field_index("embedding"), "embedding", pa.array([[2.0] * 5], pa.list_(pa.float32(), 5))
    )
    write(run, 1, wide, wide.set_column(1, "segment", pa.array([1], pa.int32())))
    Ledger(run, plan_of({"a": 2})).compact(5)
    assert [table["embedding"].to_pylist() for table in run.iter_tables("embeddings")] == [[[2.0] * 5] * 2]


def test_what_a_smaller_plan_leaves_out_keeps_its_order(run):
    write(run, 0, clips("y", 0, [], error="spins"), clips("a", 0, [1]))
    write(run, 1, clips("y", 0, [5]))
    write(run, 2, clips("a", 1, [2]))
    part = plan_of({"a": 2})
    Ledger(run, part).compact(DIM)
    assert content(Ledger(run, plan_of({"y": 1}))) == {("y", 0): [5]}
    assert len(run.files("embeddings")) == 3
    assert [table.num_rows for table in Ledger(run, part).iter_clips()] == [2], "none of a file that the plan lacks"


def test_a_video_out_of_reach_keeps_its_clips(run):
    write(run, 0, *(clips("a", segment, [segment]) for segment in range(3)), clips("b", 0, [7]))
    write(run, 1, clips("b", 1, [8]))
    away = plan_of({"a": 1, "b": 2})
    away = away.set_column(away.schema.get_field_index("error"), PLAN.field("error"), pa.array(["away", None, None]))
    ledger = Ledger(run, away)
    assert ledger.n_clips.tolist() == [-1, 1, 1]
    assert left(ledger) == []
    ledger.compact(DIM)
    assert content(Ledger(run, plan_of({"a": 3}))) == {("a", segment): [segment] for segment in range(3)}


def test_a_plan_knows_which_files_touch_a_portion(run):
    videos = Videos(Video(name, f"file:///{name}") for name in "abcdef")
    plan = Plan(run, videos)
    assert plan.files_touching(0, 6) == []
    for number, names in enumerate(["ab", "bd", "f", "x"]):
        write(run, number, *(clips(name, 0, [1]) for name in names))
    zero, one, two, _ = run.files("embeddings")
    parts = {(0, 2): [zero, one], (2, 4): [one], (4, 6): [two], (0, 6): [zero, one, two]}
    assert {bounds: plan.files_touching(*bounds) for bounds in parts} == parts


def test_what_waits_is_committed_on_an_interrupt(run):
    with pytest.raises(KeyboardInterrupt), Committer(run) as committer:
        committer.add(clips("a", 0, [1]))
        raise KeyboardInterrupt
    assert content(Ledger(run, plan_of({"a": 1}))) == {("a", 0): [1]}


def test_a_full_disk_stops_it(run, monkeypatch):
    def full(self, name, content):
        raise RaypipeError("cannot write x: No space left on device")

    monkeypatch.setattr(Run, "write_bytes", full)
    with pytest.raises(RaypipeError, match="No space left"), Committer(run, every_s=0.05) as committer:
        for _ in range(1000):
            committer.add(clips("a", 0, [1]))
            time.sleep(0.01)
    with pytest.raises(RaypipeError, match="No space left"), Committer(run) as committer:
        committer.add(clips("a", 0, [1]))


def test_many_segments_are_found_at_once(tmp_path):
    """Not a benchmark: a plan of 100,000 rows takes seconds, not minutes."""
    run = Run(str(tmp_path))
    n = 50_000
    ids = [f"{i:036d}" for i in range(n)]
    plan = pa.table({"video_id": np.repeat(ids, 2), "segment": pa.array(np.tile([0, 1], n), pa.int32())})
    plan = plan.append_column("fingerprint", pa.array(["f"] * (2 * n))).append_column(
        "error", pa.nulls(2 * n, pa.string())
    )
    done = plan.take(pa.array(np.arange(0, 2 * n, 2))).append_column("clip_index", pa.array(np.zeros(n, np.int32)))
    for name in ("decoder", "error_stage"):
        done = done.append_column(name, pa.nulls(n, pa.string()))
    for number, start in enumerate(range(0, n, 5000)):
        run.write_table(f"embeddings/{number:08d}-x.parquet", done.slice(start, 5000))
    started = time.monotonic()
    ledger = Ledger(run, plan)
    assert ledger.remaining().num_rows == n
    assert (ledger.n_clips[::2] == 1).all()
    assert time.monotonic() - started < 20
