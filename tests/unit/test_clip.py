import json
import re
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from test_encoders import random_frames

from raypipe.encoders import make_encoder
from raypipe.errors import EncoderError

TINY = "raypipe-test-tiny"
TINY_SIZE = 48


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Make a tiny architecture known to open_clip; return a folder with a checkpoint ``tiny.pt`` of random weights."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{TINY}.json").write_text(json.dumps(tiny_config()))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(0)
    with quiet_open_clip():
        torch.save(open_clip.create_model(TINY).state_dict(), folder / "tiny.pt")
    return folder


def tiny_config() -> dict:
    tower = {"width": 64, "layers": 2}
    return {
        "embed_dim": 24,
        "vision_cfg": {"image_size": TINY_SIZE, "patch_size": 16, "head_width": 32, **tower},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "heads": 2, **tower},
    }


def quiet_open_clip():
    from raypipe.encoders.clip import _quiet

    return _quiet()


def encode_by_open_clip(frames: np.ndarray, model: str = TINY, **options) -> np.ndarray:
    """Encode frames the way open_clip's own documentation does."""
    import open_clip
    import torch
    from PIL import Image

    with quiet_open_clip(), torch.inference_mode():
        made, _, preprocess = open_clip.create_model_and_transforms(model, **options)
        return made.eval().encode_image(torch.stack([preprocess(Image.fromarray(frame)) for frame in frames])).numpy()


def make_tiny(folder: Path, **options):
    return make_encoder("clip", **{"model": TINY, "pretrained": str(folder / "tiny.pt"), "device": "cpu", **options})


def test_clip_is_open_clips_own(tiny):
    frames = random_frames(5, TINY_SIZE)
    frames.flags.writeable = False
    encoder = make_tiny(tiny, normalize=False, batch_size=2)
    expected = encode_by_open_clip(frames, pretrained=str(tiny / "tiny.pt"))
    np.testing.assert_allclose(encoder(frames), expected, atol=1e-4, rtol=0)
    assert (encoder.dim, encoder.image_size, encoder.resize_mode) == (24, TINY_SIZE, "crop")
    np.testing.assert_allclose(np.linalg.norm(make_tiny(tiny)(frames), axis=1), 1, atol=1e-6)


def test_clip_fingerprint_tells_weights_and_precision(tiny, tmp_path):
    import torch

    weights = torch.load(tiny / "tiny.pt")
    weights["visual.proj"] += 1e-3
    torch.save(weights, tmp_path / "other.pt")
    prints = [
        make_tiny(tiny, **options).fingerprint
        for options in (
            {"precision": "fp32"},
            {"pretrained": str(tmp_path / "other.pt")},
            {"precision": "bf16"},
            {"normalize": False},
            {"precision": "auto"},  # whatever that is where it is made
        )
    ]
    assert len(set(prints)) == 5
    assert re.fullmatch(rf"clip/{TINY}/sha256-[0-9a-f]{{16}}/fp32/l2", prints[0])


def test_clip_in_bf16_is_near_fp32(tiny):
    frames = random_frames(4, TINY_SIZE)
    exact, rough = (make_tiny(tiny, precision=precision)(frames) for precision in ("fp32", "bf16"))
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Make an empty local cache of the hub; return a function that puts files of a repository into it."""
    import shutil

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repository: str, *files: Path) -> None:
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("abc123")
        (folder / "snapshots/abc123").mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / "snapshots/abc123")

    return put


def test_clip_takes_a_tags_weights_from_the_cache_and_its_preprocessing(tiny, tmp_path, hub_cache, monkeypatch):
    import torch
    from open_clip import pretrained
    from safetensors.torch import save_file

    save_file(torch.load(tiny / "tiny.pt"), tmp_path / "open_clip_model.safetensors")
    hub_cache("owner/tiny", tmp_path / "open_clip_model.safetensors")
    tag = pretrained._pcfg(hf_hub="owner/tiny/", mean=(0.5,) * 3, std=(0.4,) * 3, quick_gelu=True, resize_mode="squash")
    monkeypatch.setitem(pretrained._PRETRAINED, TINY, {"some_tag": tag})
    encoder = make_tiny(tiny, pretrained="some-tag", normalize=False)
    assert (encoder.resize_mode, encoder.fingerprint) == ("squash", f"clip/{TINY}/some_tag/auto/raw")
    frames = random_frames(3, TINY_SIZE)
    expected = encode_by_open_clip(frames, pretrained="some_tag", force_quick_gelu=True)
    np.testing.assert_allclose(encoder(frames), expected, atol=1e-4, rtol=0)


def test_a_file_is_prepared_for_as_the_published_weights_of_its_architecture(tiny, monkeypatch):
    """A SigLIP's own file, given by its path, would get OpenAI's mean and be cropped otherwise."""
    from open_clip import pretrained

    from raypipe.encoders.clip import ClipText

    squashed = {"mean": (0.5,) * 3, "std": (0.4,) * 3, "resize_mode": "squash"}
    plain = make_tiny(tiny, normalize=False)
    tags = {name: pretrained._pcfg(hf_hub="owner/tiny/", **squashed) for name in ("one", "other")}
    monkeypatch.setitem(pretrained._PRETRAINED, TINY, tags)
    encoder = make_tiny(tiny, normalize=False)
    assert encoder.resize_mode == "squash"
    assert encoder.fingerprint == plain.fingerprint.replace("/auto/", "/prepared-as-published/auto/")
    assert encoder.fingerprint.startswith(f"{ClipText(TINY, str(tiny / 'tiny.pt')).fingerprint}/")
    frames = random_frames(2, TINY_SIZE)
    own = {"pretrained": str(tiny / "tiny.pt"), "image_mean": (0.5,) * 3, "image_std": (0.4,) * 3}
    expected = encode_by_open_clip(frames, **own)
    np.testing.assert_allclose(encoder(frames), expected, atol=1e-4, rtol=0)
    tags["third"] = pretrained._pcfg(hf_hub="owner/tiny/")  # Now they differ: which of them the file is, is not known.
    same = make_tiny(tiny, normalize=False)
    assert (same.fingerprint, same.resize_mode) == (plain.fingerprint, "crop")


@pytest.mark.parametrize("schema", ["local-dir", "hf-hub"])
def test_clip_takes_a_models_own_configuration(tiny, tmp_path, hub_cache, schema):
    folder = write_model_folder(tiny, tmp_path / "model:1", mean=[0.5] * 3, std=[0.5] * 3, resize_mode="squash")
    model = f"local-dir:{folder}"
    frames = random_frames(2, TINY_SIZE)
    expected = encode_by_open_clip(frames, model)
    if schema == "hf-hub":
        hub_cache("owner/tiny", *folder.iterdir())
        model = "hf-hub:owner/tiny"
    encoder = make_encoder("clip", model=model, normalize=False, device="cpu")
    assert encoder.resize_mode == "squash"
    assert encoder.fingerprint.startswith(f"clip/{model}/sha256-")
    np.testing.assert_allclose(encoder(frames), expected, atol=1e-4, rtol=0)
    for added in (folder, *tmp_path.glob("hub/*/snapshots/*")):
        (added / "tokenizer.json").write_text("{}")  # as transformers adds it for texts
    assert make_encoder("clip", model=model, normalize=False, device="cpu").fingerprint == encoder.fingerprint


def write_model_folder(tiny: Path, folder: Path, text_cfg: dict | None = None, **preprocess) -> Path:
    import shutil

    folder.mkdir()
    config = tiny_config()
    config["text_cfg"] |= text_cfg or {}
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    shutil.copy(tiny / "tiny.pt", folder / "open_clip_pytorch_model.bin")
    return folder


def test_clip_refuses_frames_that_no_decoder_makes(tiny, tmp_path):
    folder = write_model_folder(tiny, tmp_path / "model", resize_mode="longest")
    with pytest.raises(EncoderError, match="needs frames 48×48 resized by 'longest'; only square frames"):
        make_encoder("clip", model=f"local-dir:{folder}", device="cpu")


def test_a_network_that_cannot_take_its_frames_is_said_in_one_line(tiny, monkeypatch):
    from raypipe.encoders.tower import ImageTower

    def refuse(self, pixels):
        raise AssertionError("Input height (48)\ndoesn't match model (224).")  # as timm's towers, of another size

    monkeypatch.setattr(ImageTower, "encode", refuse)
    with pytest.raises(
        EncoderError, match=rf"^encoder clip: {TINY} cannot be used \(AssertionError: .*\): choose"
    ) as caught:
        make_tiny(tiny)
    assert "\n" not in str(caught.value)


def test_the_home_of_nobody_is_a_file_that_is_not_there(tiny):
    with pytest.raises(EncoderError, match=r"'~nobody of that name/x\.pt' is neither a file nor a tag"):
        make_encoder("clip", model=TINY, pretrained="~nobody of that name/x.pt", device="cpu")


def test_a_full_gpu_is_not_laid_to_the_network(tiny, monkeypatch):
    import torch

    from raypipe.encoders.tower import ImageTower

    def fill(self, pixels):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(ImageTower, "encode", fill)
    with pytest.raises(torch.OutOfMemoryError):
        make_tiny(tiny)


class AutoTokenizer:
    """As transformers' own, for a vocabulary of words that begin with the letters from a to z."""

    asked: ClassVar[list[str]] = []

    @classmethod
    def from_pretrained(cls, name, **options):
        cls.asked.append(str(name))
        if "absent" in str(name):
            raise OSError("We couldn't connect\nto the hub")
        return cls()

    def __call__(self, texts, max_length, **options):
        import torch

        tokens = [[ord(word[0]) - 96 for word in text.split()] for text in texts]
        rows = [[*row, *[0] * max_length][:max_length] for row in tokens]
        return SimpleNamespace(input_ids=torch.tensor(rows))

    batch_encode_plus = __call__  # So older versions of open_clip call it.


@pytest.mark.parametrize("is_whole", [False, True])
def test_words_of_a_repository_on_the_hub_find_their_tokenizer(tiny, tmp_path, hub_cache, monkeypatch, is_whole):
    """Only weights and configuration are fetched of it; another tool may have fetched all."""
    from raypipe.encoders.clip import ClipText

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=AutoTokenizer))
    monkeypatch.setattr(AutoTokenizer, "asked", [])
    folder = write_model_folder(tiny, tmp_path / "model", {"hf_tokenizer_name": "owner/words"})
    if is_whole:
        (folder / "tokenizer_config.json").write_text("{}")
    hub_cache("owner/tiny", *folder.iterdir())
    vectors = ClipText("hf-hub:owner/tiny", "")(["a hand", "a drawer", "b"])
    assert vectors.shape == (3, 24)
    snapshot = str(tmp_path / "hub/models--owner--tiny/snapshots/abc123")
    assert AutoTokenizer.asked == [snapshot if is_whole else "owner/words"]


@pytest.mark.parametrize(
    ("transformers", "message"),
    [
        (None, r"needs more packages \(.+\): pip install 'raypipe\[text\]'$"),
        (SimpleNamespace(AutoTokenizer=AutoTokenizer), r"cannot be loaded \(OSError: We couldn't connect to the hub\)"),
    ],
)
def test_a_tokenizer_that_is_missing_is_said_in_one_line(tiny, tmp_path, monkeypatch, transformers, message):
    from raypipe.encoders.clip import ClipText

    monkeypatch.setitem(sys.modules, "transformers", transformers)
    folder = write_model_folder(tiny, tmp_path / "absent", {"hf_tokenizer_name": "owner/words"})
    make_encoder("clip", model=f"local-dir:{folder}", device="cpu")  # Pictures need none.
    with pytest.raises(EncoderError, match=rf"^encoder clip: the tokenizer of local-dir:.*absent {message}") as caught:
        ClipText(f"local-dir:{folder}", "")
    assert "\n" not in str(caught.value)


def write_text(path: Path) -> None:
    path.write_text("no weights")


def write_pickle(path: Path) -> None:
    import torch

    torch.save({"state_dict": {"a": path}}, path)


def write_program(path: Path) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to retire TorchScript.
        torch.jit.script(torch.nn.Linear(1, 1)).save(path)


def write_other_architecture(path: Path) -> None:
    import torch

    torch.save({"visual.proj": torch.zeros(2, 2)}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, r"'.*weights\.pt' is neither a file nor a tag of raypipe-test-tiny \(its tags: none\)"),
        (write_text, r"weights\.pt is not a checkpoint of plain tensors"),
        (write_pickle, r"weights\.pt is not a checkpoint of plain tensors"),
        (write_program, r"weights\.pt is not a checkpoint of plain tensors \(OpenAI's own files are programs; "),
        (write_other_architecture, r"weights\.pt cannot be loaded \(RuntimeError: Error\(s\) in loading state_dict"),
    ],
)
def test_clip_says_in_one_line_which_weights_are_wrong(tiny, tmp_path, write, message, capfd):
    path = tmp_path / "weights.pt"
    if write:
        write(path)
    with pytest.raises(EncoderError, match=message) as caught:
        make_tiny(tiny, pretrained=str(path))
    assert "--pretrained FILE" in str(caught.value)
    assert "--encoder descriptor" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_clip_names_models_near_an_unknown_one():
    with pytest.raises(EncoderError, match=r"open_clip has no model 'ViT-B32'; similar names: ViT-B-32, "):
        make_encoder("clip", model="ViT-B32")


def check_clip_line(line: str, reason: str) -> None:
    assert re.search(rf"^encoder clip: the weights laion/CLIP-\S+ are not in the local cache, and {reason}", line)
    assert "--pretrained FILE" in line
    assert "--encoder descriptor" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("hub", ["silent", "absent"])
def test_clip_without_the_hub_gives_up_quickly_and_quietly(hub_cache, monkeypatch, capfd, hub):
    """The hub takes connections and never answers, or takes none."""
    from huggingface_hub import constants

    from raypipe.encoders import weights

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        if hub == "absent":
            server.close()
        started = time.monotonic()
        with pytest.raises(EncoderError) as caught:
            make_encoder("clip")
    assert time.monotonic() - started < 10
    check_clip_line(str(caught.value), r"http://127\.0\.0\.1:\d+ cannot be reached \(.+\)")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("state", ["silent", "absent", "off", "unasked"])
def test_others_that_ask_the_hub_look_into_the_cache_alone_where_it_is_away(monkeypatch, state):
    """transformers would try each file of a tokenizer, or of a text tower, for 23 seconds."""
    from huggingface_hub import constants

    from raypipe.encoders import weights

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", state == "off")
    monkeypatch.setattr(weights, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        if state == "absent":
            server.close()
        with weights.asking_hub(state != "unasked"):
            assert constants.HF_HUB_OFFLINE == (state != "unasked")
    assert constants.HF_HUB_OFFLINE == (state == "off")


def test_threads_that_ask_the_hub_at_once_leave_it_as_it_was(monkeypatch):
    from huggingface_hub import constants

    from raypipe.encoders import weights

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "find_absence", lambda _: "away")
    seen = []

    def ask(pause_s: float) -> None:
        with weights.asking_hub(True):
            time.sleep(pause_s)
            seen.append(constants.HF_HUB_OFFLINE)

    threads = [threading.Thread(target=ask, args=(pause_s,)) for pause_s in (0.2, 0.05)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (seen, constants.HF_HUB_OFFLINE) == ([True, True], False)


@pytest.mark.parametrize(("named", "away"), [("owner/words", True), (None, False)])
def test_the_hub_is_tried_first_where_a_tokenizer_comes_from_it(tiny, tmp_path, monkeypatch, named, away):
    import open_clip
    from huggingface_hub import constants

    from raypipe.encoders import weights
    from raypipe.encoders.clip import ClipText

    folder = write_model_folder(tiny, tmp_path / "model", named and {"hf_tokenizer_name": named})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "find_absence", lambda url: "it is away")
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: constants.HF_HUB_OFFLINE)
    assert ClipText(f"local-dir:{folder}", "")._tokenize == away


class Pixels:
    """A stand-in for a batch's way over a GPU, which fails for batches of more frames than fit."""

    fit = 4

    def __init__(self, shape, device):
        if shape[0] > self.fit:
            raise OutOfMemoryError
        self.shape, self.vectors = shape, []

    def holds(self, shape):
        return self.shape == shape

    def send(self, part):
        import torch

        assert len(part) <= self.shape[0]
        assert not self.vectors, "its last batch has not been fetched"
        return torch.from_numpy(part.copy())

    def bring_back(self, vectors):
        self.vectors.append(vectors.numpy())

    def fetch(self):
        return self.vectors.pop()

    def settle(self):
        self.vectors.clear()


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.fixture
def tower(monkeypatch):
    """Make a tower that goes the GPU's way on the CPU, each vector a frame's mean of the three channels."""
    import torch

    from raypipe.encoders import tower as module

    class Means(torch.nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    monkeypatch.setattr(module, "_Slot", Pixels)
    made = module.ImageTower(Means(), [0.0] * 3, [1 / 255] * 3, device="cpu")
    made.dim, made.image_size, made.resize_mode, made.fingerprint = 3, 8, "crop", "means"
    made.batches = lambda frames, size: made._pipelined(
        (frames[start : start + size] for start in range(0, len(frames), size)), (size, 8, 8, 3)
    )
    return made


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_batches_that_overlap_come_in_order(tower, n):
    frames = random_frames(n, 8)
    expected = frames.mean(axis=(1, 2))
    for size in (1, 2, 3, 4):
        parts = list(tower.batches(frames, size))
        assert [len(part) for part in parts] == [size] * (n // size) + ([n % size] if n % size else [])
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5)


def test_a_batch_too_large_is_halved_on_the_gpus_way(tower):
    from raypipe.encoders import _BatchedEncoder

    frames = random_frames(11, 8)
    encoder = _BatchedEncoder("means", tower, "means", normalize=False, batch_size=16)
    np.testing.assert_allclose(encoder(frames), frames.mean(axis=(1, 2)), rtol=1e-5)
    assert encoder.batch_size <= Pixels.fit
    assert encoder.batch_size >= 2


def test_an_abandoned_batch_leaves_nothing_behind(tower):
    frames = random_frames(8, 8)
    given = tower.batches(frames, 2)
    next(given)
    given.close()
    np.testing.assert_allclose(np.concatenate(list(tower.batches(frames, 2))), frames.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tower_on_cuda_is_the_cpus(gpu, precision):
    """Batches that overlap, and frames on the device already, against float32 on the CPU."""
    import copy

    import torch

    from raypipe.encoders.tower import ImageTower

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 16, 16), torch.nn.Flatten(), torch.nn.GELU(), torch.nn.Linear(64 * 9, 32)
    )
    options = {"mean": [0.5] * 3, "std": [0.25] * 3}
    exact = ImageTower(copy.deepcopy(network), **options, device="cpu")
    tower = ImageTower(network, **options, device="cuda", precision=precision)
    frames = random_frames(23, TINY_SIZE)
    frames.flags.writeable = False
    expected = exact(frames)
    tolerance = 0.02 if precision == "bf16" else 1e-3  # convolutions may take TF32
    for given in (frames, torch.from_numpy(frames.copy()).cuda()):
        for _ in range(3):
            vectors = np.concatenate(list(tower.batches(given, 5)))
            assert np.abs(vectors - expected).max() < tolerance * np.abs(expected).max()
