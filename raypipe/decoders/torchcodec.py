"""torchcodec on CUDA: the GPU's own video decoder (NVDEC), for local files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.decoders.container import TOLERANCE_S, open_video, read_first_frame
from raypipe.decoders.lengths import ContainerReader
from raypipe.decoders.orientation import Orientation, read_orientation
from raypipe.decoders.picture import crop_corner, scaled_size
from raypipe.decoders.thumbnails import encode_jpeg, thumbnail_size
from raypipe.decoders.timeline import open_indexed
from raypipe.errors import DecodeError, message_of
from raypipe.packages import require
from raypipe.schema import Frames, ThumbnailRequest
from raypipe.storage import local_path, shown

_SAME_S = 1e-4  # torchcodec's times may differ from the container's by this much, through rounding.
_CHUNK = 16  # At most this many frames lie on the GPU in full size at once.


@dataclass(frozen=True)
class DeviceFrames:
    """Frames on the device that decoded them.

    Attributes
    ----------
    pixels
        (u, image_size, image_size, 3) uint8 tensor, which holds each frame once, even if several times fall on it.
    numbers
        (n,) int64, for each of the first n requested times the index of its frame in ``pixels``.
    times_s
        (n,) float64, the presentation times of those frames.
    error
        As in `raypipe.schema.Frames`.
    thumbnails
        As there; they are in this process's memory.
    """

    pixels: Any
    numbers: np.ndarray
    times_s: np.ndarray
    error: str | None
    thumbnails: dict[int, bytes]


class TorchCodecDecoder(ContainerReader):
    """Decodes with NVDEC through torchcodec and resizes on the GPU.

    Parameters
    ----------
    device
        The device on which torchcodec decodes. A video that NVDEC cannot decode is refused, so that the next decoder
        takes it; torchcodec itself would fall back to one CPU thread.
    """

    name = "torchcodec"

    def __init__(self, device: str = "cuda") -> None:
        self.device = device
        self._torch = require("torch")
        self._decoders = require("torchcodec.decoders")

    def kind(self, uri: str) -> str:
        """Return the properties on which a video's pixel values depend: its codec, pixel format, range and matrix."""
        with open_video(uri) as video:
            codec = video.stream.codec_context
            range_, matrix = int(codec.color_range), int(codec.colorspace)  # FFmpeg's numbers: 0 and 2 mean "unknown".
            return f"{codec.name} {codec.pix_fmt} (range {range_}, matrix {matrix})"

    def frames(
        self,
        uri: str,
        times_s: np.ndarray,
        image_size: int,
        resize_mode: str,
        thumbnails: ThumbnailRequest | None = None,
    ) -> Frames:
        """See `raypipe.decoders.Decoder.frames`; with ``thumbnails`` it makes small pictures too."""
        there = self.frames_on_device(uri, times_s, image_size, resize_mode, thumbnails)
        pixels = there.pixels.cpu().numpy()[there.numbers]
        return Frames(pixels, there.times_s, np.arange(len(pixels)), self.name, there.error, there.thumbnails)

    def frames_on_device(
        self,
        uri: str,
        times_s: np.ndarray,
        image_size: int,
        resize_mode: str,
        thumbnails: ThumbnailRequest | None = None,
    ) -> DeviceFrames:
        """Decode as `frames` does, and leave the frames on the device; only the small pictures come to the host."""
        with open_indexed(uri, self.name) as (video, packets):
            origin_s = float(packets.origin * video.stream.time_base)
            orientation = read_orientation(read_first_frame(video))
            stream_index, pixel_aspect = video.stream.index, video.pixel_aspect
        pixel_aspect = 1 / pixel_aspect if orientation.swaps_sides else pixel_aspect
        numbers, error = packets.find(times_s)
        unique, inverse = np.unique(numbers, return_inverse=True)
        request = thumbnails or ThumbnailRequest(1, frozenset())
        place_of = {index: int(inverse[index]) for index in sorted(request.of) if index < len(inverse)}
        kept: dict[int, bytes] = {}
        chunks: list[Any] = []
        try:
            decoder = self._open(uri, stream_index)
            _check_turns(uri, decoder.metadata.rotation, orientation)
            for start in range(0, len(unique), _CHUNK):
                wanted_s = packets.times_s[unique[start : start + _CHUNK]] + origin_s
                batch = decoder.get_frames_played_at((wanted_s + TOLERANCE_S).tolist())
                if np.abs(batch.pts_seconds.cpu().numpy() - wanted_s).max() > _SAME_S:
                    raise DecodeError(f"{shown(uri)}: torchcodec returns frames of other times than the container's")
                chunks.append(resize(batch.data, image_size, resize_mode, pixel_aspect))
                here = {index: place - start for index, place in place_of.items() if 0 <= place - start < len(wanted_s)}
                kept |= _shrink(batch.data, here, request.short_side, pixel_aspect)
        except RuntimeError as failure:
            # All of its frames are left to the next decoder, which may read on where this one stops: torchcodec 0.17
            # refuses the last frame of a video whose packets have no durations.
            raise DecodeError(f"{shown(uri)}: {message_of(failure)[:200]}") from failure
        if error and not len(unique):
            raise DecodeError(f"{shown(uri)}: {error}")
        none = self._torch.empty((0, image_size, image_size, 3), dtype=self._torch.uint8, device=self.device)
        pixels = self._torch.cat(chunks) if chunks else none
        return DeviceFrames(pixels, inverse, packets.times_s[unique[inverse]], error, kept)

    def _open(self, uri: str, stream_index: int) -> Any:
        decoder = self._decoders.VideoDecoder(local_path(uri), stream_index=stream_index, device=self.device)
        if self.device != "cpu" and decoder.cpu_fallback:
            raise DecodeError(f"{shown(uri)}: NVDEC cannot decode it ({decoder.cpu_fallback})")
        return decoder


def _check_turns(uri: str, degrees: float | None, orientation: Orientation) -> None:
    """Raise `DecodeError` unless torchcodec, which turns frames and mirrors none, sets this video upright."""
    off = ((degrees or 0) - 90 * orientation.turns + 180) % 360 - 180
    if orientation.mirrored or not abs(off) < 45:
        raise DecodeError(f"{shown(uri)}: torchcodec does not set its frames upright")


def _shrink(frames: Any, wanted: dict[int, int], short_side: int, pixel_aspect: float) -> dict[int, bytes]:
    """Scale some of the frames on their device, and return each as a JPEG.

    Parameters
    ----------
    frames, pixel_aspect
        As for `resize`.
    wanted
        The place among the frames of each picture that is wanted, by the index of its requested time.
    short_side
        As in `raypipe.schema.ThumbnailRequest`.
    """
    if not wanted:
        return {}
    height = frames.shape[2]
    size = thumbnail_size(frames.shape[3] * pixel_aspect / height, height, short_side)
    scaled = _scale(frames[list(wanted.values())], *size)
    pictures = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return {index: encode_jpeg(picture) for index, picture in zip(wanted, pictures, strict=True)}


def resize(frames: Any, size: int, resize_mode: str, pixel_aspect: float = 1.0) -> Any:
    """Scale and cut frames on their device as `raypipe.decoders.picture.Resizer` does on the CPU.

    Parameters
    ----------
    frames
        (n, 3, height, width) uint8 tensor, upright.
    size, resize_mode, pixel_aspect
        As for `Resizer`; the aspect is that of the upright picture.

    Returns
    -------
    (n, size, size, 3) uint8 tensor.
    """
    width, height = scaled_size(frames.shape[3] * pixel_aspect / frames.shape[2], size, resize_mode)
    top, left = crop_corner(height, width, size)
    cut = _scale(frames, width, height)[:, :, top : top + size, left : left + size]
    return cut.permute(0, 2, 3, 1).contiguous()


def _scale(frames: Any, width: int, height: int) -> Any:
    """Scale (n, 3, h, w) uint8 frames to (n, 3, height, width) uint8 on their device."""
    functional = require("torch.nn.functional")
    scaled = functional.interpolate(
        frames.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return scaled.round().clamp(0, 255).byte()
