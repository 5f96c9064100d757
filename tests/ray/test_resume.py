"""Runs that go on: what is done is not done again, and what goes wrong costs no more than itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from clips import assert_same_clips, embed_without_ray, read_clips
from disks import mount_small
from sessions import ONE_EACH
from tiny_encoder import TINY
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.engine import embedding, workers
from raypipe.engine.workers import DecoderActor
from raypipe.errors import RaypipeError, UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.status import describe_status
from raypipe.schema import Failure
from raypipe.trajectories import build_trajectories

QUIET = Progress()
FLAGS = {**TINY, "ray": ONE_EACH}


def make(*sets, flags=FLAGS):
    return make_config(flags=flags, sets=sets)


@pytest.fixture
def folder(tmp_path, make_video):
    for number in range(5):
        make_video(f"videos/{number}.mp4", n_frames=20 + 5 * number, seed=number)
    return tmp_path / "videos"


@pytest.fixture
def run(tmp_path):
    return Run(str(tmp_path / "run"))


def n_done(run: Run) -> int:
    """How many segments the last embedding did."""
    lines = [json.loads(line) for line in Path(run.path("log.jsonl")).read_text().splitlines()]
    begun = max(i for i, line in enumerate(lines) if line.get("step") == "find")
    return max((line["done"] for line in lines[begun:] if line["event"] == "commit"), default=0)


def statuses(run: Run) -> dict[str, tuple[str, str | None]]:
    rows = run.read_table("videos.parquet").to_pylist()
    return {Path(row["uri"]).name: (row["status"], row["error"]) for row in rows}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return a folder of five videos and a file that is none."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(5):
        write_video(folder / f"{number}.mp4", n_frames=20 + 5 * number, seed=number)
    (folder / "bad.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def embedded(ray_local, library, tmp_path_factory):
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
    assert "5 done, 1 failed, 0 remaining of 6" in told
    assert "6 found = 5 ok + 1 failed + 0 skipped" in told
    info = done.info()
    assert 0 < info["embedding"]["decode_s"]
    (name,) = done.files("embeddings")
    done.write_table(name, done.read_table(name).slice(0, 2))
    done.record(state="embedding")
    told = describe_status(done, now=info["embedding"]["updated"] + 600)
    assert "1 done, 1 failed, 4 remaining of 6" in told
    assert "last sign 10:00 ago; is it still running? Run the same command again to continue" in told
    assert "1 times: " in told


def test_failed_videos_are_quarantined_until_they_are_wanted(ray_local, folder, run, make_video):
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


ENCODER = """
import os, signal, time
import numpy as np

class Picky:
    dim, image_size, resize_mode, fingerprint = 3, 32, "squash", "1"

    def __call__(self, frames):
        is_white = frames.mean(axis=(1, 2, 3)) > 200
        {hook}
        return frames.mean(axis=(1, 2)).astype(np.float32)
"""


@pytest.fixture
def picky(tmp_path, monkeypatch, folder):
    """Return a function that makes a config whose encoder has a line of its own; 0.mp4 is white from now on."""
    import av

    with av.open(str(folder / "0.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(20):
            white = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, np.uint8), format="rgb24")
            container.mux(stream.encode(white))
        container.mux(stream.encode())
    monkeypatch.chdir(tmp_path)

    def config_with(hook: str, *sets: str):
        # A name of its own, since a Ray worker may have imported an earlier one.
        name = f"picky_{abs(hash((hook, str(tmp_path))))}"
        (tmp_path / f"{name}.py").write_text(ENCODER.format(hook=hook))
        monkeypatch.syspath_prepend(tmp_path)
        return make(*sets, flags={"encode": {"encoder": f"{name}:Picky", "normalize": False}, "ray": ONE_EACH})

    return config_with


def test_a_segment_that_fails_is_tried_again(ray_local, folder, run, picky, tmp_path):
    hook = f"if is_white.any() and not os.path.exists({str(tmp_path / 'mended')!r}): raise ValueError('too white')"
    pipeline.embed(folder, run, picky(hook), QUIET)
    status, error = statuses(run)["0.mp4"]
    assert status == "failed"
    assert error.endswith("failed on 4 frames: ValueError: too white")
    assert run.info()["counts"]["ok"] == 4, "the others of the batch came through"
    (tmp_path / "mended").touch()
    pipeline.embed(folder, run, picky(hook), QUIET)
    assert run.info()["counts"]["skipped"] == 1
    pipeline.embed(folder, run, picky(hook, "source.retry_failed=true"), QUIET)
    assert n_done(run) == 1
    assert run.info()["counts"] == {"found": 5, "ok": 5, "failed": 0, "skipped": 0, "ignored": 0}
    assert run.read_table("embeddings")["error"].null_count == len(read_clips(run)), "the failure is superseded"


def test_a_segment_that_kills_its_worker_fails_alone(ray_local, folder, run, picky):
    pipeline.embed(folder, run, picky("if is_white.any(): os._exit(1)"), QUIET)
    assert run.info()["counts"] == {"found": 5, "ok": 4, "failed": 1, "skipped": 0, "ignored": 0}
    assert statuses(run)["0.mp4"] == ("failed", "the worker process died of it 3 times")


def test_hopeless_attempts_are_given_up():
    from raypipe.engine.attempts import _Attempts

    attempts = _Attempts(0, None)
    attempts.begin("decode", (0,))
    attempts.end("decode", (0,))  # What another stage does is no sign of life.
    told = [attempts.begin("encode", (thing,)) for thing in range(10) for _ in range(3)]
    assert [most for most, _ in told[:3]] == [1, 2, 3]
    hopeless = ["nothing came through" in (reason or "") for _, reason in told]
    assert hopeless.index(True) == 3 * 10 - 1, "two deaths a thing, the twentieth last"
    attempts.end("encode", (0,))
    assert attempts.begin("encode", (0, 1)) == (4, None)
    assert attempts.begin("encode", (0,)) == (2, None)


def test_nothing_is_begun_for_a_driver_that_is_no_more():
    from raypipe.engine.attempts import _Attempts, _birth

    driver = subprocess.Popen(["sleep", "60"])
    attempts = _Attempts(driver.pid, _birth(driver.pid))
    elsewhere = _Attempts(driver.pid, "1")  # that number is another process here
    assert attempts.begin("encode", (0,)) == (1, None)
    driver.kill()
    while _birth(driver.pid):
        time.sleep(0.01)  # not waited for: a dead child keeps its number
    assert attempts.begin("encode", (0,)) == (0, "the driver is gone")
    assert elsewhere.begin("encode", (0,)) == (1, None)
    driver.wait()


def test_workers_that_are_killed(ray_local, folder, run, picky, tmp_path):
    pids = tmp_path / "pids"
    hook = f"""with open({str(pids)!r}, "a") as file:
            file.write(str(os.getpid()) + chr(10))
        time.sleep(0.4)"""
    config = picky(hook, "encode.batch_size=4", "sample.segment_s=1", "ray.decoders=2", "ray.encoders=2")
    expected = embed_without_ray(folder, config)
    pids.unlink()
    killed = []

    def kill():
        while len(killed) < 2:
            time.sleep(0.2)
            found = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
            fresh = [pid for pid in found if pid not in (os.getpid(), *killed)]  # the encoder is tried here too
            if fresh:
                time.sleep(0.3)
                os.kill(fresh[-1], signal.SIGKILL)
                killed.append(fresh[-1])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    pipeline.embed(folder, run, config, QUIET)
    killer.join(1)
    assert len(killed) == 2
    assert run.info()["counts"]["ok"] == 5
    assert_same_clips(read_clips(run), expected)


def test_a_row_that_comes_twice_is_committed_once(ray_local, run, make_video, tmp_path, monkeypatch):
    """A worker is killed, and its second try cuts its blocks elsewhere, since a segment timed out in the first.

    The first try gives the blocks 0-1-2 and 3-4 before it is killed. The second gives 0-1, 2-3 and 4, of which Ray
    takes the third: segment 4 again.
    """
    video = make_video("videos/long.mp4", n_frames=400, size=(32, 32))
    config = make("sample.segment_s=1", "sample.fps=2", "encode.batch_size=4")
    mark, came = tmp_path / "mark", []

    class Killed(DecoderActor):
        def __call__(self, batch):
            is_first = 0 in batch["row"].to_pylist() and not mark.exists()
            for number, row in enumerate(batch.to_pylist()):
                if is_first and number == 0:
                    mark.touch()
                    late = self._decode.refuse(row, Failure("decode", "timed out"))
                    yield workers._pack(row["row"], late, 0.0)
                    continue
                yield from super().__call__(batch.slice(number, 1))
                if is_first and number == 4:
                    time.sleep(1)  # until the driver has both blocks
                    os._exit(1)

    chain = embedding._chain

    def watched(*arguments):
        for batch in chain(*arguments):
            came.extend(batch["row"].to_pylist())
            yield batch

    monkeypatch.setattr(embedding, "DecoderActor", Killed)
    monkeypatch.setattr(embedding, "_chain", watched)
    pipeline.embed(video.parent, run, config, QUIET)
    doubled = {row for row in came if came.count(row) > 1}
    assert doubled == {4}, "what Ray makes of it, or this test shows nothing"
    ledger = Ledger(run, run.read_table("plan.parquet"))
    assert ledger.n_clips.tolist() == [0] + [1] * 39
    assert ledger.outcome["error"].to_pylist() == ["timed out"] + [None] * 39
    expected = embed_without_ray(video.parent, config)
    assert_same_clips(read_clips(run), {key: value for key, value in expected.items() if key[1] != 0})
    assert n_done(run) == 40
    assert build_trajectories(run, None).n_clips.tolist() == [39]


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "raypipe", *map(str, arguments)]


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(ray_local, folder, tmp_path):
    """A real file system of 64 KB: the plan fits, the embeddings of 900 numbers each do not."""
    config = make("encode.encoder=descriptor")
    disk = tmp_path / "disk"
    mount_small(disk, "64k")
    try:
        run = Run(str(disk / "run"))
        with pytest.raises(RaypipeError, match=r"cannot write .*embeddings.*: No space left on device"):
            pipeline.embed(folder, run, config, QUIET)
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        with pytest.raises(UsageError, match="not embedded to its end: run the same raypipe embed again"):
            pipeline.cluster(run, config, QUIET)
        pipeline.embed(folder, run, config, QUIET)
        assert run.info()["counts"]["ok"] == 5
    finally:
        subprocess.run(["umount", disk], check=True)
