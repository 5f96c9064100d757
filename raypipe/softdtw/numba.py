"""Soft-DTW on the CPU's cores: blocks of series, a lane each, swept against one center after another.

Series are not copied as a whole: a thread scales and lays out a piece, some blocks, and sweeps it. So beyond the series
a pass needs memory only for its result, for the order of the series, and for the pieces in progress. Threads are
Python's, and compiled functions release its lock: numba's own parallel loops take several times as long to compile.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads

from raypipe.softdtw.constraints import Constraint, Limits
from raypipe.softdtw.lanes import lane_bytes, scratch
from raypipe.softdtw.limits import count_columns, make_room
from raypipe.softdtw.passes import compare_blocks, compare_own_blocks, count_sort, lay_out, sum_alignments
from raypipe.softdtw.series import Series, Statistics
from raypipe.softdtw.sweeps import BAND, MEASURED, ROWS, UNROLLED

NAME = "numba"
_PART = 10_000_000  # A part of a pass has at least so many operations; a smaller one would take less than its start.
_SUMS = 128  # Statistics are summed in at most about this many parts.
_FLUSHED = 64  # This many blocks at most are laid out, and summed in the series' precision, at a time.
_LAID_OUT_BYTES = 1 << 20  # So much at most is laid out at a time, if it is more than one block.
_KEPT_BYTES = 512 << 10  # The probabilities of a strip of rows fit in this, and so in a core's cache.
_LOG2_E = float(np.log2(np.e))
_TABLE = 1 << 24  # A table of the limits of pairs of lengths has at most so many rows.
_SAMPLED = 64  # The data are centred on the mean of at most this many series.


@dataclass(frozen=True)
class HostSeries:
    """Series as given, with the origin and the type in which passes over them compute.

    ``origin``, (d,) float64, is subtracted from every step: soft-DTW does not change, and float32 loses fewer digits.
    """

    series: Series
    origin: np.ndarray
    dtype: np.dtype

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int32, or (0,) if all lengths are equal."""
        return np.empty(0, np.int32) if self.series.lengths is None else self.series.lengths

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the values, (n, T, d)."""
        return self.series.values.shape

    @cached_property
    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lengths that there are, in order, and which of them each series has: (c,) and (n,) int32."""
        if self.series.lengths is None:
            return np.array([self.shape[1]]), np.zeros(len(self.series), np.int32)
        lengths, kinds = np.unique(self.lengths, return_inverse=True)
        return lengths, kinds.astype(np.int32)

    @property
    def lanes(self) -> int:
        """Number of series in a block."""
        return lane_bytes() // self.dtype.itemsize

    @property
    def dims(self) -> Any:
        """The number of dimensions, as `sweep` takes it: a few are a tuple, so that they can be unrolled."""
        dim = self.shape[2]
        return (0,) * dim if dim <= UNROLLED else dim


def prepare(x: Series, dtype: str, origin: np.ndarray | None = None) -> HostSeries:
    """Choose the origin (d,) that is subtracted from the steps, unless it is given; nothing is copied."""
    if origin is not None:
        return HostSeries(x, origin, np.dtype(dtype))
    few = slice(None, None, -(-len(x) // _SAMPLED))
    sample = x.values[few].astype(np.float64)
    if x.lengths is not None:
        sample = np.concatenate(list(Series(sample, x.lengths[few]).rows()))
    return HostSeries(x, sample.reshape(-1, x.values.shape[2]).mean(axis=0), np.dtype(dtype))


def cdist(x: HostSeries, y: HostSeries | None, gamma: float, constraint: Constraint | None = None) -> np.ndarray:
    """Return soft-DTW between n series and m others, or among the n if ``y`` is None: (n, m).

    The rows of the constraint are the steps of ``x``, and among the n those of the series of the lower number.
    """
    if y is not None and len(x.series) < len(y.series):
        return cdist(y, x, gamma, constraint and constraint.turned).T
    if y is None and constraint is not None and len(x.lengths):
        # Blocks are sorted by length, so a pair may come in either order.
        full = cdist(x, x, gamma, constraint)
        return np.triu(full) + np.triu(full, 1).T
    if y is not None and constraint is not None and len(y.kinds[0]) > max(1, _TABLE // (len(x.kinds[0]) * y.shape[1])):
        halves = np.array_split(np.argsort(y.lengths, kind="stable"), 2)
        parts = [cdist(x, replace(y, series=y.series.take(half)), gamma, constraint) for half in halves]
        return np.hstack(parts)[:, np.argsort(np.concatenate(halves))]
    n, m = len(x.series), len((y or x).series)
    out = np.empty((n, m), x.dtype)
    order = _order(np.zeros(n, np.int32), 1, x)
    others = order if y is None else np.arange(m, dtype=np.int32)
    nobody = np.empty(0, x.dtype)
    _compare_all(x, order, y or x, gamma, constraint, others, y is None, out, nobody, np.empty(0, np.int32), nobody)
    out *= gamma / _LOG2_E
    return out


def self_values(x: HostSeries, gamma: float, constraint: Constraint | None = None) -> np.ndarray:
    """Return soft-DTW of each of n series with itself: (n,)."""
    out = np.empty(len(x.series), x.dtype)
    starts, stops = _cut(len(out), x.lanes)
    limits = Limits.of_own(constraint, x.kinds) if constraint else None

    def compare(piece: _Piece, room: _Room, first: int) -> None:
        compare_own_blocks(*piece, x.dims, *room, out, limits and make_room(limits, x))

    blocks = _Blocks(x, gamma, _order(np.zeros(len(out), np.int32), 1, x), starts, stops, limits)
    blocks.share(compare, blocks.parts(1, x.shape[1]))
    return out * (gamma / _LOG2_E)


def assign(
    x: HostSeries, centers: np.ndarray, gamma: float, offsets: np.ndarray, constraint: Constraint | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of (k, T, d) centers to each series, by soft-DTW minus the center's offset.

    The rows of the constraint are the steps of ``x``. Returns (n,) labels, and the (n,) values of soft-DTW without the
    offset.
    """
    n = len(x.series)
    labels, values = np.empty(n, np.int32), np.empty(n, x.dtype)
    order = _order(np.zeros(n, np.int32), 1, x)
    less = (offsets * (_LOG2_E / gamma)).astype(x.dtype)
    others = np.arange(len(centers), dtype=np.int32)
    no_matrix = np.empty((0, 0), x.dtype)
    _compare_all(x, order, Series(centers), gamma, constraint, others, False, no_matrix, less, labels, values)
    values *= gamma / _LOG2_E
    return labels, values


def statistics(
    x: HostSeries,
    centers: np.ndarray,
    labels: np.ndarray,
    gamma: float,
    weights: np.ndarray | None = None,
    constraint: Constraint | None = None,
) -> Statistics:
    """Sum the values and expected alignments of each center's series, to the same bits on any number of cores.

    The rows of the constraint are the steps of the centers.
    """
    k, n_rows, dim = centers.shape
    labels = labels.astype(np.int32, copy=False)
    counts = np.bincount(labels, minlength=k)
    ends = np.cumsum(counts)
    n_blocks = -(-counts // x.lanes)
    cluster = np.repeat(np.arange(k), n_blocks)  # The cluster of each block.
    within = np.arange(len(cluster)) - np.repeat(np.cumsum(n_blocks) - n_blocks, n_blocks)
    starts = (ends - counts)[cluster] + within * x.lanes
    stops = np.minimum(starts + x.lanes, ends[cluster])
    limits = Limits.of(constraint, np.array([n_rows]), x.kinds) if constraint else None
    blocks = _Blocks(x, gamma, _order(labels, k, x), starts, stops, limits)
    edges = blocks.parts(3, n_rows, _SUMS)
    part = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    # A part's blocks of one cluster have a sum of their own, so that no two threads add to one.
    new = np.diff(cluster, prepend=-1).astype(bool) | np.diff(part, prepend=-1).astype(bool)
    to = np.cumsum(new) - 1
    sums, values = np.zeros((int(new.sum()), n_rows, dim + 1)), np.zeros(int(new.sum()))
    own = np.empty(0, x.dtype) if weights is None else weights.astype(x.dtype)
    z, _ = _centers(Series(centers), x, gamma)
    height = _strip_height(n_rows, blocks.n_columns, 2 * lane_bytes())

    def add_up(piece: _Piece, room: _Room, first: int) -> None:
        of = slice(first, first + len(piece.starts))
        size = 2 * (x.shape[1] + 1) * x.lanes
        more = (
            scratch(-(-n_rows // height) * size, x.dtype),
            scratch(2 * height * x.shape[1] * x.lanes, x.dtype),
            scratch(x.shape[1] * x.lanes, x.dtype),
            scratch(n_rows * (dim + 1) * x.lanes, x.dtype),
        )
        bounds = limits and make_room(limits, x)
        sum_alignments(*piece, x.dims, *room, z, own, cluster[of], to[of], height, *more, sums, values, bounds)

    blocks.share(add_up, edges)
    total = np.zeros((k, n_rows, dim + 1))
    np.add.at(total, cluster[new], sums)
    value = np.bincount(cluster[new], values, minlength=k) * (gamma / _LOG2_E)
    weight = np.bincount(labels, weights, minlength=k).astype(np.float64)
    mass = total[:, :, 0]
    steps = total[:, :, 1:] * np.sqrt(gamma / _LOG2_E) + x.origin * mass[:, :, None]
    return Statistics(steps, mass, value, weight)


class _Piece(NamedTuple):
    """Some blocks, laid out: x (b, T · d · w), their series' lengths (b, w), and whose these are."""

    x: np.ndarray
    widths: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


class _Room(NamedTuple):
    """The memory that a thread sweeps in: the border, distances, and a column's values (w,)."""

    border: np.ndarray
    distances: np.ndarray
    column: np.ndarray


@dataclass(frozen=True)
class _Blocks:
    """Blocks of at most w series: those at ``starts`` to ``stops`` of the order."""

    x: HostSeries
    gamma: float
    order: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    limits: Limits | None = None

    @property
    def n_columns(self) -> int:
        """The number of columns of a row that a pass computes."""
        return self.x.shape[1] if self.limits is None else count_columns(self.limits)

    def parts(self, n_centers: int, n_rows: int, most: int | None = None) -> np.ndarray:
        """Return where the parts of a pass begin and end; they depend on the work, but on no number of cores."""
        n_blocks, dim = len(self.starts), self.x.shape[2]
        operations = n_blocks * self.x.lanes * self.n_columns * n_centers * n_rows * (dim + 8)
        n_parts = min(n_blocks, most or n_blocks, 1 + operations // _PART)
        return np.linspace(0, n_blocks, n_parts + 1).astype(np.int64)

    def share(self, work: Callable[[_Piece, _Room, int], None], edges: np.ndarray) -> None:
        """Share out parts to threads, which call ``work`` with each piece and the number of its first block.

        There are no more threads than `numba.get_num_threads` allows. They end with the pass: threads that were kept
        would be missing in a process that is forked off.
        """
        left = iter([*zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)])
        n_threads = min(get_num_threads(), len(edges) - 1)
        if n_threads <= 1:
            return self._work_off(left, work)
        with ThreadPoolExecutor(n_threads - 1) as pool:
            others = [pool.submit(self._work_off, left, work) for _ in range(n_threads - 1)]
            try:
                self._work_off(left, work)
            finally:
                for _ in left:  # After an interrupt the others stop at the end of their parts.
                    pass
            for one in others:
                one.result()

    def _work_off(self, left: Iterator[tuple[int, int]], work: Callable[[_Piece, _Room, int], None]) -> None:
        """Take parts until none is left."""
        x, w = self.x, self.x.lanes
        _, n_steps, dim = x.shape
        size = (n_steps + MEASURED) * dim * w
        n_laid_out = max(1, min(_FLUSHED, _LAID_OUT_BYTES // (size * x.dtype.itemsize), len(self.starts)))
        laid_out = scratch(n_laid_out * size, x.dtype).reshape(n_laid_out, size)
        widths = np.empty((n_laid_out, w), np.int64)
        room = _Room(*(scratch(n * w, x.dtype) for n in (2 * (n_steps + 1), BAND * (n_steps | 1), 1)))
        values, lengths, scale = x.series.values, x.lengths, np.sqrt(_LOG2_E / self.gamma)
        for begin_, end in left:
            for first in range(begin_, end, n_laid_out):
                of = slice(first, min(first + n_laid_out, end))
                piece = _Piece(laid_out, widths, self.order, self.starts[of], self.stops[of])
                lay_out(values, lengths, x.origin, scale, *piece)
                work(piece, room, first)


def _compare_all(
    x: HostSeries,
    order: np.ndarray,
    y: HostSeries | Series,
    gamma: float,
    constraint: Constraint | None,
    others: np.ndarray,
    symmetric: bool,
    *found: Any,
) -> None:
    """Compare all series with all others, and write what is asked for: see `raypipe.softdtw.passes.compare_blocks`."""
    z, z_lengths = _centers(y, x, gamma)
    limits = Limits.of(constraint.turned, z_lengths, x.kinds) if constraint else None
    blocks = _Blocks(x, gamma, order, *_cut(len(order), x.lanes), limits)

    def compare(piece: _Piece, room: _Room, first: int) -> None:
        compare_blocks(*piece, x.dims, *room, z, z_lengths, others, symmetric, *found, limits and make_room(limits, x))

    blocks.share(compare, blocks.parts(len(others), int(z_lengths.max())))


def _cut(n: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and stops of blocks of w out of n."""
    starts = np.arange(0, n, w)
    return starts, np.minimum(starts + w, n)


def _centers(y: HostSeries | Series, x: HostSeries, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return m centers (m, (T + MEASURED) · d), scaled and centred for a pass over ``x``, and their lengths (m,)."""
    series = y.series if isinstance(y, HostSeries) else y
    m, n_steps, dim = series.values.shape
    z = np.zeros((m, n_steps + MEASURED, dim), x.dtype)
    z[:, :n_steps] = (series.values - x.origin) * np.sqrt(_LOG2_E / gamma)
    lengths = np.full(m, n_steps) if series.lengths is None else series.lengths
    return z.reshape(m, -1), lengths.astype(np.int64, copy=False)


def _order(labels: np.ndarray, n_labels: int, x: HostSeries) -> np.ndarray:
    """Return the order, (n,) int32, of series by label and then by length, which is cut into blocks."""
    if n_labels == 1 and not len(x.lengths):
        return np.arange(len(labels), dtype=np.int32)
    return count_sort(labels, n_labels, x.lengths, x.shape[1])


def _strip_height(n_rows: int, n_columns: int, cell_bytes: int) -> int:
    """Return how many rows' probabilities are kept together: all rows', or about the square root of many."""
    if n_rows * n_columns * cell_bytes <= _KEPT_BYTES:
        return n_rows
    return ROWS * max(1, int(np.sqrt(n_rows) / ROWS))
