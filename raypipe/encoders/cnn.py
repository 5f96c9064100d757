"""A convolutional network without its head on two overlapping crops of the frame, whose features are joined.

Networks that were trained on squares see the sides of a wide frame only if it is squashed. Two squares, at the left and
at the right, show all of it nearly undistorted, and say on which side a thing is.

The decoder gives square frames, so the crops are taken of a squashed one and the squash is undone. A network that takes
T × T pixels gets frames of S = 1.5 T a side, the whole picture squashed. The left crop is the first T of S columns, the
right one the last T, so that the middle third is in both. Each is T wide and 1.5 T high, and its height is scaled to T.
Of a picture of 3:2 a crop is then exactly a square; at 4:3 things look 12 % too wide, at 16:9 18 % too narrow, and at
1:1 half as wide again as they are.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from raypipe import packages
from raypipe.encoders.tower import ImageTower
from raypipe.encoders.weights import fetch_from_hub, fetch_from_url, file_at, hash_files, holds_code
from raypipe.errors import EncoderError, one_line

VERSION = 1
"""A part of the fingerprint. Raise it with any change of the crops that changes the vectors."""

PUBLISHED = "DEFAULT"
"""The name of the weights that a network's library recommends."""

# torchvision's published weights of DenseNet have names that its network had once: norm.1 for norm1.
_OF_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")

_WIDENING = 1.5  # See the module: it splits the error between 4:3 and 16:9.


class TwoCropCNN(ImageTower):
    """A torchvision or timm network on the left and the right square of each frame.

    The network's last linear layer, which tells the classes of its training apart, is taken away; what it would have
    read of both crops is joined to one vector.

    Parameters
    ----------
    model
        torchvision's name of a network, or timm's where torchvision has none of it.
    pretrained
        A file with its state dict (.safetensors, or one that torch reads without running code, as the training scripts
        of timm and torchvision write; that of other classes will do, as the head is not used), or the name of published
        weights: torchvision's own, or "DEFAULT".
    precision, device
        As of `ImageTower`. The fingerprint holds the requested precision, as CLIP's does.

    Raises
    ------
    EncoderError
        If there is no such network, or its weights cannot be found, fetched or loaded; there is no fallback.
    """

    resize_mode = "squash"

    def __init__(self, model: str, pretrained: str, *, precision: str = "auto", device: str = "cpu") -> None:
        with warnings.catch_warnings():  # Libraries tell of renamed networks and of starts that weights replace.
            warnings.simplefilter("ignore")
            network = _build(model, pretrained)
            name, path = _locate_file(network, pretrained)
            _load(network, path)
        crops = _TwoCrops(network.module, network.side)
        self.image_size = crops.image_size
        super().__init__(crops, network.mean, network.std, device=device, precision=precision)
        prepared = hashlib.sha256(repr((VERSION, network.side, network.mean, network.std)).encode()).hexdigest()[:8]
        self.fingerprint = f"cnn/{model}/{name}/crops-{prepared}/{precision}"
        self.dim = self(np.zeros((1, self.image_size, self.image_size, 3), dtype=np.uint8)).shape[1]


class _TwoCrops(nn.Module):
    """The features of both crops of squashed frames, (n, 3, S, S) to (n, 2 · features)."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self._side = network, side
        self.image_size = round(_WIDENING * side)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        crops = torch.cat([images[..., : self._side], images[..., -self._side :]])
        # In float32, because not every device scales bf16.
        squares = F.interpolate(crops.float(), (self._side, self._side), mode="bilinear", antialias=True)
        found = self.network(squares.to(images.dtype))
        features = found.flatten(1)
        if features.shape[1] > max(found.shape[1:]):
            raise EncoderError(
                f"encoder cnn: the network maps a picture to {' × '.join(map(str, found.shape[1:]))} numbers, "
                "and to no vector: choose another network"
            )
        return torch.cat(features.chunk(2), dim=1)


class _Network(NamedTuple):
    """A network without head, how pictures are prepared for it, and its published weights, if any.

    ``head`` is the name of the layer that was taken away, "" if there was none to take. ``published`` is a URL, or the
    hub's name of a repository; ``tag`` names these weights in fingerprints.
    """

    module: nn.Module
    head: str
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tag: str = ""
    published: str | None = None


def _build(model: str, pretrained: str) -> _Network:
    from torchvision import models

    if model in models.list_models(module=models):
        return _build_by_torchvision(model, pretrained)
    if not packages.is_installed("timm"):
        near = difflib.get_close_matches(model, models.list_models(module=models), n=3)
        raise EncoderError(
            f"encoder cnn: torchvision has no network {model!r}"
            + (f" (similar names: {', '.join(near)})" if near else "")
            + ", and timm, which has more, is not installed: pip install timm, or choose another with encode.model"
        )
    return _build_by_timm(model)


def _build_by_torchvision(model: str, pretrained: str) -> _Network:
    from torchvision import models

    known = models.get_model_weights(model)
    names = [each.name for each in known]
    chosen = known[pretrained] if pretrained in names else known.DEFAULT
    prepare = chosen.transforms()
    side = prepare.crop_size[0]
    size = {"image_size": side} if model.startswith("vit_") else {}  # These take no other; their weights want several.
    module = models.get_model(model, weights=None, **size)
    if hasattr(module, "transform_input"):  # Inception's and GoogLeNet's weights want the scale that this gives.
        module.transform_input = True
    head = _behead(module, model)
    tag, url = (chosen.name, chosen.url) if pretrained in (*names, PUBLISHED) else ("", None)
    return _Network(module, head, side, tuple(prepare.mean), tuple(prepare.std), tag, url)


def _build_by_timm(model: str) -> _Network:
    timm = packages.require("timm")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3)
        raise EncoderError(
            f"encoder cnn: neither torchvision nor timm has a network {model!r}"
            + (f"; similar names: {', '.join(near)}" if near else "")
        )
    module = timm.create_model(model, pretrained=False)
    known = module.pretrained_cfg
    head = _behead(module, model) if module.num_classes else ""  # Self-supervised networks have none.
    published = known.get("hf_hub_id") or known.get("url")
    side = known["input_size"][-1]
    return _Network(module, head, side, tuple(known["mean"]), tuple(known["std"]), known.get("tag", ""), published)


def _behead(module: nn.Module, model: str) -> str:
    """Replace the network's last linear layer by none; return the layer's name."""
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise EncoderError(f"encoder cnn: {model} has no linear layer at its end: choose another network")
    module.set_submodule(linear[-1], nn.Identity())
    return linear[-1]


def _locate_file(network: _Network, pretrained: str) -> tuple[str, Path]:
    """Return what names the weights in fingerprints, and their file; published ones are fetched if need be."""
    file = file_at(pretrained)
    if file.is_file():
        return hash_files(file), file
    if network.published is None or (pretrained != PUBLISHED and pretrained != network.tag):
        raise _unusable(f"{pretrained!r} is neither a file nor the name of published weights (try {PUBLISHED})")
    if "://" in network.published:
        return network.tag, fetch_from_url(network.published, _unusable)
    names = ["model.safetensors", "pytorch_model.bin"]
    return network.tag, fetch_from_hub(network.published, names, _unusable)


def _load(network: _Network, path: Path) -> None:
    """Load weights without running pickled code; all but the head must fit."""
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # A training script's arguments.
                state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state.get("model", state))  # as timm's script has it, or torchvision's
        consume_prefix_in_state_dict_if_present(state, "module.")  # DistributedDataParallel puts it before each key.
        for old in [key for key in state if _OF_DENSENET.match(key)]:
            state[_OF_DENSENET.sub(r"\1\2", old)] = state.pop(old)
        for key in [key for key in state if network.head and key.startswith(f"{network.head}.")]:
            del state[key]  # A new dict would lack the versions of layers that torch keeps beside the keys.
        network.module.load_state_dict(state)
    except Exception as error:  # torch and safetensors may raise anything.
        if holds_code(error):
            raise _unusable(f"{path} is not a checkpoint of plain tensors") from error
        raise _unusable(f"{path} cannot be loaded ({one_line(error)})") from error


def _unusable(what: str) -> EncoderError:
    return EncoderError(
        f"encoder cnn: {what}; name a state dict with --pretrained FILE, or use --encoder descriptor, "
        "which needs no weights"
    )
