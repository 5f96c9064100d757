"""The style that plots, contact sheets and page share: colours, fonts, and the canvas."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from PIL import Image

from raypipe.clustering.result import NOISE

# Six colours of Okabe & Ito (2008) and two dark ones. The closest pair is 7.6 (OKLab × 100) apart under simulated
# protanopia, deuteranopia and tritanopia. With more than 8 clusters the markers differ too, and the plots show numbers.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7A1F5C", "#5B4A00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
# Labels have pale tints (Tol's light scheme and three more), so that nobody mistakes them for clusters.
TINTS = (
    "#77AADD",
    "#EEDD88",
    "#FFAABB",
    "#44BB99",
    "#DDDDDD",
    "#EE8866",
    "#99DDFF",
    "#BBCC33",
    "#C9B3E6",
    "#D9B99B",
    "#AAAA00",
    "#9FB0BC",
)

NOISE_COLOR, NOISE_MARKER = "#A7ADB8", "o"  # Noise is no cluster: gray, which no cluster is.
INK, MUTED, FAINT = "#1F2430", "#667085", "#D5D9E0"
DPI = 160

_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # "$" in a label is a dollar, not mathematics.
    "text.usetex": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#ECEEF2",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_WIDE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Microsoft YaHei", "WenQuanYi Zen Hei")


def color_of(cluster: int) -> str:
    """Return the colour that a cluster, or noise, has in every plot and on the page."""
    return NOISE_COLOR if cluster == NOISE else COLORS[cluster % len(COLORS)]


def marker_of(cluster: int) -> str:
    """Return the marker that the videos of a cluster, or of noise, have on the map."""
    return NOISE_MARKER if cluster == NOISE else MARKERS[cluster // len(COLORS) % len(MARKERS)]


def ink_on(color: str) -> str:
    """Return black or white, whichever has the greater contrast on a colour, 4.5 or more (WCAG relative luminance)."""
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return "#FFFFFF" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.19 else "#111111"


@contextmanager
def open_figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> Iterator[Figure]:
    """Yield an empty figure, sized in inches; what is drawn on it inside the block has the report's style.

    A layout of matplotlib's takes as long as the drawing, so most figures place their axes by `add_axes`.
    """
    installed = set(font_manager.fontManager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _WIDE_FONTS if name in installed)]
    with mpl.rc_context({**_STYLE, "font.family": fonts}), warnings.catch_warnings():
        # Characters that no installed font has become boxes here; the page shows them with the reader's fonts.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="w")
        yield figure


def add_axes(figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Add axes at these distances from the figure's edges, in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))


def size_of(drawn: Legend | Text) -> tuple[float, float]:
    """Return the width and the height that a figure's legend, or a text, takes, in inches."""
    figure = drawn.get_figure(root=True)
    assert figure is not None
    box = drawn.get_window_extent(_canvas_of(figure).get_renderer())
    return box.width / DPI, box.height / DPI


def as_png(figure: Figure) -> bytes:
    """Return the figure as a PNG, with the same bytes for the same picture."""
    canvas = _canvas_of(figure)
    canvas.draw()  # `savefig` would draw everything once more if it is laid out.
    return encode_png(np.asarray(canvas.buffer_rgba())[:, :, :3])


def _canvas_of(figure: Figure) -> FigureCanvasAgg:
    """Return the figure's canvas of pixels, which is made once."""
    return figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)


def encode_png(picture: np.ndarray) -> bytes:
    """Encode (height, width, 3) uint8 RGB as a PNG, at zlib's quickest level."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG", compress_level=1)
    return sink.getvalue()
