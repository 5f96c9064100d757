"""The plot of how far the videos lie off: a histogram with the threshold beyond which they are outliers."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import MaxNLocator

from raypipe.report.facts import Facts
from raypipe.report.style import INK, as_png, color_of, open_figure

MAX_COLORED = 8  # With more clusters the bars are of one colour, because so many parts of a bar cannot be told apart.
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
        axes = figure.add_subplot()
        if len(every):
            n_bins = int(np.clip(2 * math.sqrt(len(every)), 24, 60))
            edges: list[float] = np.histogram_bin_edges(every, n_bins).tolist()
            if len(parts) <= MAX_COLORED:
                axes.hist(
                    list(parts.values()),
                    edges,
                    stacked=True,
                    color=[color_of(n) for n in parts],
                    label=[str(n) for n in parts],
                )
            else:
                axes.hist(every, edges, color=color_of(0))
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.2)
            text = f"{len(facts.outliers):,} beyond {threshold:.4g}"
            axes.annotate(text, (threshold, axes.get_ylim()[1]), (5, -3), textcoords="offset points", va="top", size=9)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.set(xlabel=_MEASURES[by], ylabel="videos")
        axes.set_title("How far the videos lie off")
        if 1 < len(parts) <= MAX_COLORED:
            figure.legend(title="cluster", loc="outside right upper")
        return as_png(figure)
