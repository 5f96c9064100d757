"""The layout of a poster: which frames of a run's map it shows, and where each of them lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from raypipe.analysis.mosaic import assign_tiles, choose_spread
from raypipe.errors import UsageError, check_type
from raypipe.runs.contents import FRAMES_FOLDER, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.frames import FrameIndex, index_frames
from raypipe.runs.picture_map import PictureMap, read_picture_map

WIDTH = 4_000
MAX_SIDE = 65_000  # A JPEG has 65,535 at most.
_LEAST_TILE, _USUAL_TILE = 8, 160  # Pixels of the shorter side; the usual one is that of the pictures in frames/.
_GAP = 1 / 80  # Of a tile's width, between two pictures: neighbours on the map look alike, and would run together.
_MAX_VIDEOS = 20_000  # Of more videos in the window so many are looked at, chosen at random.
_MAX_ASPECT = 2.0  # Neither posters of the whole map nor tiles are more than so many times as wide as high, or as high.
_BENT = 0.1  # So much the number of rows may differ from what the window asks for, so that more frames have a tile.
_FILLED = 0.88  # It differs no more than it takes to fill so large a part of the tiles asked for.
_ROUNDING = 1e-6  # The outermost frames are not outside for a rounding of the map's extent.


@dataclass(frozen=True)
class PosterForm:
    """What a poster shall show, and how large.

    Attributes
    ----------
    width
        Pixels.
    tiles
        How many tiles at most, or (columns, rows); None for as many as the frames fill, 160 pixels or more a side.
    center, span
        The window: its middle (x, y) and its width, in units of the map. Its height is in proportion to the poster's,
        which is square unless columns and rows say otherwise. None for the middle of the map, and for the whole map.
    originals
        Whether to decode the videos again at the size of the tiles; else the small pictures in ``frames/`` are shown.
    seed
        Of the random choice among frames at one place of the map.
    """

    width: int = WIDTH
    tiles: int | tuple[int, int] | None = None
    center: tuple[float, float] | None = None
    span: float | None = None
    originals: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_type("width", self.width, Integral)
        if not _LEAST_TILE <= self.width <= MAX_SIDE:
            raise UsageError(f"a poster is {_LEAST_TILE} to {MAX_SIDE:,} px wide, not {self.width}")
        if self.tiles is not None:
            sides = self.tiles if isinstance(self.tiles, tuple) else (self.tiles, 1)
            if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
                raise UsageError(f"tiles are a number, or (columns, rows), not {self.tiles!r}")
            if min(sides) < 1:
                raise UsageError("a poster has one tile or more")
            columns, rows = map(int, sides)  # What is numpy's could not be written as JSON.
            object.__setattr__(self, "tiles", (columns, rows) if isinstance(self.tiles, tuple) else columns)
        object.__setattr__(self, "width", int(self.width))
        if self.center is not None and self.span is None:
            raise UsageError("a window has a width: --center goes with --span")
        if self.center is not None and not _is_point(self.center):
            raise UsageError("--center is two numbers, X,Y")
        check_type("span", self.span, (Real, type(None)))
        check_type("seed", self.seed, Integral)
        if self.seed < 0:
            raise UsageError(f"a seed is 0 or more, not {self.seed}")
        if self.span is not None and not (math.isfinite(self.span) and self.span > 0):
            raise UsageError(f"--span is greater than 0, not {self.span:g}")


def _is_point(center: Any) -> bool:
    is_pair = isinstance(center, tuple | list) and len(center) == 2
    return is_pair and all(isinstance(each, Real) and math.isfinite(each) for each in center)


def read_tiles(text: str) -> int | tuple[int, int]:
    """Read a number of tiles, or ``COLUMNSxROWS``."""
    try:
        if "x" not in text.lower():
            return int(text)
        columns, rows = (int(part) for part in text.lower().split("x"))
        return columns, rows
    except ValueError as error:
        raise UsageError(f"--tiles is a number, such as 900, or COLUMNSxROWS, such as 40x30; not {text!r}") from error


def read_center(text: str) -> tuple[float, float]:
    """Read the middle of a window, ``X,Y``."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--center is two numbers, X,Y, such as 3.5,-2; not {text!r}") from error
    return x, y


@dataclass(frozen=True)
class PosterLayout:
    """Where each frame of a poster lies.

    Attributes
    ----------
    columns, rows
        The grid.
    tile
        Width and height of a tile, in pixels: the shape that most videos have.
    gap
        Pixels between two pictures; a picture has so many less than a tile.
    width, height, margin
        The size of the poster, and its edge on all sides, in pixels.
    frames
        n frames.
    tiles
        (n,) int64, the number of each one's tile, row by row.
    n_found
        How many frames there were to choose from.
    """

    columns: int
    rows: int
    tile: tuple[int, int]
    gap: int
    width: int
    height: int
    margin: int
    frames: FrameIndex
    tiles: np.ndarray
    n_found: int

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of a picture, in pixels."""
        return self.tile[0] - self.gap, self.tile[1] - self.gap

    def corner(self, frame: int) -> tuple[int, int]:
        """Return the left and top edge of a frame's picture, in pixels."""
        row, column = divmod(int(self.tiles[frame]), self.columns)
        inside = self.margin + self.gap // 2
        return inside + column * self.tile[0], inside + row * self.tile[1]


def lay_out(run: Run, form: PosterForm) -> PosterLayout:
    """Choose frames of a run's map, evenly over its window, and give each the tile of a grid nearest to its place.

    Raises
    ------
    UsageError
        If the run has no map or no ``frames/``, if no frame lies in the window, or if tiles would be too small.
    """
    paths = read_picture_map(run)
    if not run.files(FRAMES_FOLDER, ".parquet"):
        raise UsageError(
            f"{run} has no frames/, the small pictures that a poster is made from: its trajectories were computed "
            "elsewhere, or it was embedded with sample.thumbnails=0 or by an earlier version; embed the videos into a "
            "new run"
        )
    shape = _usual_shape(run)
    corner, sides = _find_window(paths, form, shape)
    frames, points = _find_frames(run, paths, corner, sides, form.seed)
    columns, rows = _size_grid(form, len(points), sides[1] / sides[0], shape)
    tile = form.width // columns, round(form.width // columns / shape)
    if min(tile) < _LEAST_TILE:
        raise UsageError(
            f"{columns} columns on {form.width} px make tiles of {tile[0]} × {tile[1]} px: choose fewer --tiles, or a "
            "larger --width"
        )
    margin = (form.width - columns * tile[0]) // 2
    height = rows * tile[1] + 2 * margin
    if height > MAX_SIDE:
        raise UsageError(f"a poster of {form.width} × {height} px is too high: choose fewer rows, or a smaller --width")
    chosen = choose_spread(points, columns * rows, form.seed)
    tiles = assign_tiles(points[chosen] * [columns, rows], columns, rows)
    gap = int(tile[0] * _GAP)
    return PosterLayout(columns, rows, tile, gap, form.width, height, margin, frames.take(chosen), tiles, len(points))


def _usual_shape(run: Run) -> float:
    """Return the width of a video over its height, as most have it: the median."""
    sizes = run.read_table(VIDEOS_FILE, ["width", "height"])
    width, height = (sizes[name].to_numpy().astype(np.float64) for name in sizes.column_names)
    is_known = (width > 0) & (height > 0)
    if not is_known.any():
        return 1.0
    shapes = np.sort(width[is_known] / height[is_known])
    return float(np.clip(shapes[len(shapes) // 2], 1 / _MAX_ASPECT, _MAX_ASPECT))


def _find_window(paths: PictureMap, form: PosterForm, shape: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the left upper corner of the window, and its width and height, in units of the map."""
    there = paths.steps[np.isfinite(paths.steps).all(axis=1)].astype(np.float64)
    if not len(there):
        raise UsageError("no video has a place on the map")
    low, high = there.min(axis=0), there.max(axis=0)
    width, height = np.maximum(high - low, 0.0)
    if isinstance(form.tiles, tuple):
        aspect = form.tiles[1] / form.tiles[0] / shape
    elif form.span is not None or not (width and height):
        aspect = 1.0
    else:
        aspect = float(np.clip(height / width, 1 / _MAX_ASPECT, _MAX_ASPECT))
    span = form.span or max(width, height / aspect) or 1.0
    sides = np.array([span, span * aspect])
    x, y = form.center or (low + high) / 2
    return np.array([x - sides[0] / 2, y + sides[1] / 2]), sides


def _find_frames(
    run: Run, paths: PictureMap, corner: np.ndarray, sides: np.ndarray, seed: int
) -> tuple[FrameIndex, np.ndarray]:
    """Return the frames that lie in the window, and their places there, (n, 2) in [0, 1] from its left upper corner."""

    def to_window(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = (places - corner) / sides * [1, -1]
        is_inside = ((points >= -_ROUNDING) & (points <= 1 + _ROUNDING)).all(axis=1)  # NaN is not
        return np.clip(points, 0, 1), is_inside

    videos = np.arange(len(paths))
    if len(videos) > _MAX_VIDEOS:
        _, is_inside = to_window(paths.steps)
        videos = np.flatnonzero(np.logical_or.reduceat(is_inside, paths.first[:-1]))
        if len(videos) > _MAX_VIDEOS:
            videos = np.sort(np.random.default_rng(seed).choice(videos, _MAX_VIDEOS, replace=False))
    frames = index_frames(run, [paths.video_ids[video] for video in videos.tolist()])
    points, is_inside = to_window(paths.places(videos[frames.video], frames.clip_index))
    rows = np.flatnonzero(is_inside)
    # Where a video has fewer frames than clips, two clips show one frame.
    rows = rows[np.unique(np.stack([frames.video[rows], frames.time_s[rows]]), axis=1, return_index=True)[1]]
    if not len(rows):
        low, high = np.nanmin(paths.steps, axis=0), np.nanmax(paths.steps, axis=0)
        raise UsageError(
            f"no frame lies in the window: the map of {run} reaches from {low[0]:.4g} to {high[0]:.4g} in x and "
            f"from {low[1]:.4g} to {high[1]:.4g} in y"
        )
    return frames.take(rows), points[rows]


def _size_grid(form: PosterForm, n_frames: int, aspect: float, shape: float) -> tuple[int, int]:
    """Return columns and rows, for a window of an aspect (height over width) and tiles of a shape (the reverse)."""
    if isinstance(form.tiles, tuple):
        return form.tiles
    most = int((form.width / _USUAL_TILE / max(shape, 1.0)) ** 2 * aspect * shape)
    n_tiles = form.tiles or max(1, min(n_frames, most))
    ideal = math.sqrt(n_tiles * aspect * shape)
    least, most = max(1, math.floor(ideal * (1 - _BENT))), math.ceil(ideal * (1 + _BENT))
    options = range(min(least, n_tiles), min(most, n_tiles) + 1)
    rows = max(options, key=lambda rows: (min(n_tiles // rows * rows, _FILLED * n_tiles), -abs(rows - ideal)))
    return n_tiles // rows, rows
