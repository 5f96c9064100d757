"""The picture of some videos' fingerprints: their paths over the map, beside their frames over time, as PNG bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from raypipe.analysis.fingerprints import choose_unlike
from raypipe.clustering.result import name_cluster
from raypipe.errors import UsageError
from raypipe.progress import shorten
from raypipe.report.facts import Member
from raypipe.report.figures.plots import draw_path, gaps_between
from raypipe.report.style import FAINT, INK, MUTED, add_axes, as_png, color_of, ink_on, open_figure, size_of
from raypipe.runs.contents import PLAN_FILE
from raypipe.runs.directory import Run
from raypipe.runs.frames import Pictures, read_frames
from raypipe.runs.lookup import describe_videos, find_id, name_of, own_id
from raypipe.runs.picture_map import PictureMap, read_picture_map
from raypipe.storage import shown

UNLIKE = 6
"""Videos in the report's figure."""
MOST_FRAMES = 5
"""Frames beside a path at most."""
_CLOUD = 8_000  # Steps of other videos that are drawn, chosen at random.
_SIDE, _HEAD, _GAP, _EDGE = 2.6, 0.46, 0.12, 0.16  # Inches: of a path's panel, above it, around frames, and outside.
_TITLE = 0.5  # Inches: the title, and below it the key.
_AXIS, _COLUMN = 0.52, 0.86  # Inches: of the scale of time, and of the frames.
_HIGH = (_SIDE - (MOST_FRAMES - 1) * 0.05) / MOST_FRAMES  # Inches of a frame.
_SMALL, _LENS = 0.2, 0.5  # A path that takes less of the map is shown again under a lens, which takes so much of it.
_RADIUS = 0.075  # Inches of a number's disc.
_AROUND = np.array(
    [
        (distance * math.cos(angle), distance * math.sin(angle))
        for distance in (0.15, 0.2, 0.26)
        for angle in np.linspace(0, 2 * math.pi, 16, endpoint=False)
    ]
)
"""Places for a number beside its point, the nearest first, in inches."""
Box = tuple[np.ndarray, float]
"""A square part of the map: its lower left corner, and its side."""


@dataclass(frozen=True)
class Subject:
    """A video whose fingerprint is drawn.

    Attributes
    ----------
    video_id
        The video.
    name, note
        What stands above it.
    cluster
        Its cluster's number, or None.
    span_s
        From when to when it goes, in seconds of the file.
    """

    video_id: str
    name: str
    note: str
    cluster: int | None
    span_s: tuple[float, float]


@dataclass(frozen=True)
class Fingerprint:
    """A video's path on the map, and some of its frames.

    Attributes
    ----------
    of
        The video.
    path
        (T, 2).
    pictures
        Its frames, k of them, perhaps none.
    places
        (k, 2), where these lie on the path.
    """

    of: Subject
    path: np.ndarray
    pictures: Pictures
    places: np.ndarray


def draw_unlike(run: Run, members: Sequence[Member], seed: int) -> bytes | None:
    """Draw the fingerprints of a run's videos that are most unlike one another; None if it has no two that differ."""
    paths = read_picture_map(run)
    rows = choose_unlike([paths.path(row) for row in range(len(paths))], UNLIKE, seed)
    if len(rows) < 2:
        return None
    by_id = {member.video_id: member for member in members}
    chosen = [by_id[paths.video_ids[row]] for row in rows]
    subjects = [
        Subject(m.video_id, m.name, _note(m.label or m.group, m.caption), m.cluster, _span(m.origin_s, m.span_s))
        for m in chosen
    ]
    prints = _read_fingerprints(run, paths, subjects)
    return _draw_fingerprints("The videos most unlike one another: their paths over the map", prints, paths)


def draw_found(run: Run, found: Sequence[Mapping[str, Any]], like: str | None, least: bool) -> bytes:
    """Draw the fingerprints of what was found in a clustered run.

    Parameters
    ----------
    run
        The run.
    found
        What `raypipe.trajectories.similarity.search` or `find_diverse` returned.
    like
        The query: its own fingerprint comes first if it is a video of the run. None if none was asked for.
    least
        Whether the least alike were looked for.

    Raises
    ------
    UsageError
        If the run has no map, or none of the videos has a place on it.
    """
    paths = read_picture_map(run)
    query = find_id(run, like) if like is not None else None
    ids = ([query] if query else []) + [each["video_id"] for each in found]
    prints = _read_fingerprints(run, paths, _describe(run, list(dict.fromkeys(ids))))  # Pieces may be of one video.
    if not prints:
        raise UsageError(f"no video was found that has a path on the map of {run}")
    title = "The videos most unlike one another"
    if like is not None:
        how = "least" if least else "most"
        title = (
            f"{prints[0].of.name}, and the videos {how} like it" if query else f"The videos {how} like {shown(like)}"
        )
    return _draw_fingerprints(shorten(title, 80), prints, paths)


def _describe(run: Run, ids: Sequence[str]) -> list[Subject]:
    videos = describe_videos(run, ids)
    spans: dict[str, tuple[float, float]] = {}
    if run.exists(PLAN_FILE):
        plan = run.read_table(PLAN_FILE, ["video_id", "origin_s", "span_s"])
        rows = plan.filter(pc.is_in(plan["video_id"], value_set=pa.array(ids, pa.string()))).to_pylist()
        spans = {row["video_id"]: _span(row["origin_s"], row["span_s"]) for row in rows}
    found = []
    for video_id in ids:
        video = videos[video_id]
        note = _note(video["label"] or video["group"], video["caption"])
        span_s = spans.get(video_id, _span(None, None))
        name = own_id(video) or name_of(video["uri"])
        found.append(Subject(video_id, name, note, video["cluster"], span_s))
    return found


def _note(*texts: str | None) -> str:
    return " · ".join(filter(None, dict.fromkeys(texts)))


def _span(origin_s: float | None, length_s: float | None) -> tuple[float, float]:
    """Return from when to when a video goes; a second where its length is not known, as it has no frames then."""
    start_s = origin_s or 0.0
    return start_s, start_s + (length_s or 1.0)


def _read_fingerprints(run: Run, paths: PictureMap, subjects: Sequence[Subject]) -> list[Fingerprint]:
    """Read the fingerprints of some videos, without those that have no place on the map."""
    row_of = {video_id: row for row, video_id in enumerate(paths.video_ids)}
    subjects = [of for of in subjects if of.video_id in row_of and np.isfinite(paths.path(row_of[of.video_id])).all()]
    middles = (np.arange(MOST_FRAMES) + 0.5) / MOST_FRAMES
    kept = read_frames(run, {of.video_id: of.span_s[0] + middles * np.diff(of.span_s) for of in subjects})
    found = []
    for of in subjects:
        row = row_of[of.video_id]
        pictures = kept.get(of.video_id, Pictures(np.empty(0), [], np.empty(0, np.int32)))
        path, places = paths.path(row), paths.places(np.full(len(pictures.jpegs), row), pictures.clip_index)
        if paths.n_clips[row] <= 1:  # Its steps are all the same, and only the map's own noise sets them apart.
            path = path.mean(axis=0, keepdims=True)
            places = np.repeat(path, len(places), axis=0)
        found.append(Fingerprint(of, path, pictures, places))
    return found


def _draw_fingerprints(title: str, prints: Sequence[Fingerprint], paths: PictureMap) -> bytes:
    """Draw each path over a gray cloud of all videos' steps, and beside it its frames, from the top down in time.

    A frame stands at its time, and a number says which point of the path it is. A ring says where the path begins, and
    an arrow where it ends. A path that takes little of the map is shown again in a corner, enlarged.
    """
    columns = min(3 if len(prints) > 4 else 2, max(len(prints), 1))
    rows = math.ceil(len(prints) / columns)
    has_frames = any(each.pictures.jpegs for each in prints)  # Of trajectories from elsewhere there are none.
    beside = _AXIS + _COLUMN + _GAP if has_frames else 0.0
    cell = (_SIDE + beside + _GAP, _HEAD + _SIDE + _GAP)
    width, height = columns * cell[0] + 2 * _EDGE, rows * cell[1] + 2 * _EDGE + _TITLE
    steps = paths.steps[np.isfinite(paths.steps).all(axis=1)]
    cloud = steps[np.random.default_rng(0).permutation(len(steps))[:_CLOUD]]
    box = _bounds(steps, 1.1) or (steps[0].astype(np.float64) - 0.5, 1.0)
    with open_figure(width, height) as figure:
        # All but the lenses is on one pair of axes, whose unit is an inch: axes take longer than what is on them.
        axes = add_axes(figure, 0, 0, 0, 0)
        axes.set(xlim=(0, width), ylim=(0, height), autoscale_on=False)
        axes.axis("off")
        axes.text(_EDGE, height - _EDGE, title, size=12, weight="bold", va="top")
        numbers = "numbers: the frames beside   " if has_frames else ""
        key = f"ring: start   arrow: end   {numbers}gray: all videos"
        axes.text(_EDGE, height - _EDGE - 0.23, key, size=8.5, color=MUTED, va="top")
        for i, each in enumerate(prints):
            row, column = divmod(i, columns)
            left, top = _EDGE + column * cell[0], height - _EDGE - _TITLE - row * cell[1]
            _draw_head(axes, each, left, top, left + cell[0] - _GAP)
            _draw_map(_Panel(axes, np.array([left, top - _HEAD - _SIDE]), _SIDE, box), each, cloud)
            if has_frames:
                _draw_frames(axes, each, left + _SIDE + _GAP, top - _HEAD)
        return as_png(figure)


@dataclass(frozen=True)
class _Panel:
    """A square of axes whose unit is an inch, on which a square part of the map is drawn."""

    axes: Axes
    corner: np.ndarray
    side: float
    box: Box

    def place(self, points: np.ndarray) -> np.ndarray:
        """Return where points of the map lie on the axes."""
        return (points - self.box[0]) * (self.side / self.box[1]) + self.corner

    def frame(self, cloud: np.ndarray, color: str = FAINT) -> None:
        """Draw the edge, and the points of a cloud that lie within it."""
        points = self.place(cloud)
        points = points[((points > self.corner) & (points < self.corner + self.side)).all(axis=1)]
        self.axes.scatter(points[:, 0], points[:, 1], s=3, c="#CBD0D8", linewidths=0)
        left, bottom = self.corner
        self.axes.add_patch(
            Rectangle((left, bottom), self.side, self.side, fill=False, edgecolor=color, linewidth=0.8, clip_on=False)
        )


def _draw_head(axes: Axes, each: Fingerprint, left: float, top: float, right: float) -> None:
    at = left
    if each.of.cluster is not None:
        color = color_of(each.of.cluster)
        name = name_cluster(each.of.cluster, "")
        chip = {"boxstyle": "round,pad=0.3", "facecolor": color, "edgecolor": "none"}
        at += 0.09
        axes.text(at, top - 0.14, name, size=8.5, weight="bold", color=ink_on(color), va="center", bbox=chip)
        at += 0.12 + 0.09 * len(name)
    _write(axes, at, top - 0.14, right, shorten(each.of.name, 44), size=9, weight="bold")
    _write(axes, left, top - 0.35, right, shorten(each.of.note), size=8, color=MUTED)


def _write(axes: Axes, left: float, middle: float, right: float, text: str, **style: Any) -> None:
    """Write a text, of which what would go beyond the right is cut off."""
    written = axes.text(left, middle, text, va="center", **style)
    while (width := size_of(written)[0]) > right - left and len(text) > 1:
        text = shorten(text, int(len(text) * (right - left) / width))
        written.set_text(text)


def _draw_map(panel: _Panel, each: Fingerprint, cloud: np.ndarray) -> None:
    """Draw the path on the whole map, and, if it is small there, enlarged in the corner that is farthest from it."""
    panel.frame(cloud)
    part = _bounds(each.path, 1.5)
    if part is None or part[1] > _SMALL * panel.box[1]:
        return _draw_path(panel, each)
    color, (left, bottom) = _color(each), panel.place(part[0])
    panel.axes.plot(*panel.place(each.path).T, color=color, linewidth=1.2)
    around = panel.side * part[1] / panel.box[1]
    panel.axes.add_patch(Rectangle((left, bottom), around, around, fill=False, edgecolor=color, linewidth=1.1))
    side, inset = _LENS * _SIDE, 0.06
    is_low = (part[0] + part[1] / 2 < panel.box[0] + panel.box[1] / 2).tolist()
    left, bottom = panel.corner + [inset if not low else _SIDE - side - inset for low in is_low]
    figure = panel.axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    axes = add_axes(figure, left, bottom, width - left - side, height - bottom - side)
    axes.set(xlim=(0, side), ylim=(0, side), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    lens = _Panel(axes, np.zeros(2), side, part)
    lens.frame(cloud, color)
    _draw_path(lens, each)


def _draw_path(panel: _Panel, each: Fingerprint) -> None:
    """Draw the path, and the frames' points and numbers."""
    axes, color = panel.axes, _color(each)
    path, places = panel.place(each.path), panel.place(each.places)
    draw_path(axes, path, color, 2.2)
    # The start may be a frame's point too, or the end: the ring is larger than the one, and lies below the arrow.
    axes.scatter(path[:1, 0], path[:1, 1], s=75, c="w", edgecolors=color, linewidths=1.3, zorder=5)
    axes.scatter(places[:, 0], places[:, 1], s=20, c=color, edgecolors="w", linewidths=1.0, zorder=7)
    line = np.concatenate([path, (path[1:] + path[:-1]) / 2])
    taken = np.empty((0, 2))
    for number, point in enumerate(places, 1):
        around = point + _AROUND
        is_inside = ((around > panel.corner + _RADIUS) & (around < panel.corner + panel.side - _RADIUS)).all(axis=1)
        gap = np.minimum(gaps_between(around, taken) - 2 * _RADIUS, gaps_between(around, line) - _RADIUS)
        spot = around[np.argmax(np.where(is_inside, np.minimum(gap, 0.03), -np.inf))]
        taken = np.vstack([taken, spot])
        _write_number(axes, number, spot, color)


def _write_number(axes: Axes, number: int, at: np.ndarray, color: str) -> None:
    disc = {"boxstyle": "circle,pad=0.18", "facecolor": "w", "edgecolor": color, "linewidth": 1.1}
    axes.text(at[0], at[1], str(number), size=7, ha="center", va="center", bbox=disc, zorder=9)


def _color(each: Fingerprint) -> str:
    return INK if each.of.cluster is None else color_of(each.of.cluster)


def _bounds(points: np.ndarray, room: float) -> Box | None:
    """Return the square around points, so many times as large as they need; None if they are all in one place."""
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    side = float((high - low).max()) * room
    return ((low + high - side) / 2, side) if side > 1e-6 * max(1.0, float(np.abs(high).max())) else None


def _draw_frames(axes: Axes, each: Fingerprint, left: float, top: float) -> None:
    """Draw the scale of time and the frames, on axes whose unit is an inch."""
    start_s, end_s = each.of.span_s
    ticks = left + _AXIS
    if not len(each.pictures.jpegs):
        axes.text(ticks, top - _SIDE / 2, "no pictures\nin frames/", size=8, color=MUTED, va="center")
        return
    axes.plot([ticks - 0.1] * 2, [top, top - _SIDE], color=FAINT, linewidth=1.2)
    at = (each.pictures.times_s - start_s) / max(end_s - start_s, 1e-9) * _SIDE
    places = _set_apart(at - _HIGH / 2, _HIGH + 0.05, _SIDE - _HIGH)
    for number, (time_s, y, below) in enumerate(zip(each.pictures.times_s, at, places, strict=True), 1):
        picture = _open(each.pictures.jpegs[number - 1])
        width = min(_HIGH * picture.shape[1] / picture.shape[0], _COLUMN)
        upper, middle = top - below, top - below - _HIGH / 2
        box = (ticks, ticks + width, upper - _HIGH, upper)
        axes.imshow(picture, extent=box, aspect="auto", interpolation="antialiased")
        axes.plot([ticks - 0.1, ticks], [top - np.clip(y, 0, _SIDE), middle], color=MUTED, linewidth=0.7)
        axes.text(ticks - 0.14, middle, f"{time_s:.1f} s", size=7, color=MUTED, ha="right", va="center")
        _write_number(axes, number, np.array([ticks + 0.09, upper - 0.1]), _color(each))


def _set_apart(tops: np.ndarray, height: float, last: float) -> np.ndarray:
    """Move frames, in order of time, so that none covers another or stands out: down, and then up from the end."""
    tops = np.maximum(tops, 0.0)
    for i in range(1, len(tops)):
        tops[i] = max(tops[i], tops[i - 1] + height)
    tops[-1] = min(tops[-1], last)
    for i in range(len(tops) - 2, -1, -1):
        tops[i] = min(tops[i], tops[i + 1] - height)
    return tops


def _open(jpeg: bytes) -> np.ndarray:
    """Return a picture, of a very wide one its middle: (h, w, 3) uint8."""
    with Image.open(io.BytesIO(jpeg)) as image:
        most = round(image.height * _COLUMN / _HIGH)
        left = max((image.width - most) // 2, 0)
        return np.asarray(image.convert("RGB").crop((left, 0, min(left + most, image.width), image.height)))
