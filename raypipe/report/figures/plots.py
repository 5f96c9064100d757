"""The report's plots: the map of videos, their trajectories, and the sizes of clusters, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from raypipe.progress import counted, shorten
from raypipe.report.facts import Cluster, Facts, paths_of
from raypipe.report.style import (
    COLORS,
    DPI,
    FAINT,
    INK,
    TINTS,
    add_axes,
    as_png,
    color_of,
    ink_on,
    marker_of,
    open_figure,
    size_of,
)
from raypipe.sources.files import path_order

MAX_LINES = 300  # More paths of one cluster would be a blot, and the barycenter shows what they have in common.
MAX_RINGS = 100  # Only the farthest outliers are ringed, because thousands of rings would hide the map.
MAX_BACKDROP = 150  # A small panel shows at most this many paths of other clusters, in grey.
MAX_ASIDE = 3000  # Among more points, a number need not look for a free place: the few that it hides do not matter.
OVERVIEW_CLUSTERS = len(COLORS)  # One panel with all clusters is readable as long as no two have the same colour.

_HEAD, _GAP = 0.32, 0.1  # Inches: from a small panel to the one above it, and to the one beside it.

# Places for a number around a point, the nearest first, as fractions of the map's width.
_RINGS = np.array(
    [
        (radius * math.cos(angle), radius * math.sin(angle))
        for radius in np.arange(0.04, 0.14, 0.01)
        for angle in np.linspace(math.pi / 2, 5 * math.pi / 2, 24, endpoint=False)
    ]
)


@dataclass(frozen=True)
class VideoMap:
    """The map of videos as a picture, and where they are on it.

    Attributes
    ----------
    png
        The picture.
    size
        Its width and height in pixels.
    spots
        The place of each ``video_id``, in pixels from the left and from the top.
    radius
        That of a video's mark, in pixels.
    """

    png: bytes
    size: tuple[int, int]
    spots: Mapping[str, tuple[float, float]]
    radius: float


def draw_points(facts: Facts, centers: Mapping[int, np.ndarray] | None = None) -> VideoMap:
    """Draw every clustered video on the 2-D map, at the mean of its path, with rings around outliers.

    Parameters
    ----------
    facts
        The run's facts.
    centers
        The path of each cluster's center on the map, (n_steps, 2), of which the mean is marked; by default none is.
    """
    members = [m for m in facts.members if math.isfinite(m.x) and math.isfinite(m.y)]
    spots = np.array([(m.x, m.y) for m in members]).reshape(-1, 2)
    numbers = np.array([m.cluster for m in members], dtype=int)
    area = float(np.clip(14_000 / max(len(members), 1), 1.5, 64))
    edge = 0.5 if area > 5 else 0
    odd = np.array([(m.x, m.y) for m in facts.outliers[:MAX_RINGS]]).reshape(-1, 2)
    with open_figure(9.6, 6.4) as figure:
        handles = [_legend_dot(cluster) for cluster in facts.clusters_and_noise]
        if centers:
            handles.append(_legend_mark("X", 9, "w", INK, "center"))
        if len(odd):
            more = len(facts.outliers) - len(odd)
            text = f"{len(odd)} farthest\nof {len(facts.outliers):,}\noutliers" if more else f"outlier  ({len(odd)})"
            handles.append(_legend_mark("o", 10, "none", INK, text))
        legend = figure.legend(handles=handles, loc="upper right", ncols=math.ceil(len(handles) / 26))
        axes = add_axes(figure, 0.62, 0.5, size_of(legend)[0] + 0.15, 0.34)
        # The order is random, so that where clusters overlap, the last one does not cover the others.
        order = np.random.default_rng(0).permutation(len(members))
        markers = np.array([marker_of(n) for n in numbers], dtype=str)
        for marker in dict.fromkeys(markers.tolist()):
            mine = order[markers[order] == marker]
            colors = [color_of(n) for n in numbers[mine]]
            _scatter(axes, spots[mine], s=area, c=colors, marker=marker, alpha=0.85, linewidths=edge, edgecolors="w")
        _scatter(axes, odd, s=3.2 * area + 25, facecolors="none", edgecolors=INK, linewidths=1.1)
        for number, center in (centers or {}).items():
            style: dict[str, Any] = {"marker": "X", "s": 130, "edgecolors": INK, "linewidths": 1.2, "zorder": 8}
            _scatter(axes, center.mean(axis=0, keepdims=True), c=color_of(number), **style)
        number_clusters(axes, {c.number: spots[numbers == c.number] for c in facts.clusters}, aside=True)
        _dress_map(axes, "Videos by cluster", facts.map_name)
        png = as_png(figure)
        width, height = (round(side * DPI) for side in figure.get_size_inches())
        at = axes.transData.transform(spots) if len(spots) else spots
    ids = (member.video_id for member in members)
    places = {video_id: (float(x), float(height - y)) for video_id, (x, y) in zip(ids, at, strict=True)}
    return VideoMap(png, (width, height), places, math.sqrt(area) / 2 * DPI / 72)


def draw_trajectories(facts: Facts, paths: Mapping[str, np.ndarray], centers: Mapping[int, np.ndarray]) -> bytes:
    """Draw the videos' 2-D paths with their clusters' barycenters, in one overview and in a small panel a cluster.

    Parameters
    ----------
    facts
        The run's facts.
    paths
        The path of each ``video_id``, (n_steps, 2).
    centers
        The barycenter of each cluster's number, (n_steps, 2), as `raypipe.report.facts.read_centers` returns it.
    """
    groups = facts.clusters_and_noise
    lines = {c.number: _thin_out(paths_of(c, paths), MAX_LINES) for c in groups}
    k = len(groups)
    overview = k <= OVERVIEW_CLUSTERS
    panels = 0 if k == 1 else k
    rows, columns = _grid(panels, overview)
    cell = 5.5 / rows if overview and panels else 1.75
    side = cell - _HEAD
    width, height = (6.0 if overview else 0.1) + (side + _GAP) * columns, 5.5 if overview else cell * rows + 0.4
    with open_figure(width, height) as figure:
        if overview:
            axes = add_axes(figure, 0.62, 0.85, width - 5.9, 0.34)
            _draw_overview(axes, lines, centers, facts.map_name)
        else:
            title = "Trajectories, one panel for each cluster"
            figure.text(0.06 / width, 1 - 0.28 / height, title, weight="bold", size=12)
        if panels:
            # All panels are on one pair of axes, whose unit is an inch: many axes take as long as all that is on them.
            axes = add_axes(figure, 0, 0, 0, 0)
            axes.set(xlim=(0, width), ylim=(0, height))
            axes.axis("off")
            origin, extent = _limits(lines.values())
            small = {number: [(path - origin) * side / extent for path in paths] for number, paths in lines.items()}
            barycenters = {number: (center - origin) * side / extent for number, center in centers.items()}
            for i, cluster in enumerate(groups):
                row, column = divmod(i, columns)
                corner = np.array([width - (columns - column) * (side + _GAP), (rows - 1 - row) * cell + _GAP / 2])
                size = counted(len(cluster), facts.noun)
                _draw_panel(axes, cluster, size, small, barycenters.get(cluster.number), corner, side)
        return as_png(figure)


def draw_sizes(facts: Facts) -> bytes:
    """Draw how many videos each cluster has, split by label (or group) if there are at most a dozen of them."""
    clusters = facts.clusters_and_noise
    column = facts.mix_column
    parts = sorted({p for c in clusters for p, _ in c.mix(column)}, key=path_order)
    if len(parts) > len(TINTS):
        parts = []
    bar = 0.34 if len(clusters) <= 12 else 0.24  # Inches: many would make a picture higher than a screen.
    with open_figure(9.6, 1.3 + bar * len(clusters) + 0.22 * math.ceil(len(parts) / 3)) as figure:
        rows, below = range(len(clusters)), 0.5
        if parts:
            handles = [Patch(color=TINTS[i], label=shorten(part, 34)) for i, part in enumerate(parts)]
            if any(sum(n for _, n in c.mix(column)) < len(c) for c in clusters):
                handles.append(Patch(facecolor="w", edgecolor=FAINT, hatch="////", linewidth=0, label=f"no {column}"))
            below += size_of(figure.legend(handles=handles, loc="lower left", ncols=3))[1]
        axes = add_axes(figure, 0.5 + 0.07 * max(len(c.short_name) for c in clusters), below, 0.2, 0.34)
        if parts:
            _stack_bars(axes, [dict(c.mix(column)) for c in clusters], [len(c) for c in clusters], parts)
        else:
            axes.barh(rows, [len(c) for c in clusters], height=0.72, color=[color_of(c.number) for c in clusters])
        for row, cluster in enumerate(clusters):
            note = f"{len(cluster):,}  ({len(cluster) / len(facts.members):.0%})"
            axes.annotate(note, (len(cluster), row), (5, 0), textcoords="offset points", va="center", size=8.5)
        axes.set_yticks(rows, [c.short_name for c in clusters])
        for tick, cluster in zip(axes.get_yticklabels(), clusters, strict=True):
            color = color_of(cluster.number)
            tick.set(color=ink_on(color), weight="bold")
            tick.set_bbox({"boxstyle": "round,pad=0.3", "facecolor": color, "edgecolor": "none"})
        axes.set_ylim(len(clusters) - 0.4, -0.6)
        axes.set_xlim(0, max(map(len, clusters)) * 1.12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0, pad=9)
        axes.set(xlabel=f"{facts.noun}s", ylabel="cluster")
        axes.set_title(f"Cluster sizes by {column}" if parts else "Cluster sizes")
        return as_png(figure)


# The parts of the plots.


def _draw_overview(
    axes: Axes, lines: Mapping[int, list[np.ndarray]], centers: Mapping[int, np.ndarray], map_name: str
) -> None:
    alpha = float(np.clip(12 / math.sqrt(sum(map(len, lines.values()))), 0.12, 0.5))
    for number, paths in lines.items():
        _draw_paths(axes, paths, color_of(number), alpha)
    for number, center in centers.items():
        draw_path(axes, center, color_of(number), 3.2)
    number_clusters(axes, centers)
    _dress_map(axes, "Trajectories and their barycenters", map_name)
    start = _legend_mark("o", 7, "w", INK, "start")
    end = _legend_mark(">", 8, INK, "w", "end")
    bold = Line2D([], [], color=INK, linewidth=3.2, label="barycenter")
    thin = Line2D([], [], color=INK, linewidth=0.8, alpha=0.5, label="a video's path")
    axes.legend(handles=[thin, bold, start, end], loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4)


def _draw_panel(
    axes: Axes,
    cluster: Cluster,
    size: str,
    lines: Mapping[int, list[np.ndarray]],
    center: np.ndarray | None,
    corner: np.ndarray,
    side: float,
) -> None:
    """Draw a panel of so many inches at a corner, from which the lines and the center count.

    Above it stand the cluster's name and ``size``, such as "3 videos".
    """
    others = [path for number, paths in lines.items() if number != cluster.number for path in paths]
    backdrop = [path + corner for path in _thin_out(others, MAX_BACKDROP)]
    axes.add_collection(LineCollection(backdrop, colors=FAINT, linewidths=0.5, alpha=0.7), autolim=False)
    alpha = float(np.clip(7 / math.sqrt(len(cluster)), 0.15, 0.6))
    _draw_paths(axes, [path + corner for path in lines[cluster.number]], color_of(cluster.number), alpha)
    if center is not None:
        draw_path(axes, center + corner, color_of(cluster.number), min(side + _HEAD, 2.6))
    left, bottom, right, top = *corner, *(corner + side)
    axes.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=FAINT, linewidth=0.8)
    axes.text(left, top + 0.05, cluster.short_name, size=9.5, weight="bold")
    axes.text(right, top + 0.05, size, size=8, ha="right")


def _draw_paths(axes: Axes, paths: list[np.ndarray], color: str, alpha: float) -> None:
    axes.add_collection(LineCollection(paths, colors=color, linewidths=0.8, alpha=alpha, capstyle="round"))
    starts = np.array([path[0] for path in paths]).reshape(-1, 2)
    _scatter(axes, starts, s=6, c=color, alpha=min(1.0, 1.6 * alpha), linewidths=0)


def draw_path(axes: Axes, center: np.ndarray, color: str, width: float) -> None:
    """Draw a path on the map, (n_steps, 2), in bold, with a ring at its start and an arrow at its end."""
    halo = [Stroke(linewidth=width + 2, foreground="w"), Normal()]
    axes.plot(*center.T, color=color, linewidth=width, path_effects=halo, solid_capstyle="round", zorder=4)
    axes.plot(*center[0], "o", markersize=2.3 * width, color="w", markeredgecolor=color, markeredgewidth=1.6, zorder=6)
    moves = np.diff(center, axis=0)
    moves = moves[np.hypot(*moves.T) > 1e-9]
    if len(moves):
        tip = MarkerStyle(">").rotated(rad=math.atan2(moves[-1, 1], moves[-1, 0]))
        _scatter(axes, center[-1:], marker=tip, s=(4.2 * width) ** 2, c=color, edgecolors="w", linewidths=1, zorder=6)


def number_clusters(axes: Axes, spots: Mapping[int, np.ndarray], aside: bool = False) -> None:
    """Write each cluster's number at one of its points, near their middle, away from other numbers.

    With ``aside`` it stands where it hides no point of any cluster, if there is such a place nearby.
    """
    if not spots:
        return
    everything = np.concatenate([*spots.values(), np.empty((0, 2))])
    extent = float(np.ptp(everything, axis=0).max())
    taken = np.empty((0, 2))
    for number, points in spots.items():
        if not len(points):
            continue
        middle = np.median(points, axis=0)
        candidates = points[np.argsort(np.linalg.norm(points - middle, axis=1))]
        # The first free place is taken; if none is free, the one farthest from other numbers.
        gaps = gaps_between(candidates, taken)
        spot = candidates[np.argmax(np.minimum(gaps, 0.055 * extent))]
        if aside and len(everything) <= MAX_ASIDE:
            around = candidates[0] + extent * _RINGS  # Where a cluster lies in pieces, nothing need be in their middle.
            free = (gaps_between(around, everything) > 0.036 * extent) & (gaps_between(around, taken) > 0.055 * extent)
            spot = around[np.argmax(free)] if free.any() else spot
        taken = np.vstack([taken, spot])
        color = color_of(number)
        disc = {"boxstyle": "circle,pad=0.25", "facecolor": color, "edgecolor": "w", "linewidth": 1.2}
        style: dict[str, Any] = {"color": ink_on(color), "weight": "bold", "size": 8.5, "zorder": 9}
        axes.text(spot[0], spot[1], str(number), ha="center", va="center", bbox=disc, **style)


def gaps_between(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return each point's distance to the nearest of the others, infinite if there are none."""
    return np.linalg.norm(points[:, None] - others[None], axis=2).min(axis=1, initial=math.inf)


def _stack_bars(axes: Axes, mixes: list[dict[str, int]], sizes: list[int], parts: list[str]) -> None:
    left = np.zeros(len(mixes))
    rows = np.arange(len(mixes))
    for i, part in enumerate(parts):
        widths = np.array([mix.get(part, 0) for mix in mixes], dtype=float)
        axes.barh(rows, widths, left=left, height=0.72, color=TINTS[i], edgecolor="w", linewidth=0.8)
        for row, width in enumerate(widths):
            text = f"{width:,.0f}"
            if width / max(sizes) > 0.016 * len(text):  # The text fits into the bar.
                axes.text(left[row] + width / 2, row, text, ha="center", va="center", size=7.5)
        left += widths
    rest = np.flatnonzero(left < sizes)
    missing = np.array(sizes)[rest] - left[rest]
    axes.barh(rest, missing, left=left[rest], height=0.72, facecolor="w", edgecolor=FAINT, hatch="////", linewidth=0)


def _dress_map(axes: Axes, title: str, map_name: str) -> None:
    axes.set_title(title)
    axes.set(xlabel=f"{map_name} map, x (no unit)", ylabel=f"{map_name} map, y (no unit)")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.06)
    axes.autoscale_view()
    axes.grid()


def _legend_dot(cluster: Cluster) -> Line2D:
    text = f"{cluster.short_name}  ({len(cluster):,})"
    return _legend_mark(marker_of(cluster.number), 7, color_of(cluster.number), "w", text)


def _legend_mark(marker: str, size: float, face: str, edge: str, label: str) -> Line2D:
    style: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": edge, "markersize": size}
    return Line2D([], [], linestyle="", marker=marker, label=label, **style)


def _scatter(axes: Axes, points: np.ndarray, **style: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], **style)


# Paths.


def _thin_out(paths: list[np.ndarray], at_most: int) -> list[np.ndarray]:
    """Return at most ``at_most`` paths, evenly chosen; paths come by distance, so near and far members are kept."""
    if len(paths) <= at_most:
        return paths
    return [paths[i] for i in np.linspace(0, len(paths) - 1, at_most).astype(int)]


def _limits(lines: Iterable[list[np.ndarray]]) -> tuple[np.ndarray, float]:
    """Return the square around all paths: its lower left corner, and its side."""
    points = np.concatenate([path for paths in lines for path in paths])
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(float((high - low).max()) * 1.08, 2e-6)
    return (low + high - side) / 2, side


def _grid(panels: int, overview: bool) -> tuple[int, int]:
    if not panels:
        return 1, 0
    columns = math.ceil(math.sqrt(panels * (1 if overview else 1.5)))
    rows = max(math.ceil(panels / columns), 2 if overview else 1)
    return rows, math.ceil(panels / rows)
