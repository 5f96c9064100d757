"""Small pictures of frames, which the decoders make beside the encoder's squares."""

from __future__ import annotations

import io

import numpy as np

from raypipe.schema import ThumbnailRequest

_QUALITY = 80
# The longer side has at most so many times the shorter one's pixels, because a JPEG's sides are bounded.
_LONGEST = 8


def thumbnail_size(aspect: float, height: int, short_side: int) -> tuple[int, int]:
    """Return the width and height of a frame's small picture.

    Parameters
    ----------
    aspect
        The frame's width over its height, as displayed.
    height
        Its height in pixels.
    short_side
        As in `raypipe.schema.ThumbnailRequest`.
    """
    short = max(1, round(min(short_side, height, height * aspect)))
    long = round(short * min(max(aspect, 1 / aspect), _LONGEST))
    return (long, short) if aspect > 1 else (short, long)


def shrink(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a (h, w, 3) uint8 picture scaled down to (height, width, 3)."""
    from PIL import Image

    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Return a (h, w, 3) uint8 RGB picture as a JPEG."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()


def thumbnails_of_squares(
    pixels: np.ndarray, requested: np.ndarray, resize_mode: str, request: ThumbnailRequest
) -> dict[int, bytes]:
    """Make the small pictures of a decoder that hands over nothing but the encoder's squares.

    They lack what was cut off at the sides. Squares that were squashed are no pictures, and give none.
    """
    if resize_mode != "crop":
        return {}
    side = min(request.short_side, pixels.shape[1])
    wanted = [(place, index) for place, index in enumerate(requested.tolist()) if index in request.of]
    return {index: encode_jpeg(shrink(pixels[place], side, side)) for place, index in wanted}
