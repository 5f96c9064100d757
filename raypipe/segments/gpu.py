"""The stage that decodes and encodes segments on one GPU, without their frames ever leaving it.

Decoder and encoder share a child process with a deadline, as whatever decodes may crash or hang. What NVDEC decodes is
compared with the CPU's frames before it is trusted, and what it cannot decode, or decodes otherwise, is left to the
CPU's decoders with the reason said.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import DecodeConfig, EncodeConfig, SampleConfig
from raypipe.decoders.sandbox import Sandbox, read_arrays, serve, write_arrays
from raypipe.decoders.torchcodec import TorchCodecDecoder
from raypipe.encoders import make_encoder
from raypipe.errors import DecodeError, EncoderError
from raypipe.schema import Frames
from raypipe.segments.stages import DecodeSegments, EncodeSegments
from raypipe.storage import shown

LEAST_PSNR_DB = 36.0
"""What frames must reach in `measure_psnr` to be trusted. On the videos that the tests know torchcodec's frames come to
37.9 dB or more (30.7 for a 10-bit test pattern with hard edges of colour), and those of a wrong range of luma to 34.6
at most; a wrong matrix shows where there are strong colours, and frames of another time where something moves."""

_CHECKED_VIDEOS = 2  # of each kind, by each actor
_CHECKED_FRAMES = 4  # of each such video
_POOL = 4  # pixels: chroma is interpolated in several ways, all right, which differ at hard edges alone
_SAME_S = 1e-3
_LOAD_S = 600.0  # starting CUDA takes seconds, and fetching an encoder's weights may take minutes
_STARTS = 3  # of the child without an answer in between, before it is given up


class GpuSegments:
    """Decode and encode segments: a plan row in, its clips out, or the reason why the CPU's decoders must take it.

    Parameters
    ----------
    sample, decode, encode
        As `DecodeSegments` and `make_encoder` take them; ``decode.decoder`` is left to the CPU.
    dim, image_size, resize_mode
        Those of the encoder.
    device
        torch's name of the device that decodes and encodes.
    """

    def __init__(
        self,
        sample: SampleConfig,
        decode: DecodeConfig,
        encode: EncodeConfig,
        dim: int,
        image_size: int,
        resize_mode: str,
        device: str = "cuda",
    ) -> None:
        self.dim = dim
        self._sandbox = EncodingSandbox(decode, encode, dim, device)
        self._decode = DecodeSegments(sample, decode, image_size, resize_mode, sandbox=self._sandbox)
        self._pool = EncodeSegments(_Encoded(dim), sample, encode.normalize)

    def __call__(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], pa.Table | None]:
        """Do one segment.

        Returns
        -------
        decoded, clips
            What `DecodeSegments` says of it, its ``pixels`` being vectors, and an `embeddings_schema` table. Without a
            table the segment is for the CPU, and ``error`` says why.
        """
        decoded = self._decode(row)
        if decoded["error"] and not len(decoded["pixels"]):
            reason = decoded["error"].removeprefix(f"{shown(row['uri'])}: ").removeprefix("torchcodec: ")
            return {**decoded, "error": reason}, None
        return decoded, self._pool([decoded])[0]

    def close(self) -> None:
        """End the child processes."""
        self._sandbox.close()


class EncodingSandbox(Sandbox):
    """A sandbox whose frames come encoded: where `Frames` has pixels, these have (n, dim) float32 vectors.

    Parameters
    ----------
    decode
        Its deadlines count for decoding and encoding together.
    encode, dim
        The encoder, and how many numbers its vectors have.
    device
        torch's name of the device.
    """

    _module = "raypipe.segments.gpu"

    def __init__(self, decode: DecodeConfig, encode: EncodeConfig, dim: int, device: str = "cuda") -> None:
        super().__init__("torchcodec", decode.deadline_s, decode.deadline_factor)
        self._reference = Sandbox("pyav", decode.deadline_s, decode.deadline_factor)
        self._encode, self._dim, self._device = encode.model_dump(), dim, device
        self._name = f"torchcodec-{device.partition(':')[0]}"
        self._n_starts = 0
        self._given_up: str | None = None
        self._n_trusted: Counter[str] = Counter()  # videos that passed the check, by kind
        self._distrusted: dict[str, str] = {}  # kinds that did not, and why

    def close(self) -> None:
        """End the children; a later request would start others."""
        super().close()
        if hasattr(self, "_reference"):
            self._reference.close()

    def frame_times(self, uri: str) -> np.ndarray:
        """See `raypipe.decoders.Decoder.frame_times`."""
        return self._reference.frame_times(uri)

    def frames(self, uri: str, times_s: np.ndarray, image_size: int, resize_mode: str, span_s: float) -> Frames:
        """Decode and encode what is on display at ``times_s``.

        Raises
        ------
        DecodeError
            If it cannot be done here, or the frames are not to be trusted.
        """
        kind = self._try_chain(uri, 0.0, lambda child, name, limit_s: child.ask(limit_s, "kind", name, uri))
        if kind in self._distrusted:
            raise DecodeError(f"{shown(uri)}: {self._distrusted[kind]}")
        if self._n_trusted[kind] < _CHECKED_VIDEOS and len(times_s):
            self._check(kind, uri, np.asarray(times_s), image_size, resize_mode, span_s)

        def attempt(child: Any, name: str, limit_s: float) -> Frames:
            child.give_arrays(np.asarray(times_s, dtype=np.float64))
            n, error = child.ask(limit_s, "encode", name, uri, len(times_s), image_size, resize_mode)
            vectors, shown_s = child.take_arrays(((n, self._dim), np.float32), ((n,), np.float64))
            return Frames(vectors, shown_s, np.arange(n), self._name, error)

        encoded = self._try_chain(uri, span_s, attempt)
        self._n_starts = 0
        return encoded

    def _check(
        self, kind: str, uri: str, times_s: np.ndarray, image_size: int, resize_mode: str, span_s: float
    ) -> None:
        """Compare a few frames with the CPU's; raise `DecodeError` if they differ, now and for all of this kind."""
        few = times_s[np.unique(np.linspace(0, len(times_s) - 1, _CHECKED_FRAMES).astype(int))]
        right = self._reference.frames(uri, few, image_size, resize_mode, span_s)
        ours = super().frames(uri, few, image_size, resize_mode, span_s)
        n = min(len(right.times_s), len(ours.times_s))
        if np.abs(right.times_s[:n] - ours.times_s[:n]).max() > _SAME_S:
            raise DecodeError(f"{shown(uri)}: its frames are not those that pyav shows at the same times")
        psnr_db = measure_psnr(ours.pixels[:n], right.pixels[:n]).min()
        if psnr_db < LEAST_PSNR_DB:
            # of this kind alone, as other kinds come out of other conversions
            self._distrusted[kind] = f"frames of {kind} differ from pyav's: {psnr_db:.1f} dB, under {LEAST_PSNR_DB:g}"
            raise DecodeError(f"{shown(uri)}: {self._distrusted[kind]}")
        self._n_trusted[kind] += 1

    def _living_child(self) -> Any:
        """Return the child with its encoder loaded."""
        if self._given_up:
            raise DecodeError(self._given_up)
        if self._child is not None and self._child.is_alive():
            return self._child
        if self._n_starts == _STARTS:
            self._given_up = f"given up, as its process died {_STARTS} times in a row"
            raise DecodeError(self._given_up)
        self._n_starts += 1
        child = super()._living_child()
        try:
            child.ask(_LOAD_S, "load", "torchcodec", "", self._device, self._encode)
        except (DecodeError, EncoderError) as error:  # it would be the same the next time
            self._given_up = str(error)
            raise
        return child


def measure_psnr(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of (n, size, size, 3) uint8 frames, after means over 4 × 4 pixels: (n,), in dB."""
    n, size = len(frames), len(frames[0]) // _POOL * _POOL
    difference = (frames.astype(np.float32) - reference)[:, :size, :size]
    means = difference.reshape(n, size // _POOL, _POOL, size // _POOL, _POOL, 3).mean(axis=(2, 4))
    return 10 * np.log10(255**2 / np.maximum((means**2).mean(axis=(1, 2, 3)), 1e-6))


class _Encoded:
    """The encoder of what is encoded already."""

    image_size, resize_mode, fingerprint = 1, "squash", ""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames


class _Worker:
    """What the child process does."""

    def __call__(self, memory: int, method: str, name: str, uri: str, *arguments: Any) -> Any:
        if method == "load":
            return self._load(*arguments)
        if method == "kind":
            return self._decoder.kind(uri)
        n, image_size, resize_mode = arguments
        (times_s,) = read_arrays(memory, ((n,), np.float64))
        frames = self._decoder.frames_on_device(uri, times_s, image_size, resize_mode)
        if method == "encode":
            write_arrays(memory, self._encoder(frames.pixels)[frames.numbers], frames.times_s)
        else:  # to be checked
            pixels = frames.pixels.cpu().numpy()[frames.numbers]
            write_arrays(memory, pixels, frames.times_s, np.arange(len(pixels)))
        return len(frames.numbers), frames.error

    def _load(self, device: str, encode: dict[str, Any]) -> None:
        if device.startswith("cuda"):
            _check_nvdec()
        self._decoder = TorchCodecDecoder(device)
        self._encoder: Any = make_encoder(**encode, device=device)


def _check_nvdec() -> None:
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        remedy = "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        raise DecodeError(f"NVDEC's library cannot be loaded ({error}): {remedy}") from error


if __name__ == "__main__":
    serve(_Worker(), *map(int, sys.argv[1:]))
