import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoders import random_frames, run_python
from torch import nn
from torchvision import models
from torchvision.transforms.functional import resize
from videos import write_video

import raypipe as rp
from raypipe import pipeline
from raypipe.config import make_config
from raypipe.encoders import make_encoder
from raypipe.errors import EncoderError
from raypipe.progress import Progress
from raypipe.runs.directory import Run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a file with the state dict of a small network of random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("cnn") / "net.pt"
    torch.save(models.squeezenet1_1(num_classes=3).state_dict(), path.with_name("headless.pt"))
    torch.save(models.resnet18(num_classes=7).state_dict(), path)
    return path


def make_cnn(path, **options):
    return make_encoder("cnn", **{"model": "resnet18", "pretrained": str(path), "device": "cpu", **options})


def test_both_crops_go_through_the_network_without_its_head(weights):
    encoder = make_cnn(weights, normalize=False)
    assert (encoder.dim, encoder.image_size, encoder.resize_mode) == (1024, 336, "squash")
    frames = random_frames(2, 336)
    network = models.resnet18(num_classes=7)
    network.load_state_dict(torch.load(weights))
    network.fc = nn.Identity()
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.inference_mode():
        halves = [
            network.eval()((resize(pixels[..., at], [224, 224]) - mean) / std) for at in (slice(224), slice(112, 336))
        ]
    np.testing.assert_allclose(encoder(frames), torch.cat(halves, 1).numpy(), atol=1e-3)


def test_what_is_seen_on_one_side_only_changes_that_sides_half(weights):
    encoder = make_cnn(weights, normalize=False)
    frames = random_frames(1, 336)
    other = frames.copy()
    other[:, :, :100] = 0
    left, right = np.split(encoder(frames) - encoder(other), 2, axis=1)
    assert np.abs(left).max() > 1e-3 and not np.abs(right).max() > 1e-5


def test_fingerprint_tells_network_weights_and_precision(weights, tmp_path):
    from safetensors.torch import save_file

    state = torch.load(weights)
    save_file(state, tmp_path / "same.safetensors")
    other = {**state, "conv1.weight": state["conv1.weight"] * 2}
    torch.save({"state_dict": {f"module.{key}": value for key, value in other.items()}}, tmp_path / "other.pt")
    made = [
        make_cnn(weights),
        make_cnn(tmp_path / "other.pt"),
        make_cnn(weights, precision="bf16"),
        make_cnn(tmp_path / "same.safetensors"),
    ]
    prints = [encoder.fingerprint for encoder in made]
    assert len(set(prints)) == 4
    assert re.fullmatch(r"cnn/resnet18/sha256-[0-9a-f]{16}/crops-[0-9a-f]{8}/auto/l2", prints[0])
    exact, _, rough, same = (encoder(random_frames(1, 336)) for encoder in made)
    np.testing.assert_array_equal(exact, same)
    assert 0 < np.abs(rough - exact).max() < 0.05


@pytest.mark.parametrize("key", ["state_dict", "model"])  # of timm's training script, and of torchvision's
def test_a_checkpoint_may_hold_the_arguments_of_its_training(weights, tmp_path, key):
    saved = {key: torch.load(weights), "epoch": 1, "args": argparse.Namespace(lr=0.1, size=(3, 224))}
    torch.save(saved, tmp_path / "last.pth.tar")
    frames = random_frames(1, 336)
    np.testing.assert_array_equal(make_cnn(tmp_path / "last.pth.tar")(frames), make_cnn(weights)(frames))


def test_timm_has_what_torchvision_lacks(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", num_classes=4)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    encoder = make_cnn(tmp_path / "net.pt", model="mobilenetv3_small_050")
    assert encoder.dim == 2 * network.head_hidden_size and encoder.image_size == 336
    assert np.isfinite(encoder(random_frames(2, 336))).all()


def test_a_network_of_timm_without_a_head_is_taken_whole(tmp_path):
    """Those that learned without labels, such as DINO's, are published so."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("eva02_tiny_patch14_224.mim_in22k")
    torch.save(network.state_dict(), tmp_path / "net.pt")
    encoder = make_cnn(tmp_path / "net.pt", model="eva02_tiny_patch14_224.mim_in22k", normalize=False)
    frames = random_frames(1, encoder.image_size)
    mean, std = (torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    left = resize(torch.from_numpy(frames[:, :, :224]).permute(0, 3, 1, 2) / 255, [224, 224])
    with torch.inference_mode():
        expected = network.eval()((left - mean) / std).numpy()
    np.testing.assert_allclose(encoder(frames)[:, : encoder.dim // 2], expected, atol=1e-3)


def test_a_network_that_gives_maps_is_refused(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet10t", num_classes=0, global_pool="")
    torch.save(network.state_dict(), tmp_path / "net.pt")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: network)
    with pytest.raises(EncoderError, match="maps a picture to 512 × 6 × 6 numbers, and to no vector"):
        make_cnn(tmp_path / "net.pt", model="resnet10t")


@pytest.mark.parametrize(("tag", "side"), [("IMAGENET1K_V1", 224), ("IMAGENET1K_SWAG_E2E_V1", 384)])
def test_a_transformer_is_built_for_the_pictures_of_its_weights(tag, side):
    from raypipe.encoders.cnn import _build

    network = _build("vit_b_16", tag)
    assert (network.side, network.module.image_size) == (side, side)


def test_layers_that_know_the_version_of_their_weights_are_told_it(tmp_path):
    torch.manual_seed(0)
    torch.save(models.mnasnet0_5().state_dict(), tmp_path / "net.pt")
    assert make_cnn(tmp_path / "net.pt", model="mnasnet0_5").dim == 2 * 1280


def test_densenets_published_weights_have_older_names(tmp_path):
    torch.manual_seed(0)
    state = models.densenet121().state_dict()
    torch.save(state, tmp_path / "net.pt")
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): state[key] for key in state}
    assert "features.denseblock1.denselayer1.norm.1.weight" in older  # as in densenet121-a639ec97.pth
    torch.save(older, tmp_path / "older.pt")
    exact, same = (make_cnn(tmp_path / name, model="densenet121") for name in ("net.pt", "older.pt"))
    frames = random_frames(1, 336)
    np.testing.assert_array_equal(exact(frames), same(frames))


@pytest.mark.parametrize(
    ("model", "file", "message"),
    [
        ("resnet18", "absent.pt", "neither a file nor the name of published weights"),
        ("resnet50", "net.pt", "cannot be loaded"),
        ("squeezenet1_1", "headless.pt", "no linear layer at its end"),
        ("resnet19", "net.pt", "neither torchvision nor timm has a network 'resnet19'; similar names: resnet18"),
        ("resnet18", "code.pt", "is not a checkpoint of plain tensors"),
    ],
)
def test_what_cannot_be_had_is_one_line(weights, model, file, message):
    torch.save(nn.Linear(1, 1), weights.with_name("code.pt"))  # a pickled object
    with pytest.raises(EncoderError, match=message) as caught:
        make_cnn(weights.with_name(file), model=model)
    assert len(str(caught.value).splitlines()) == 1


def test_weights_are_found_again_from_another_folder(chain_here, weights, tmp_path, monkeypatch):
    for i in range(3):
        write_video(tmp_path / f"videos/{i}.mp4", n_frames=10, seed=i)
    monkeypatch.chdir(weights.parent)
    run = Run(str(tmp_path / "run"))
    sets = ("encode.encoder=cnn", "encode.model=resnet18", "encode.pretrained=net.pt", "cluster.n_clusters=1")
    pipeline.run_all(tmp_path / "videos", run, make_config(sets=sets), Progress())
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "new.mp4", n_frames=10, seed=1)
    assert Path(rp.search(run, tmp_path / "new.mp4")[0]["uri"]).name == "1.mp4"


def test_actors_refuse_weights_that_are_not_the_drivers(chain_here, weights, tmp_path, monkeypatch):
    from raypipe.engine import embedding

    write_video(tmp_path / "0.mp4", n_frames=10)
    sets = ("encode.encoder=cnn", "encode.model=resnet18", f"encode.pretrained={tmp_path}/last.pt")
    torch.save(torch.load(weights), tmp_path / "last.pt")
    time_frame = embedding.time_frame

    def train_meanwhile(encoder):
        torch.save(models.resnet18().state_dict(), tmp_path / "last.pt")
        return time_frame(encoder)

    monkeypatch.setattr(embedding, "time_frame", train_meanwhile)
    with pytest.raises(
        EncoderError, match=r"encoder cnn is cnn/.* and this run's is cnn/.*, or have changed meanwhile"
    ):
        pipeline.embed(tmp_path / "0.mp4", Run(str(tmp_path / "run")), make_config(sets=sets), Progress())


def test_without_timm_the_line_says_what_to_install(weights, monkeypatch):
    from raypipe import packages

    monkeypatch.setattr(packages, "is_installed", lambda name: name != "timm")
    with pytest.raises(EncoderError, match="pip install timm"):
        make_cnn(weights, model="xception41")


def test_without_a_network_published_weights_are_given_up_quickly(tmp_path):
    done = run_python(
        "from raypipe.encoders import make_encoder, weights\n"
        "from raypipe.errors import EncoderError\n"
        "weights.find_absence = lambda url: f'{url} cannot be reached (no route)'\n"
        "for model in ('mobilenet_v3_small', 'legacy_xception', 'xception41'):\n"
        "    try: make_encoder('cnn', model=model, device='cpu')\n"
        "    except EncoderError as error: print(error)",
        TORCH_HOME=str(tmp_path),
        HF_HOME=str(tmp_path),
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all("cannot be reached" in line and "--encoder descriptor" in line for line in lines)


def test_each_encoder_has_a_model_of_its_own_unless_one_is_named():
    assert make_config(sets=("encode.encoder=cnn",)).encode.model == "mobilenet_v3_large"
    assert make_config(flags={"encode": {"encoder": "cnn", "pretrained": "x.pt"}}).encode.pretrained == "x.pt"
    assert make_config().encode.model == "ViT-B-32"
