"""The columns of each row that a global constraint lets an alignment pass through, for the lanes of a block.

Under a global constraint a row has few columns. The ``limits`` of a block then hold these, ``(T_z, 2, w)`` numbers, the
first column and the last + 1 of each lane; and ``(T_z, 2)`` whole numbers, the same of all lanes together. Neither
falls from row to row. The rows that are swept together take the columns of any of them, and what lies outside a row's
own is never reached. Without a constraint ``limits`` is None, and nothing of this is compiled.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from raypipe.softdtw.cells import INLINE, unreached
from raypipe.softdtw.compiling import compiled
from raypipe.softdtw.constraints import Limits
from raypipe.softdtw.lanes import between, in_units, least, load, scratch, splat, width

ROWS = 4  # This many rows are swept at a time.
MEASURED = 8  # With many dimensions, distances of this many rows are computed at a time: eight sums in flight.


def count_columns(limits: Limits) -> int:
    """Return the largest number of columns of rows that are swept together, for all series."""
    first, stop = limits.table[..., 0].min(axis=(0, 1)), limits.table[..., 1].max(axis=(0, 1))
    last = np.minimum(np.arange(len(first)) + ROWS, len(first)) - 1
    return int((stop[last] - first).max())


def make_room(limits: Limits, x: Any) -> tuple[Any, ...]:
    """Return the table and a thread's own memory for the limits of a block."""
    n_rows = limits.table.shape[2]
    own = scratch(2 * (n_rows + MEASURED) * x.lanes, x.dtype), np.empty(2 * (n_rows + MEASURED), np.int64)
    return limits.table, limits.row_kinds, limits.column_kinds, own


def columns(limits, first, n_rows, n_columns):
    """Return the first column of any of some rows, and the last + 1."""
    raise NotImplementedError("only in compiled code")


@overload(columns, jit_options=INLINE)
def _columns(limits, first, n_rows, n_columns):
    if isinstance(limits, types.NoneType):
        return lambda limits, first, n_rows, n_columns: (0, n_columns)
    return lambda limits, first, n_rows, n_columns: (limits[1][2 * first], limits[1][2 * (first + n_rows) - 1])


def columns_of_group(limits, i, n_rows, n_columns):
    """Return the columns of the rows that are swept together with row i of ``n_rows``."""
    raise NotImplementedError("only in compiled code")


@overload(columns_of_group, jit_options=INLINE)
def _columns_of_group(limits, i, n_rows, n_columns):
    if isinstance(limits, types.NoneType):
        return lambda limits, i, n_rows, n_columns: (0, n_columns)

    def impl(limits, i, n_rows, n_columns):
        top = i - i % ROWS
        return columns(limits, top, min(ROWS, n_rows - top), n_columns)

    return impl


def is_outside(limits, first, n_rows, start, stop):
    """Return whether none of some rows has a column from ``start`` to ``stop - 1``."""
    raise NotImplementedError("only in compiled code")


@overload(is_outside, jit_options=INLINE)
def _is_outside(limits, first, n_rows, start, stop):
    if isinstance(limits, types.NoneType):
        return lambda limits, first, n_rows, start, stop: False

    def impl(limits, first, n_rows, start, stop):
        low, high = columns(limits, first, n_rows, stop)
        return stop <= low or start >= high

    return impl


def bounded(distance, limits, i, j):
    """Return the distance, and in lanes where column j lies outside of row i one that is never overcome."""
    raise NotImplementedError("only in compiled code")


@overload(bounded, jit_options=INLINE)
def _bounded(distance, limits, i, j):
    if isinstance(limits, types.NoneType):
        return lambda distance, limits, i, j: distance

    def impl(distance, limits, i, j):
        own = limits[0]
        w = width(own)
        low, high = load(own, 2 * i * w), load(own, (2 * i + 1) * w)
        return between(distance, own.dtype.type(j), low, high, unreached(own) / in_units(splat(own.dtype.type(1))))

    return impl


def clipped(e, limits, never):
    """Return e of a cell, which outside of a constraint is that of a cell that cannot be reached, and never more."""
    raise NotImplementedError("only in compiled code")


@overload(clipped, jit_options=INLINE)
def _clipped(e, limits, never):
    if isinstance(limits, types.NoneType):
        return lambda e, limits, never: e
    return lambda e, limits, never: least(e, never)


def limits_from(limits, first, w):
    """Return the limits of the rows from ``first`` on."""
    raise NotImplementedError("only in compiled code")


@overload(limits_from, jit_options=INLINE)
def _limits_from(limits, first, w):
    if isinstance(limits, types.NoneType):
        return lambda limits, first, w: None
    return lambda limits, first, w: (limits[0][2 * first * w :], limits[1][2 * first :])


@compiled(nogil=True)
def _set_limits(table, kinds, rows, own, both):
    """Write the limits of a block's lanes, and of all of them together, for centers of one kind."""
    n_rows = table.shape[1]
    w = len(own) // (len(both) // 2) // 2
    for i in range(n_rows):
        low, high = table[kinds[rows[0]], i, 0], table[kinds[rows[0]], i, 1]
        for lane in range(w):
            kind = kinds[rows[min(lane, len(rows) - 1)]]
            first, stop = table[kind, i, 0], table[kind, i, 1]
            own[2 * i * w + lane], own[(2 * i + 1) * w + lane] = first, stop
            low, high = min(low, first), max(high, stop)
        both[2 * i], both[2 * i + 1] = low, high


def forget(limits, kind):
    """Return the kind of center that the limits last set are of in the next block: -1 if they do not hold there."""
    raise NotImplementedError("only in compiled code")


@overload(forget, jit_options=INLINE)
def _forget(limits, kind):
    if isinstance(limits, types.NoneType):
        return lambda limits, kind: kind
    return lambda limits, kind: kind if limits[0].shape[1] == 1 else -1


def lookup(limits, kind, other, rows, w):
    """Set the limits of a block with a center, unless they are set; return the center's kind, and them or None."""
    raise NotImplementedError("only in compiled code")


@overload(lookup, jit_options=INLINE)
def _lookup(limits, kind, other, rows, w):
    if isinstance(limits, types.NoneType):
        return lambda limits, kind, other, rows, w: (kind, None)

    def impl(limits, kind, other, rows, w):
        table, row_kinds, column_kinds, bounds = limits
        now = row_kinds[other]
        if now != kind:
            _set_limits(table[now], column_kinds, rows, bounds[0], bounds[1])
        return now, bounds

    return impl
