"""Turning a decoded frame into the upright RGB square that an encoder takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from raypipe.decoders.colors import find_matrix, is_full_range, name_unusual, to_rgb
from raypipe.decoders.orientation import Orientation, read_orientation
from raypipe.decoders.thumbnails import encode_jpeg, thumbnail_size
from raypipe.errors import DecodeError
from raypipe.schema import ThumbnailRequest

# CLIP's own preprocessing is bicubic. Without full chroma RGB is off by 1 to 3 of 255, and white becomes 253.
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_QUICK_SCALING = Interpolation.AREA  # It takes a third of the time, and a small picture is for eyes alone.


class Resizer:
    """Turns decoded frames into squares, and some of them into small pictures of the whole frame too.

    Parameters
    ----------
    image_size, resize_mode
        As for `raypipe.decoders.Decoder.frames`.
    pixel_aspect
        Width of a pixel over its height, in the frame as it was decoded.
    orientation
        How all frames are set upright; if None, each frame says it.
    request
        Which small pictures to keep; none by default.

    Attributes
    ----------
    thumbnails
        The small pictures kept so far, JPEG, by the index of the requested time.
    """

    def __init__(
        self,
        image_size: int,
        resize_mode: str,
        pixel_aspect: float,
        orientation: Orientation | None = None,
        request: ThumbnailRequest | None = None,
    ) -> None:
        self.image_size = image_size
        self.resize_mode = resize_mode
        self.pixel_aspect = pixel_aspect
        self.orientation = orientation
        self.thumbnails: dict[int, bytes] = {}
        self._request = request
        # Each keeps its filter tables from frame to frame.
        self._reformatter, self._quick_reformatter = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        """Return the frame as (image_size, image_size, 3) uint8.

        swscale's filters grow wider as the picture shrinks, so nothing aliases.

        Raises
        ------
        DecodeError
            If the frame's colours cannot be converted. The message has no URI.
        """
        size = self.image_size
        width, height = scaled_size(frame.width * self.pixel_aspect / frame.height, size, self.resize_mode)
        orientation = self.orientation or read_orientation(frame)
        upright = orientation.set_upright(self._scale(self._reformatter, _SCALING, frame, width, height))
        top, left = crop_corner(upright.shape[0], upright.shape[1], size)
        return upright[top : top + size, left : left + size]

    def fill(self, pixels: np.ndarray, numbers: np.ndarray, number: int, frame: Any) -> int:
        """Write a frame to the places of the requested times that it answers, and return where these end.

        Small pictures of it are kept too, where they are wanted; raises as the call does.

        Parameters
        ----------
        pixels
            (n, image_size, image_size, 3) uint8, to be written to.
        numbers
            (n,) the number of the frame that answers each requested time, ascending.
        number, frame
            The frame and its number.
        """
        first, end = np.searchsorted(numbers, [number, number + 1]).tolist()
        pixels[first:end] = self(frame)
        for index in range(first, end):
            self.keep(index, frame)
        return end

    def keep(self, index: int, frame: Any) -> None:
        """Keep a small picture of the frame that answers a requested time, if one is wanted of it."""
        if self._request is None or index not in self._request.of:
            return
        self.thumbnails[index] = encode_jpeg(self.shrink(frame, self._request.short_side))

    def shrink(self, frame: Any, short_side: int) -> np.ndarray:
        """Return the whole frame upright, (height, width, 3) uint8, its shorter side ``short_side`` pixels at most.

        Raises as the call does.
        """
        aspect = frame.width * self.pixel_aspect / frame.height
        width, height = thumbnail_size(aspect, frame.height, short_side)
        orientation = self.orientation or read_orientation(frame)
        return orientation.set_upright(self._scale(self._quick_reformatter, _QUICK_SCALING, frame, width, height))

    def _scale(
        self, reformatter: VideoReformatter, scaling: Interpolation, frame: Any, width: int, height: int
    ) -> np.ndarray:
        """Return the frame as (height, width, 3) uint8, in RGB."""
        options: dict[str, Any] = {"interpolation": scaling, "threads": 1}
        if name_unusual(frame):  # libswscale scales such a frame if it is not told what the colours are.
            pixel_format = "yuv444p16le"
            options |= dict.fromkeys(("src_colorspace", "dst_colorspace"), Colorspace.ITU601)
            range_ = ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG
            options |= dict.fromkeys(("src_color_range", "dst_color_range"), range_)
        else:
            pixel_format = "rgb24"
            if find_matrix(frame) != frame.colorspace:  # libswscale refuses reserved numbers.
                options["src_colorspace"] = Colorspace.DEFAULT
        try:
            scaled = reformatter.reformat(frame, width, height, pixel_format, **options).to_ndarray()
        except FFmpegError as error:
            raise DecodeError(f"its {frame.format.name} frames cannot be scaled: {error.strerror or error}") from error
        return to_rgb(frame, scaled) if name_unusual(frame) else scaled


def scaled_size(aspect: float, size: int, resize_mode: str) -> tuple[int, int]:
    """Return the width and height to which a picture is scaled before its middle ``size`` × ``size`` is cut out.

    Parameters
    ----------
    aspect
        The picture's width over its height, as displayed.
    size, resize_mode
        As for `raypipe.decoders.Decoder.frames`.
    """
    if resize_mode == "squash":
        return size, size
    return (max(size, int(size * aspect)), size) if aspect > 1 else (size, max(size, int(size / aspect)))


def crop_corner(height: int, width: int, size: int) -> tuple[int, int]:
    """Return top and left of the middle ``size`` × ``size`` of an upright picture, rounded as torchvision does."""
    return round((height - size) / 2), round((width - size) / 2)
