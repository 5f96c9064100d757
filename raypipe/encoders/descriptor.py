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

import numpy as np
import torch
import torch.nn.functional as F

VERSION = 1
"""A part of the fingerprint. Raise it with any change that changes a descriptor's numbers."""

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

    Parameters
    ----------
    device
        torch's name of the device that computes the descriptors.
    """

    dim = _SCALES * _ORIENTATIONS * _GIST_GRID**2 + 3 * _LAYOUT_GRID**2 + (_HISTOGRAM_GRID * _CHROMA_BINS) ** 2
    image_size = _IMAGE_SIZE
    resize_mode = "squash"  # The edges of the picture count too.
    fingerprint = f"descriptor-{VERSION}"

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._luma = torch.tensor([0.299, 0.587, 0.114], device=self._device).view(1, 3, 1, 1)
        self._to_xyz = _rgb_to_xyz().to(self._device)
        self._filters = _gabor_filters().to(self._device)
        self._blur = _blur_matrix(_WORK_SIZE).to(self._device)
        self._gist_cells = [_tent_cells(_WORK_SIZE >> scale, _GIST_GRID).to(self._device) for scale in range(_SCALES)]
        self._layout_cells = _tent_cells(_WORK_SIZE, _LAYOUT_GRID).to(self._device)
        halves = _tent_cells(_WORK_SIZE, _HISTOGRAM_GRID).to(self._device)
        self._quarters = torch.einsum("iy,jx->ijyx", halves, halves).reshape(_HISTOGRAM_GRID**2, 1, -1)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Describe uint8 (n, 128, 128, 3) RGB frames as float32 (n, dim), each of unit length."""
        parts, total = self.parts(frames), sum(WEIGHTS.values())
        return np.concatenate([parts[name] * math.sqrt(weight / total) for name, weight in WEIGHTS.items()], axis=1)

    def parts(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Return each part by its name, float32 (n, its dim), each of unit length."""
        chunks = [self._describe(frames[i : i + _CHUNK]) for i in range(0, len(frames), _CHUNK)]
        return {name: torch.cat([chunk[name] for chunk in chunks]).cpu().numpy() for name in WEIGHTS}

    @torch.inference_mode()
    def _describe(self, frames: np.ndarray) -> dict[str, torch.Tensor]:
        rgb = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2).float() / 255
        rgb = F.avg_pool2d(rgb, _IMAGE_SIZE // _WORK_SIZE)
        colors = self._color_coordinates(rgb)
        parts = {"gist": self._gist(rgb), "layout": self._layout(colors), "histogram": self._histogram(colors)}
        return {name: F.normalize(part) for name, part in parts.items()}

    def _gist(self, rgb: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, S, S) sRGB in [0, 1] to (n, scales · orientations · cells) amplitudes."""
        image = _equalize((rgb * self._luma).sum(1, keepdim=True), self._blur)
        margin = self._filters.shape[-1] // 2
        grids = []
        for cells in self._gist_cells:
            with torch.backends.cudnn.flags(allow_tf32=False, deterministic=True):
                waves = F.conv2d(F.pad(image, (margin,) * 4, mode="reflect"), self._filters)
            # The floor, far below any texture's amplitude, keeps the gist of a flat frame from being scaled-up
            # rounding errors.
            amplitude = torch.sqrt(waves[:, 0::2] ** 2 + waves[:, 1::2] ** 2 + _FLOOR**2)
            grids.append((cells @ amplitude @ cells.T).flatten(1))
            image = F.avg_pool2d(image, 2)  # On the smaller image the same filters are an octave lower.
        return torch.cat(grids, dim=1)

    def _color_coordinates(self, rgb: torch.Tensor) -> torch.Tensor:
        """Map sRGB in [0, 1] to (L* + 16) / 100 and the two relative chromas, (n, 3, S, S) both."""
        linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = torch.einsum("ij,njhw->nihw", self._to_xyz, linear)
        root = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-6) ** (1 / 3), xyz * (24389 / 27 / 116) + 16 / 116)
        x, y, z = root.unbind(1)  # In Lab, L + 16 = 116 y, a = 500 (x − y) and b = 200 (y − z).
        return torch.stack([1.16 * y, 500 / 116 * (x / y - 1), 200 / 116 * (1 - z / y)], dim=1)

    def _layout(self, colors: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, S, S) colours to (n, 3 · cells) means."""
        grid = self._layout_cells @ colors @ self._layout_cells.T
        return torch.cat([grid[:, :1], _LAYOUT_CHROMA * grid[:, 1:]], dim=1).flatten(1)

    def _histogram(self, colors: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, S, S) colours to (n, quarters · bins) compressed shares."""
        a, b = _soft_bins(colors[:, 1]), _soft_bins(colors[:, 2])
        shares = (self._quarters * a.unsqueeze(1)) @ b.unsqueeze(1).mT  # (n, quarters, bins of a, bins of b)
        return shares.flatten(1).clamp_min(1e-30) ** _POWER


def _equalize(luma: torch.Tensor, blur: torch.Tensor) -> torch.Tensor:
    """Return log luminance minus its blurred surroundings, divided by the local contrast (GIST's prefilter)."""
    log = torch.log1p(255 * luma) / math.log(256)
    detail = log - blur @ log @ blur.T
    contrast = torch.sqrt(blur @ detail**2 @ blur.T)
    return detail / (0.05 + contrast)


def _soft_bins(chroma: torch.Tensor) -> torch.Tensor:
    """Map (n, h, w) to (n, bins, h · w).

    A Gaussian shares each pixel among bins, so that a small change of tint makes a small difference.
    """
    bins = _BIN_STEP * (torch.arange(_CHROMA_BINS, device=chroma.device) - _CHROMA_BINS // 2)
    return torch.softmax(-((chroma.flatten(1).unsqueeze(1) - bins.view(1, -1, 1)) ** 2) / (2 * _BIN_SIGMA**2), dim=1)


def _rgb_to_xyz() -> torch.Tensor:
    """Return the (3, 3) matrix from linear sRGB to CIE XYZ, relative to the D65 white."""
    matrix = torch.tensor(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    return matrix / matrix.sum(1, keepdim=True)


def _gabor_filters(frequency: float = 0.25, sigma: float = 2.0, size: int = 11) -> torch.Tensor:
    """Return (2 · orientations, 1, size, size) filters, even and odd in turn, without response to flat grey."""
    axis = torch.arange(size) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    filters = []
    for i in range(_ORIENTATIONS):
        angle = math.pi * i / _ORIENTATIONS
        phase = 2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle))
        even = envelope * torch.cos(phase)
        even = even - envelope * (even.sum() / envelope.sum())
        odd = envelope * torch.sin(phase)
        norm = torch.sqrt((even**2 + odd**2).sum())
        filters += [even / norm, odd / norm]
    return torch.stack(filters).unsqueeze(1)


def _blur_matrix(size: int, cycles: float = 3.0) -> torch.Tensor:
    """Return the (size, size) matrix of a Gaussian blur that keeps waves of fewer than ``cycles`` periods a picture."""
    sigma = size / (2 * math.pi * cycles)
    axis = torch.arange(size)
    weights = torch.exp(-((axis[:, None] - axis) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)


def _tent_cells(size: int, n_cells: int) -> torch.Tensor:
    """Return the (n_cells, size) matrix that averages pixels over overlapping cells.

    A pixel's weight falls linearly from its cell's middle to the next cell's middle.
    """
    middles = (torch.arange(n_cells) + 0.5) * size / n_cells
    pixels = (torch.arange(size) + 0.5).clamp(float(middles[0]), float(middles[-1]))
    weights = (1 - (pixels - middles[:, None]).abs() * n_cells / size).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
