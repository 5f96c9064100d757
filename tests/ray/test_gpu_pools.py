"""Encoder actors on a Ray cluster of several nodes with (fake) GPUs."""

import json

import numpy as np
import pytest
from sessions import ray_nodes
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run

ENCODER = """
import json
import os
import time
from pathlib import Path
import numpy as np
import ray

FOLDER = Path({folder!r})

class WhichDevice:
    dim, image_size, resize_mode, fingerprint = 2, 16, "squash", "1"

    def __init__(self):
        self.device = int(os.environ.get("CUDA_VISIBLE_DEVICES") or -1)
        if self.device < 0:
            return  # the driver's
        node = ray.get_runtime_context().get_node_id()
        (FOLDER / str(os.getpid())).write_text(json.dumps([node, self.device]))
        ends = time.monotonic() + 120
        while len(list(FOLDER.iterdir())) < 4:  # all are to be there at one time
            assert time.monotonic() < ends
            time.sleep(0.05)

    def __call__(self, frames):
        return np.tile(np.float32([self.device, os.getpid()]), (len(frames), 1))
"""


@pytest.fixture
def two_nodes_of_two_gpus(ray_elsewhere):
    with ray_nodes(*[{"num_cpus": 2, "num_gpus": 2}] * 2) as cluster:
        yield cluster


@pytest.mark.slow
def test_one_encoder_a_gpu_on_every_node(two_nodes_of_two_gpus, tmp_path, monkeypatch):
    folder = tmp_path / "encoders"
    folder.mkdir()
    (tmp_path / "pooled_encoder.py").write_text(ENCODER.format(folder=str(folder)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for number in range(8):
        write_video(tmp_path / f"videos/{number}.mp4", n_frames=20, seed=number)
    run = Run(str(tmp_path / "run"))
    encode = {"encoder": "pooled_encoder:WhichDevice", "normalize": False, "batch_size": 1}
    config = make_config(flags={"encode": encode, "ray": {"decoders": 2}})
    pipeline.embed(tmp_path / "videos", run, config, Progress())
    places = {int(path.name): tuple(json.loads(path.read_text())) for path in folder.iterdir()}
    assert len(places) == 4
    nodes = {node for node, _ in places.values()}
    assert nodes == {node.node_id for node in two_nodes_of_two_gpus.list_all_nodes()}
    assert sorted(places.values()) == sorted((node, device) for node in nodes for device in (0, 1))
    for device, pid in np.stack(run.read_table("embeddings")["embedding"].to_numpy()).astype(int).tolist():
        assert places[pid][1] == device, "what an encoder makes, it makes on its own GPU"
    assert run.info()["implementations"]["embed"].startswith("2 decoder(s) on CPU, 4 encoder(s) on 1 GPU each")
