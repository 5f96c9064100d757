"""Global constraints: the cells that an alignment may pass through, as a range of columns for each row.

The masks are tslearn's to the cell. Sakoe & Chiba (IEEE TASSP 26, 1978) let an alignment leave the diagonal by a radius
of steps, plus the difference of the lengths on the longer series' side. Itakura's parallelogram (IEEE TASSP 23, 1975)
bounds the slope of the straight lines from both corners, relative to the slope of the diagonal. tslearn rounds these
bounds to two decimals by the columns, so the mask of two lengths and that of the lengths in the other order may differ
in a few cells: `Constraint.turned` says which of the two is meant.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import numpy as np

from raypipe.errors import UsageError

CONSTRAINTS = ("sakoe_chiba", "itakura")
PARAMETERS = ("global_constraint", "sakoe_chiba_radius", "itakura_max_slope")


@dataclass(frozen=True)
class Constraint:
    """A global constraint on the alignments of two series.

    Attributes
    ----------
    kind
        ``"sakoe_chiba"`` or ``"itakura"``.
    reach
        The radius in steps, or the largest slope.
    is_turned
        Whether rows are the steps of tslearn's second series.
    """

    kind: str
    reach: float
    is_turned: bool = False

    @property
    def turned(self) -> "Constraint":
        """The same constraint where rows and columns are exchanged."""
        return replace(self, is_turned=not self.is_turned)

    def limits(self, n_rows: int, n_columns: int) -> np.ndarray:
        """Return each row's first column, and its last + 1: (n_rows, 2) int32, read-only, neither of which ever falls.

        Raises
        ------
        UsageError
            If no alignment keeps to the constraint.
        """
        return _limits(self, int(n_rows), int(n_columns))

    def mask(self, n_rows: int, n_columns: int) -> np.ndarray:
        """Return which cells an alignment may pass through: (n_rows, n_columns) bool."""
        limits = self.limits(n_rows, n_columns)
        columns = np.arange(n_columns)
        return (columns >= limits[:, :1]) & (columns < limits[:, 1:])


def read_constraint(
    global_constraint: str | None = None, sakoe_chiba_radius: Any = None, itakura_max_slope: Any = None
) -> Constraint | None:
    """Return the constraint that tslearn's three parameters name, or None.

    Raises
    ------
    UsageError
        If the name is unknown, a number is out of range, or both numbers are given without a name.
    """
    if global_constraint and global_constraint not in CONSTRAINTS:
        raise UsageError(f"global_constraint must be one of {', '.join(CONSTRAINTS)}; got {global_constraint!r}")
    if not global_constraint and sakoe_chiba_radius is not None and itakura_max_slope is not None:
        raise UsageError(
            "sakoe_chiba_radius and itakura_max_slope exclude each other: say by global_constraint which one counts"
        )
    if global_constraint == "sakoe_chiba" or (not global_constraint and sakoe_chiba_radius is not None):
        radius = 1 if sakoe_chiba_radius is None else sakoe_chiba_radius
        if not isinstance(radius, Integral) or isinstance(radius, bool) or radius < 0:
            raise UsageError(f"sakoe_chiba_radius must be a whole number of steps, at least 0; got {radius!r}")
        return Constraint("sakoe_chiba", int(radius))
    if global_constraint == "itakura" or itakura_max_slope is not None:
        slope = 2.0 if itakura_max_slope is None else itakura_max_slope
        if not (isinstance(slope, Real) and 1 <= float(slope) < np.inf):
            raise UsageError(f"itakura_max_slope must be a number of at least 1, got {slope!r}")
        return Constraint("itakura", float(slope))
    return None


@dataclass(frozen=True)
class Limits:
    """The limits of rows under a constraint, by the lengths of both series.

    Attributes
    ----------
    table
        (r, c, T, 2) int32, by kinds of lengths of rows and of columns: each row's first column, and its last + 1. Rows
        beyond a length have no column: their first is the largest length of columns, their last + 1 is 0.
    row_kinds, column_kinds
        (m,) the kind of each series whose steps are rows, and (n,) of each whose steps are columns.
    """

    table: np.ndarray
    row_kinds: Any
    column_kinds: Any

    @classmethod
    def of(cls, constraint: Constraint, row_lengths: np.ndarray, kinds: tuple[np.ndarray, Any]) -> "Limits | None":
        """Return the limits of (m,) series with all others; None if they exclude no cell.

        Parameters
        ----------
        constraint
            Its rows are the rows here.
        row_lengths
            (m,) whole numbers.
        kinds
            The lengths of the others that there are, (c,), and which of them each has, (n,) int32.

        Raises
        ------
        UsageError
            As `Constraint.limits`.
        """
        lengths, row_kinds = np.unique(row_lengths, return_inverse=True)
        pairs = [[(int(n), int(m)) for m in kinds[0]] for n in lengths]
        return cls._tabulate(constraint, pairs, row_kinds, kinds[1])

    @classmethod
    def of_own(cls, constraint: Constraint, kinds: tuple[np.ndarray, Any]) -> "Limits | None":
        """Return the limits of series with themselves, in a table of one kind of rows; None if they exclude no cell."""
        return cls._tabulate(constraint, [[(int(n), int(n)) for n in kinds[0]]], np.zeros(1, np.int64), kinds[1])

    @classmethod
    def _tabulate(cls, constraint: Constraint, pairs: list[list[tuple[int, int]]], *kinds: Any) -> "Limits | None":
        """Make the table of these pairs of lengths."""
        most_rows, most_columns = (max(pair[side] for row in pairs for pair in row) for side in (0, 1))
        table = np.empty((len(pairs), len(pairs[0]), most_rows, 2), np.int32)
        table[:] = most_columns, 0
        excludes = False
        for r, c in np.ndindex(table.shape[:2]):
            n_rows, n_columns = pairs[r][c]
            table[r, c, :n_rows] = limits = constraint.limits(n_rows, n_columns)
            excludes |= bool(limits[-1, 0] > 0 or limits[0, 1] < n_columns)
        return cls(table, *kinds) if excludes else None


@lru_cache(1 << 12)
def _limits(constraint: Constraint, n_rows: int, n_columns: int) -> np.ndarray:
    if constraint.kind == "sakoe_chiba":
        rows = np.arange(n_rows)
        first = rows - max(0, n_rows - n_columns) - int(constraint.reach)
        stop = rows + max(0, n_columns - n_rows) + int(constraint.reach) + 1
    elif constraint.is_turned:
        first, stop = _itakura_bounds(n_columns, n_rows, constraint.reach)
    else:
        lower, upper = _itakura_bounds(n_rows, n_columns, constraint.reach)
        rows = np.arange(n_rows)  # Bounds never fall, so the columns that include a row are neighbors.
        first, stop = np.searchsorted(upper, rows, side="right"), np.searchsorted(lower, rows, side="right")
    limits = np.clip(np.stack([first, stop], axis=1), 0, n_columns).astype(np.int32)
    first, stop = limits.T
    if first[0] > 0 or stop[-1] < n_columns or (first >= stop).any() or (first[1:] > stop[:-1]).any():
        lengths = (n_columns, n_rows) if constraint.is_turned else (n_rows, n_columns)
        raise UsageError(
            f"no alignment of a series of {lengths[0]} steps with one of {lengths[1]} keeps to itakura_max_slope="
            f"{constraint.reach:g}: raise the slope, or bring the series to one length"
        )
    limits.flags.writeable = False
    return limits


def _itakura_bounds(n_rows: int, n_columns: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's first row, and its last + 1, before they are cut off at the mask's ends."""
    steepest, flattest = slope * (n_rows / n_columns), (1 / slope) * (n_rows / n_columns)
    at = np.arange(n_columns)
    last = n_columns - 1
    from_start, from_end = flattest * at, (n_rows - 1) - steepest * last + steepest * at
    lower = np.ceil(np.maximum(np.round(from_start, 2), np.round(from_end, 2)))
    from_start, from_end = steepest * at, (n_rows - 1) - flattest * last + flattest * at
    upper = np.floor(np.minimum(np.round(from_start, 2), np.round(from_end, 2)) + 1)
    return lower.astype(np.int64), upper.astype(np.int64)
