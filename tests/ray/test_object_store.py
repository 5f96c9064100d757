"""Ray's object store is full: what has no room in it waits on the disk, and where that is full too, a line says so."""

import re
import subprocess

import pytest
from clips import assert_same_clips, embed_without_ray, read_clips
from disks import mount_small
from sessions import ONE_EACH

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.errors import RaypipeError
from raypipe.progress import Progress
from raypipe.runs.directory import Run

QUIET = Progress()
STORE = 80_000_000  # bytes; the least that Ray takes is 75 MiB
FRAME = 512**2 * 3

ENCODER = """
import numpy as np

class Large:
    dim, image_size, resize_mode, fingerprint = 3, 512, "squash", "1"

    def __call__(self, frames):
        return frames[:, ::8, ::8].mean(axis=(1, 2)).astype(np.float32)
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config under which each frame of a video is taken, at 786 kB."""
    (tmp_path / "large.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = {"encode": {"encoder": "large:Large", "normalize": False}, "sample": {"fps": 10}, "ray": ONE_EACH}
    return make_config(flags=flags)


@pytest.fixture
def run(tmp_path):
    return Run(str(tmp_path / "run"))


def n_spilled(ray) -> int:
    """How many MiB this Ray has written to the disk for want of room."""
    from ray._private.internal_api import memory_summary  # what `ray memory` prints

    told = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    spilled = re.search(r"Spilled (\d+) MiB", told)
    return int(spilled[1]) if spilled else 0


def test_what_the_object_store_has_no_room_for_waits_on_the_disk(own_ray, config, run, tmp_path, make_video):
    """Three times what it holds, and each of the encoder's batches is larger."""
    n_videos, n_frames = 5, 60
    for number in range(n_videos):
        make_video(f"videos/{number}.mp4", n_frames=n_frames, seed=number)
    config = make_config(base=config.model_dump(), sets=("sample.segment_s=1",))
    assert n_videos * n_frames * FRAME > 2.9 * STORE
    assert config.encode.batch_size * FRAME > STORE
    with own_ray(object_store_memory=STORE) as ray:
        pipeline.embed(tmp_path / "videos", run, config, QUIET)
        assert n_spilled(ray) > STORE / 2**20
    assert run.info()["counts"]["ok"] == n_videos
    assert run.info()["seconds"]["embed"] < 90, "where Ray Data waits for room that will never be, it takes minutes"
    assert_same_clips(read_clips(run), embed_without_ray(tmp_path / "videos", config))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The minimum number of concurrent actors")  # Ray Data: no segment reached an encoder
def test_without_room_on_the_disk_either_the_run_stops_and_room_lets_it_go_on(
    own_ray, config, run, tmp_path, make_video
):
    """What fits is committed all the same; the last segment alone is larger than the object store."""
    lengths = [20, 20, 120]
    for number, n_frames in enumerate(lengths):
        make_video(f"videos/{number}.mp4", n_frames=n_frames, seed=number)
    assert lengths[-1] * FRAME > STORE
    disk = tmp_path / "disk"
    mount_small(disk, "8m")
    try:
        with own_ray(object_store_memory=STORE, object_spilling_directory=str(disk)):
            with pytest.raises(RaypipeError, match=r"Ray failed: OutOfDiskError: .* again to continue") as caught:
                pipeline.embed(tmp_path / "videos", run, config, QUIET)
            assert "\n" not in str(caught.value)
            expected = embed_without_ray(tmp_path / "videos", config)
            n_clips = run.read_table("embeddings").num_rows
            assert n_clips == sum(name != "2.mp4" for name, *_ in expected)
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            pipeline.embed(tmp_path / "videos", run, config, QUIET)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert_same_clips(read_clips(run), expected)
