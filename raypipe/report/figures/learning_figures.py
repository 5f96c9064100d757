"""Pictures of learned trajectories as PNG bytes: whether learning is done, and the decoder's states over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from raypipe.progress import shorten
from raypipe.report.facts import Facts
from raypipe.report.style import COLORS, FAINT, MUTED, TINTS, as_png, color_of, open_figure

MAX_PATHS = 400  # More paths would be a blot.


def draw_learning(learned: Mapping[str, Any]) -> bytes:
    """Draw the losses and the silhouette of the states over the epochs; ``learned`` is what ``learned.json`` holds."""
    history = learned["history"]
    with open_figure(9.6, 3.6, "constrained") as figure:
        losses, silhouette = figure.subplots(1, 2)
        for axes, title in ((losses, "Loss"), (silhouette, "Silhouette of the states")):
            axes.axvline(learned["best_epoch"], color=FAINT, linewidth=5, zorder=0)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid()
        for name, label, color in (("loss", "learned from", COLORS[0]), ("held_out", "held out", COLORS[4])):
            _draw_line(losses, history, name, label, color)
        losses.plot([], [], color=FAINT, linewidth=5, label="kept")
        losses.set_ylabel("mean absolute error (no unit)")
        losses.legend(labelcolor=MUTED)
        _draw_line(silhouette, history, "silhouette", "", COLORS[2])
        return as_png(figure)


def _draw_line(axes: Axes, history: list[Mapping[str, Any]], name: str, label: str, color: str) -> None:
    points = [(row["epoch"], row[name]) for row in history if row[name] is not None]
    if points:
        style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(points) < 30 else {}
        axes.plot(*zip(*points, strict=True), color=color, linewidth=1.6, label=label, **style)


def draw_states(facts: Facts, decoded: Mapping[str, np.ndarray]) -> bytes:
    """Draw the states over time on their two principal axes: by cluster, and by label (or group) if those are few.

    Parameters
    ----------
    facts
        The run's facts.
    decoded
        The (T, 2) path of each ``video_id``.
    """
    clusters = {m.video_id: m.cluster for m in facts.members}
    column = facts.mix_column
    labels = {m.video_id: getattr(m, column) for m in facts.members if column and getattr(m, column)}
    names = sorted(set(labels.values()))
    panels: list[tuple[str, dict[str, str], list[tuple[str, str]]]] = [
        (
            "By cluster",
            {video_id: color_of(number) for video_id, number in clusters.items()},
            [(c.short_name, color_of(c.number)) for c in facts.clusters_and_noise],
        )
    ]
    if 1 < len(names) <= len(TINTS):
        tint = dict(zip(names, _DARKENED, strict=False))
        panels.append((f"By {column}", {i: tint[name] for i, name in labels.items()}, list(tint.items())))
    ids = [video_id for video_id in decoded if video_id in clusters]
    ids = [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, MAX_PATHS).astype(int))] if ids else []
    with open_figure(4.8 * len(panels) + 0.6, 5.6, "constrained") as figure:
        for axes, (title, colors, legend) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
            shown = [video_id for video_id in ids if video_id in colors]
            paths = [decoded[video_id] for video_id in shown]
            of_paths = [colors[video_id] for video_id in shown]
            axes.add_collection(LineCollection(paths, colors=of_paths, linewidths=0.9, alpha=0.55, capstyle="round"))
            for at, face in ((0, ["w"] * len(shown)), (-1, of_paths)):
                ends = np.array([path[at] for path in paths]).reshape(-1, 2)
                axes.scatter(*ends.T, s=13, c=face, edgecolors=of_paths, linewidths=0.8, zorder=3)
            axes.autoscale_view()
            axes.margins(0.05)
            axes.set_title(title)
            axes.set(xlabel="first principal axis (no unit)", ylabel="second principal axis (no unit)")
            axes.grid()
            named = [(shorten(name, 20), color) for name, color in legend[:12]]
            handles = [Line2D([], [], color=color, linewidth=2.4, label=name) for name, color in named]
            axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
        return as_png(figure)


def _darken(color: str) -> str:
    return "#" + "".join(f"{round(0.78 * int(color[i : i + 2], 16)):02X}" for i in (1, 3, 5))


# The tints of labels are pale, which suits areas; thin lines want more.
_DARKENED = tuple(map(_darken, TINTS))
