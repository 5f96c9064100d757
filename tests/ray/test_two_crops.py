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

SETS = (
    "encode.encoder=cnn",
    "encode.model=resnet18",
    "encode.pretrained=net.pt",
    "ray.decoders=1",
    "ray.encoders=1",
    "trajectory.n_steps=3",
    "cluster.n_clusters=2",
    "reduce.method=autoencoder",
    "reduce.picture=autoencoder",
)


@pytest.fixture(scope="module")
def videos(ray_local, tmp_path_factory):
    """Return a folder of videos, beside which lie a network's weights; it is the working directory."""
    folder = tmp_path_factory.mktemp("crops")
    for i in range(4):
        write_video(folder / f"videos/{i}.mp4", n_frames=30, seed=i % 2 * 10)
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=2).state_dict(), folder / "net.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # Actors have another working directory, and must find the file all the same.
        yield folder / "videos"


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    run = Run(str(tmp_path_factory.mktemp("crops") / "run"))
    pipeline.embed(videos, run, make_config(sets=SETS), Progress())
    return run


@pytest.mark.slow
def test_actors_see_both_crops(run, videos):
    assert run.info()["encoder"]["dim"] == 1024
    assert_same_clips(read_clips(run), embed_without_ray(videos, make_config(sets=SETS)))


@pytest.mark.slow
def test_shards_learn_the_map_that_one_process_learns(run, videos, tmp_path):
    pipeline.cluster(run, make_config(sets=(*SETS, "ray.shards=2")), Progress())
    sharded = run.read_table("clusters.parquet")
    files = run.files("model")
    pipeline.cluster(run, make_config(sets=SETS), Progress())
    assert run.files("model") == files
    local = run.read_table("clusters.parquet")
    for column in ("cluster", "x", "y"):
        np.testing.assert_allclose(sharded[column], local[column], atol=1e-3)
    new = rp.predict(run, videos, tmp_path / "new").read_table("clusters.parquet")
    assert new["cluster"].to_pylist() == local["cluster"].to_pylist()
    assert new["x"].to_numpy() == pytest.approx(local["x"].to_numpy(), abs=1e-3)
