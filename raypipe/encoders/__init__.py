"""Encoders, which turn frames into vectors: their protocol, and how one is made by name."""

import hashlib
import importlib
import inspect
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from raypipe.errors import EncoderError, RaypipeError, one_line
from raypipe.packages import importing_from_here, sees_gpu

RESIZE_MODES = ("crop", "squash")

DEFAULT_WEIGHTS = {"clip": ("ViT-B-32", "laion2b_s34b_b79k"), "cnn": ("mobilenet_v3_large", "DEFAULT")}
"""The model, and the name of its weights, that an encoder takes if none is named; the config has the same."""

# A user's encoder must have these; without a fingerprint of its own it gets the hash of its source.
_ATTRIBUTES = ("dim", "image_size", "resize_mode")


class Encoder(Protocol):
    """Anything that turns frames into vectors.

    Attributes
    ----------
    dim
        Length of a vector.
    image_size
        Side, in pixels, of the square frames that the encoder takes.
    resize_mode
        How a frame is made square: "crop" scales the shorter side and cuts the middle out, "squash" scales each side.
    fingerprint
        Names everything that the vectors depend on. Embeddings with different fingerprints are not comparable.
    """

    dim: int
    image_size: int
    resize_mode: str
    fingerprint: str

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Encode uint8 (n, image_size, image_size, 3) RGB frames as float32 (n, dim)."""
        ...


def make_encoder(
    encoder: str,
    *,
    model: str | None = None,
    pretrained: str | None = None,
    precision: str = "auto",
    normalize: bool = True,
    batch_size: int = 128,
    device: str = "auto",
) -> Encoder:
    """Make an encoder by name.

    Parameters
    ----------
    encoder
        "clip", "cnn", "descriptor", or "package.module:Name" of a user's own encoder, or of a class or function that
        makes one when called without arguments. The module may lie in the current directory.
    model, pretrained
        For clip: open_clip's name of the architecture, and its tag for the weights or the path of a checkpoint. For
        cnn: torchvision's or timm's name of the network, and of its weights or the path of a state dict. By default
        those of `DEFAULT_WEIGHTS`.
    precision
        For clip and cnn: "fp32", "bf16", or "auto" (bf16 on a GPU, else fp32).
    normalize
        Whether each vector is divided by its L2 norm; a zero vector stays zero.
    batch_size
        Most frames in one batch.
    device
        torch's name of a device, or "auto" (a GPU if there is one). A user's encoder chooses its own.

    Raises
    ------
    EncoderError
        If the encoder is unknown, cannot be loaded or breaks the protocol.
    """
    check_name(encoder)
    made: Any
    if ":" in encoder:
        try:
            with importing_from_here():
                made, fingerprint = _make_users_own(encoder)
                batched = _BatchedEncoder(encoder, made, fingerprint, normalize=normalize, batch_size=batch_size)
                # A mistake in a user's encoder should show now, not after an hour of decoding. A batch may have a
                # single frame, whose axis a squeeze takes away.
                for n in (2, 1):
                    batched(np.full((n, batched.image_size, batched.image_size, 3), 127, dtype=np.uint8))
        except RaypipeError:
            raise
        except (Exception, SystemExit) as error:  # The user's code may raise anything, and leave.
            raise EncoderError(f"encoder {encoder}: {one_line(error)}") from error
        return batched
    if encoder in DEFAULT_WEIGHTS:
        defaults = DEFAULT_WEIGHTS[encoder]
        named = model or defaults[0], pretrained or defaults[1]
        made = _make_network(encoder, *named, precision, _resolve_device(device))
    else:
        from raypipe.encoders.descriptor import Descriptor

        made = Descriptor("cpu" if device == "auto" and not sees_gpu() else _resolve_device(device))
    return _BatchedEncoder(encoder, made, made.fingerprint, normalize=normalize, batch_size=batch_size)


def check_name(encoder: str) -> None:
    """Check what an encoder is called, without importing or loading any.

    Raises
    ------
    EncoderError
        If it is neither one of raypipe's nor written as a user's own.
    """
    if encoder not in (*DEFAULT_WEIGHTS, "descriptor") and ":" not in encoder:
        raise EncoderError(f"unknown encoder {encoder!r}: --encoder takes clip, cnn, descriptor or package.module:Name")


def remake_encoder(fingerprint: str, encoder: str, **options: Any) -> Encoder:
    """Make an encoder again, in another process or on another machine; its vectors are put beside the first one's.

    Raises
    ------
    EncoderError
        As `make_encoder`; or if its fingerprint is another one.
    """
    made = make_encoder(encoder, **options)
    if made.fingerprint != fingerprint:
        raise EncoderError(
            f"encoder {encoder} is {made.fingerprint} on {platform.node()}, and this run's is {fingerprint}: its "
            "weights or its code differ there, or have changed meanwhile"
        )
    return made


def _make_network(encoder: str, model: str, pretrained: str, precision: str, device: str) -> Any:
    make: Any
    if encoder == "clip":
        from raypipe.encoders.clip import Clip as make
    else:
        from raypipe.encoders.cnn import TwoCropCNN as make
    try:
        return make(model, pretrained, precision=precision, device=device)
    except (RaypipeError, ImportError):
        raise
    except Exception as error:  # A network may not take the frames that its configuration names, or have two heads.
        if "out of memory" in str(error):  # Of a GPU, which another network does not make larger.
            raise
        raise EncoderError(
            f"encoder {encoder}: {model} cannot be used ({one_line(error)}): choose another with "
            "--set encode.model=NAME"
        ) from error


class _BatchedEncoder:
    """An encoder with what all encoders need: batches of bounded size, checked output, normalisation.

    If the GPU has no memory for a batch, that batch and all later ones are halved; ``batch_size`` is the present size.
    """

    def __init__(self, name: str, encoder: Encoder, fingerprint: str, *, normalize: bool, batch_size: int) -> None:
        self.dim = int(encoder.dim)
        self.image_size = int(encoder.image_size)
        self.resize_mode = encoder.resize_mode
        self.fingerprint = f"{fingerprint}/{'l2' if normalize else 'raw'}"
        self._name = name
        self._encoder = encoder
        self._normalize = normalize
        self.batch_size = batch_size

    def __call__(self, frames: Any) -> np.ndarray:
        """Encode uint8 (n, image_size, image_size, 3) RGB frames, an array or a torch tensor, as float32 (n, dim).

        A tensor's frames stay on their device if the encoder has ``batches``, which takes them there.
        """
        side = self.image_size
        if str(frames.dtype) not in ("uint8", "torch.uint8") or tuple(frames.shape[1:]) != (side, side, 3):
            raise EncoderError(
                f"encoder {self._name} takes uint8 frames (n, {side}, {side}, 3), not {frames.dtype} "
                f"{tuple(frames.shape)}"
            )
        vectors = np.empty((len(frames), self.dim), dtype=np.float32)
        start = 0
        while start < len(frames):
            start = self._encode(frames, vectors, start)
            if start < len(frames):  # The GPU had no memory for the batch, nor will it have for the next one.
                self.batch_size = min(self.batch_size, len(frames) - start) // 2
                _free_gpu_memory()
        return _unit_rows(vectors) if self._normalize else vectors

    def _encode(self, frames: Any, vectors: np.ndarray, start: int) -> int:
        """Encode frames from ``start`` on; return where it stopped, before the end if it needs a smaller batch."""
        n = 0
        try:
            for encoded in self._batches(frames[start:]):
                n = min(self.batch_size, len(frames) - start)
                vectors[start : start + n] = self._checked(encoded, n)
                start += n
        except EncoderError:
            raise
        except Exception as error:  # A user's encoder may raise anything.
            n = min(self.batch_size, len(frames) - start)
            # torch's and CuPy's errors have this name; neither is imported here.
            if type(error).__name__ == "OutOfMemoryError" and n > 1:
                return start
            raise EncoderError(f"encoder {self._name} failed on {n} frames: {one_line(error)}") from error
        return start

    def _batches(self, frames: Any) -> Iterator[Any]:
        if hasattr(self._encoder, "batches"):  # Such an encoder copies a batch to the device while it computes another.
            yield from self._encoder.batches(frames, self.batch_size)
            return
        frames = frames if isinstance(frames, np.ndarray) else frames.cpu().numpy()
        for start in range(0, len(frames), self.batch_size):
            # Ray's batches are read-only, and torch warns of arrays that it cannot write to: hence the copy.
            yield self._encoder(np.array(frames[start : start + self.batch_size], order="C"))

    def _checked(self, vectors: Any, n_frames: int) -> np.ndarray:
        rule = f"it must return a float32 array ({n_frames}, {self.dim}) for {n_frames} frames"
        if not isinstance(vectors, np.ndarray):
            raise EncoderError(f"encoder {self._name}: {rule}, but returned a {type(vectors).__name__}")
        if vectors.shape != (n_frames, self.dim) or vectors.dtype != np.float32:
            raise EncoderError(f"encoder {self._name}: {rule}, but returned {vectors.dtype} {vectors.shape}")
        if not np.isfinite(vectors).all():
            n_bad = int((~np.isfinite(vectors).all(axis=1)).sum())
            raise EncoderError(f"encoder {self._name}: NaN or infinity in the vectors of {n_bad} of {n_frames} frames")
        return vectors


def _free_gpu_memory() -> None:
    """Free the GPU memory that torch keeps without using it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    # The norm is computed in float64, because the squares of large float32 numbers overflow.
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _resolve_device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _make_users_own(spec: str) -> tuple[Any, str]:
    """Import, make and check the user's encoder; return it and its fingerprint."""
    module_name, _, name = spec.partition(":")
    module = _import_module(spec, module_name)
    made = getattr(module, name, None)
    if made is None:
        raise EncoderError(f"encoder {spec}: {module_name} ({module.__file__}) has no {name!r}")
    if inspect.isclass(made) or not any(hasattr(made, attribute) for attribute in _ATTRIBUTES):
        if not callable(made):
            raise EncoderError(f"encoder {spec}: a {type(made).__name__} is neither an encoder nor makes one")
        try:
            made = made()
        except (Exception, SystemExit) as error:  # The user's code may raise anything, and leave.
            raise EncoderError(f"encoder {spec}: {name}() failed: {one_line(error)}") from error
    _check_attributes(spec, made)
    fingerprint = getattr(made, "fingerprint", None)
    return made, f"{spec}/{fingerprint or _source_hash(spec, module)}"


def _import_module(spec: str, module_name: str) -> ModuleType:
    if module_name == "__main__":  # Of a worker it is Ray's own program.
        raise EncoderError(
            f"encoder {spec}: no worker can import a notebook's or script's classes: write a module of it"
        )
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise EncoderError(
                f"encoder {spec}: no module {error.name!r} in {Path.cwd()}, PYTHONPATH or the installed packages"
            ) from error
        raise EncoderError(f"encoder {spec}: importing {module_name} failed: {one_line(error)}") from error
    except (Exception, SystemExit) as error:  # The user's code may raise anything, and a script leaves.
        raise EncoderError(f"encoder {spec}: importing {module_name} failed: {one_line(error)}") from error


def _check_attributes(spec: str, made: Any) -> None:
    missing = [attribute for attribute in _ATTRIBUTES if not hasattr(made, attribute)]
    if missing:
        raise EncoderError(f"encoder {spec}: {type(made).__name__} lacks {', '.join(missing)}")
    if not callable(made):
        raise EncoderError(f"encoder {spec}: {type(made).__name__} lacks __call__(frames)")
    for attribute in ("dim", "image_size"):
        value = getattr(made, attribute)
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise EncoderError(f"encoder {spec}: {attribute} must be a whole number above 0, not {value!r}")
    if made.resize_mode not in RESIZE_MODES:
        raise EncoderError(f"encoder {spec}: resize_mode must be {' or '.join(RESIZE_MODES)}, not {made.resize_mode!r}")


def _source_hash(spec: str, module: ModuleType) -> str:
    """Return a hash of the module's source, because an edited encoder is another encoder."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise EncoderError(
            f"encoder {spec}: its source cannot be read, so it needs a fingerprint (a string)"
        ) from error
    return hashlib.sha256(source.encode()).hexdigest()[:16]
