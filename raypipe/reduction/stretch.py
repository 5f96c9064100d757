"""An even fill of the plane: points are turned, and each axis is then mapped by its percentiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

GRID = 20
"""Cells along each side of the grid by which the evenness of a fill is judged."""

_KNOTS = 257  # Entries of an axis's table; between them the percentiles are interpolated.
_ANGLES = 90  # Rotations that are tried, one for each degree: a turn by 90° exchanges the axes and changes nothing.
_ROUNDING = 2.0**-15  # Of codes from −1 to 1: a product of matrices rounds a row by where among the others it stands.
_COMPARED = 20_000  # Points by which rotations are compared at most; more do not change which one is best.


class Stretch:
    """A map of (n, c) points to the cube from −1 to 1, which they fill as evenly as percentiles of the axes can.

    In two dimensions the points are first turned by the angle, of 90, that fills a grid most evenly. Then each axis is
    mapped so that its values are spread evenly from −1 to 1. This changes no order along an axis; what differs by no
    more than rounding gets one place. Points beyond those that it was fitted to go on outwards with the mean slope, so
    that they stay distinct.

    Parameters
    ----------
    rotation
        (c, c), whose columns are the new axes.
    knots, heights
        (c, m) each: rising values on each axis, and what they become. A table may end in copies of its last entry.
    """

    def __init__(self, rotation: np.ndarray, knots: np.ndarray, heights: np.ndarray):
        self._rotation, self._knots, self._heights = rotation, knots, heights

    @classmethod
    def fit(cls, points: np.ndarray) -> Stretch:
        """Find the rotation and the tables for (n, c) points."""
        points = points.astype(np.float64)
        rotation = _find_rotation(points) if points.shape[1] == 2 else np.eye(points.shape[1])
        tables = [_tabulate(values) for values in (points @ rotation).T]
        return cls(rotation, np.array([knots for knots, _ in tables]), np.array([heights for _, heights in tables]))

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Stretch:
        """Return the stretch whose `arrays` these are."""
        return cls(arrays["rotation"], arrays["knots"], arrays["heights"])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ``rotation``, ``knots`` and ``heights``."""
        return {"rotation": self._rotation, "knots": self._knots, "heights": self._heights}

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Map (n, c) points: (n, c) float32."""
        turned = points.astype(np.float64) @ self._rotation
        found = np.empty(turned.shape, np.float32)
        for axis, (knots, heights) in enumerate(zip(self._knots, self._heights, strict=True)):
            values = turned[:, axis]
            beyond = values - np.clip(values, knots[0], knots[-1])
            slope = 2 / (knots[-1] - knots[0]) if knots[-1] > knots[0] else 1.0
            found[:, axis] = np.interp(values, knots, heights) + slope * beyond
        return found


def measure_fill(points: np.ndarray) -> float:
    """Return the part of the cells of a `GRID` × `GRID` grid over the extent of (n, 2) points that hold a point."""
    return float((_count_cells(points, GRID) > 0).mean())


def _count_cells(points: np.ndarray, side: int) -> np.ndarray:
    """Return how many points lie in each cell of a grid over their extent, (side, side)."""
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    cells = np.minimum((points - low) / np.where(extent > 0, extent, 1) * side, side - 1).astype(int)
    return np.bincount(cells[:, 0] * side + cells[:, 1], minlength=side * side)


def _find_rotation(points: np.ndarray) -> np.ndarray:
    points = points[:: -(-len(points) // _COMPARED)]
    side = int(np.clip(np.sqrt(len(points) / 4), 2, GRID))  # An even fill has four points in a cell or more.
    angles = np.radians(np.arange(_ANGLES) * 90 / _ANGLES)
    rotations = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    # The sum of squared counts is least where the points are spread most evenly; of equal ones the first is taken.
    crowding = [(_count_cells(rankdata(points @ rotation, axis=0), side) ** 2).sum() for rotation in rotations]
    return rotations[int(np.argmin(crowding))]


def _tabulate(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a table from the values of an axis to their places from −1 to 1, which the least and the greatest take.

    Equal values share the mean place. Each entry stands twice, for the least and for the greatest of values that differ
    by no more than rounding.
    """
    values = np.sort(values)
    starts = _begin_groups(values)
    ends = np.append(starts[1:], len(values))
    middles = starts + ends - 1.0
    heights = 2 * (middles - middles[0]) / (middles[-1] - middles[0]) - 1 if len(starts) > 1 else np.zeros(1)
    chosen = np.unique(np.searchsorted(ends, np.linspace(0, len(values), _KNOTS)).clip(0, len(ends) - 1))
    knots = np.stack([values[starts], values[ends - 1]], axis=1)[chosen].ravel()
    lacking = (0, 2 * _KNOTS - len(knots))
    return np.pad(knots, lacking, mode="edge"), np.pad(np.repeat(heights[chosen], 2), lacking, mode="edge")


def _begin_groups(values: np.ndarray) -> np.ndarray:
    """Return where in sorted values those begin that differ from the ones before them by more than rounding."""
    starts, first = [], 0
    while first < len(values):
        starts.append(first)
        first = int(np.searchsorted(values, values[first] + _ROUNDING, "right"))
    return np.array(starts)
