"""What a run has done is not done again, unless it is wanted; see tests/ray/test_resume.py for what befalls workers."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from clips import assert_same_clips, embed_without_ray, n_done, read_clips, statuses
from tiny_encoder import TINY
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.errors import UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.runs.status import describe_status
from raypipe.trajectories import build_trajectories

QUIET = Progress()


def make(*sets):
    return make_config(flags=TINY, sets=sets)


@pytest.fixture
def run(tmp_path):
    return Run(str(tmp_path / "run"))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return a folder of five videos and a file that is none."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(5):
        write_video(folder / f"{number}.mp4", n_frames=20 + 5 * number, seed=number)
    (folder / "bad.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def embedded(chain_here, library, tmp_path_factory):
    """Return a run over the library, which is done."""
    run = Run(str(tmp_path_factory.mktemp("embedded") / "run"))
    pipeline.embed(library, run, make(), QUIET)
    assert n_done(run) == 5
    assert_same_clips(read_clips(run), embed_without_ray(library, make()))
    return run


@pytest.fixture
def done(embedded, run):
    """Return a copy of it."""
    shutil.copytree(embedded.url, run.url)
    return run


def test_only_what_is_missing_is_embedded(library, done):
    before = read_clips(done)
    (name,) = done.files("embeddings")
    table = done.read_table(name)
    lost = table["video_id"][0]
    done.write_table(name, table.filter(pc.not_equal(table["video_id"], lost)))
    done.remove("videos.parquet")
    pipeline.embed(library, done, make(), QUIET)
    assert n_done(done) == 1
    assert_same_clips(read_clips(done), before)
    assert len(done.files("embeddings")) == 1, "small files are compacted"
    stamp = Path(done.path(done.files("embeddings")[0])).stat().st_mtime_ns
    pipeline.embed(library, done, make(), QUIET)
    assert n_done(done) == 0
    assert Path(done.path(done.files("embeddings")[0])).stat().st_mtime_ns == stamp


def test_every_clip_has_its_picture_and_other_pictures_need_no_other_embeddings(library, done):
    keys = ["video_id", "segment", "clip_index", "start_s", "fingerprint"]
    clips = done.read_table("embeddings")
    clips = clips.filter(clips["clip_index"].is_valid()).select(keys).sort_by([(key, "ascending") for key in keys[:3]])
    frames = done.read_table("frames").sort_by([(key, "ascending") for key in keys[:3]])
    assert frames.select(keys) == clips
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in frames["frame"].to_pylist())
    pipeline.embed(library, done, make("sample.thumbnails=2"), QUIET)
    assert n_done(done) == 0
    assert done.read_table("frames").num_rows == frames.num_rows, "what is kept stays"
    (name,) = done.files("embeddings")
    lost = done.read_table(name)["video_id"][0]
    table = done.read_table(name)
    done.write_table(name, table.filter(pc.not_equal(table["video_id"], lost)))
    pipeline.embed(library, done, make("sample.thumbnails=2"), QUIET)
    assert n_done(done) == 1
    counts = done.read_table("frames").group_by("video_id").aggregate([("frame", "count")]).to_pylist()
    assert {row["video_id"]: row["frame_count"] for row in counts}[lost.as_py()] == 2, "it holds from then on"


def test_a_changed_file_is_refused_or_embedded_again(library, done, tmp_path):
    before = read_clips(done)
    shutil.copy2(library / "3.mp4", tmp_path)
    try:
        write_video(library / "3.mp4", n_frames=40, seed=99)
        with pytest.raises(UsageError, match=r"1 of 6 videos changed since .*, such as .*3\.mp4: --re-embed"):
            pipeline.embed(library, done, make(), QUIET)
        pipeline.embed(library, done, make("source.re_embed=true"), QUIET)
        assert n_done(done) == 1
        after = read_clips(done)
        changed = {key for key in after if key not in before or not np.allclose(after[key], before[key], atol=1e-6)}
        assert {name for name, *_ in changed} == {"3.mp4"}
        assert {key for key in after if key[0] != "3.mp4"} == {key for key in before if key[0] != "3.mp4"}
        pipeline.embed(library, done, make(), QUIET)
        assert n_done(done) == 0
    finally:
        shutil.copy2(tmp_path / "3.mp4", library)


def test_another_sampling_is_refused_or_all_is_embedded_again(library, done):
    before = read_clips(done)
    with pytest.raises(UsageError, match="another encoder or sampling: choose another -o, or --re-embed"):
        pipeline.embed(library, done, make("sample.n_frames=2"), QUIET)
    pipeline.embed(library, done, make("sample.n_frames=2", "source.re_embed=true"), QUIET)
    assert n_done(done) == 5
    assert len(read_clips(done)) == 10 != len(before)


def test_status_tells_how_far_it_is(done):
    told = describe_status(done)
    assert "embedded" in told
    assert f"5 done, 1 failed, 0 remaining of 6; {len(read_clips(done))} clips\n" in told
    assert "6 found = 5 ok + 1 failed + 0 skipped" in told
    info = done.info()
    assert 0 < info["embedding"]["decode_s"]
    (name,) = done.files("embeddings")
    done.write_table(name, done.read_table(name).slice(0, 2))
    done.record(state="embedding")
    told = describe_status(done, now=info["embedding"]["updated"] + 600)
    assert "1 done, 1 failed, 4 remaining of 6; 2 clips\n" in told
    assert "last sign 10:00 ago; is it still running? Run the same command again to continue" in told
    assert "failures   1 time: " in told


def test_failed_videos_are_quarantined_until_they_are_wanted(chain_here, tmp_path, run, make_video):
    for number in range(5):
        make_video(f"videos/{number}.mp4", n_frames=20 + 5 * number, seed=number)
    folder = tmp_path / "videos"
    good = (folder / "1.mp4").read_bytes()
    (folder / "1.mp4").write_bytes(good[: len(good) // 8])
    pipeline.embed(folder, run, make(), QUIET)
    assert run.info()["counts"] == {"found": 5, "ok": 4, "failed": 1, "skipped": 0, "ignored": 0}
    for _ in range(2):
        pipeline.embed(folder, run, make(), QUIET)
        assert run.info()["counts"] == {"found": 5, "ok": 4, "failed": 0, "skipped": 1, "ignored": 0}
    status, error = statuses(run)["1.mp4"]
    assert status == "skipped"
    assert error.startswith("failed in an earlier run (--retry-failed tries again): ")
    pipeline.embed(folder, run, make("source.retry_failed=true"), QUIET)
    assert statuses(run)["1.mp4"][0] == "failed"
    (folder / "1.mp4").write_bytes(good)
    pipeline.embed(folder, run, make("source.retry_failed=true"), QUIET)
    assert run.info()["counts"] == {"found": 5, "ok": 5, "failed": 0, "skipped": 0, "ignored": 0}
    assert len(build_trajectories(run)) == 5


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_decoder_that_is_named_and_not_used_is_told_of(chain_here, run, make_video, monkeypatch, gpus):
    """Who names torchcodec means the GPU; where that cannot be, the run and the command line say what came instead."""
    monkeypatch.setattr("raypipe.engine.embedding.is_installed", lambda name: False)
    if gpus:
        from chain_here import session_here  # It imports Ray.

        monkeypatch.setattr("raypipe.engine.embedding.ray_session", lambda _: session_here(CPU=2.0, GPU=1.0))
    said = []

    class Listening(Progress):
        def say(self, line):
            said.append(line)

    pipeline.embed(make_video("a.mp4"), run, make("decode.decoder=torchcodec,pyav"), Listening())
    reason = run.info()["fallbacks"]["embed"]
    assert any(line.endswith(f"; {reason}") for line in said)
    assert reason.startswith("torchcodec is not used, as it ") and reason.endswith(": pyav decodes instead")
    assert ("raypipe[gpu]" in reason) == bool(gpus)
