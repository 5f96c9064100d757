"""Runs that go on whatever happens to their workers: what goes wrong costs no more than itself."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from clips import assert_same_clips, embed_without_ray, n_done, read_clips, statuses
from disks import mount_small
from sessions import ONE_EACH
from tiny_encoder import TINY
from waiting import wait_for

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.engine import embedding, workers
from raypipe.engine.workers import DecoderActor
from raypipe.errors import RaypipeError, UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
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
    wait_for(lambda: not _birth(driver.pid))  # A dead child that nobody waited for keeps its number.
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
