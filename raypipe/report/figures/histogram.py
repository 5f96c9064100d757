"""The plot of how far the videos lie off: a histogram with the threshold beyond which they are outliers."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from raypipe.report.facts import Facts
from raypipe.report.style import INK, add_axes, as_png, color_of, open_figure, size_of

MAX_COLORED = 8  # With more clusters the bars are of one colour, because so many parts of a bar cannot be told apart.
_ROUNDING = 1e-9  # Values that differ by such a part of them are drawn as one.
_MEASURES = {
    "score": "divergence from the nearest center that other videos support",
    "distance": "distance to the own center",
}


def draw_histogram(facts: Facts) -> bytes:
    """Draw the histogram of that by which outliers are told, divided by cluster, with the threshold, as a PNG."""
    by = facts.outliers_by
    parts = {c.number: np.array([m.oddness(by) for m in c.members]) for c in facts.clusters}
    parts = {number: values[np.isfinite(values)] for number, values in parts.items()}
    every = np.concatenate([*parts.values(), np.empty(0)])
    said = facts.metrics.get("outliers") or {}
    threshold = said.get("threshold")
    with open_figure(9.6, 3.6) as figure:
        beside = 0.15
        if 1 < len(parts) <= MAX_COLORED:
            handles = [Patch(color=color_of(number), label=str(number)) for number in parts]
            beside += size_of(figure.legend(handles=handles, title="cluster", loc="upper right"))[0]
        axes = add_axes(figure, 0.62, 0.5, beside, 0.34)
        if len(every):
            edges = _divide(every)
            shown = parts if len(parts) <= MAX_COLORED else {0: every}
            below = np.zeros(len(edges) - 1)
            for number, values in shown.items():
                above = below + np.histogram(values, edges)[0]
                axes.stairs(above, edges, baseline=below, fill=True, color=color_of(number))
                below = above
            axes.set_ylim(0, 1.05 * below.max())
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.2)
            text = f"{len(facts.outliers):,} beyond {threshold:.4g}"
            low, high = axes.get_xlim()
            # Far to the right the text would run into the legend, which stands beside the axes.
            offset, side = (-5, "right") if threshold > low + 2 / 3 * (high - low) else (5, "left")
            place = (threshold, axes.get_ylim()[1])
            axes.annotate(text, place, (offset, -3), textcoords="offset points", ha=side, va="top", size=9)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.set(xlabel=_MEASURES[by], ylabel=f"{facts.noun}s")
        axes.set_title(f"How far the {facts.noun}s lie off")
        return as_png(figure)


def _divide(values: np.ndarray) -> np.ndarray:
    """Return the edges of an odd number of bins, so that a bar of values that are one but for rounding is upon them."""
    low, high = values.min(), values.max()
    if high - low <= _ROUNDING * abs(high):
        beside = abs(high) / 2 or 0.5
        low, high = low - beside, high + beside
    n_bins = int(np.clip(2 * math.sqrt(len(values)), 24, 60)) | 1
    return np.linspace(low, high, n_bins + 1)
