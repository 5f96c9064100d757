"""The stage that decodes and encodes segments on one GPU, without their frames ever leaving it.

Decoder and encoder share a child process with a deadline, because any decoder may crash or hang. Frames of NVDEC are
compared with the CPU's before they are trusted. Videos that it cannot decode, or decodes differently, are left to the
CPU's decoders, and the reason is returned.
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
from raypipe.decoders import resolve_chain
from raypipe.decoders.memory import read_arrays, write_arrays
from raypipe.decoders.sandbox import Sandbox
from raypipe.decoders.sandbox_child import serve
from raypipe.decoders.torchcodec import TorchCodecDecoder
from raypipe.encoders import remake_encoder
from raypipe.errors import DecodeError, EncoderError
from raypipe.schema import Frames, ThumbnailRequest
from raypipe.segments.stages import DecodeSegments, EncodeSegments
from raypipe.storage import shown

LEAST_PSNR_DB = 36.0
"""Frames must reach this in `measure_psnr` to be trusted. On the videos of the tests, right frames of torchcodec reach
37.9 dB or more (30.7 dB for a 10-bit test pattern with hard edges of colour), and frames of a wrong luma range 34.6 dB
at most. A wrong colour matrix shows where colours are strong, and a frame of another time where something moves."""

# Each actor checks so many videos of each kind, and so many frames of each of them.
_CHECKED_VIDEOS = 2
_CHECKED_FRAMES = 4
# Frames are compared in blocks of so many pixels: decoders may interpolate chroma in different ways, which shows at
# hard edges.
_POOL = 4
_SAME_S = 1e-3
_LOAD_S = 600.0  # Starting CUDA takes seconds, and fetching an encoder's weights may take minutes.
_STARTS = 3  # The child is given up when it has been started so many times in a row without answering.


class GpuSegments:
    """Decode and encode segments: a plan row in, its clips out, or the reason for leaving it to the CPU's decoders.

    Parameters
    ----------
    sample, decode, encode
        As `DecodeSegments` and `make_encoder` take them; ``decode.decoder`` is ignored.
    fingerprint, dim, image_size, resize_mode
        The encoder's.
    device
        torch's name of the device that decodes and encodes.
    """

    def __init__(
        self,
        sample: SampleConfig,
        decode: DecodeConfig,
        encode: EncodeConfig,
        fingerprint: str,
        dim: int,
        image_size: int,
        resize_mode: str,
        device: str = "cuda",
    ) -> None:
        self.dim = dim
        self._sandbox = EncodingSandbox(decode, encode, fingerprint, dim, device)
        self._decode = DecodeSegments(sample, decode, image_size, resize_mode, sandbox=self._sandbox)
        self._pool = EncodeSegments(_Encoded(dim), sample, encode.normalize)

    def __call__(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], pa.Table | None]:
        """Decode and encode one segment.

        Returns
        -------
        decoded, clips
            What `DecodeSegments` returns, but with vectors as ``pixels``; and an `embeddings_schema` table, or None
            for a segment that is left to the CPU because of its ``error``.
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
    """A sandbox that encodes the frames too: its `Frames` have (n, dim) float32 vectors as ``pixels``.

    Parameters
    ----------
    decode
        The deadlines, for decoding and encoding together.
    encode, fingerprint, dim
        The encoder, what names it, and the length of its vectors.
    device
        torch's name of the device.
    """

    _module = "raypipe.segments.gpu"

    def __init__(
        self, decode: DecodeConfig, encode: EncodeConfig, fingerprint: str, dim: int, device: str = "cuda"
    ) -> None:
        super().__init__("torchcodec", decode.deadline_s, decode.deadline_factor)
        self._reference = Sandbox("pyav", decode.deadline_s, decode.deadline_factor)
        self._encode, self._dim, self._device = encode.model_dump() | {"fingerprint": fingerprint}, dim, device
        self._name = f"torchcodec-{device.partition(':')[0]}"
        self._n_starts = 0
        self._given_up: str | None = None
        self._n_trusted: Counter[str] = Counter()  # How many videos of each kind passed the check.
        self._distrusted: dict[str, str] = {}  # Which kinds failed the check, and why.

    def close(self) -> None:
        """End the child processes; a later request starts new ones."""
        super().close()
        if hasattr(self, "_reference"):
            self._reference.close()

    def frame_times(self, uri: str, span_s: float = 0.0) -> np.ndarray:
        """See `raypipe.decoders.sandbox.Sandbox.frame_times`."""
        return self._reference.frame_times(uri, span_s)

    def frames(
        self,
        uri: str,
        times_s: np.ndarray,
        image_size: int,
        resize_mode: str,
        span_s: float,
        thumbnails: ThumbnailRequest | None = None,
    ) -> Frames:
        """Decode and encode the frames on display at ``times_s``.

        Raises
        ------
        DecodeError
            If the frames cannot be decoded here, or cannot be trusted.
        """
        if resolve_chain(self.decoder, uri) != [self.decoder]:
            raise DecodeError(f"{shown(uri)}: pictures in a table are left to the CPU")
        kind = self._try_chain(uri, 0.0, lambda child, name, limit_s: child.ask(limit_s, "kind", name, uri))
        if kind in self._distrusted:
            raise DecodeError(f"{shown(uri)}: {self._distrusted[kind]}")
        if self._n_trusted[kind] < _CHECKED_VIDEOS and len(times_s):
            self._check(kind, uri, np.asarray(times_s), image_size, resize_mode, span_s)

        def attempt(child: Any, name: str, limit_s: float) -> Frames:
            child.give_arrays(np.asarray(times_s, dtype=np.float64))
            form = len(times_s), image_size, resize_mode, thumbnails
            n, error, small = child.ask(limit_s, "encode", name, uri, *form)
            vectors, shown_s = child.take_arrays(((n, self._dim), np.float32), ((n,), np.float64))
            return Frames(vectors, shown_s, np.arange(n), self._name, error, small)

        encoded = self._try_chain(uri, span_s, attempt)
        self._n_starts = 0
        return encoded

    def _check(
        self, kind: str, uri: str, times_s: np.ndarray, image_size: int, resize_mode: str, span_s: float
    ) -> None:
        """Compare a few frames with the CPU's; if they differ, raise `DecodeError`, and distrust this kind of video."""
        few = times_s[np.unique(np.linspace(0, len(times_s) - 1, _CHECKED_FRAMES).astype(int))]
        right = self._reference.frames(uri, few, image_size, resize_mode, span_s)
        ours = super().frames(uri, few, image_size, resize_mode, span_s)
        n = min(len(right.times_s), len(ours.times_s))
        if np.abs(right.times_s[:n] - ours.times_s[:n]).max() > _SAME_S:
            raise DecodeError(f"{shown(uri)}: its frames are not those that pyav shows at the same times")
        psnr_db = measure_psnr(ours.pixels[:n], right.pixels[:n]).min()
        if psnr_db < LEAST_PSNR_DB:
            # Other kinds go through other conversions, and may still be right.
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
        except (DecodeError, EncoderError) as error:  # A second attempt would fail in the same way.
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
    """An encoder that returns its input, for frames that have been encoded already."""

    image_size, resize_mode, fingerprint = 1, "squash", ""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames


class _Worker:
    """The requests that the child process answers."""

    def __call__(self, memory: int, method: str, name: str, uri: str, *arguments: Any) -> Any:
        if method == "load":
            return self._load(*arguments)
        if method == "kind":
            return self._decoder.kind(uri)
        n, image_size, resize_mode, thumbnails = arguments
        (times_s,) = read_arrays(memory, ((n,), np.float64))
        frames = self._decoder.frames_on_device(uri, times_s, image_size, resize_mode, thumbnails)
        if method == "encode":
            write_arrays(memory, self._encoder(frames.pixels)[frames.numbers], frames.times_s)
        else:  # The frames are compared with the CPU's.
            pixels = frames.pixels.cpu().numpy()[frames.numbers]
            write_arrays(memory, pixels, frames.times_s, np.arange(len(pixels)))
        return len(frames.numbers), frames.error, frames.thumbnails

    def _load(self, device: str, encode: dict[str, Any]) -> None:
        if device.startswith("cuda"):
            _check_nvdec()
        self._decoder = TorchCodecDecoder(device)
        self._encoder: Any = remake_encoder(**encode, device=device)


def _check_nvdec() -> None:
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        remedy = "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        raise DecodeError(f"NVDEC's library cannot be loaded ({error}): {remedy}") from error


if __name__ == "__main__":
    serve(_Worker(), *map(int, sys.argv[1:]))
