"""Tables on disk: what is read back is what was written, wherever parts begin, and memory does not follow."""

import copy
import errno
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import RaypipeError, SourceError
from raypipe.sources import find_videos, spool
from raypipe.sources.spool import Spool
from raypipe.sources.videos import Video, Videos


@pytest.fixture(params=[3, spool._ROWS], ids=["on disk", "in memory"])
def rows_a_part(request, monkeypatch):
    monkeypatch.setattr(spool, "_ROWS", request.param)
    return request.param


def test_reads_and_takes_as_a_table_in_memory_does(rows_a_part):
    rng = np.random.default_rng(0)
    parts = [
        pa.table({"n": rng.integers(0, 9, size), "text": [f"{i}\n" for i in range(size)]}) for size in (3, 0, 1, 7)
    ]
    rows, whole = Spool(parts), pa.concat_tables(parts, promote_options="permissive")
    assert len(rows) == len(whole) == 11
    assert (rows._file is not None) == (rows_a_part == 3)
    for start in range(-1, 12):
        for stop in [None, *range(-1, 13)]:
            first, last, _ = slice(start, stop).indices(11)
            assert rows.read(start, stop) == whole.slice(first, max(last - first, 0))
    for n in range(30):
        some = rng.integers(0, 11, n)
        assert rows.take(some) == whole.take(pa.array(some))
    for start, stop in ((2, 9), (10, 10), (0, 11)):
        some = rng.integers(0, max(stop - start, 1), stop - start)
        assert rows.take(some, start, stop) == whole.take(pa.array(some + start))
        for wrong in (-1, stop - start):
            with pytest.raises(IndexError):
                rows.take([*some, wrong], start, stop)
    assert pickle.loads(pickle.dumps(rows)).read() == copy.deepcopy(rows).read() == whole


def test_columns_that_lack_are_null_and_types_are_promoted(rows_a_part):
    rows = Spool([pa.table({"a": pa.array([1, 2], pa.int32())}), pa.table({"b": ["x"]}), pa.table({"a": [0.5]})])
    assert rows.schema == pa.schema([("a", pa.float64()), ("b", pa.string())])
    assert rows.read().to_pydict() == {"a": [1, 2, None, 0.5], "b": [None, None, "x", None]}
    assert rows.read(0, 1).schema == rows.take([3, 0]).schema == rows.take([]).schema == rows.schema
    with pytest.raises(pa.ArrowException):
        rows.append(pa.table({"a": ["text"]}))
    assert len(rows) == 4
    assert Spool().read().num_rows == 0


def test_a_temporary_file_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(spool, "_ROWS", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(RaypipeError, match=r"cannot write a temporary file in .*missing: No such file"):
        Spool([pa.table({"a": [1, 2]})])
    monkeypatch.setattr(tempfile, "_get_default_tempdir", raise_missing)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(RaypipeError, match=r"cannot write a temporary file in the temporary directory: No usable"):
        Spool([pa.table({"a": [1, 2]})])


def test_a_temporary_file_that_was_cut_short(monkeypatch):
    monkeypatch.setattr(spool, "_ROWS", 1)
    rows = Spool([pa.table({"a": [1, 2, 3]})])
    rows._file.truncate(10)
    with pytest.raises(RaypipeError, match=r"cannot read a temporary file in .*: it has been cut short"):
        rows.read()


def raise_missing():
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")


def test_a_full_temporary_disk():
    """As a process that may write no file of more than 100 kB, for a full disk fails in the same place."""
    code = """
import resource, signal
import numpy as np, pyarrow as pa
from raypipe.errors import RaypipeError
from raypipe.sources.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Spool(pa.table({"a": np.random.default_rng(i).random(20_000)}) for i in range(9))
except RaypipeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("cannot write a temporary file in /") and "File too large" in done.stdout
    assert not done.stderr


def test_forked_processes_read_the_same_file():
    code = """
import os
import numpy as np, pyarrow as pa
from raypipe.sources import spool
spool._ROWS = 50
values = np.random.default_rng(0).integers(0, 2**60, 20_000)
rows = spool.Spool([pa.table({"n": values})])
children = []
for seed in range(3):
    if (child := os.fork()) == 0:
        some = np.random.default_rng(seed).integers(0, len(values), 3000)
        os._exit(0 if all(rows.take([i])["n"][0].as_py() == values[i] for i in some) else 1)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[0, 0, 0]\n", done.stderr


def test_videos_are_slices_of_what_is_on_disk():
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
    for wrong in (-1, len(part)):
        with pytest.raises(IndexError):
            part.take([wrong])
    with pytest.raises(IndexError):
        part[len(part)]
    again = pickle.loads(pickle.dumps(part[5:8]))
    assert list(again) == list(part[5:8]) and len(again._rows) == 3
    with pytest.raises(SourceError, match=r"column 'n' holds values of unlike types: (?!.*extra:)"):
        Videos.concat([part, Videos([Video("x", "file:///x", extra={"n": "text"})])])


@pytest.mark.parametrize("odd", [(2**60 + 1, 0.5), (0.5, 2**60 + 1), ([2**60 + 1], [0.5])])
def test_values_that_one_type_cannot_hold_are_refused_at_once(odd):
    made = [Video(f"id{i}", f"file:///{i}", extra={"n": odd[i >= 10_000]}) for i in range(20_000)]
    with pytest.raises(SourceError, match="manifest column 'n' holds values of unlike types"):
        Videos(made)


def test_many_small_sources_are_few_parts():
    parts = [Videos([Video(f"id{i}", f"file:///{i}")]) for i in range(1000)]
    whole = Videos.concat(parts)
    assert [video.uri for video in whole] == [f"file:///{i}" for i in range(1000)]
    assert len(whole._rows._starts) == 1


def test_found_videos_are_not_in_memory(tmp_path):
    n = 200_000
    pq.write_table(pa.table({"uri": [f"s3://bucket/{i:060d}.mp4" for i in range(n)]}), tmp_path / "list.parquet")
    before = pa.total_allocated_bytes()
    videos = find_videos(tmp_path / "list.parquet")
    assert len(videos) == n
    assert pa.total_allocated_bytes() - before < 5e6  # of some 30 MB
