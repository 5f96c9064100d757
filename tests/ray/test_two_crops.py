"""Videos embedded by a network on two crops, and placed on a map that was learned, in one process and on shards."""

import numpy as np
import pytest
import torch
from clips import assert_same_clips, embed_without_ray, read_clips
from torchvision import models
from videos import write_video

import raypipe as rp
from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run


def test_a_network_and_a_learned_map_work_on_ray(ray_local, tmp_path, monkeypatch):
    for i in range(4):
        write_video(tmp_path / f"videos/{i}.mp4", n_frames=30, seed=i % 2 * 10)
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=2).state_dict(), tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)  # Actors have another working directory, and must find the file all the same.
    sets = (
        "encode.encoder=cnn",
        "encode.model=resnet18",
        "encode.pretrained=net.pt",
        "trajectory.n_steps=3",
        "cluster.n_clusters=2",
        "reduce.method=autoencoder",
        "reduce.picture=autoencoder",
    )
    run = Run(str(tmp_path / "run"))
    config = make_config(sets=(*sets, "ray.shards=2"))
    pipeline.embed(tmp_path / "videos", run, config, Progress())
    assert run.info()["encoder"]["dim"] == 1024
    assert_same_clips(read_clips(run), embed_without_ray(tmp_path / "videos", config))

    pipeline.cluster(run, config, Progress())
    sharded = run.read_table("clusters.parquet")
    files = run.files("model")
    pipeline.cluster(run, make_config(sets=sets), Progress())
    assert run.files("model") == files
    local = run.read_table("clusters.parquet")
    for column in ("cluster", "x", "y"):
        np.testing.assert_allclose(sharded[column], local[column], atol=1e-3)
    new = rp.predict(run, tmp_path / "videos", tmp_path / "new").read_table("clusters.parquet")
    assert new["cluster"].to_pylist() == local["cluster"].to_pylist()
    assert new["x"].to_numpy() == pytest.approx(local["x"].to_numpy(), abs=1e-3)
