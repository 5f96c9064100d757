"""The colour matrices of ITU-T H.273 that libswscale refuses, and the conversion of those that are linear."""

from __future__ import annotations

from typing import Any

import numpy as np

from raypipe.errors import DecodeError

_UNKNOWN = 2
# libswscale takes 0, which is RGB, for unknown where the pixels are not RGB.
_IN_LIBSWSCALE = {0, 1, _UNKNOWN, 4, 5, 6, 7, 9}
_YCGCO, _CHROMA_DERIVED = 8, 12
_NAMES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    12: "a matrix that follows from its primaries",
    13: "a matrix that follows from its primaries, with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}

# H.273, table 2: x and y of red, green, blue and white.
_C, _D65, _DCI = (0.310, 0.316), (0.3127, 0.3290), (0.314, 0.351)
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}


def find_matrix(frame: Any) -> int:
    """Return the number in H.273 of the matrix by which a frame's pixels become RGB; 2 if it is unknown.

    Numbers that are reserved there, and may stand in a file all the same, count as unknown.
    """
    number = int(frame.colorspace)
    return number if number in _IN_LIBSWSCALE or number in _NAMES else _UNKNOWN


def name_unusual(frame: Any) -> str | None:
    """Return the name of a frame's matrix if it needs one and libswscale cannot convert it, or None."""
    needs_none = frame.format.is_rgb or len(frame.format.components) < 3
    return None if needs_none else _NAMES.get(find_matrix(frame))


def is_full_range(frame: Any) -> bool:
    """Return whether black and white are the least and the greatest numbers of a YCbCr frame's pixels."""
    return int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")


def to_rgb(frame: Any, pixels: np.ndarray) -> np.ndarray:
    """Convert pixels of one of the matrices that libswscale refuses.

    Parameters
    ----------
    frame
        The frame that the pixels come from.
    pixels
        (height, width, 3) uint16: its pixels, shifted to 16 bits, in its own range.

    Returns
    -------
    (height, width, 3) uint8.

    Raises
    ------
    DecodeError
        If the matrix is not linear, or follows from primaries that are unknown. The message has no URI.
    """
    inverse = _invert(frame)
    bits = frame.format.components[0].bits
    full = is_full_range(frame)
    # H.273, 8.3: YCgCo of a limited range is computed from RGB of that range, so its chroma has the scale of luma.
    chroma_scale = 219 if find_matrix(frame) == _YCGCO else 224
    values = pixels.astype(np.float32)
    white = 65536 - (1 << (16 - bits))
    luma = values[..., :1] / white if full else (values[..., :1] / 256 - 16) / 219
    chroma = (values[..., 1:] - 32768) / (white if full else 256 * chroma_scale)
    rgb = np.concatenate([luma, chroma], axis=2) @ inverse.T.astype(np.float32)
    return (rgb * 255).round().clip(0, 255).astype(np.uint8)


def _invert(frame: Any) -> np.ndarray:
    """Return the (3, 3) matrix from luma in [0, 1] and chroma in [-½, ½] to RGB in [0, 1]."""
    number = find_matrix(frame)
    if number == _YCGCO:
        return np.array([[1, -1, 1], [1, 1, 0], [1, -1, -1]], dtype=np.float64)
    primaries = _PRIMARIES.get(int(frame.color_primaries))
    if number != _CHROMA_DERIVED or primaries is None:
        unknown = ", which are unknown" if number == _CHROMA_DERIVED else ""
        raise DecodeError(f"its colours are coded by {_NAMES[number]}{unknown}: there is no conversion to RGB")
    # White of luminance 1 is made of so much red, green and blue.
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    red, green, blue = np.linalg.solve(xyz[:, :3], xyz[:, 3])
    from_rgb = np.array([(red, green, blue)] * 3)
    from_rgb[1] = (np.array([0, 0, 1]) - from_rgb[0]) / (2 * (1 - blue))
    from_rgb[2] = (np.array([1, 0, 0]) - from_rgb[0]) / (2 * (1 - red))
    return np.linalg.inv(from_rgb)
