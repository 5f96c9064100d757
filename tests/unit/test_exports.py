"""What is exported of a run: a table, arrays, links, and samples."""

import csv
import importlib.util
import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from commands import call_raypipe
from embedded import make_embedded

import raypipe as rp
from raypipe import pipeline
from raypipe.errors import RaypipeError, UsageError
from raypipe.progress import Progress
from raypipe.runs.folder import Folder
from raypipe.sources.videos import Video

CLUSTER = {
    "flags": {
        "cluster": {"n_clusters": 2, "n_init": 1, "outlier_quantile": 0.8},
        "reduce": {"method": "none", "picture": "tsne"},
    }
}


def make_paths(n: int, seed: int = 0) -> list[np.ndarray]:
    """Paths of two kinds by turns, of unequal lengths; the last one stands still, far from all."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(n):
        t = np.linspace(0, 1, 4 + i % 3)[:, None]
        path = np.hstack([t, t**2, 1 - t]) if i % 2 else np.hstack([-t, 1 + t, t])
        paths.append((path + rng.normal(scale=0.01, size=path.shape)).astype(np.float32))
    paths[-1] = np.full_like(paths[-1], 9.0)
    return paths


def make_run(folder, videos: list[Video]) -> rp.Run:
    """Write a clustered run of these videos."""
    run = make_embedded(folder / "run", make_paths(len(videos)), videos, **CLUSTER)
    pipeline.cluster(run, rp.make_config(**CLUSTER), Progress())
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of a clustered run of ten files, of which two folders hold files of the same names."""
    folder = tmp_path_factory.mktemp("made")
    videos = []
    for i in range(10):
        file = folder / ("left", "right")[i // 2 % 2] / f"clip {i // 4}{i % 2}.mp4"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
        videos.append(Video(f"v{i}", file.as_uri(), group="=danger" if i == 3 else None, extra={"n": i, "l": [i]}))
    make_run(folder, videos)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """Return a copy of it."""
    shutil.copytree(made / "run", tmp_path / "run")
    return rp.Run(str(tmp_path / "run"))


def set_column(run: rp.Run, name: str, column: str, values: list) -> None:
    """Change a column of one of the run's tables."""
    table = run.read_table(name)
    place = table.schema.get_field_index(column)
    run.write_table(name, table.set_column(place, column, pa.array(values, table.schema.types[place])))


def read_csv(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def test_a_csv_has_a_row_for_each_found_video_with_all_that_is_known(run, tmp_path):
    (line,) = rp.export(run, "csv", str(tmp_path / "out"))
    assert line == f"wrote 10 rows to {tmp_path}/out/videos.csv"
    rows = read_csv(tmp_path / "out/videos.csv")
    clusters = run.read_table("clusters.parquet").to_pylist()
    for row, known in zip(rows, clusters, strict=True):
        assert row["video_id"] == known["video_id"]
        assert int(row["cluster"]) == known["cluster"]
        assert float(row["outlier_score"]) == known["outlier_score"]
        assert row["outlier"] == str(known["outlier"]).lower()
    assert rows[3]["group"] == "'=danger", "no cell is a formula"
    assert [row["n"] for row in rows] == [str(i) for i in range(10)]
    assert rows[7]["l"] == "[7]"
    plan = {row["video_id"]: row for row in run.read_table("plan.parquet").to_pylist()}
    for row in rows:  # Two windows of one file differ in these alone.
        of = plan[row["video_id"]]
        assert (float(row["from_s"]), float(row["to_s"])) == (of["origin_s"], of["origin_s"] + of["span_s"])
    assert rows[9]["outlier"] == "true"
    assert rows[9]["reason"] != "" and rows[0]["reason"] == ""


def test_a_csv_keeps_the_rows_of_videos_without_a_cluster(run, tmp_path):
    """They have failed, or lie beyond the limit."""
    videos = run.read_table("videos.parquet")
    more = videos.slice(0, 1).set_column(0, "video_id", pa.array(["lost"]))
    more = more.set_column(more.schema.get_field_index("status"), "status", pa.array(["failed"]))
    run.write_table("videos.parquet", pa.concat_tables([more, videos]))
    rp.export(run, "csv", str(tmp_path / "out"))
    rows = read_csv(tmp_path / "out/videos.csv")
    assert [row["video_id"] for row in rows] == ["lost", *(f"v{i}" for i in range(10))]
    assert rows[0]["cluster"] == rows[0]["outlier"] == rows[0]["reason"] == rows[0]["from_s"] == ""


def test_a_csv_has_times_that_python_has_not(run, tmp_path):
    """A Parquet manifest's columns are kept in their own types, and a year beyond 9999 may mean "never"."""
    never = pa.array([2**30, 0, *[None] * 8], pa.date32())
    nested = pa.array([[2**50], [0], *[None] * 8], pa.list_(pa.timestamp("s")))
    videos = run.read_table("videos.parquet")
    run.write_table("videos.parquet", videos.append_column("day", never).append_column("seen", nested))
    rp.export(run, "csv", str(tmp_path / "out"))
    first, second, *_, last = read_csv(tmp_path / "out/videos.csv")
    assert str(2**30) in first["day"] and str(2**50) in first["seen"]
    assert (second["day"], second["seen"]) == ("1970-01-01", '["1970-01-01 00:00:00"]')
    assert (last["day"], last["seen"]) == ("", "")


def test_a_column_of_the_source_that_is_called_like_ours_is_kept(tmp_path):
    extras = [{"cluster": f"its {i}", "source_cluster": f"also {i}"} for i in range(6)]
    videos = [Video(f"v{i}", f"file:///{i}.mp4", extra=extra) for i, extra in enumerate(extras)]
    rp.export(make_run(tmp_path, videos), "csv")
    rows = read_csv(tmp_path / "run/exports/csv/videos.csv")
    assert [row["source_source_cluster"] for row in rows] == [f"its {i}" for i in range(6)]
    assert [row["source_cluster"] for row in rows] == [f"also {i}" for i in range(6)]
    assert {row["cluster"] for row in rows} == {"0", "1"}


def test_arrays_hold_a_video_each_with_the_frames_that_its_clips_begin_with(run, made, tmp_path):
    """The clips last a second each, and the files have 25 frames a second."""
    set_column(run, "videos.parquet", "fps", [25.0] * 9 + [None])
    rp.export(run, "npz", str(tmp_path / "out"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) == 10 and names[:3] == ["clip 00-2.npz", "clip 00.npz", "clip 01-2.npz"]
    paths = make_paths(10)
    with np.load(tmp_path / "out/clip 00-2.npz") as file:  # The third video: the first of the other folder.
        assert set(file) == {"video_id", "uri", "embeddings", "frame_indexes"}
        uri = (made / "right/clip 00.mp4").as_uri()
        assert (file["video_id"].shape, str(file["video_id"]), str(file["uri"])) == ((), "v2", uri)
        np.testing.assert_array_equal(file["embeddings"], paths[2])
        np.testing.assert_array_equal(file["frame_indexes"], 25 * np.arange(len(paths[2])))
    with np.load(tmp_path / "out/clip 21.npz") as file:
        np.testing.assert_array_equal(file["frame_indexes"], np.arange(len(paths[9])), "its frame rate is not known")


def test_names_of_arrays_lose_nothing_but_the_suffix_of_a_video(run, tmp_path):
    """A camera stands behind a dot in the URI of an image feature, and in the names of a tar's members."""
    feature, tar = "file-000.parquet#episode=3&column=observation.images", "tar+file:///a.tar/@512+9"
    expected = {
        f"file:///data/{feature}.front": f"{feature}.front",
        f"file:///data/{feature}.left": f"{feature}.left",
        f"{tar}/0001.front.MP4": "0001.front",
        f"{tar}/0001.left.mp4": "0001.left",
        f"{tar}/0002.left": "0002.left",
        "file:///paths.json#pick.7": "paths.json#pick.7",
        "file:///a%23b.mp4": "a#b",
        "https://host/v1.2?key=x": "v1.2",
        "s3://bucket/.mp4": ".mp4",
        "file:///x.avi": "x",
    }
    set_column(run, "videos.parquet", "uri", list(expected))
    rp.export(run, "npz", str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{stem}.npz" for stem in expected.values()}


def test_frames_of_a_part_of_a_file_are_counted_from_its_first(run, tmp_path):
    for file, names in (
        ("plan.parquet", ("start_s", "end_s", "origin_s")),
        ("embeddings/0.parquet", ("start_s", "end_s")),
    ):
        for name in names:
            set_column(run, file, name, [time_s + 40 for time_s in run.read_table(file)[name].to_pylist()])
    set_column(run, "videos.parquet", "fps", [30.0] * 10)
    rp.export(run, "npz", str(tmp_path / "out"))
    with np.load(tmp_path / "out/clip 00.npz") as file:
        assert file["frame_indexes"].tolist() == [0, 30, 60, 90]


def links_of(folder) -> dict[str, str]:
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    return {str(path.relative_to(folder)): str(path.readlink()) for path in links}


def test_links_part_the_files_by_cluster_and_move_nothing(run, made, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.mp4")}
    (line,) = rp.export(run, "links", str(tmp_path / "out"))
    assert line == f"made 10 links in 2 folders of {tmp_path}/out"
    links = links_of(tmp_path / "out")
    clusters = run.read_table("clusters.parquet").to_pylist()
    expected = sorted((f"cluster_{row['cluster']}", row["uri"]) for row in clusters)
    assert sorted((link.split("/")[0], Path(target).as_uri()) for link, target in links.items()) == expected
    assert any(link.endswith("-2.mp4") for link in links), "two files of one name are in a cluster"
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.mp4")} == before
    assert rp.export(run, "links", str(tmp_path / "out")) == [line], "the same links may be made again"


def test_a_dry_run_of_links_prints_the_plan_and_writes_nothing(run, tmp_path):
    result = call_raypipe("export", tmp_path / "run", "--to", "links", "--dry-run", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert not (tmp_path / "out").exists()
    *plan, last = result.stdout.splitlines()
    assert last == f"would make 10 links in 2 folders of {tmp_path}/out"
    rp.export(run, "links", str(tmp_path / "out"))
    assert sorted(plan) == sorted(f"{link} -> {target}" for link, target in links_of(tmp_path / "out").items())


def test_links_overwrite_nothing(run, tmp_path):
    rp.export(run, "links", str(tmp_path / "out"))
    link = next(iter(sorted((tmp_path / "out/cluster_0").iterdir())))
    link.unlink()
    link.write_text("somebody's own")
    with pytest.raises(UsageError, match="is there already, and no link to"):
        rp.export(run, "links", str(tmp_path / "out"))
    assert link.read_text() == "somebody's own"
    link.rename(tmp_path / "out/notes.txt")
    for dry_run in (False, True):
        with pytest.raises(UsageError, match=r"holds other files, such as .*notes\.txt: remove it, or choose another"):
            rp.export(run, "links", str(tmp_path / "out"), dry_run=dry_run)


def test_links_to_parts_of_a_file_name_their_seconds_and_what_is_elsewhere_is_counted(tmp_path):
    (tmp_path / "all.mp4").write_bytes(b"")
    videos = [Video(f"v{i}", (tmp_path / "all.mp4").as_uri(), start_s=i, end_s=i + 1) for i in range(4)]
    videos += [Video(f"w{i}", f"s3://bucket/{i}.mp4") for i in range(2)]
    run = make_run(tmp_path, videos)
    set_column(run, "plan.parquet", "origin_s", [10.0 * i for i in range(6)])
    (line,) = rp.export(run, "links", str(tmp_path / "out"))
    assert line.endswith("; 2 videos are not files on this machine")
    names = sorted(name.rpartition("/")[2] for name in links_of(tmp_path / "out"))
    assert names == ["all [0–4 s].mp4", "all [10–15 s].mp4", "all [20–26 s].mp4", "all [30–34 s].mp4"]


def test_bad_requests_get_one_line(run, tmp_path):
    with pytest.raises(UsageError, match="unknown form 'zip'; choose one of: lerobot, fiftyone, npz, csv, links"):
        rp.export(run, "zip")
    with pytest.raises(UsageError, match="run must be Run, not str: what embed_videos returns"):
        rp.export(run.url, "csv")
    with pytest.raises(UsageError, match="output must be str or PathLike or None, not int"):
        rp.export(run, "csv", 3)
    assert rp.export(run, "csv", tmp_path / "tables")[0].endswith(f"rows to {tmp_path}/tables/videos.csv")
    with pytest.raises(UsageError, match="--keep goes with --to lerobot"):
        rp.export(run, "csv", keep=1)
    with pytest.raises(UsageError, match="--dry-run goes with --to links"):
        rp.export(run, "npz", dry_run=True)
    with pytest.raises(UsageError, match="links are made in a local folder, and s3://bucket/links is none"):
        rp.export(run, "links", "s3://bucket/links")
    (tmp_path / "file").write_bytes(b"somebody's own")
    for form in ("csv", "npz", "lerobot", "links"):
        with pytest.raises(UsageError, match=r"file is a file: name a folder by -o"):
            rp.export(run, form, str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"somebody's own"
    bare = rp.Run(str(tmp_path / "bare"))
    bare.record(counts={})
    with pytest.raises(UsageError, match="bare has no embeddings to export: run raypipe embed"):
        rp.export(bare, "npz")
    set_column(run, "clusters.parquet", "uri", [f"s3://bucket/{i}.mp4" for i in range(10)])
    with pytest.raises(UsageError, match=r"none of the 10 videos of .* is a file on this machine"):
        rp.export(run, "links")
    run.remove("clusters.parquet")
    with pytest.raises(UsageError, match=r"is not clustered: run raypipe cluster .*run first"):
        rp.export(run, "csv")


@pytest.mark.parametrize(
    "read",
    [
        lambda run, to: call_raypipe("search", run.url, "--like", "v0"),
        lambda run, to: call_raypipe("search", run.url, "--diverse", 2),
        lambda run, to: call_raypipe("search", run.url, "--duplicates"),
        lambda run, to: call_raypipe("outliers", run.url),
        lambda run, to: call_raypipe("export", run.url, "--to", "csv", "-o", to),
        lambda run, to: call_raypipe("export", run.url, "--to", "npz", "-o", to),
        lambda run, to: call_raypipe("poster", run.url, "-o", f"{to}.png"),
    ],
    ids=["search", "diverse", "duplicates", "outliers", "csv", "npz", "poster"],
)
def test_what_reads_a_run_that_is_clustered_meanwhile_says_so(run, tmp_path, monkeypatch, read):
    run.record(state="embedded")
    kept, read_open = run.read_bytes("clusters.parquet"), Folder._read_open

    def read_while_clustered(folder, name, call):
        run.write_bytes("clusters.parquet", kept)
        return read_open(folder, name, call)

    monkeypatch.setattr(Folder, "_read_open", read_while_clustered)
    result = read(run, tmp_path / "made")
    assert result.exit_code == 1
    assert result.stderr.endswith(f"raypipe: {run.url} has been clustered again meanwhile: try again\n")


def test_a_run_that_is_being_embedded_has_nothing_to_export_yet(run):
    run.record(state="embedding")  # Its embeddings are of videos that its tables do not know yet.
    with pytest.raises(UsageError, match="is not embedded to its end: run the same raypipe embed again"):
        rp.export(run, "npz")


def test_what_was_exported_into_the_run_goes_when_it_is_clustered_again(run, made, tmp_path):
    rp.export(run, "csv")
    rp.export(run, "links")
    kept = sorted((made / "left").iterdir())
    pipeline.cluster(run, rp.make_config(**CLUSTER), Progress())
    assert not (tmp_path / "run/exports").exists()
    assert sorted((made / "left").iterdir()) == kept, "links are removed, and not what they name"


@pytest.mark.skipif(importlib.util.find_spec("fiftyone") is not None, reason="fiftyone is installed")
def test_without_fiftyone_a_line_says_what_to_install(run):
    with pytest.raises(RaypipeError, match=r"fiftyone is needed here and cannot be imported .*: pip install fiftyone"):
        rp.export(run, "fiftyone")


def test_half_a_fiftyone_dataset_is_taken_away(run, monkeypatch):
    """What breaks off leaves no dataset that has some of the samples, and takes no name."""
    there: set[str] = set()

    class Dataset(SimpleNamespace):
        def __init__(self, name, persistent):
            super().__init__(name=name)
            there.add(name)

        def add_samples(self, samples):
            raise ValueError("the database is full")

        def delete(self):
            there.remove(self.name)

    made = {name: SimpleNamespace for name in ("Sample", "Classification", "TemporalDetection", "TemporalDetections")}
    fo = SimpleNamespace(dataset_exists=there.__contains__, Dataset=Dataset, **made)
    monkeypatch.setattr("raypipe.report.exporting.fiftyone.require", lambda name: fo)
    with pytest.raises(ValueError, match="the database is full"):
        rp.export(run, "fiftyone", "kitchen")
    assert not there


def test_fiftyone_is_told_which_files_are_videos_and_where_the_others_lie(tmp_path, monkeypatch):
    """By itself it takes a suffix that it does not know for another medium, and a URL for a relative path."""
    (tmp_path / "a.gif").write_bytes(b"")
    uris = [(tmp_path / "a.gif").as_uri(), "https://host/b.mp4", *(f"s3://bucket/{i}.ts" for i in "cdef")]
    run = make_run(tmp_path, [Video(uri, uri) for uri in uris])
    for column, value in {"fps": 10.0, "duration_s": 6.0, "width": 640, "height": 360}.items():
        set_column(run, "videos.parquet", column, [None, *[value] * 5])
    made = {}

    class Dataset(SimpleNamespace):
        def add_samples(self, samples):
            made["samples"] = samples

        def set_values(self, field, values):
            made[field] = values

        def save(self):
            pass

    names = ("Sample", "Classification", "TemporalDetection", "TemporalDetections", "VideoMetadata")
    fo = SimpleNamespace(
        dataset_exists=lambda _: False,
        Dataset=lambda name, persistent: Dataset(),
        **dict.fromkeys(names, SimpleNamespace),
    )
    monkeypatch.setattr("raypipe.report.exporting.fiftyone.require", lambda _: fo)
    lines = rp.export(run, "fiftyone", "kitchen")
    assert {sample.media_type for sample in made["samples"]} == {"video"}
    assert made["filepath"] == [str(tmp_path / "a.gif"), *uris[1:]]
    known = {"frame_width": 640, "frame_height": 360, "frame_rate": 10.0, "duration": 6.0, "total_frame_count": 60}
    assert vars(made["samples"][1].metadata) == known, "its app runs ffprobe of files of which it is not told this"
    assert not hasattr(made["samples"][0], "metadata"), "where it is not known, nothing is made up"
    assert lines[1] == "FiftyOne cannot show 4 of them, which are not files on this machine"


def test_a_database_of_fiftyone_that_does_not_start_is_an_error_of_one_line(run, monkeypatch):
    def dataset_exists(_):
        raise ValueError("MongoDB could not be installed")

    monkeypatch.setattr(
        "raypipe.report.exporting.fiftyone.require", lambda _: SimpleNamespace(dataset_exists=dataset_exists)
    )
    with pytest.raises(RaypipeError, match="database cannot be used: ValueError: MongoDB could not be installed"):
        rp.export(run, "fiftyone")


# It uses what psutil and pymongo have deprecated, and takes the error for a database that does not answer.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:fiftyone", "ignore::DeprecationWarning:mongoengine")
@pytest.mark.slow
def test_fiftyone_has_a_sample_for_each_video_with_what_was_found(tmp_path):
    """Where fiftyone is installed, and its database runs."""
    fo = pytest.importorskip("fiftyone")
    (tmp_path / "all.mp4").write_bytes(b"")
    videos = [Video(f"v{i}", (tmp_path / "all.mp4").as_uri(), label="stack", caption="it stacks") for i in range(10)]
    run = make_run(tmp_path, videos)
    set_column(run, "videos.parquet", "fps", [10.0] * 10)
    set_column(run, "videos.parquet", "duration_s", [60.0] * 10)
    set_column(run, "videos.parquet", "width", [640] * 10)
    set_column(run, "videos.parquet", "height", [360] * 10)
    set_column(run, "plan.parquet", "origin_s", [6.0 * i for i in range(10)])
    name = f"raypipe-test-{os.getpid()}"
    try:
        (line,) = rp.export(run, "fiftyone", name)
        assert line == f"made the FiftyOne dataset {name!r} of 10 samples: fiftyone app launch {name}"
        samples = list(fo.load_dataset(name))
        for sample, known in zip(samples, run.read_table("clusters.parquet").to_pylist(), strict=True):
            assert sample.filepath == str(tmp_path / "all.mp4")
            assert sample.video_id == known["video_id"]
            assert sample.cluster.label == str(known["cluster"])
            assert sample.outlier_score == pytest.approx(known["outlier_score"])
            assert sample.outlier == known["outlier"]
            assert sample.ground_truth.label == "stack" and sample.caption == "it stacks"
        assert (samples[2].metadata.frame_rate, samples[2].metadata.total_frame_count) == (10.0, 600)
        assert samples[2].part.detections[0].support == [121, 180]
        odd = [sample for sample in samples if sample.outlier]
        assert odd and all(sample.odd.detections[0].label for sample in odd)
        with pytest.raises(UsageError, match=f"FiftyOne has a dataset '{name}' already"):
            rp.export(run, "fiftyone", name)
    finally:
        if fo.dataset_exists(name):
            fo.delete_dataset(name)
