"""kill -9 at random moments, of whatever there is to kill: in the end the embeddings are those of a calm run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from clips import embed_without_ray, read_clips
from videos import write_video

from raypipe.config import make_config
from raypipe.runs.directory import Run

A_VIDEO = 4  # frames: two seconds each, at two frames a second
FRAMES_A_CLIP = 2
COMMIT_S = 1.0
FRAME_S = 0.02
MOST_TWICE = COMMIT_S / FRAME_S  # frames that a kill may cost: the work of one commit interval, at the encoder's pace
SETS = (f"ray.commit_s={COMMIT_S}", "encode.batch_size=16", "encode.encoder=counting:Counting")
VICTIMS = ("driver", "worker", "raylet", "decoder")

# An encoder that takes its time and counts, in a file, the frames that it has really done.
ENCODER = """
import os, time
import numpy as np

class Counting:
    dim, image_size, resize_mode, fingerprint = 48, 16, "squash", "1"

    def __call__(self, frames):
        if "COUNTS" in os.environ and not (frames == 127).all():  # what it is tried with
            time.sleep({frame_s} * len(frames))
            with open(os.environ["COUNTS"], "a") as file:
                file.write(f"{{os.getpid()}} {{len(frames)}}\\n")
        return frames.reshape(len(frames), 4, 4, 4, 4, 3).mean(axis=(2, 4)).reshape(len(frames), 48).astype(np.float32)
"""


class Embedding:
    """A `raypipe embed` of the videos in a process of its own."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.run, self.counts = folder, Run(str(folder / name)), folder / f"{name}.counts"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        options = [part for each in SETS for part in ("--set", each)]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "raypipe", "embed", "videos", "-o", self.run.url, *options],
            cwd=self.folder,
            env={**os.environ, "COUNTS": str(self.counts), "PYTHONPATH": str(self.folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> tuple[int, str]:
        assert self.process is not None
        said = self.process.communicate(timeout=240)[1]
        return self.process.returncode, said

    def wait_for_frames(self) -> None:
        """Wait until the first batch has been encoded."""
        while not self.n_encoded():
            assert self.process.poll() is None, self.wait()[1]
            time.sleep(0.02)

    def n_encoded(self) -> int:
        lines = self.counts.read_text().splitlines() if self.counts.exists() else []
        return sum(int(line.split()[1]) for line in lines)

    def victim(self, kind: str) -> int | None:
        """Return a process to kill: ours, or one that descends from it."""
        if kind == "driver":
            return self.process.pid
        telling = {"worker": "EncoderActor", "raylet": "/raylet/raylet", "decoder": "raypipe.decoders.sandbox"}[kind]
        found = [pid for pid, command in descendants(self.process.pid).items() if telling in command]
        return random.choice(found) if found else None


def descendants(root: int) -> dict[int, str]:
    """Return the command lines of all processes that descend from one, by number."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                commands[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue  # it has ended
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, more = {}, {root}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more}
        found |= {pid: commands[pid] for pid in more}
    return found


@pytest.fixture
def folder(ray_elsewhere, tmp_path, request):
    """Return a folder of so many videos."""
    for number in range(request.param):
        write_video(tmp_path / f"videos/{number:03d}.mp4", n_frames=20, seed=number)
    (tmp_path / "counting.py").write_text(ENCODER.format(frame_s=FRAME_S))
    return tmp_path


def count_videos(folder: Path) -> int:
    return len(list((folder / "videos").iterdir()))


@pytest.fixture
def expected(folder):
    """The clips that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return embed_without_ray(folder / "videos", make_config(sets=SETS))


def kill_once(folder: Path, expected: dict, name: str, kind: str, after_s: float) -> dict:
    """Embed, kill one process when so many seconds of encoding have passed, run again until it is done, and compare."""
    embedding = Embedding(folder, name)
    embedding.start()
    embedding.wait_for_frames()
    time.sleep(after_s)
    pid = embedding.victim(kind)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    done_then = embedding.n_encoded()
    codes = [embedding.wait()[0]]
    n_kept = FRAMES_A_CLIP * sum(table.num_rows for table in embedding.run.iter_tables("embeddings"))
    while codes[-1] != 0 and len(codes) < 4:
        embedding.start()
        codes.append(embedding.wait()[0])
    assert codes[-1] == 0, f"{kind} killed after {after_s:.1f} s: {codes}"
    made = read_clips(embedding.run)
    assert made.keys() == expected.keys()
    n_videos = count_videos(folder)
    assert embedding.run.info()["counts"] == dict(found=n_videos, ok=n_videos, failed=0, skipped=0, ignored=0)
    identical = sum(np.array_equal(made[key], expected[key]) for key in made)
    assert all(np.allclose(made[key], expected[key], atol=1e-6) for key in made)
    return {
        "victim": kind,
        "killed": pid is not None,
        "after_s": round(after_s, 2),
        "frames_before": done_then,
        "exit_codes": codes,
        "rows_identical": identical / len(made),
        "frames_lost": max(done_then - n_kept, 0),
        "frames_twice": embedding.n_encoded() - n_videos * A_VIDEO,
    }


@pytest.mark.parametrize("folder", [50], indirect=True)
def test_a_killed_driver_loses_one_commit_at_most(folder, expected):
    figures = kill_once(folder, expected, "driver", "driver", after_s=count_videos(folder) * A_VIDEO * FRAME_S / 2)
    assert figures["exit_codes"] == [-signal.SIGKILL, 0]
    assert figures["frames_twice"] <= MOST_TWICE, json.dumps(figures)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("folder", [120], indirect=True)
def test_twenty_kills(folder, expected):
    from bench.machine import keep

    n_frames = count_videos(folder) * A_VIDEO
    random.seed(4)
    rounds = []
    for number in range(20):
        kind = VICTIMS[number % len(VICTIMS)]
        rounds.append(kill_once(folder, expected, f"kill-{number}", kind, random.uniform(0, n_frames * FRAME_S)))
        print(rounds[-1], flush=True)
    keep("kills", {"frames": n_frames, "frames_per_commit_interval": MOST_TWICE, "rounds": rounds})
    assert sum(each["killed"] for each in rounds) >= 15
    assert max(each["frames_twice"] for each in rounds) <= MOST_TWICE
