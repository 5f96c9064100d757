"""torchcodec on CUDA: the GPU's own video decoder (NVDEC), for local files."""

from __future__ import annotations

from typing import Any

import numpy as np

from raypipe.decoders.container import (
    TOLERANCE_S,
    ContainerReader,
    check_indexed,
    open_video,
    read_packets,
    read_pixel_aspect,
)
from raypipe.decoders.picture import crop_corner, scaled_size
from raypipe.errors import DecodeError
from raypipe.optional import require
from raypipe.schema import Frames
from raypipe.sources.files import local_path, shown

_SAME_S = 1e-4  # torchcodec's seconds went through float arithmetic of their own
_CHUNK = 16  # frames that lie on the GPU in full size at once


class TorchCodecDecoder(ContainerReader):
    """Decodes with NVDEC through torchcodec and resizes on the GPU.

    Parameters
    ----------
    device
        Where torchcodec decodes. A video that NVDEC cannot decode is refused there, for the next decoder to take:
        torchcodec would fall back to one CPU thread.
    """

    name = "torchcodec"

    def __init__(self, device: str = "cuda") -> None:
        self.device = device
        self._torch = require("torch")
        self._decoders = require("torchcodec.decoders")

    def frames(self, uri: str, times_s: np.ndarray, image_size: int, resize_mode: str) -> Frames:
        """See `raypipe.decoders.Decoder.frames`."""
        packets = read_packets(uri)
        with open_video(uri) as video:
            check_indexed(video, self.name)
            origin_s = float(video.origin * video.stream.time_base)
            stream_index, pixel_aspect = video.stream.index, read_pixel_aspect(video)
        numbers, error = packets.find(times_s)
        unique, inverse = np.unique(numbers, return_inverse=True)
        pixels = np.empty((len(unique), image_size, image_size, 3), dtype=np.uint8)
        n = 0
        try:
            decoder = self._open(uri, stream_index)
            for start in range(0, len(unique), _CHUNK):
                wanted_s = packets.times_s[unique[start : start + _CHUNK]] + origin_s
                batch = decoder.get_frames_played_at((wanted_s + TOLERANCE_S).tolist())
                if np.abs(batch.pts_seconds.cpu().numpy() - wanted_s).max() > _SAME_S:
                    raise DecodeError(f"{shown(uri)}: torchcodec gives frames of other times than the container's")
                pixels[start : start + _CHUNK] = self._resize(batch.data, image_size, resize_mode, pixel_aspect)
                n = start + len(wanted_s)
        except RuntimeError as failure:
            stopped = f"stopped after {packets.times_s[unique[n - 1]]:.1f} s: " if n else ""
            error = stopped + " ".join(str(failure).split())[:200]
        if error and not n:
            raise DecodeError(f"{shown(uri)}: {error}")
        n_answered = int((inverse < n).sum())
        inverse = inverse[:n_answered]
        return Frames(pixels[inverse], packets.times_s[unique[inverse]], np.arange(n_answered), self.name, error)

    def _open(self, uri: str, stream_index: int) -> Any:
        decoder = self._decoders.VideoDecoder(local_path(uri), stream_index=stream_index, device=self.device)
        if self.device != "cpu" and decoder.cpu_fallback:
            raise DecodeError(f"{shown(uri)}: NVDEC cannot decode it ({decoder.cpu_fallback})")
        return decoder

    def _resize(self, frames: Any, size: int, resize_mode: str, pixel_aspect: float) -> np.ndarray:
        """Scale and cut (n, 3, height, width) frames, upright already, to (n, size, size, 3)."""
        width, height = scaled_size(frames.shape[3] * pixel_aspect / frames.shape[2], size, resize_mode)
        resample = self._torch.nn.functional.interpolate
        scaled = resample(frames.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        top, left = crop_corner(height, width, size)
        cut = scaled[:, :, top : top + size, left : left + size]
        return cut.round().clamp(0, 255).to(self._torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
