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
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from raypipe.analysis.fingerprints import choose_unlike
from raypipe.clustering.result import NOISE
from raypipe.errors import UsageError
from raypipe.report.facts import Member, name_of
from raypipe.report.plots import draw_path
from raypipe.report.style import FAINT, INK, MUTED, as_png, color_of, ink_on, open_figure
from raypipe.runs.directory import Run
from raypipe.runs.frames import Pictures, read_frames
from raypipe.runs.lookup import describe_videos, find_id
from raypipe.runs.picture_map import PictureMap, read_picture_map
from raypipe.storage import shown

UNLIKE = 6
"""Videos in the report's figure."""
FRAMES = 5
"""Frames beside a path at most."""
_CLOUD = 8_000  # Steps of other videos that are drawn, chosen at random.
_SIDE, _HEAD, _GAP, _EDGE = 2.6, 0.46, 0.12, 0.16  # Inches: of a path's panel, above it, around frames, and outside.
_TITLE = 0.5  # Inches: the title, and below it the key.
_AXIS, _COLUMN = 0.52, 0.86  # Inches: of the scale of time, and of the frames.
_HIGH = (_SIDE - (FRAMES - 1) * 0.05) / FRAMES  # Inches of a frame.
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
    prints = read_fingerprints(run, paths, subjects)
    return draw_fingerprints("The videos most unlike one another: their paths over the map", prints, paths)


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
    prints = read_fingerprints(run, paths, _describe(run, list(dict.fromkeys(ids))))  # Pieces may be of one video.
    if not prints:
        raise UsageError(f"no video was found that has a path on the map of {run.url}")
    title = "The videos most unlike one another"
    if like is not None:
        how = "least" if least else "most"
        title = (
            f"{prints[0].of.name}, and the videos {how} like it" if query else f"The videos {how} like {shown(like)}"
        )
    return draw_fingerprints(_shorten(title, 80), prints, paths)


def _describe(run: Run, ids: Sequence[str]) -> list[Subject]:
    videos = describe_videos(run, ids)
    spans: dict[str, tuple[float, float]] = {}
    if run.exists("plan.parquet"):
        plan = run.read_table("plan.parquet", ["video_id", "origin_s", "span_s"])
        rows = plan.filter(pc.is_in(plan["video_id"], value_set=pa.array(ids, pa.string()))).to_pylist()
        spans = {row["video_id"]: _span(row["origin_s"], row["span_s"]) for row in rows}
    found = []
    for video_id in ids:
        video = videos[video_id]
        note = _note(video["label"] or video["group"], video["caption"])
        span_s = spans.get(video_id, _span(None, None))
        found.append(Subject(video_id, name_of(video["uri"]), note, video["cluster"], span_s))
    return found


def _note(*texts: str | None) -> str:
    return " · ".join(filter(None, texts))


def _span(origin_s: float | None, length_s: float | None) -> tuple[float, float]:
    """Return from when to when a video goes; a second where its length is not known, as it has no frames then."""
    start_s = origin_s or 0.0
    return start_s, start_s + (length_s or 1.0)


def read_fingerprints(run: Run, paths: PictureMap, subjects: Sequence[Subject]) -> list[Fingerprint]:
    """Read the fingerprints of some videos, without those that have no place on the map."""
    row_of = {video_id: row for row, video_id in enumerate(paths.video_ids)}
    subjects = [of for of in subjects if of.video_id in row_of and np.isfinite(paths.path(row_of[of.video_id])).all()]
    middles = (np.arange(FRAMES) + 0.5) / FRAMES
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


def draw_fingerprints(title: str, prints: Sequence[Fingerprint], paths: PictureMap) -> bytes:
    """Draw each path over a gray cloud of all videos' steps, and beside it its frames, from the top down in time.

    A frame stands at its time, and a number says which point of the path it is. A ring says where the path begins, and
    an arrow where it ends. A path that takes little of the map is shown again in a corner, enlarged.
    """
    columns = min(3 if len(prints) > 4 else 2, max(len(prints), 1))
    rows = math.ceil(len(prints) / columns)
    cell = (_SIDE + _AXIS + _COLUMN + 2 * _GAP, _HEAD + _SIDE + _GAP)
    size = columns * cell[0] + 2 * _EDGE, rows * cell[1] + 2 * _EDGE + _TITLE
    steps = paths.steps[np.isfinite(paths.steps).all(axis=1)]
    cloud = steps[np.random.default_rng(0).permutation(len(steps))[:_CLOUD]]
    box = _bounds(steps, 1.1) or (steps[0].astype(np.float64) - 0.5, 1.0)
    with open_figure(*size) as figure:
        figure.set_layout_engine("none")
        figure.text(_EDGE / size[0], 1 - _EDGE / size[1], title, size=12, weight="bold", va="top")
        key = "ring: start   arrow: end   numbers: the frames beside   gray: all videos"
        figure.text(_EDGE / size[0], 1 - (_EDGE + 0.23) / size[1], key, size=8.5, color=MUTED, va="top")
        for i, each in enumerate(prints):
            row, column = divmod(i, columns)
            left, top = _EDGE + column * cell[0], size[1] - _EDGE - _TITLE - row * cell[1]
            _draw_head(figure, each, left, top)
            bottom = top - _HEAD - _SIDE
            _draw_map(figure, each, cloud, box, left, bottom)
            _draw_frames(_add_axes(figure, left + _SIDE + _GAP, bottom, _AXIS + _COLUMN, _SIDE), each)
        return as_png(figure)


def _add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    size = figure.get_size_inches()
    return figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))


def _draw_head(figure: Figure, each: Fingerprint, left: float, top: float) -> None:
    size = figure.get_size_inches()
    at = left / size[0]
    if each.of.cluster is not None:
        color = color_of(each.of.cluster)
        name = "noise" if each.of.cluster == NOISE else str(each.of.cluster)
        chip = {"boxstyle": "round,pad=0.3", "facecolor": color, "edgecolor": "none"}
        at += 0.09 / size[0]
        figure.text(
            at, (top - 0.14) / size[1], name, size=8.5, weight="bold", color=ink_on(color), va="center", bbox=chip
        )
        at += (0.12 + 0.09 * len(name)) / size[0]
    figure.text(at, (top - 0.14) / size[1], _shorten(each.of.name, 44), size=9, weight="bold", va="center")
    figure.text(left / size[0], (top - 0.35) / size[1], _shorten(each.of.note, 60), size=8, color=MUTED, va="center")


def _draw_map(figure: Figure, each: Fingerprint, cloud: np.ndarray, box: Box, left: float, bottom: float) -> None:
    """Draw the path on the whole map, and, if it is small there, enlarged in the corner that is farthest from it."""
    axes = _add_axes(figure, left, bottom, _SIDE, _SIDE)
    part = _bounds(each.path, 1.5)
    if part is None or part[1] > _SMALL * box[1]:
        return _draw_path(axes, each, cloud, box, _SIDE)
    _dress(axes, cloud, box)
    color = _color(each)
    axes.plot(*each.path.T, color=color, linewidth=1.2)
    axes.add_patch(Rectangle((part[0][0], part[0][1]), part[1], part[1], fill=False, edgecolor=color, linewidth=1.1))
    side, inset = _LENS * _SIDE, 0.06
    is_low = (part[0] + part[1] / 2 < box[0] + box[1] / 2).tolist()
    corner = [inset if not low else _SIDE - side - inset for low in is_low]
    lens = _add_axes(figure, left + corner[0], bottom + corner[1], side, side)
    _draw_path(lens, each, cloud, part, side)
    lens.spines[:].set_color(color)


def _draw_path(axes: Axes, each: Fingerprint, cloud: np.ndarray, box: Box, side: float) -> None:
    """Draw the path, and the frames' points and numbers, on axes of so many inches a side."""
    _dress(axes, cloud, box)
    color, scale = _color(each), side / box[1]
    draw_path(axes, each.path, color, 2.2)
    # The start may be a frame's point too, or the end: the ring is larger than the one, and lies below the arrow.
    axes.scatter(each.path[:1, 0], each.path[:1, 1], s=75, c="w", edgecolors=color, linewidths=1.3, zorder=5)
    axes.scatter(each.places[:, 0], each.places[:, 1], s=20, c=color, edgecolors="w", linewidths=1.0, zorder=7)
    line = (each.path - box[0]) * scale
    line = np.concatenate([line, (line[1:] + line[:-1]) / 2])
    taken = np.empty((0, 2))
    for number, point in enumerate((each.places - box[0]) * scale, 1):
        around = point + _AROUND
        is_inside = ((around > _RADIUS) & (around < side - _RADIUS)).all(axis=1)
        gap = np.minimum(_gaps(around, taken) - 2 * _RADIUS, _gaps(around, line) - _RADIUS)
        spot = around[np.argmax(np.where(is_inside, np.minimum(gap, 0.03), -np.inf))]
        taken = np.vstack([taken, spot])
        _write_number(axes, number, spot / scale + box[0], color)


def _dress(axes: Axes, cloud: np.ndarray, box: Box) -> None:
    axes.scatter(cloud[:, 0], cloud[:, 1], s=3, c="#CBD0D8", linewidths=0)
    (x, y), side = box
    axes.set(xlim=(x, x + side), ylim=(y, y + side), xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(FAINT)


def _write_number(axes: Axes, number: int, at: np.ndarray, color: str) -> None:
    disc = {"boxstyle": "circle,pad=0.18", "facecolor": "w", "edgecolor": color, "linewidth": 1.1}
    axes.text(at[0], at[1], str(number), size=7, ha="center", va="center", bbox=disc, zorder=9)


def _color(each: Fingerprint) -> str:
    return INK if each.of.cluster is None else color_of(each.of.cluster)


def _gaps(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return each point's distance to the nearest of the others, infinite if there are none."""
    return np.linalg.norm(points[:, None] - others[None], axis=2).min(axis=1, initial=math.inf)


def _bounds(points: np.ndarray, room: float) -> Box | None:
    """Return the square around points, so many times as large as they need; None if they are all in one place."""
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    side = float((high - low).max()) * room
    return ((low + high - side) / 2, side) if side > 1e-6 * max(1.0, float(np.abs(high).max())) else None


def _draw_frames(axes: Axes, each: Fingerprint) -> None:
    """Draw the scale of time and the frames; the axes' unit is an inch, and y grows downward."""
    axes.set(xlim=(0, _AXIS + _COLUMN), ylim=(_SIDE, 0))
    axes.axis("off")
    start_s, end_s = each.of.span_s
    if not len(each.pictures.jpegs):
        axes.text(_AXIS, _SIDE / 2, "no pictures\nin frames/", size=8, color=MUTED, va="center")
        return
    axes.plot([_AXIS - 0.1] * 2, [0, _SIDE], color=FAINT, linewidth=1.2)
    at = (each.pictures.times_s - start_s) / max(end_s - start_s, 1e-9) * _SIDE
    tops = _set_apart(at - _HIGH / 2, _HIGH + 0.05, _SIDE - _HIGH)
    for number, (time_s, y, top) in enumerate(zip(each.pictures.times_s, at, tops, strict=True), 1):
        picture = _open(each.pictures.jpegs[number - 1])
        width = min(_HIGH * picture.shape[1] / picture.shape[0], _COLUMN)
        axes.imshow(
            picture, extent=(_AXIS, _AXIS + width, top + _HIGH, top), aspect="auto", interpolation="antialiased"
        )
        axes.plot([_AXIS - 0.1, _AXIS], [np.clip(y, 0, _SIDE), top + _HIGH / 2], color=MUTED, linewidth=0.7)
        axes.text(_AXIS - 0.14, top + _HIGH / 2, f"{time_s:.1f} s", size=7, color=MUTED, ha="right", va="center")
        _write_number(axes, number, np.array([_AXIS + 0.09, top + 0.1]), _color(each))
    axes.set(xlim=(0, _AXIS + _COLUMN), ylim=(_SIDE, 0))


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


def _shorten(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
