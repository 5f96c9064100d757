"""A Ray cluster of several nodes on this machine: one goes away while it works, another joins."""

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import ray
from clips import embed_without_ray, read_clips
from sessions import ray_nodes
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.engine.attempts import Attempts
from raypipe.progress import Progress
from raypipe.runs.directory import Run

ENCODER = """
import os, time
import numpy as np
import ray

class Slow:
    dim, image_size, resize_mode, fingerprint = 3, 16, "squash", "1"

    def __call__(self, frames):
        if os.getpid() != {driver}:
            with open({log!r}, "a") as file:
                file.write(ray.get_runtime_context().get_node_id() + chr(10))
            time.sleep(0.1 * len(frames))
        return frames.mean(axis=(1, 2)).astype(np.float32)
"""


@pytest.fixture
def ray_cluster(ray_elsewhere):
    with ray_nodes(*[{"num_cpus": 1}] * 3) as cluster:
        yield cluster, list(cluster.worker_nodes)


def test_a_node_is_lost_and_another_joins(ray_cluster, tmp_path, monkeypatch):
    cluster, nodes = ray_cluster
    for number in range(24):
        write_video(tmp_path / f"videos/{number}.mp4", n_frames=20, seed=number)
    log = tmp_path / "log"
    (tmp_path / "slow_encoder.py").write_text(ENCODER.format(log=str(log), driver=os.getpid()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    flags = {"encode": {"encoder": "slow_encoder:Slow", "normalize": False, "batch_size": 8}, "ray": {"encoders": 3}}
    config = make_config(flags=flags)
    run = Run(str(tmp_path / "run"))
    with ThreadPoolExecutor(1) as thread:  # Ray's nodes are made and ended in the main thread only
        embedding = thread.submit(pipeline.embed, tmp_path / "videos", run, config, Progress())
        mine = {node.node_id for node in nodes}
        used: set[str] = set()
        while not embedding.done() and not used & mine:
            time.sleep(0.1)
            used = set(log.read_text().split()) if log.exists() else set()
        assert not embedding.done()
        cluster.remove_node(next(node for node in nodes if node.node_id in used), allow_graceful=False)
        cluster.add_node(num_cpus=1)
        embedding.result(timeout=240)
    assert run.info()["counts"] == {"found": 24, "ok": 24, "failed": 0, "skipped": 0, "ignored": 0}
    made, expected = read_clips(run), embed_without_ray(tmp_path / "videos", config)
    assert made.keys() == expected.keys()
    assert all(np.array_equal(made[key], expected[key]) for key in made)


def test_attempts_are_counted_on_the_node_of_the_driver(ray_cluster):
    here = ray.get_runtime_context().get_node_id()
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(Attempts())._actor for _ in range(4)]
        tell = [each.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for each in counters]
        assert ray.get(tell) == [here] * 4
