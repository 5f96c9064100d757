"""A run directory: atomic, readable from any file system."""

import os
import pickle
import re
import time

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from commands import call_raypipe
from embedded import make_embedded
from fsspec.implementations.memory import MemoryFileSystem

from raypipe.errors import RaypipeError, UsageError
from raypipe.report.exporting.naming import free_name
from raypipe.runs.accounting import describe_ends
from raypipe.runs.beginnings import check_place
from raypipe.runs.directory import Run
from raypipe.sources.videos import Video, Videos
from raypipe.trajectories.steps import LocalSteps


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path):
    return Run(str(tmp_path / "a run") if request.param == "local" else f"memory://{tmp_path.name}/run")


def test_files_are_replaced_listed_and_removed(run):
    assert not run.exists("run.json")
    run.write_json("run.json", {"name": "Ünïcode"})
    run.write_json("run.json", {"name": "again"})
    run.write_bytes("plots/a.png", b"png")
    assert run.read_json("run.json") == {"name": "again"}
    assert run.files("plots") == ["plots/a.png"]
    assert run.files("nowhere") == []
    run.remove("plots")
    run.remove("plots")
    assert not run.exists("plots/a.png")
    assert Run.open(run.url) == run
    assert pickle.loads(pickle.dumps(run)).read_json("run.json") == {"name": "again"}


@pytest.mark.parametrize("name", ["plots", "report.html"])
def test_two_commands_may_remove_the_same(run, monkeypatch, name):
    was_there = iter([True, False])
    monkeypatch.setattr(Run, "exists", lambda run, name: next(was_there))
    run.remove(name)


def test_a_folder_has_one_spelling(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    here = Run(str(tmp_path / "a b%20"))
    here.write_bytes("report.html", b"")
    for spelling in ("~/a b%20", (tmp_path / "a b%20").as_uri()):
        assert Run(spelling) == here and Run(spelling).exists("report.html")
    assert here.place("report.html") == str(tmp_path / "a b%20/report.html")
    assert Run("memory://runs/a b").place("x.csv") == "memory:///runs/a b/x.csv"


def test_tables_of_a_folder_are_read_in_the_order_of_their_names(run):
    for number in (1, 0):
        run.write_table(f"embeddings/{number}.parquet", pa.table({"n": [number], "m": ["x"]}))
    run.write_bytes("embeddings/.half-written.parquet", b"PAR1")
    assert run.read_table("embeddings").column("n").to_pylist() == [0, 1]
    assert run.read_table("embeddings/1.parquet", ["m"]).column_names == ["m"]
    assert [table.num_rows for table in run.iter_tables("embeddings")] == [1, 1]


def test_a_table_in_parts(run):
    whole = pa.table({"n": [1, 2, 2], "m": ["1", "2", "2"]})
    run.write_tables("plan.parquet", (whole.slice(*bounds) for bounds in [(0, 0), (0, 1), (1, 2)]))
    assert run.n_groups("plan.parquet") == 3
    assert [run.read_table("plan.parquet", ["n"], group)["n"].to_pylist() for group in range(3)] == [[], [1], [2, 2]]

    def longer():
        for group in range(3):
            yield run.read_table("plan.parquet", group=group).slice(0, 1)

    run.write_tables("plan.parquet", longer())
    assert run.read_table("plan.parquet").to_pylist() == [{"n": 1, "m": "1"}, {"n": 2, "m": "2"}]

    def broken():
        yield run.read_table("plan.parquet")
        raise RaypipeError("no more")

    with pytest.raises(RaypipeError, match="no more"):
        run.write_tables("plan.parquet", broken())
    assert run.read_table("plan.parquet").num_rows == 2
    assert [name.rpartition("/")[2] for name in run._fs.ls(run.path(), detail=False)] == ["plan.parquet"]


def test_what_was_half_written_long_ago_is_swept_away(tmp_path):
    run = Run(str(tmp_path))
    run.write_json("run.json", {})
    for name in ("embeddings/.0.parquet." + "a" * 32, ".run.json." + "b" * 32, ".run.json." + "c" * 32, ".hidden"):
        run.write_bytes(name, b"half")
        if not name.endswith("c"):
            os.utime(tmp_path / name, (0, 0))
    run.sweep()
    left = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(left) == [".hidden", ".run.json." + "c" * 32, "run.json"]


def test_what_a_killed_poster_left_long_ago_is_removed_by_the_next(tmp_path):
    run = Run(str(tmp_path))
    names = {".raypipe-abcd_123/poster_files/1.jpg": 0, ".raypipe-abcd_124/canvas": time.time(), ".raypipe-mine/x": 0}
    for name, written in names.items():
        run.write_bytes(name, b"half")
        for each in [tmp_path / name, *(tmp_path / name).parents][: name.count("/") + 1]:
            os.utime(each, (written, 0 if each.is_dir() else written))
    with run.scratch() as folder:
        left = {file.name for file in tmp_path.iterdir()}
    assert left == {".raypipe-abcd_124", ".raypipe-mine", folder.name}


def test_what_is_missing_is_said(run):
    with pytest.raises(UsageError, match="not a run directory"):
        Run.open(run.url)
    with pytest.raises(RaypipeError, match=r"has no metrics\.json"):
        run.read_json("metrics.json")
    with pytest.raises(RaypipeError, match="has no trajectories/"):
        run.read_table("trajectories")


def test_record_merges(run):
    run.record(seconds={"find": 1.0}, counts={"ok": 3})
    run.record(seconds={"plan": 2.0}, counts={"ok": 4}, note="x")
    assert run.info() == {"seconds": {"find": 1.0, "plan": 2.0}, "counts": {"ok": 4}, "note": "x"}


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RaypipeError, match="cannot write"):
        Run(str(tmp_path / "file" / "run")).write_json("run.json", {})
    with pytest.raises(UsageError, match=r"cannot use nope://x/y as a run directory: Protocol not known: nope$"):
        Run("nope://x/y").exists("run.json")
    with pytest.raises(UsageError, match="as a run directory: chained URLs are not read"):
        Run("simplecache::s3://bucket/run").exists("run.json")
    with pytest.raises(UsageError, match=r"^ftp://host/run cannot hold a run.* before it is whole: name a folder"):
        check_place(Run("ftp://me:secret@host/run"))


def test_a_folder_may_have_two_colons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run("a::b/run").write_json("run.json", {})
    assert Run(str(tmp_path / "a::b" / "run")).exists("run.json")


def test_a_run_does_not_go_with_a_job(tmp_path, monkeypatch):
    """A job that brings its working directory starts in a copy, which Ray removes."""
    copy = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_1"
    (copy / "videos").mkdir(parents=True)
    monkeypatch.chdir(copy)
    for verb in (["run", "videos"], ["demo"]):
        done = call_raypipe(*verb, "-o", "runs/a")
        assert done.exit_code == 2 and "runs/a lies in Ray's copy of a job's working directory" in done.stderr
    assert not (copy / "runs").exists()
    check_place(Run(str(tmp_path / "runs/a")))


@pytest.mark.parametrize("verb", [("run", "videos"), ("demo",), ("export", "run", "--to", "csv")])
def test_what_is_written_outlasts_the_command(verb):
    result = call_raypipe(*verb, "-o", "memory://run")
    assert result.exit_code == 2
    assert result.stderr.startswith("raypipe: memory://run is the memory of this command")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    run = Run(str(tmp_path))
    run.write_bytes("a.txt", b"old")

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(RaypipeError, match="No space left"):
        run.write_bytes("a.txt", b"new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert run.read_bytes("a.txt") == b"old"


def test_a_stage_that_no_longer_falls_back_leaves_no_reason(tmp_path):
    run = Run(str(tmp_path / "run"))
    run.record_stage("reduce", "PCA 1", "few points")
    run.record_stage("cluster", "numba 1", "no GPU")
    run.record_stage("reduce", "PCA 2")
    assert run.info()["fallbacks"] == {"cluster": "no GPU"}
    assert run.info()["implementations"] == {"reduce": "PCA 2", "cluster": "numba 1"}


@pytest.mark.parametrize(("content", "said"), [(b"", "Expecting value"), (b"[]", "holds no object")])
def test_a_damaged_record_is_named(tmp_path, content, said):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RaypipeError, match=f"cannot read {tmp_path}/run.json: .*{said}"):
        Run.open(tmp_path).info()


@pytest.mark.parametrize("url", ["", "zip://a::file:///nowhere.zip"])
def test_what_can_be_no_run_directory(url):
    with pytest.raises(UsageError):
        Run(url).exists("run.json")


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    """A run would remove plots/ and write over the rest."""
    np.savez(tmp_path / "paths.npz", values=np.zeros((4, 3, 2)))
    for name in ("plots/mine.png", "outliers.csv"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for verb in (["run", tmp_path / "paths.npz"], ["embed", tmp_path / "paths.npz"], ["demo"]):
        done = call_raypipe(*verb, "-o", tmp_path / "out")
        assert done.exit_code == 2 and "is no run, and its outliers.csv would be written over" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "out/run.json").write_text('{"name": "not a run of raypipe", "config": {"lr": 1}}')
    for verb in (["run", tmp_path / "paths.npz"], ["demo"]):
        said = call_raypipe(*verb, "-o", tmp_path / "out").stderr
        assert "out is no run, and its run.json would be written over" in said
    assert "not a run of raypipe" in (tmp_path / "out/run.json").read_text()
    (tmp_path / "out/run.json").write_text('{"seconds": {"find": 1.0}}')  # a run that found no videos
    check_place(Run(str(tmp_path / "out")))
    done = call_raypipe("run", tmp_path / "paths.npz", "-o", tmp_path / "paths.npz")
    assert (done.exit_code, done.stderr) == (2, f"raypipe: {tmp_path}/paths.npz is a file: name a folder by -o\n")


def test_a_file_may_have_a_name_as_long_as_names_may_be(tmp_path):
    for name in ("l" * 251 + ".npz", "ä" * 125 + ".npz"):
        Run(str(tmp_path)).write_bytes(name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"
        taken: set[str] = set()
        names = [free_name(name, taken) for _ in range(11)]
        assert names[0] == name and len(set(names)) == 11 and all(each.endswith(".npz") for each in names)
        assert max(len(each.encode()) for each in names) <= 255


class _Vault(MemoryFileSystem):
    """Files in memory behind URLs that hold a password, as those of FTP do: vault://me:secret@host/run."""

    protocol, store, pseudo_dirs = ("vault",), {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol("/" + path.partition("@")[2].partition("/")[2] if "://" in path else path)

    @staticmethod
    def _get_kwargs_from_urls(url):
        return {"user": url.rpartition("@")[0]}


def test_a_password_in_a_url_is_not_printed():
    fsspec.register_implementation("vault", _Vault, clobber=True)
    url = "vault://me:secret@host/run"
    clips = list(np.random.default_rng(0).normal(size=(6, 5, 4)))
    run = make_embedded(url, clips, [Video(f"{i}", f"file:///{i}.mp4") for i in range(6)])
    assert run.place("report.html") == f"{url}/report.html"
    commands = [
        ("report", url),
        ("cluster", url, "-k", "2", "--set", "reduce.n_components=2"),
        ("report", url),
        ("status", url),
    ]
    commands += [("poster", url), ("sweep", f"{url}s"), ("predict", url, "x.npz", "-o", url)]
    commands += [("export", url, "--to", form) for form in ("npz", "csv", "links", "lerobot")]
    for command in commands:
        result = call_raypipe(*command)
        said = result.stdout + result.stderr
        assert "vault://host/run" in said and "secret" not in said, (command, said)


def test_a_clustering_that_broke_off_is_not_told_of_as_the_one_before(tmp_path, monkeypatch):
    clips = list(np.random.default_rng(0).normal(size=(6, 5, 4)))
    run = make_embedded(tmp_path / "run", clips, [Video(f"{i}", f"file:///{i}.mp4") for i in range(6)])
    run.record(seconds={"embed": 9.0})
    assert call_raypipe("cluster", run, "-k", "2", "--set", "reduce.n_components=2").exit_code == 0
    assert {"cluster", "picture", "describe", "report"} < run.info()["seconds"].keys()
    monkeypatch.setattr(LocalSteps, "project", lambda steps, clustering: {}["killed"])
    assert call_raypipe("cluster", run, "-k", "3").exit_code == 1
    assert run.info()["seconds"].keys() == {"embed", "trajectories", "reduce", "cluster"}
    assert "report" not in call_raypipe("status", run).stdout


@pytest.mark.parametrize("name", ["centers.npy", "reducer.npz"])
@pytest.mark.parametrize("n_bytes", [0, 60, 150])
def test_a_damaged_model_is_told_in_one_line(tmp_path, name, n_bytes):
    clips = list(np.random.default_rng(0).normal(size=(6, 5, 4)))
    run = make_embedded(tmp_path / "run", clips, [Video(f"{i}", f"file:///{i}.mp4") for i in range(6)])
    assert call_raypipe("cluster", run, "-k", "2", "--set", "reduce.n_components=2").exit_code == 0
    run.write_bytes(f"model/{name}", run.read_bytes(f"model/{name}")[:n_bytes])
    result = call_raypipe("predict", run, "x.npz", "-o", tmp_path / "new")
    assert result.exit_code == 1
    assert result.stderr == f"raypipe: {run} has a damaged model/{name}: run raypipe cluster {run} again\n"


def test_a_file_of_a_run_or_the_folder_above_it_is_told_from_one(tmp_path):
    run = Run(str(tmp_path / "runs" / "first"))
    run.write_json("run.json", {})
    run.write_bytes("plots/points.png", b"x")
    for near in ("runs", "runs/first/report.html", "runs/first/plots/points.png"):
        with pytest.raises(UsageError, match=rf"name one, such as {re.escape(str(tmp_path))}/runs/first$"):
            Run.open(tmp_path / near)
    with pytest.raises(UsageError, match="make one with raypipe run SOURCE -o"):
        Run.open(tmp_path / "others")


def test_spans_far_behind_the_end_of_their_file_are_told(tmp_path):
    """As where a manifest's times are milliseconds: the first span begins in the file, and would be all of it."""
    ends_s = [None, 9.0, 10.9, 10000.0, 12.0, 12.0]
    found = Videos(Video(str(i), f"file:///{i}.mp4", end_s=end_s) for i, end_s in enumerate(ends_s))
    run = Run(str(tmp_path / "run"))
    lengths_s, status = [10.0] * 4 + [None, 10.0], ["ok"] * 5 + ["failed"]
    run.write_table("videos.parquet", pa.table({"duration_s": pa.array(lengths_s, pa.float64()), "status": status}))
    (line,) = describe_ends(run, found)
    assert line.startswith("1 video ends with the file, before end_s, such as /3.mp4, end_s=10000: ")
    assert describe_ends(run, Videos(Video(str(i), f"file:///{i}.mp4") for i in range(6))) == []
