"""What one would have to undo in a path to make it like the others: each repair with what is left of its distance.

A path x is compared with a center z by the soft-DTW divergence. A repair says what went wrong: the path runs backwards,
two of its parts have changed places, it ends in the middle, it begins in the middle, or it goes on like another center.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

from raypipe.analysis.outliers import distances_to_centers
from raypipe.softdtw.alignment import align_pairs

MAX_CUTS = 16  # Parts begin and end at one of so many places at most, which are evenly spread over the path.
_WHOLE = 0.85  # A path that goes so far along the center has reached its end, or comes from its beginning.


@dataclass(frozen=True)
class Repair:
    """A way to undo a fault.

    Attributes
    ----------
    kind
        "reversed", "swapped", "cut off", "late" or "strayed".
    left
        The divergence from the center that is left when it is undone.
    centers
        The number of the center; of "strayed" those of the one that the path leaves, and of the one it goes to.
    start, end
        The steps of the path that are at fault, ``start ≤ step < end``.
    part
        How far along the center, from 0 to 1, a path that is cut off ends, and a late one begins.
    """

    kind: str
    left: float
    centers: tuple[int, ...]
    start: int
    end: int
    part: float = 1.0


def undo_reversal(path: np.ndarray, centers: np.ndarray, numbers: np.ndarray, gamma: float) -> Repair:
    """Return what is left of the distance to the nearest of some centers when the path is reversed."""
    apart = distances_to_centers([path[::-1]], centers[numbers], gamma)[0]
    best = int(apart.argmin())
    return Repair("reversed", float(apart[best]), (int(numbers[best]),), 0, len(path))


def undo_swap(path: np.ndarray, centers: np.ndarray, numbers: np.ndarray, gamma: float) -> Repair | None:
    """Find the two neighbouring parts whose exchange brings the path nearest to one of some centers."""
    swaps, orders = _list_swaps(len(path))
    if not swaps:
        return None
    apart = distances_to_centers(path[orders], centers[numbers], gamma)
    best, center = divmod(int(apart.argmin()), len(numbers))
    low, _, high = swaps[best]
    return Repair("swapped", float(apart[best, center]), (int(numbers[center]),), low, high)


@cache
def _list_swaps(n: int) -> tuple[list[tuple[int, int, int]], np.ndarray]:
    """Return where two neighbouring parts of n steps begin, meet and end, and the order of the steps once exchanged."""
    cuts = np.unique(np.linspace(0, n, min(n, MAX_CUTS) + 1).round().astype(int)).tolist()
    swaps = list(combinations(cuts, 3))
    orders = [np.r_[:low, middle:high, low:middle, high:n] for low, middle, high in swaps]
    return swaps, np.array(orders, np.int64).reshape(len(swaps), n)


class Pieces:
    """The divergences between the beginnings and the ends of a path and those of some centers.

    Parameters
    ----------
    path
        (T_x, c).
    centers
        (k, T_z, c).
    numbers
        (m,) int64, the centers to look at.
    gamma
        γ of soft-DTW.

    Attributes
    ----------
    begin
        (m, T_z, T_x), the divergence of ``path[:j + 1]`` from ``center[:i + 1]``.
    end
        (m, T_z, T_x), the divergence of ``path[j:]`` from ``center[i:]``.
    """

    def __init__(self, path: np.ndarray, centers: np.ndarray, numbers: np.ndarray, gamma: float) -> None:
        self.numbers = numbers
        chosen = centers[numbers]
        found = align_pairs(np.broadcast_to(path, (len(chosen), *path.shape)), chosen, gamma)
        own, others = align_pairs(path[None], path[None], gamma), align_pairs(chosen, chosen, gamma)
        self.begin = found.forward - _diagonal(own.forward)[:, None] / 2 - _diagonal(others.forward)[:, :, None] / 2
        self.end = found.backward - _diagonal(own.backward)[:, None] / 2 - _diagonal(others.backward)[:, :, None] / 2

    def repairs(self) -> Iterator[Repair]:
        """Yield the best of each kind: the path ends or begins in the middle of a center, or goes on like another."""
        n_rows, n_columns = self.begin.shape[1:]
        most = int(_WHOLE * n_rows)
        if most < 1 or n_columns < 2:
            return
        last = self.begin[:, :most, -1]  # The whole path, against the center's beginnings.
        center, row = np.unravel_index(int(last.argmin()), last.shape)
        numbers = (int(self.numbers[center]),)
        yield Repair("cut off", _least(last), numbers, n_columns - 1, n_columns, float(row + 1) / n_rows)
        first = self.end[:, n_rows - most :, 0]
        center, row = np.unravel_index(int(first.argmin()), first.shape)
        numbers = (int(self.numbers[center]),)
        yield Repair("late", _least(first), numbers, 0, 1, float(n_rows - most + row) / n_rows)
        if len(self.numbers) > 1:
            yield self._stray()

    def _stray(self) -> Repair:
        """Find where the path leaves one center, of which it had gone any part, to go to the end of another."""
        begins, ends = self.begin.min(axis=1), self.end.min(axis=1)  # (m, T_x)
        both = begins[:, None, :-1] + ends[None, :, 1:]
        both[np.arange(len(both)), np.arange(len(both))] = np.inf
        first, second, step = np.unravel_index(int(both.argmin()), both.shape)
        numbers = (int(self.numbers[first]), int(self.numbers[second]))
        return Repair("strayed", _least(both), numbers, int(step) + 1, self.begin.shape[2])


def _diagonal(square: np.ndarray) -> np.ndarray:
    return np.diagonal(square, axis1=1, axis2=2)


def _least(values: np.ndarray) -> float:
    return max(float(values.min()), 0.0)
