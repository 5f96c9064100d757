"""An encoder without weights: it describes a frame by its gist, the layout of its colours, and their histogram.

A descriptor joins three parts of unit length, each multiplied by the square root of its share of `WEIGHTS`, so that the
cosine of two descriptors is the weighted mean of the cosines of their parts.

gist
    Gabor amplitudes at 4 scales an octave apart and 8 orientations, averaged over a 4 × 4 grid (Oliva & Torralba 2001,
    "Modeling the shape of the scene"), after whitening and local contrast normalisation of the log luminance. This part
    shows where the edges are and which way they run; brightness, contrast and colour do not change it.
layout
    Lightness and relative chroma, averaged over an 8 × 8 grid.
histogram
    The shares of the relative chromas in each quarter of the frame, in Gaussian bins, to the power of 1/8. A small
    thing's colour counts nearly as much as the table's: with a small power, a bin mostly says how far away in colour
    space the nearest colour in the quarter is.

Relative chroma is a* and b* of CIE Lab over L* + 16, which cancels the brightness of the light. Cells and quarters
overlap as tents, so that a thing that moves within a cell changes the numbers in proportion to its motion.
"""

import math
from typing import Any

import numpy as np

VERSION = 1
"""A part of the fingerprint. Raise it with any change that changes a descriptor's numbers beyond rounding."""

WEIGHTS = {"gist": 1.0, "layout": 1.0, "histogram": 100.0}
"""The weight of each part in the cosine of two descriptors.

Histograms are all much alike: their squared distances are a tenth of the other parts'. Their large weight lets them say
what kind of scene it is, and leaves the other two enough to follow motion. Any weight from 64 to 200 gives the same
result on the videos of ``bench/descriptor.py``.
"""

_IMAGE_SIZE = 128
# Frames are averaged down to this side, which removes noise; finer texture does not help to distinguish videos.
_WORK_SIZE = 64
_SCALES, _ORIENTATIONS, _GIST_GRID = 4, 8, 4
_FLOOR = 1e-3
_LAYOUT_GRID = 8
_LAYOUT_CHROMA = 2.0  # This is the weight of chroma relative to lightness.
_HISTOGRAM_GRID, _CHROMA_BINS, _BIN_STEP, _BIN_SIGMA, _POWER = 2, 7, 0.25, 0.125, 0.125
_CHUNK = 16  # For this many frames the filters' output stays in the processor's cache.


class Descriptor:
    """The encoder that needs no weights; it describes a frame with 900 numbers.

    On the CPU NumPy computes them, so that no process imports torch for a short video. On any other device torch does,
    by the same lines: what they call has the same name and meaning in both.

    Parameters
    ----------
    device
        "cpu", or torch's name of the device that computes the descriptors.
    """

    dim = _SCALES * _ORIENTATIONS * _GIST_GRID**2 + 3 * _LAYOUT_GRID**2 + (_HISTOGRAM_GRID * _CHROMA_BINS) ** 2
    image_size = _IMAGE_SIZE
    resize_mode = "squash"  # The edges of the picture count too.
    fingerprint = f"descriptor-{VERSION}"

    @np.errstate(under="ignore")  # Far from its middle a Gaussian is 0.
    def __init__(self, device: str = "cpu") -> None:
        self._xp: Any = np
        self._device = device
        if device != "cpu":
            import torch

            self._xp = torch
        halves = _tent_cells(_WORK_SIZE, _HISTOGRAM_GRID)
        self._to_xyz = self._put(_rgb_to_xyz())
        self._blur = self._put(_blur_matrix(_WORK_SIZE))
        self._scales = []
        for scale in range(_SCALES):
            size = _WORK_SIZE >> scale
            self._scales.append(
                [self._put(matrix) for matrix in (*_gabor_matrices(size), _tent_cells(size, _GIST_GRID))]
            )
        self._layout_cells = self._put(_tent_cells(_WORK_SIZE, _LAYOUT_GRID))
        self._quarters = self._put(np.einsum("iy,jx->ijyx", halves, halves).reshape(_HISTOGRAM_GRID**2, 1, -1))
        self._bins = self._put(_BIN_STEP * (np.arange(_CHROMA_BINS)[:, None] - _CHROMA_BINS // 2))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Describe uint8 (n, 128, 128, 3) RGB frames as float32 (n, dim), each of unit length."""
        parts, total = self.parts(frames), sum(WEIGHTS.values())
        return np.concatenate([parts[name] * math.sqrt(weight / total) for name, weight in WEIGHTS.items()], axis=1)

    @np.errstate(under="ignore")
    def parts(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Return each part by its name, float32 (n, its dim), each of unit length."""
        chunks = [self._describe(frames[i : i + _CHUNK]) for i in range(0, len(frames), _CHUNK)]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in WEIGHTS}

    def _put(self, values: np.ndarray) -> Any:
        """Return numbers as float32 on the device."""
        return self._xp.asarray(values, dtype=self._xp.float32, device=self._device)

    def _describe(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        rgb = self._xp.moveaxis(_halve(self._put(frames) / 255), 3, 1)
        colors = self._color_coordinates(rgb)
        parts = {"gist": self._gist(rgb), "layout": self._layout(colors), "histogram": self._histogram(colors)}
        arrays = {name: part if self._xp is np else part.cpu().numpy() for name, part in parts.items()}
        return {name: array / np.linalg.norm(array, axis=1, keepdims=True) for name, array in arrays.items()}

    def _gist(self, rgb: Any) -> Any:
        """Map (n, 3, S, S) sRGB in [0, 1] to (n, scales · orientations · cells) amplitudes."""
        xp = self._xp
        image = self._equalize(0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2])
        n, grids = len(image), []
        for across, down, cells in self._scales:
            size = image.shape[-1]
            waves = (image @ across).reshape(n, size, _ORIENTATIONS, 3 * size).swapaxes(1, 2)
            waves = waves.reshape(n, _ORIENTATIONS, size, 3, size).swapaxes(2, 3)
            waves = down @ waves.reshape(n, _ORIENTATIONS, 3 * size, size)
            # The floor, far below any texture's amplitude, keeps the gist of a flat frame from being scaled-up
            # rounding errors.
            amplitude = xp.sqrt(waves[:, :, :size] ** 2 + waves[:, :, size:] ** 2 + _FLOOR**2)
            grids.append((cells @ amplitude @ cells.T).reshape(n, -1))
            image = _halve(image)  # On the smaller image the same filters are an octave lower.
        return xp.concatenate(grids, axis=1)

    def _equalize(self, luma: Any) -> Any:
        """Return log luminance minus its blurred surroundings, divided by the local contrast (GIST's prefilter)."""
        xp, blur = self._xp, self._blur
        log = xp.log1p(255 * luma) / math.log(256)
        detail = log - blur @ log @ blur.T
        return detail / (0.05 + xp.sqrt(blur @ detail**2 @ blur.T))

    def _color_coordinates(self, rgb: Any) -> Any:
        """Map sRGB in [0, 1] to (L* + 16) / 100 and the two relative chromas, (n, 3, S, S) both."""
        xp = self._xp
        linear = xp.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = self._to_xyz @ linear.reshape(len(rgb), 3, -1)
        root = xp.where(xyz > 216 / 24389, xyz.clip(1e-6) ** (1 / 3), xyz * (24389 / 27 / 116) + 16 / 116)
        x, y, z = root[:, 0], root[:, 1], root[:, 2]
        # In Lab, L + 16 = 116 y, a = 500 (x − y) and b = 200 (y − z).
        colors = xp.stack([1.16 * y, 500 / 116 * (x / y - 1), 200 / 116 * (1 - z / y)], 1)
        return colors.reshape(rgb.shape)

    def _layout(self, colors: Any) -> Any:
        """Map (n, 3, S, S) colours to (n, 3 · cells) means."""
        grid = (self._layout_cells @ colors @ self._layout_cells.T).reshape(len(colors), -1)
        n_light = _LAYOUT_GRID**2
        return self._xp.concatenate([grid[:, :n_light], _LAYOUT_CHROMA * grid[:, n_light:]], axis=1)

    def _histogram(self, colors: Any) -> Any:
        """Map (n, 3, S, S) colours to (n, quarters · bins) compressed shares."""
        a, b = self._soft_bins(colors[:, 1]), self._soft_bins(colors[:, 2])
        n, n_pixels = len(colors), a.shape[-1]
        in_quarters = (self._quarters * a[:, None]).reshape(n, -1, n_pixels)
        shares = in_quarters @ b.swapaxes(1, 2)  # (n, quarters · bins of a, bins of b)
        return shares.reshape(n, -1).clip(1e-30) ** _POWER

    def _soft_bins(self, chroma: Any) -> Any:
        """Map (n, h, w) to (n, bins, h · w).

        A Gaussian shares each pixel among bins, so that a small change of tint makes a small difference.
        """
        xp = self._xp
        squares = (chroma.reshape(len(chroma), 1, -1) - self._bins) ** 2
        shares = xp.exp((xp.amin(squares, 1)[:, None] - squares) / (2 * _BIN_SIGMA**2))
        return shares / shares.sum(1)[:, None]


def _halve(images: Any) -> Any:
    """Map (n, 2 h, 2 w, …) images to (n, h, w, …) means of four pixels."""
    rows = images[:, 0::2] + images[:, 1::2]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4


def _rgb_to_xyz() -> np.ndarray:
    """Return the (3, 3) matrix from linear sRGB to CIE XYZ, relative to the D65 white."""
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    return matrix / matrix.sum(1, keepdims=True)


def _gabor_matrices(size: int, frequency: float = 0.25, sigma: float = 2.0, length: int = 11) -> tuple[np.ndarray, ...]:
    """Return the two matrices that filter (size, size) images by Gabor filters of `length` pixels a side.

    A Gabor filter is a complex wave under a Gaussian, hence the product of a row and a column, and filtering by it a
    product with a matrix on either side. Beyond its edges an image is mirrored. Filters have no response to flat grey:
    a share of their Gaussian is taken off.

    Returns
    -------
    across
        (size, orientations · 3 · size), to multiply an image with: for each orientation the real and the imaginary part
        of the row, and the Gaussian.
    down
        (orientations, 2 · size, 3 · size), to multiply those three, one below the other, with: the real part of the
        whole, above the imaginary part.
    """
    axis = np.arange(length) - length // 2
    envelope = np.exp(-(axis**2) / (2 * sigma**2))
    across, down = [], []
    for i in range(_ORIENTATIONS):
        angle = math.pi * i / _ORIENTATIONS
        row, column = (
            envelope * np.exp(2j * math.pi * frequency * axis * part) for part in (math.cos(angle), math.sin(angle))
        )
        grey = (row.sum() * column.sum()).real / envelope.sum() ** 2
        whole = np.outer(column, row) - grey * np.outer(envelope, envelope)
        row, flat = (_mirrored(each, size) for each in (row, envelope))
        column = _mirrored(column / np.linalg.norm(whole), size)
        flat_column = _mirrored(grey * envelope / np.linalg.norm(whole), size)
        across += [row.real.T, row.imag.T, flat.T]
        down.append(np.block([[column.real, -column.imag, -flat_column], [column.imag, column.real, 0 * flat_column]]))
    return np.concatenate(across, axis=1), np.stack(down)


def _mirrored(filter_: np.ndarray, size: int) -> np.ndarray:
    """Return the (size, size) matrix that filters a line of pixels, mirrored beyond its ends."""
    matrix = np.zeros((size, size), filter_.dtype)
    pixels = np.arange(size)
    for weight, shift in zip(filter_, np.arange(len(filter_)) - len(filter_) // 2, strict=True):
        places = np.abs(pixels + shift)
        matrix[pixels, np.minimum(places, 2 * (size - 1) - places)] += weight
    return matrix


def _blur_matrix(size: int, cycles: float = 3.0) -> np.ndarray:
    """Return the (size, size) matrix of a Gaussian blur that keeps waves of fewer than ``cycles`` periods a picture."""
    sigma = size / (2 * math.pi * cycles)
    axis = np.arange(size)
    weights = np.exp(-((axis[:, None] - axis) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdims=True)


def _tent_cells(size: int, n_cells: int) -> np.ndarray:
    """Return the (n_cells, size) matrix that averages pixels over overlapping cells.

    A pixel's weight falls linearly from its cell's middle to the next cell's middle.
    """
    middles = (np.arange(n_cells) + 0.5) * size / n_cells
    pixels = (np.arange(size) + 0.5).clip(middles[0], middles[-1])
    weights = (1 - np.abs(pixels - middles[:, None]) * n_cells / size).clip(0)
    return weights / weights.sum(1, keepdims=True)
