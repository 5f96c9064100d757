"""An encoder without weights: the gist of a frame's texture, the layout of its colours, and how much there is of each.

Three parts, each of unit length, lie side by side in proportion to the square roots of `WEIGHTS`, so that the
cosine of two descriptors is the weighted mean of the cosines of their parts:

gist
    Gabor energies at 4 scales an octave apart and 8 orientations, averaged over a 4 × 4 grid (Oliva & Torralba 2001,
    "Modeling the shape of the scene"), after whitening and local contrast normalisation of the log luminance. Blind
    to brightness, contrast and colour; knows where the edges are.
layout
    Mean Lab colours on an 8 × 8 grid. Knows where the coloured things are.
histogram
    Joint Lab histogram of the whole frame, square-rooted (the Hellinger kernel). Blind to where things are.

Grid cells overlap as tents, so a thing that moves within a cell moves the numbers too, and by as much as it moved.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

VERSION = 1
"""Goes into the fingerprint: raise it with any change that changes numbers."""

WEIGHTS = {"gist": 1.0, "layout": 1.0, "histogram": 8.0}
"""Share of each part in the cosine of two descriptors; ``bench/descriptor.py`` measures them."""

_IMAGE_SIZE = 128
_TEXTURE_SIZE = 64  # finer texture costs four times as much and tells videos apart no better
_COLOR_SIZE = 32  # averaging first takes the camera's noise out of the colours
_SCALES, _ORIENTATIONS, _GIST_GRID = 4, 8, 4
_LAYOUT_GRID = 8
_LIGHTNESS_BINS, _CHROMA_BINS, _CHROMA_RANGE = 4, 7, 60.0
_CHUNK = 16  # frames at a time: what the filters make of them stays in the processor's cache


class Descriptor:
    """The weights-free encoder; 900 numbers a frame.

    Parameters
    ----------
    device
        Where torch computes it.
    """

    dim = _SCALES * _ORIENTATIONS * _GIST_GRID**2 + 3 * _LAYOUT_GRID**2 + _LIGHTNESS_BINS * _CHROMA_BINS**2
    image_size = _IMAGE_SIZE
    resize_mode = "squash"  # what happens at the edge of the picture counts too
    fingerprint = f"descriptor-{VERSION}"

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._filters = _gabor_filters().to(self._device)
        self._blur = _blur_matrix(_TEXTURE_SIZE).to(self._device)
        self._lab = _LabTransform(self._device)
        self._gist_cells = [
            _tent_cells(_TEXTURE_SIZE >> scale, _GIST_GRID).to(self._device) for scale in range(_SCALES)
        ]
        self._layout_cells = _tent_cells(_COLOR_SIZE, _LAYOUT_GRID).to(self._device)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Describe frames: uint8 (n, 128, 128, 3) RGB to float32 (n, dim), each of unit length."""
        total = sum(WEIGHTS.values())
        parts = self.parts(frames)
        return np.concatenate([parts[name] * math.sqrt(weight / total) for name, weight in WEIGHTS.items()], axis=1)

    def parts(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Return each part by its name, float32 (n, its dim), each of unit length."""
        chunks = [self._describe(frames[i : i + _CHUNK]) for i in range(0, len(frames), _CHUNK)]
        return {name: torch.cat([chunk[name] for chunk in chunks]).cpu().numpy() for name in WEIGHTS}

    @torch.inference_mode()
    def _describe(self, frames: np.ndarray) -> dict[str, torch.Tensor]:
        # torch.tensor copies, which from_numpy would have to do too: Ray's batches are read-only
        rgb = torch.tensor(frames, device=self._device).permute(0, 3, 1, 2).float() / 255
        luma = F.avg_pool2d(rgb, _IMAGE_SIZE // _TEXTURE_SIZE).mul(self._lab.luma).sum(1, keepdim=True)
        lab = self._lab(F.avg_pool2d(rgb, _IMAGE_SIZE // _COLOR_SIZE))
        parts = {"gist": self._gist(luma), "layout": self._layout(lab), "histogram": _histogram(lab)}
        return {name: F.normalize(part) for name, part in parts.items()}

    def _gist(self, luma: torch.Tensor) -> torch.Tensor:
        """(n, 1, S, S) luma in [0, 1] to (n, scales · orientations · cells) amplitudes."""
        image = _equalize(luma, self._blur)
        margin = self._filters.shape[-1] // 2
        grids = []
        for cells in self._gist_cells:
            # the same filters on a picture half the size are filters an octave lower
            with torch.backends.cudnn.flags(allow_tf32=False, deterministic=True):
                waves = F.conv2d(F.pad(image, (margin,) * 4, mode="reflect"), self._filters)
            amplitude = torch.sqrt(waves[:, 0::2] ** 2 + waves[:, 1::2] ** 2 + 1e-12)
            grids.append((cells @ amplitude @ cells.T).flatten(1))
            image = F.avg_pool2d(image, 2)
        return torch.cat(grids, dim=1)

    def _layout(self, lab: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) Lab to (n, 3 · cells) mean colours, counted from middle grey."""
        grid = self._layout_cells @ lab @ self._layout_cells.T
        return (grid - grid.new_tensor([50.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten(1)


class _LabTransform:
    """Map sRGB in [0, 1], (n, 3, h, w), to CIE Lab under D65."""

    def __init__(self, device: torch.device) -> None:
        to_xyz = torch.tensor(
            [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
        )
        self._to_xyz = (to_xyz / to_xyz.sum(1, keepdim=True)).to(device)  # relative to white
        self.luma = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)

    def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
        linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = torch.einsum("ij,njhw->nihw", self._to_xyz, linear)
        f = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-6) ** (1 / 3), xyz * (24389 / 27 / 116) + 16 / 116)
        x, y, z = f.unbind(1)
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _equalize(luma: torch.Tensor, blur: torch.Tensor) -> torch.Tensor:
    """Log luminance less its surroundings, over the contrast there (GIST's prefilter)."""
    log = torch.log1p(255 * luma) / math.log(256)
    detail = log - blur @ log @ blur.T
    contrast = torch.sqrt(blur @ detail**2 @ blur.T)
    return detail / (0.05 + contrast)


def _histogram(lab: torch.Tensor) -> torch.Tensor:
    """(n, 3, S, S) Lab to (n, bins), the square root of each bin's share of the pixels."""
    lightness, a, b = lab.flatten(2).unbind(1)
    light = _soft_bins(lightness, 0.0, 100.0, _LIGHTNESS_BINS)
    chroma_a = _soft_bins(a, -_CHROMA_RANGE, _CHROMA_RANGE, _CHROMA_BINS)
    chroma_b = _soft_bins(b, -_CHROMA_RANGE, _CHROMA_RANGE, _CHROMA_BINS)
    chroma = (chroma_a.unsqueeze(3) * chroma_b.unsqueeze(2)).flatten(2)
    return torch.sqrt(light.transpose(1, 2) @ chroma / lab[0, 0].numel()).flatten(1)


def _soft_bins(values: torch.Tensor, low: float, high: float, n_bins: int) -> torch.Tensor:
    """(…) to (…, n_bins): each value shared between its two nearest bins, so noise at a border changes little."""
    position = ((values - low) / (high - low) * (n_bins - 1)).clamp(0, n_bins - 1)
    bins = torch.arange(n_bins, device=values.device)
    return (1 - (position.unsqueeze(-1) - bins).abs()).clamp_min(0)


def _gabor_filters(frequency: float = 0.25, sigma: float = 2.0, size: int = 11) -> torch.Tensor:
    """(2 · orientations, 1, size, size): even and odd filters in turn, without response to flat grey."""
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
    """(size, size): Gaussian blur along an axis that keeps what has fewer than ``cycles`` periods in the picture."""
    sigma = size / (2 * math.pi * cycles)
    axis = torch.arange(size)
    weights = torch.exp(-((axis[:, None] - axis) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)


def _tent_cells(size: int, n_cells: int) -> torch.Tensor:
    """(n_cells, size): averages over overlapping cells; a pixel's weight falls linearly to the next cell's middle."""
    middles = (torch.arange(n_cells) + 0.5) * size / n_cells
    pixels = (torch.arange(size) + 0.5).clamp(float(middles[0]), float(middles[-1]))
    weights = (1 - (pixels - middles[:, None]).abs() * n_cells / size).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
