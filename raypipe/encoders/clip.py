"""CLIP from open_clip: image and text towers of any of its architectures, with published weights or a checkpoint."""

import contextlib
import difflib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raypipe.encoders.tower import ImageTower
from raypipe.encoders.weights import asking_hub, fetch_from_hub, file_at, hash_files, holds_code
from raypipe.errors import EncoderError, one_line

_PREPROCESS_KEYS = ("mean", "std", "resize_mode")  # A tag may set these for its weights.
_RESIZE_MODES = {"shortest": "crop", "squash": "squash"}  # This maps open_clip's names to raypipe's.


class Clip(ImageTower):
    """The image tower of a CLIP model.

    The decoder resizes frames to `image_size` by `resize_mode`; it is bicubic, as most models' own preprocessing is,
    whatever the model's configuration says. `ImageTower` does the rest of the preprocessing (scale, mean, standard
    deviation) on the device.

    Parameters
    ----------
    model
        open_clip's name of the architecture; or "hf-hub:owner/repository" or "local-dir:folder", which hold weights of
        their own, so that ``pretrained`` is ignored.
    pretrained
        open_clip's tag for published weights, or the path of a checkpoint file. Frames are prepared as the weights want
        it, for a file as all published ones of the architecture do; where these differ, as OpenAI's do.
    precision
        "fp32", "bf16" (on a GPU for the weights, on the CPU by autocast), or "auto": bf16 on a GPU that computes it,
        else fp32. The fingerprint holds the requested precision, because a driver without a GPU must know the
        fingerprint of its actors on GPUs. So under "auto" a run may hold vectors of both precisions.
    device
        torch's name of a device.

    Raises
    ------
    EncoderError
        If the weights cannot be found, fetched or loaded; there is no fallback.
    """

    def __init__(self, model: str, pretrained: str, *, precision: str = "auto", device: str = "cpu") -> None:
        with _quiet():
            weights = _locate_weights(model, pretrained)
            network = _load_model(weights).visual.eval()
        preprocess = network.preprocess_cfg
        self.image_size, self.resize_mode = _frame_format(model, preprocess)
        super().__init__(network, preprocess["mean"], preprocess["std"], device=device, precision=precision)
        self.fingerprint = f"clip/{weights.name}/{weights.preparation}{precision}"
        self.dim = self(np.zeros((1, self.image_size, self.image_size, 3), dtype=np.uint8)).shape[1]


class ClipText:
    """The text tower of a CLIP model: texts become vectors of the space in which `Clip` puts pictures.

    Parameters
    ----------
    model, pretrained
        As of `Clip`.

    Attributes
    ----------
    fingerprint
        Names the weights. The fingerprints of `Clip` with the same weights begin with it, and a slash.

    Raises
    ------
    EncoderError
        As `Clip`.
    """

    _batch = 256

    def __init__(self, model: str, pretrained: str) -> None:
        with _quiet():
            weights = _locate_weights(model, pretrained)
            self._tokenize = _load_tokenizer(model, weights)
            self._network = _load_model(weights).eval()
        self.fingerprint = f"clip/{weights.name}"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encode n texts as float32 (n, dim), each divided by its L2 norm."""
        import torch

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), self._batch):
                tokens = self._tokenize(list(texts[start : start + self._batch]))
                vectors.append(self._network.encode_text(tokens, normalize=True).numpy())
        return np.concatenate(vectors).astype(np.float32)


def _frame_format(model: str, preprocess: dict[str, Any]) -> tuple[int, str]:
    """Return the side in pixels and raypipe's resize mode of a model's preprocessing."""
    size, mode = preprocess["size"], preprocess["resize_mode"]
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width or mode not in _RESIZE_MODES:
        raise EncoderError(
            f"encoder clip: {model} needs frames {width}×{height} resized by {mode!r}; "
            f"only square frames resized by {' or '.join(map(repr, _RESIZE_MODES))} are supported: "
            "choose another model with --set encode.model=NAME"
        )
    return int(height), _RESIZE_MODES[mode]


class _Weights(NamedTuple):
    """Weights on this machine's disk.

    ``name`` identifies their content in fingerprints, ``place`` their location in messages, and ``options`` are the
    arguments with which `open_clip.create_model` loads them. ``preparation`` stands in the fingerprints of pictures, on
    which texts do not depend, if neither weights nor tag tell how frames are prepared.
    """

    name: str
    place: str
    options: dict[str, Any]
    preparation: str = ""


def _load_model(weights: _Weights) -> Any:
    """Build the model with both towers, and load it without running pickled code."""
    import open_clip

    try:
        with asking_hub(_names_hub("hf_model_name", weights.options["model_name"])):
            return open_clip.create_model(
                **weights.options, precision="fp32", device="cpu", weights_only=True, require_pretrained=True
            )
    except Exception as error:  # open_clip, torch and safetensors may raise anything.
        if holds_code(error):
            hint = " (OpenAI's own files are programs; --pretrained openai fetches their tensors)"
            raise _unusable(f"{weights.place} is not a checkpoint of plain tensors{hint}") from error
        raise _unusable(f"{weights.place} cannot be loaded ({one_line(error)})") from error


def _load_tokenizer(model: str, weights: _Weights) -> Any:
    """Make what turns texts into a model's numbers: open_clip's own, or one of transformers that the model names."""
    import open_clip

    # Of a repository on the hub only weights and configuration have been fetched, unless another tool has fetched all.
    is_fetched = (Path(weights.place) / "tokenizer_config.json").is_file()
    name = model if model.startswith("hf-hub:") and not is_fetched else weights.options["model_name"]
    try:
        with asking_hub(name.startswith("hf-hub:") or _names_hub("hf_tokenizer_name", name)):
            return open_clip.get_tokenizer(name)
    except ImportError as error:
        remedy = "pip install 'raypipe[text]'"
        raise EncoderError(f"encoder clip: the tokenizer of {name} needs more packages ({error}): {remedy}") from error
    except Exception as error:  # The hub's client and transformers may raise anything.
        raise EncoderError(
            f"encoder clip: the tokenizer of {name} cannot be loaded ({one_line(error)}): it is fetched from the hub "
            "once, or lies in the folder that local-dir names"
        ) from error


def _names_hub(key: str, model: str) -> bool:
    """Return whether a model's configuration says by ``key`` that what reads texts comes from the hub."""
    import open_clip

    return key in open_clip.get_model_config(model)["text_cfg"]


def _locate_weights(model: str, pretrained: str) -> _Weights:
    """Find a model's weights; published ones that are not in the local cache are downloaded."""
    import open_clip
    from open_clip.constants import HF_CONFIG_NAME
    from open_clip.pretrained import get_pretrained_cfg

    schema, _, place = model.partition(":")
    if schema == "hf-hub":
        schema, place = "local-dir", str(_fetch_repository(place))
    if schema == "local-dir":
        # Other files may be added later, such as a tokenizer's, and the vectors of pictures stay the same.
        files = sorted(
            path
            for path in Path(place).glob("*")
            if path.name == HF_CONFIG_NAME or path.suffix in {".safetensors", ".bin", ".pth"}
        )
        return _Weights(f"{model}/{hash_files(*files)}", place, {"model_name": f"local-dir:{place}"})

    model = model.replace("/", "-")  # open_clip too reads ViT-B/32 as ViT-B-32.
    if model not in open_clip.list_models():
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        raise EncoderError(
            f"encoder clip: open_clip has no model {model!r}"
            + (f"; similar names: {', '.join(near)}" if near else "; open_clip.list_models() lists all models")
        )
    tag = get_pretrained_cfg(model, pretrained)
    if tag:
        path = str(_fetch_tag(tag))
        options = {
            "model_name": model,
            "pretrained": path,
            "force_preprocess_cfg": _preparation(tag),
            # open_clip only warns if the weights were trained with the other activation.
            "force_quick_gelu": bool(tag.get("quick_gelu")),
        }
        tag_name = pretrained.lower().replace("-", "_")  # open_clip spells its tags like this.
        return _Weights(f"{model}/{tag_name}", path, options)
    checkpoint = file_at(pretrained)
    if not checkpoint.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise _unusable(f"{pretrained!r} is neither a file nor a tag of {model} (its tags: {tags})")
    prepared = _agreed_preparation(model)
    options = {"model_name": model, "pretrained": str(checkpoint), "force_preprocess_cfg": prepared}
    how = "prepared-as-published/" if prepared else ""
    return _Weights(f"{model}/{hash_files(checkpoint)}", str(checkpoint), options, how)


def _preparation(tag: dict[str, Any]) -> dict[str, Any]:
    return {key: tag[key] for key in _PREPROCESS_KEYS if key in tag}


def _agreed_preparation(model: str) -> dict[str, Any]:
    """Return how all of a model's published weights want frames prepared, if they agree and it is not as OpenAI's do.

    open_clip prepares them as for OpenAI's weights whatever the file, but it is as a rule the published one, fetched by
    other means, or was trained from it; and a SigLIP, for one, wants another mean, and frames that are squashed.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg

    default = _preparation(vars(PreprocessCfg()))
    tags = open_clip.list_pretrained_tags_by_model(model)
    wanted = [default | _preparation(get_pretrained_cfg(model, tag)) for tag in tags]
    agree = wanted and all(each == wanted[0] for each in wanted)
    return wanted[0] if agree and wanted[0] != default else {}


def _fetch_tag(tag: dict[str, Any]) -> Path:
    """Return the local file of published weights; the hub has the weights of every tag of open_clip 3."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, file = tag["hf_hub"].rpartition("/")
    # If the hub has the same weights without pickles, those are taken.
    names = [Path(file).with_suffix(".safetensors").name, file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    return fetch_from_hub(repository, names, _unusable)


def _fetch_repository(repository: str) -> Path:
    """Return the local folder that holds a hub repository's configuration and weights."""
    from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    config = fetch_from_hub(repository, [HF_CONFIG_NAME], _unusable)
    fetch_from_hub(repository, [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME], _unusable)
    return config.parent


def _unusable(what: str) -> EncoderError:
    return EncoderError(
        f"encoder clip: {what}; name a checkpoint with --pretrained FILE, or use --encoder descriptor, "
        "which needs no weights"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip and the hub's client from writing to stderr; real problems are raised as errors."""
    from huggingface_hub.utils import logging as hub_logging

    root, handler, verbosity = logging.getLogger(), logging.NullHandler(), hub_logging.get_verbosity()
    root.addHandler(handler)  # Without a handler, open_clip's logging.info(…) sets one up for the whole process.
    hub_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub_logging.set_verbosity(verbosity)
        root.removeHandler(handler)
