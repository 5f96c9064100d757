"""Datasets where they lie, through the whole command to a page: WebDataset, MSR-VTT, Cosmos Curate and NeMo Curator."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captioned import write_datainfo, write_list, write_videos
from commands import call_raypipe
from curated import write_curated
from tars import write_tar
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.sources import find_videos

QUICK = ["reduce.n_components=2", "reduce.picture=tsne", "trajectory.n_steps=4", "cluster.n_clusters=2"]


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[bytes]:
    """Return the bytes of six small videos."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{i}.mp4", n_frames=15 + i, seed=i % 2).read_bytes() for i in range(6)]


def write_webdataset(folder, contents):
    """Write a list of tars: a plain one, one with a table beside it, one whose metadata lies in a parallel tar."""
    plain = {"x/a.mp4": contents[0], "x/a.cls": "cat", "x/b.mp4": contents[1], "x/b.json": '{"caption": "words"}'}
    write_tar(folder / "plain.tar", plain)
    keys = ["000000000", "000000001"]
    v2d = {f"{keys[0]}.mp4": contents[2], f"{keys[0]}.txt": "a table", f"{keys[1]}.mp4": contents[3]}
    write_tar(folder / "v2d/00000.tar", v2d)
    pq.write_table(pa.table({"key": keys, "url": ["http://0", "http://1"]}), folder / "v2d/00000.parquet")
    part = "part_000000/000000.tar"
    write_tar(folder / "v0/video" / part, {"p.mp4": contents[4], "q.mp4": contents[5]})
    meta = '{"windows": [{"m_caption": "w"}]}'
    write_tar(folder / "v0/metas" / part, {"p.json": meta, "q.json": meta})
    (folder / "shards.txt").write_text(f"plain.tar\nv2d/{{00000..00000}}.tar\nv0/video/{part}\n")
    return folder / "shards.txt"


def write_msrvtt(folder):
    """Write both forms, and a video that is missing."""
    write_videos(folder / "videos", range(5))
    write_datainfo(folder / "train_val_videodatainfo.json", [0, 1, 2, 9])
    write_list(folder / "msrvtt_test_1k.json", [3, 4], n_captions=1)
    return folder


def test_three_kinds_of_webdataset_and_two_forms_of_msrvtt(chain_here, tmp_path, contents):
    """All of them are in one run, because each run starts sandboxes anew."""
    sources = [write_webdataset(tmp_path / "tars", contents), write_msrvtt(tmp_path / "msrvtt")]
    config = make_config(sets=("encode.encoder=descriptor", *QUICK))
    run, said = Run(str(tmp_path / "run")), []

    class Told(Progress):
        say = staticmethod(said.append)

    pipeline.run_all(find_videos(sources), run, config, Told())
    rows = run.read_table("videos.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"ok"} and {row["decoder"] for row in rows} == {"pyav"}
    of_tars, of_msrvtt = rows[:6], rows[6:]
    assert [row["caption"] for row in of_tars] == [None, "words", "a table", None, "w", "w"]
    assert [row["label"] for row in of_tars] == ["cat", None, None, None, None, None]
    assert [row["url"] for row in of_tars] == [None, None, "http://0", "http://1", None, None]
    assert {row["group"] for row in of_msrvtt} == {"train", "validate", "test"}
    assert {row["label"] for row in of_msrvtt} == {"music", "cooking", "vehicles/autos"}
    assert sorted(len(row["captions"]) for row in of_msrvtt) == [1, 1, 20, 20, 20]
    for line in (
        "videos in tars: 6 (in 3)",
        "missing videos: 1 of 6 (the first: video9); by split: train (1)",
        "11 found = 11 ok + 0 failed + 0 skipped",
    ):
        assert line in said
    page = run.read_bytes("report.html").decode()
    assert all(name in page for name in ("000000001.mp4", "video4.mp4", "vehicles/autos"))
    assert run.read_json("descriptions.json")["method"] == "captions"


@pytest.mark.parametrize("made_by", ["cosmos", "nemo"])
def test_a_curators_output(tmp_path, contents, made_by):
    """Nothing is decoded but for the page's pictures: those of the videos that the clips were cut from."""
    rng = np.random.default_rng(0)
    videos = {}
    for i, content in enumerate(contents[:4]):
        (tmp_path / f"{i}.mp4").write_bytes(content)
        steps = np.arange(4) if i % 2 else np.arange(4)[::-1]
        vectors = np.outer(steps, np.ones(8)) + rng.normal(0, 0.01, (4, 8))
        clips = [(0.3 * j, 0.3 * j + 0.3, vectors[j], f"step {j}") for j in range(4)]
        clips[2] = (*clips[2][:2], None, "")
        videos[str(tmp_path / f"{i}.mp4")] = clips
    if made_by == "cosmos":
        root = write_curated(tmp_path / "out", videos, metas="jsonl", cds=True)
    else:
        root = write_curated(tmp_path / "out", videos, embeddings="ce1_embd_parquet", summary=False)
    sets = [argument for each in QUICK for argument in ("--set", each)]
    result = call_raypipe("run", root, "-o", tmp_path / "run", *sets)
    assert result.exit_code == 0, result.stderr
    run = Run(str(tmp_path / "run"))
    rows = run.read_table("videos.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert [row["caption"] for row in rows] == ["step 0 | step 1 | step 3"] * 4
    assert ": 12 (of 4 videos)" in result.stderr
    clusters = run.read_table("clusters.parquet")["cluster"].to_pylist()
    assert clusters[0] == clusters[2] != clusters[1] == clusters[3]
    page = run.read_bytes("report.html").decode()
    assert '<div class="none">' not in page and "data:image/jpeg" in page
    assert run.info()["encoder"]["name"] == "precomputed"
