"""A plan on disk, and runs that hold no more than a portion of their videos in memory."""

import numpy as np
import pyarrow as pa
import pytest

from raypipe.config import SampleConfig, make_config
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.plan import Plan, open_plan
from raypipe.runs.status import describe_status
from raypipe.schema import PLAN, Failure, Probe
from raypipe.segments.planning import plan_segments
from raypipe.sources.videos import Video, Videos

KIND = {"name": "x", "dim": 1, "fingerprint": "y"}


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path):
    return Run(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}/run")


def videos_of(names: str) -> Videos:
    return Videos(Video(name, f"file:///{name}") for name in names)


def plan_of(names: str, version="1", n_segments=1):
    """Plan these videos; one whose name is in capitals cannot be probed."""
    probe = Probe(100.0 * n_segments, 64, 48, 10.0, 1000, "h264", "pyav")
    probes = [Failure("probe", "broken") if name.isupper() else probe for name in names]
    return plan_segments(videos_of(names), probes, SampleConfig(segment_s=100), [version] * len(names))


def told(plan: pa.Table) -> list[str]:
    return [f"{row['video_id']}{row['segment']}v{row['version']}" for row in plan.to_pylist()]


def test_the_newest_rows_of_each_video_count_in_the_order_of_the_source(run):
    assert Plan(run, videos_of("ab")).lacking().tolist() == [0, 1]
    run.write_tables("plan.parquet", [plan_of("dxc"), plan_of("ba", n_segments=2)])
    run.write_table("plan/00000000-x.parquet", plan_of("ec", version="2"))
    plan = Plan(run, videos_of("abcdefg"))
    assert plan.lacking().tolist() == [5, 6]
    assert told(plan.portion(0, 2)) == ["a0v1", "a1v1", "b0v1", "b1v1"]
    assert told(plan.portion(1, 5)) == ["b0v1", "b1v1", "c0v2", "d0v1", "e0v2"]
    assert told(plan.portion(5, 7)) == []
    plan.drop(np.array([0, 2]))
    assert plan.lacking().tolist() == [0, 2, 5, 6]
    assert told(plan.portion(0, 7)) == ["b0v1", "b1v1", "d0v1", "e0v2"]


def test_a_plan_from_before_a_column_was_added_goes_on(run):
    run.write_table("plan.parquet", plan_of("ab").drop_columns("n_frames"))
    run.write_table("plan/00000000-x.parquet", plan_of("c"))
    Plan(run, videos_of("abc")).settle()
    settled = run.read_table("plan.parquet")
    assert settled.schema.equals(PLAN) and told(settled) == ["a0v1", "b0v1", "c0v1"]
    assert settled["n_frames"].to_pylist() == [None, None, 1000]


@pytest.mark.parametrize("where", ["plan.parquet", "plan/00000000-x.parquet"])
def test_what_another_encoder_began_is_refused_even_before_the_plan_is_settled(run, where):
    config = make_config()
    run.write_table(where, plan_of("ab"))
    run.record(config=config.model_dump(mode="json"), encoder=KIND)
    versions = pa.chunked_array([["1", "1"]])
    assert not len(open_plan(run, config, KIND, videos_of("ab"), versions).lacking())
    other = {**KIND, "fingerprint": "z"}
    with pytest.raises(UsageError, match="embeddings made with another encoder or sampling"):
        open_plan(run, config, other, videos_of("ab"), versions)
    again = make_config(sets=["source.re_embed=true"])
    assert len(open_plan(run, again, other, videos_of("ab"), versions).lacking()) == 2


def test_portions_settle_the_plan(run):
    run.write_table("plan.parquet", plan_of("cba"))
    run.write_table("plan/00000000-x.parquet", plan_of("D"))
    assert "probing    1 segment in what has been probed by now\nsegments   0 done" in describe_status(run)
    plan = Plan(run, videos_of("abcD"), 3)
    plan.settle()
    assert not run.exists("plan")
    assert [told(run.read_table("plan.parquet", group=group)) for group in range(2)] == [
        ["a0v1", "b0v1", "c0v1"],
        ["D0v1"],
    ]
    plan.find_remaining(retry_failed=False)
    assert (plan.n_segments, plan.n_videos) == (3, 3)
    assert [told(table) for table in plan.remaining()] == [["a0v1", "b0v1", "c0v1"]]


def test_the_status_tells_the_most_frequent_reasons_of_failures(run):
    plan = plan_of("abcdefg")
    why = ["a: cut", "b: empty", "c: cut", "d: a folder", "e: gone", "f: empty", "g: cut"]
    run.write_table("plan.parquet", plan.set_column(plan.schema.names.index("error"), PLAN.field("error"), [why]))
    assert [line for line in describe_status(run).splitlines() if line.startswith("failures")] == [
        "failures   3 times: cut",
        "failures   2 times: empty",
        "failures   1 time: a folder",
        "failures   for 1 more reason",
    ]


def test_what_cannot_be_compacted_is_accounted_for(run, monkeypatch):
    def full(self, dim):
        raise RaypipeError("no room")

    monkeypatch.setattr(Ledger, "compact", full)
    run.write_table("plan.parquet", plan_of("abC"))
    videos, said = videos_of("abCde"), []
    plan = Plan(run, videos[:3], 2)
    plan.settle()
    accounts = plan.account(videos, np.zeros(5, bool), 1, said.append)
    assert [table["status"].to_pylist() for table in accounts] == [["failed"] * 2, ["failed"], ["skipped"] * 2]
    assert b'"event": "not compacted", "reason": "no room"' in run.read_bytes("log.jsonl")
    assert said == ["small files of embeddings/ stay as they are: no room"] * 2


def test_a_plan_that_is_settled_while_its_status_is_told(run, monkeypatch):
    run.write_table("plan/00000000-x.parquet", plan_of("a"))

    def settled(self, name, *_):
        run.remove("plan")
        return original(self, name, *_)

    original = Run.read_table
    monkeypatch.setattr(Run, "read_table", settled)
    assert "probing" not in describe_status(run)
    monkeypatch.undo()
    run.write_bytes("plan/00000000-x.parquet", b"PAR1 and no more")
    with pytest.raises(RaypipeError, match="cannot read"):
        describe_status(run)


def test_what_still_holds(run):
    config, chosen = make_config(), videos_of("abC")
    run.record(encoder=KIND, config=config.model_dump(mode="json"))
    run.write_table("plan.parquet", plan_of("abC"))

    def known(config, versions, kind=KIND):
        return open_plan(run, config, kind, chosen, pa.chunked_array([versions], pa.string())).lacking().tolist()

    assert known(config, ["1", None, "2"]) == [], "a file that cannot be looked at, and one that failed, may stay"
    assert known(make_config(sets=["source.retry_failed=true"]), ["1", "1", "1"]) == [2]
    with pytest.raises(UsageError, match=r"1 of 3 videos changed since they were embedded, such as /b: --re-em"):
        known(config, ["1", "2", "2"])
    again = make_config(sets=["source.re_embed=true"])
    assert known(again, ["1", "2", "2"]) == [1]
    other = {**KIND, "fingerprint": "z"}
    with pytest.raises(UsageError, match="made with another encoder or sampling"):
        known(config, ["1", "1", "1"], other)
    assert known(again, ["1", "1", "1"], other) == [0, 1, 2]
    assert not run.exists("plan.parquet"), "a kill must leave nothing of the other kind behind"
