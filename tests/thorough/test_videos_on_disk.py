"""Videos and versions beyond memory: what is read back is what was written, and memory does not follow."""

import errno
import os
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import RaypipeError, SourceError
from raypipe.schema import memory_mapped, take_rows
from raypipe.sources import find_videos, videos
from raypipe.sources.videos import Video, Videos


def tables_of(*sizes: int) -> list[pa.Table]:
    rng = np.random.default_rng(0)
    return [
        pa.table({"n": rng.integers(0, 9, size), "text": pa.array([f"{i}\n" for i in range(size)], "string")})
        for size in sizes
    ]


@pytest.mark.parametrize("sizes", [(3, 0, 1, 7), (11,)], ids=["on disk", "in memory"])
def test_reads_and_takes_as_a_table_in_memory_does(sizes):
    parts = tables_of(*sizes)
    rows, whole = memory_mapped(parts, parts[0].schema), pa.concat_tables(parts)
    assert rows == whole and rows.num_rows == 11
    rng = np.random.default_rng(1)
    for n in range(30):
        some = rng.integers(0, 11, n)
        assert take_rows(rows, some) == whole.take(pa.array(some))
        assert take_rows(rows["text"], some) == whole["text"].take(pa.array(some))
    for wrong in (-1, 11):
        with pytest.raises(IndexError):
            take_rows(rows, np.array([2, wrong]))


def test_nothing_is_left_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parts = tables_of(5, 5)
    before = pa.total_allocated_bytes()
    rows = memory_mapped(parts, parts[0].schema)
    assert not list(tmp_path.iterdir())
    assert pa.total_allocated_bytes() == before, "its pages are the file's"
    assert rows["text"].to_pylist() == [f"{i}\n" for _ in range(2) for i in range(5)]


def test_a_temporary_file_that_cannot_be_written(monkeypatch, tmp_path):
    parts = tables_of(1, 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(RaypipeError, match=r"cannot write a temporary file in .*missing: No such file"):
        memory_mapped(parts, parts[0].schema)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", raise_missing)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(RaypipeError, match=r"cannot write a temporary file in the temporary directory: No usable"):
        memory_mapped(parts, parts[0].schema)
    assert memory_mapped(parts[:1], parts[0].schema) == parts[0], "a small source needs no file"


def raise_missing():
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")


def test_what_the_tables_themselves_raise_is_not_blamed_on_the_file():
    def tables():
        yield from tables_of(1, 1)
        raise PermissionError("somewhere else")

    with pytest.raises(PermissionError, match="somewhere else"):
        memory_mapped(tables(), tables_of(1)[0].schema)


def test_a_full_temporary_disk():
    """As a process that may write no file of more than 100 kB, for a full disk fails in the same place."""
    code = """
import resource, signal, tempfile, pathlib
import numpy as np, pyarrow as pa
from raypipe.errors import RaypipeError
from raypipe.schema import memory_mapped
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with tempfile.TemporaryDirectory() as folder:
    tempfile.tempdir = folder
    try:
        tables = (pa.table({"a": np.random.default_rng(i).random(20_000)}) for i in range(9))
        memory_mapped(tables, pa.schema([("a", pa.float64())]))
    except RaypipeError as error:
        print(error)
    assert not list(pathlib.Path(folder).iterdir())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("cannot write a temporary file in /") and "File too large" in done.stdout
    assert not done.stderr


def test_forked_processes_read_the_same_file():
    values = np.random.default_rng(0).integers(0, 2**60, 20_000)
    parts = [pa.table({"n": part}) for part in np.split(values, 400)]
    rows = memory_mapped(parts, parts[0].schema)
    children = []
    for seed in range(3):
        if (child := os.fork()) == 0:
            some = np.random.default_rng(seed).integers(0, len(values), 3000)
            os._exit(0 if all(rows["n"][int(i)].as_py() == values[i] for i in some) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


@pytest.mark.parametrize("batch", [3, videos._BATCH])
def test_columns_that_lack_are_null_and_types_are_promoted(batch, monkeypatch):
    monkeypatch.setattr(videos, "_BATCH", batch)
    extras = [{"a": 1}, {"a": 2}, {}, {"b": "x"}, {}, {}, {"a": 0.5}]
    found = Videos(Video(f"id{i}", f"file:///{i}", extra=extra) for i, extra in enumerate(extras))
    assert found.extra["a"].type == pa.float64() and found.extra["b"].type == pa.string()
    assert found.extra["a"].to_pylist() == [1, 2, None, None, None, None, 0.5]
    assert [video.extra for video in found] == [{"a": None, "b": None} | extra for extra in extras]
    assert found[:1].table.schema == found.take([3, 0]).table.schema == found.take([]).table.schema == videos.FOUND
    assert len(Videos()) == 0 and Videos().table.schema == videos.FOUND


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
    assert not videos.has_duplicate_ids() and Videos.concat([part, videos]).has_duplicate_ids()
    assert (videos.n_ignored, part.n_ignored, len(part[5:2])) == (3, 0, 0)
    for wrong in (-1, len(part)):
        with pytest.raises(IndexError):
            part.take([wrong])
    with pytest.raises(IndexError):
        part[len(part)]
    with pytest.raises(SourceError, match=r"column 'n' holds values of unlike types: (?!.*extra:)"):
        Videos.concat([part, Videos([Video("x", "file:///x", extra={"n": "text"})])])


def test_a_slice_is_pickled_alone():
    videos = Videos((Video(f"id{i}", f"file:///{i:0100d}", extra={"n": i}) for i in range(30_000)), n_ignored=3)
    packed = pickle.dumps(videos[15_000:15_003])
    assert len(packed) < 3_000
    assert list(pickle.loads(packed)) == list(videos[15_000:15_003])
    assert pickle.loads(pickle.dumps(videos)).n_ignored == 3


@pytest.mark.parametrize("odd", [(2**60 + 1, 0.5), (0.5, 2**60 + 1), ([2**60 + 1], [0.5])])
def test_values_that_one_type_cannot_hold_are_refused_at_once(odd):
    made = [Video(f"id{i}", f"file:///{i}", extra={"n": odd[i >= 10_000]}) for i in range(20_000)]
    with pytest.raises(SourceError, match="manifest column 'n' holds values of unlike types"):
        Videos(made)


def test_many_small_sources_are_few_parts():
    parts = [Videos([Video(f"id{i}", f"file:///{i}")]) for i in range(1000)]
    whole = Videos.concat(parts)
    assert [video.uri for video in whole] == [f"file:///{i}" for i in range(1000)]
    whole = Videos.concat([*parts, *(Videos([Video(f"{i}", f"file:///{i}")]) for i in range(11_000))])
    assert len(whole) == 12_000 and whole.table["uri"].num_chunks == 2


def test_found_videos_are_not_in_memory(tmp_path):
    n = 200_000
    pq.write_table(pa.table({"uri": [f"s3://bucket/{i:060d}.mp4" for i in range(n)]}), tmp_path / "list.parquet")
    before = pa.total_allocated_bytes()
    videos = find_videos(tmp_path / "list.parquet")
    assert len(videos) == n
    assert pa.total_allocated_bytes() - before < 5e6  # of some 30 MB
    peak = pa.default_memory_pool().max_memory()
    few = videos.take(np.arange(0, n, 10_001)[::-1])
    assert pa.default_memory_pool().max_memory() - peak < 2e6, "what is taken brings no more of its column to memory"
    assert [video.uri for video in few] == [f"s3://bucket/{i:060d}.mp4" for i in reversed(range(0, n, 10_001))]


def test_batches_that_lack_a_column_by_turns_are_not_in_memory():
    made = (
        Video(f"id{i}", f"file:///{i:0100d}", extra={"n": None if i // 10_000 % 2 else "x"}) for i in range(200_000)
    )
    before = pa.total_allocated_bytes()
    videos = Videos(made)
    assert pa.total_allocated_bytes() - before < 5e6  # of some 30 MB
    assert videos.extra["n"].null_count == 100_000 and videos.extra["n"].type == pa.string()
