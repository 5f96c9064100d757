"""The picture of a sweep over the number of clusters and γ, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raypipe.analysis.recommendation import STABLE
from raypipe.report.style import COLORS, FAINT, INK, MUTED, as_png, open_figure

# The title of a panel, and the column of each of its lines with its style.
_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Silhouette of paths (soft-DTW)", {"silhouette_softdtw": "-", "reference": ":"}),
    ("Stability", {"stability_weakest": "-", "stability_halves": "--", "stability_seeds": ":"}),
    ("Silhouette of means", {"silhouette": "-"}),
    ("Davies–Bouldin of means: lower is better", {"davies_bouldin": "-"}),
)
_NAMES = {
    "reference": "without structure",
    "stability_weakest": "weakest cluster over halves (Jaccard)",
    "stability_halves": "halves (ARI)",
    "stability_seeds": "seeds (ARI)",
}


def draw_sweep(sweep: Mapping[str, Any]) -> bytes:
    """Draw the figures of each k, a line for each γ; ``sweep`` is what ``sweep.json`` holds."""
    gammas = list(dict.fromkeys(row["gamma"] for row in sweep["rows"]))
    chosen = sweep["recommended"]
    with open_figure(9.6, 6.6, "constrained") as figure:
        figure.suptitle(_title(sweep), x=0.01, ha="left", weight="bold", size=12)
        for number, (title, columns) in enumerate(_PANELS):
            axes = figure.add_subplot(2, 2, number + 1)
            if chosen:
                axes.axvline(chosen["k"], color=FAINT, linewidth=6, zorder=0)
            for i, gamma in enumerate(gammas):
                rows = [row for row in sweep["rows"] if row["gamma"] == gamma]
                _draw_lines(axes, rows, columns, COLORS[i % len(COLORS)])
            if "stability_weakest" in columns:
                axes.axhline(STABLE, color=MUTED, linewidth=0.8, zorder=0)
                axes.set_ylim(-0.05, 1.05)
            axes.set_title(title)
            axes.set_xlabel("number of clusters")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid()
            for column in columns if len(columns) > 1 else ():
                axes.plot([], [], columns[column], color=INK, label=_NAMES.get(column, "the videos"))
            if number == 0 and len(gammas) > 1:
                for i, gamma in enumerate(gammas):
                    axes.plot([], [], color=COLORS[i % len(COLORS)], label=f"γ {gamma:.3g}")
            if axes.get_legend_handles_labels()[1]:
                axes.legend(labelcolor=MUTED)
        return as_png(figure)


def _draw_lines(axes: Axes, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], color: str) -> None:
    for column, style in columns.items():
        points = [(row["k"], row[column]) for row in rows if row.get(column) is not None]
        if points:
            marker = "" if style == ":" else "o"
            axes.plot(*zip(*points, strict=True), style, color=color, marker=marker, markersize=4, linewidth=1.6)


def _title(sweep: Mapping[str, Any]) -> str:
    chosen = sweep["recommended"]
    if chosen is None:
        return str(sweep["reason"].partition(":")[0]).capitalize()
    gamma = "" if chosen["gamma"] is None or not sweep["several_gammas"] else f", γ {chosen['gamma']:.3g}"
    return f"Recommended: {chosen['k']} clusters{gamma}"
