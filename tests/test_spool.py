"""Tables on disk: what is read back is what was written, wherever parts begin, and memory does not follow."""

import copy
import pickle
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe import spool
from raypipe.errors import RaypipeError, SourceError
from raypipe.schema import Video, Videos
from raypipe.sources import find_videos
from raypipe.spool import Spool


@pytest.fixture(params=[1, spool._IN_MEMORY], ids=["on disk", "in memory"])
def limit(request, monkeypatch):
    monkeypatch.setattr(spool, "_IN_MEMORY", request.param)
    return request.param


def test_reads_and_takes_as_a_table_in_memory_does(limit):
    rng = np.random.default_rng(0)
    parts = [
        pa.table({"n": rng.integers(0, 9, size), "text": [f"{i}\n" for i in range(size)]}) for size in (3, 0, 1, 7)
    ]
    rows, whole = Spool(parts), pa.concat_tables(parts, promote_options="permissive")
    assert len(rows) == len(whole) == 11
    assert rows._file._rolled == (limit == 1)
    for start in range(-1, 12):
        for stop in [None, *range(-1, 13)]:
            first, last, _ = slice(start, stop).indices(11)
            assert rows.read(start, stop) == whole.slice(first, max(last - first, 0))
    for n in range(30):
        some = rng.integers(0, 11, n)
        assert rows.take(some) == whole.take(pa.array(some))
    assert pickle.loads(pickle.dumps(rows)).read() == copy.deepcopy(rows).read() == whole


def test_columns_that_lack_are_null_and_types_are_promoted(limit):
    rows = Spool([pa.table({"a": pa.array([1, 2], pa.int32())}), pa.table({"b": ["x"]}), pa.table({"a": [0.5]})])
    assert rows.schema == pa.schema([("a", pa.float64()), ("b", pa.string())])
    assert rows.read().to_pydict() == {"a": [1, 2, None, 0.5], "b": [None, None, "x", None]}
    assert rows.read(0, 1).schema == rows.take([3, 0]).schema == rows.take([]).schema == rows.schema
    with pytest.raises(pa.ArrowException):
        rows.append(pa.table({"a": ["text"]}))
    assert len(rows) == 4
    assert Spool().read().num_rows == 0


def test_a_temporary_file_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(spool, "_IN_MEMORY", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(RaypipeError, match=r"cannot write a temporary file in .*missing: No such file"):
        Spool([pa.table({"a": [1]})])


def test_videos_are_slices_of_what_is_on_disk(limit):
    made = [Video(f"id{i}", f"file:///{i}", extra={"n": i} if i % 2 else {"video_id": "own"}) for i in range(25_000)]
    videos = Videos(made, n_ignored=3)
    part = videos[9_990:20_010]
    kept = [{"n": None, "video_id": None} | video.extra for video in made]
    assert [video.extra for video in part] == kept[9_990:20_010]
    assert [video.uri for video in part[20:10:-5]] == [f"file:///{i}" for i in (10_010, 10_005)]
    assert part[-1].uri == "file:///20009" and part[0].extra == {"n": None, "video_id": "own"}
    assert part.table["video_id"].to_pylist() == [f"id{i}" for i in range(9_990, 20_010)]
    assert part.places(pa.array(["id9990", "id20009", "id20010", "id0"])).tolist() == [0, 10_019, -1, -1]
    assert not videos.has_twins() and Videos.concat([part, videos]).has_twins()
    assert (videos.n_ignored, part.n_ignored, len(part[5:2])) == (3, 0, 0)
    with pytest.raises(IndexError):
        part[len(part)]
    with pytest.raises(SourceError, match=r"column 'n' holds values of unlike types: (?!.*extra:)"):
        Videos.concat([part, Videos([Video("x", "file:///x", extra={"n": "text"})])])


def test_found_videos_are_not_in_memory(tmp_path):
    n = 200_000
    pq.write_table(pa.table({"uri": [f"s3://bucket/{i:060d}.mp4" for i in range(n)]}), tmp_path / "list.parquet")
    before = pa.total_allocated_bytes()
    videos = find_videos(tmp_path / "list.parquet")
    assert len(videos) == n
    assert pa.total_allocated_bytes() - before < 5e6  # of some 30 MB
