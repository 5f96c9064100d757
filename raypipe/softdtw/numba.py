"""Soft-DTW on the CPU's cores: blocks of series, a lane each, swept against one center after another.

Series are not copied as a whole: each block is scaled and laid out when it is swept. So beyond the series a pass needs
memory only for its result, for the order of the series, and for the blocks in progress.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import config, get_num_threads, njit, prange, set_num_threads

from raypipe.softdtw.series import Series, Statistics
from raypipe.softdtw.sweeps import BAND, MEASURED, ROWS, UNROLLED, advance, begin, gather_sums, read_values, sweep_back

_CHUNKS_A_CORE = 8  # This balances the cores; more chunks would allocate their buffers more often.
_PARTS = 128  # Statistics are summed in about this many parts on any number of cores, so the bits are always the same.
_FLUSHED = 64  # This many blocks are summed in the series' precision before the sum is added up in float64.
_KEPT_BYTES = 512 << 10  # The probabilities of a strip of rows fit in this, and so in a core's cache.
_LOG2_E = float(np.log2(np.e))
_SAMPLED = 256  # The data are centred on the mean of at most this many series.
_SHARED = 2_000_000  # With fewer operations, waking a second core takes longer than it saves.

_alone = threading.Lock()  # numba's simplest threading layer ends the process if it is entered twice.


@contextmanager
def _cores(x: "HostSeries", n_centers: int, n_rows: int) -> Iterator[None]:
    """Reserve the cores for a pass over all cells: all cores, or one if there is little to do."""
    _, n_steps, dim = x.shape
    work = len(x.series) * n_steps * n_centers * n_rows * (dim + 8)
    allowed = get_num_threads()
    with _alone:
        set_num_threads(allowed if work > _SHARED else 1)
        try:
            yield
        finally:
            set_num_threads(allowed)


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


def prepare(x: Series, dtype: str, origin: np.ndarray | None = None) -> HostSeries:
    """Choose the origin (d,) that is subtracted from the steps, unless it is given; nothing is copied."""
    if origin is not None:
        return HostSeries(x, origin, np.dtype(dtype))
    few = slice(None, None, -(-len(x) // _SAMPLED))
    sample = x.values[few].astype(np.float64)
    if x.lengths is not None:
        sample = np.concatenate(list(Series(sample, x.lengths[few]).rows()))
    return HostSeries(x, sample.reshape(-1, x.values.shape[2]).mean(axis=0), np.dtype(dtype))


def cdist(x: HostSeries, y: HostSeries | None, gamma: float) -> np.ndarray:
    """Return soft-DTW between n series and m others, or among the n if ``y`` is None: (n, m)."""
    if y is not None and len(x.series) < len(y.series):
        return cdist(y, x, gamma).T
    n, m = len(x.series), len((y or x).series)
    out = np.empty((n, m), x.dtype)
    order = _order(np.zeros(n, np.int32), 1, x)
    others = order if y is None else np.arange(m, dtype=np.int32)
    with _cores(x, m, (y or x).shape[1]):
        _fill_matrix(*_blocks(x, order, gamma), *_centers(y or x, x, gamma), others, y is None, out)
    out *= gamma / _LOG2_E
    return out


def self_values(x: HostSeries, gamma: float) -> np.ndarray:
    """Return soft-DTW of each of n series with itself: (n,)."""
    out = np.empty(len(x.series), x.dtype)
    with _cores(x, 1, x.shape[1]):
        _fill_own(*_blocks(x, _order(np.zeros(len(out), np.int32), 1, x), gamma), out)
    return out * (gamma / _LOG2_E)


def assign(x: HostSeries, centers: np.ndarray, gamma: float, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of (k, T, d) centers to each series, by soft-DTW minus the center's offset.

    Returns (n,) labels, and the (n,) values of soft-DTW without the offset.
    """
    n = len(x.series)
    labels, values = np.empty(n, np.int32), np.empty(n, x.dtype)
    order = _order(np.zeros(n, np.int32), 1, x)
    less = (offsets * (_LOG2_E / gamma)).astype(x.dtype)
    with _cores(x, *centers.shape[:2]):
        _find_nearest(*_blocks(x, order, gamma), *_centers(Series(centers), x, gamma), less, labels, values)
    values *= gamma / _LOG2_E
    return labels, values


def statistics(
    x: HostSeries, centers: np.ndarray, labels: np.ndarray, gamma: float, weights: np.ndarray | None = None
) -> Statistics:
    """Sum the values and expected alignments of each center's series, to the same bits on any number of cores."""
    k, n_steps, dim = centers.shape
    labels = labels.astype(np.int32, copy=False)
    counts = np.bincount(labels, minlength=k)
    lanes = 64 // x.dtype.itemsize
    blocks = -(-counts // lanes)
    taken = lanes * max(1, -(-int(blocks.sum()) // _PARTS))  # series in a part
    parts = -(-counts // taken)
    cluster = np.repeat(np.arange(k), parts)
    within = np.arange(len(cluster)) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = (np.cumsum(counts) - counts)[cluster] + within * taken
    stops = np.minimum(starts + taken, np.cumsum(counts)[cluster])
    sums = np.zeros((len(cluster), n_steps, dim + 1))
    values = np.zeros(len(cluster))
    order = _order(labels, k, x)
    own = np.empty(0, x.dtype) if weights is None else weights.astype(x.dtype)
    z, _ = _centers(Series(centers), x, gamma)
    with _cores(x, 3, n_steps):
        _sum_alignments(*_blocks(x, order, gamma), z, own, cluster, starts, stops, sums, values)
    total = np.zeros((k, n_steps, dim + 1))
    np.add.at(total, cluster, sums)
    value = np.bincount(cluster, values, minlength=k) * (gamma / _LOG2_E)
    weight = np.bincount(labels, weights, minlength=k).astype(np.float64)
    mass = total[:, :, 0]
    steps = total[:, :, 1:] * np.sqrt(gamma / _LOG2_E) + x.origin * mass[:, :, None]
    return Statistics(steps, mass, value, weight)


def _blocks(x: HostSeries, order: np.ndarray, gamma: float) -> tuple[Any, ...]:
    """Return the arguments with which kernels lay out blocks of series."""
    dim = x.shape[2]
    dims = (0,) * dim if dim <= UNROLLED else dim
    n_blocks = -(-len(order) * x.dtype.itemsize // 64)
    n_chunks = min(n_blocks, _CHUNKS_A_CORE * config.NUMBA_NUM_THREADS)
    return x.series.values, x.lengths, order, n_chunks, x.origin, np.sqrt(_LOG2_E / gamma), dims


def _centers(y: HostSeries | Series, x: HostSeries, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return m centers (m, T + MEASURED, d), scaled and centred for a pass over ``x``, and their lengths (m,)."""
    series = y.series if isinstance(y, HostSeries) else y
    m, n_steps, dim = series.values.shape
    z = np.zeros((m, n_steps + MEASURED, dim), x.dtype)
    z[:, :n_steps] = (series.values - x.origin) * np.sqrt(_LOG2_E / gamma)
    lengths = np.full(m, n_steps) if series.lengths is None else series.lengths
    return z, lengths.astype(np.int64, copy=False)


def _order(labels: np.ndarray, n_labels: int, x: HostSeries) -> np.ndarray:
    """Return the order, (n,) int32, of series by label and then by length, which is cut into blocks."""
    if n_labels == 1 and not len(x.lengths):
        return np.arange(len(labels), dtype=np.int32)
    return _count_sort(labels, n_labels, x.lengths, x.shape[1])


@njit(cache=True)
def _count_sort(labels, n_labels, lengths, longest):
    n_keys = longest + 1 if len(lengths) else 1
    ends = np.zeros(n_labels * n_keys + 1, np.int64)
    for n in range(len(labels)):
        ends[labels[n] * n_keys + (lengths[n] if len(lengths) else 0) + 1] += 1
    for key in range(n_labels * n_keys):
        ends[key + 1] += ends[key]
    order = np.empty(len(labels), np.int32)
    for n in range(len(labels)):
        key = labels[n] * n_keys + (lengths[n] if len(lengths) else 0)
        order[ends[key]] = n
        ends[key] += 1
    return order


@njit(cache=True)
def _scratch(size, like):
    """Allocate a flat array of the type of ``like``, aligned so that no lanes lie across two cache lines."""
    memory = np.empty(size * like.itemsize + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size * like.itemsize].view(like.dtype)


@njit(cache=True)
def _workspace(n_steps, dim, like):
    """Allocate a chunk's buffers: x, border, distances, a column, a block's values, and its series' lengths."""
    w = 64 // like.itemsize
    return (
        _scratch((n_steps + MEASURED) * dim * w, like),
        _scratch(2 * (n_steps + 1) * w, like),
        _scratch(BAND * n_steps * w, like),
        _scratch(w, like),
        _scratch(w, like),
        np.empty(w, np.int64),
    )


@njit(cache=True)
def _compare(x, center, dims, border, longest, n_rows, rows, widths, column, found, distances):
    """Write soft-DTW between a block's series and one center to found (w,)."""
    begin(border, longest)
    top = longest - longest  # This is 0, but not a literal, for which numba would compile the sweep once more.
    advance(x, center, None, dims, border, longest, top, n_rows, None, distances)
    _read(border, widths, len(rows), column, found)


@njit(cache=True)
def _lay_out(values, lengths, rows, origin, scale, x, widths):
    """Write the series of these rows to x (T, d, w) and their lengths to widths (w,); return the longest length."""
    w = len(widths)
    _, n_steps, dim = values.shape
    longest = 0
    for lane in range(w):
        widths[lane] = 0
        if lane < len(rows):
            widths[lane] = lengths[rows[lane]] if len(lengths) else n_steps
        longest = max(longest, widths[lane])
    for lane in range(w):
        row = rows[min(lane, len(rows) - 1)]
        for j in range(longest):
            for q in range(dim):
                number = (values[row, j, q] - origin[q]) * scale if j < widths[lane] else 0.0
                x[(j * dim + q) * w + lane] = number
    return longest


@njit(cache=True)
def _read(border, widths, n_lanes, column, found):
    """Write each lane's value to found (w,)."""
    read_values(border, widths[0], column)
    at = widths[0]
    for lane in range(n_lanes):
        if widths[lane] != at:
            at = widths[lane]
            read_values(border, at, column)
        found[lane] = column[lane]


@njit(cache=True, parallel=True)
def _fill_matrix(values, lengths, order, n_chunks, origin, scale, dims, z, z_lengths, others, symmetric, out):
    w = 64 // out.itemsize
    n, n_steps, dim = values.shape
    n_blocks = (n + w - 1) // w
    for chunk in prange(n_chunks):
        x, border, distances, column, found, widths = _workspace(n_steps, dim, out)
        # Blocks go round the chunks, because for a symmetric matrix the first blocks are the most work.
        for block in range(chunk, n_blocks, n_chunks):
            rows = order[block * w : (block + 1) * w]
            longest = _lay_out(values, lengths, rows, origin, scale, x, widths)
            for place in range(block * w if symmetric else 0, len(others)):
                other = others[place]
                center = z[other].reshape(-1)
                _compare(x, center, dims, border, longest, z_lengths[other], rows, widths, column, found, distances)
                for lane in range(len(rows)):
                    if not symmetric:
                        out[rows[lane], other] = found[lane]
                    elif place >= block * w + lane:
                        out[rows[lane], other] = found[lane]
                        out[other, rows[lane]] = found[lane]


@njit(cache=True, parallel=True)
def _fill_own(values, lengths, order, n_chunks, origin, scale, dims, out):
    w = 64 // out.itemsize
    n, n_steps, dim = values.shape
    n_blocks = (n + w - 1) // w
    for chunk in prange(n_chunks):
        x, border, distances, column, _, widths = _workspace(n_steps, dim, out)
        for block in range(chunk, n_blocks, n_chunks):
            rows = order[block * w : (block + 1) * w]
            longest = _lay_out(values, lengths, rows, origin, scale, x, widths)
            begin(border, longest)
            done = 0
            for lane in range(len(rows)):  # Lanes are sorted from the shortest series to the longest.
                if widths[lane] > done:
                    advance(x, x, True, dims, border, longest, done, widths[lane], None, distances)
                    done = widths[lane]
                    read_values(border, done, column)
                out[rows[lane]] = column[lane]


@njit(cache=True, parallel=True)
def _find_nearest(values, lengths, order, n_chunks, origin, scale, dims, z, z_lengths, offsets, labels, nearest):
    w = 64 // nearest.itemsize
    n, n_steps, dim = values.shape
    n_blocks = (n + w - 1) // w
    for chunk in prange(n_chunks):
        x, border, distances, column, found, widths = _workspace(n_steps, dim, nearest)
        for block in range(chunk, n_blocks, n_chunks):
            rows = order[block * w : (block + 1) * w]
            longest = _lay_out(values, lengths, rows, origin, scale, x, widths)
            for k in range(len(z)):
                center = z[k].reshape(-1)
                _compare(x, center, dims, border, longest, z_lengths[k], rows, widths, column, found, distances)
                for lane in range(len(rows)):
                    row = rows[lane]
                    if k == 0 or found[lane] - offsets[k] < nearest[row] - offsets[labels[row]]:
                        nearest[row] = found[lane]
                        labels[row] = k


@njit(cache=True, parallel=True)
def _sum_alignments(
    values, lengths, order, n_chunks, origin, scale, dims, z, weights, cluster, starts, stops, sums, totals
):  # fmt: skip
    w = 64 // z.itemsize
    _, n_steps, dim = values.shape
    _, n_rows, _ = sums.shape
    height = _strip_height(n_rows, n_steps, z.itemsize * 2 * w)
    n_strips = (n_rows + height - 1) // height
    for part in prange(len(cluster)):
        x, _, distances, column, found, widths = _workspace(n_steps, dim, z)
        borders = _scratch((n_strips + 1) * 2 * (n_steps + 1) * w, z).reshape(n_strips + 1, -1)
        probabilities = _scratch(2 * height * n_steps * w, z)
        arriving = _scratch(n_steps * w, z)
        held = _scratch(n_rows * (dim + 1) * w, z)
        center = z[cluster[part]].reshape(-1)
        held[:] = 0
        for start in range(starts[part], stops[part], w):
            rows = order[start : min(start + w, stops[part])]
            longest = _lay_out(values, lengths, rows, origin, scale, x, widths)
            begin(borders[0], longest)
            for strip in range(n_strips):
                borders[strip + 1] = borders[strip]
                first, last = strip * height, min((strip + 1) * height, n_rows)
                if strip + 1 < n_strips:
                    advance(x, center, None, dims, borders[strip + 1], longest, first, last, None, distances)
                else:
                    advance(x, center, None, dims, borders[strip + 1], longest, first, last, probabilities, distances)
            _read(borders[n_strips], widths, len(rows), column, found)
            arriving[:] = 0
            for lane in range(len(rows)):
                weight = weights[rows[lane]] if len(weights) else z.dtype.type(1)
                arriving[(widths[lane] - 1) * w + lane] = weight
                totals[part] += weight * np.float64(found[lane])
            for strip in range(n_strips - 1, -1, -1):
                first, last = strip * height, min((strip + 1) * height, n_rows)
                if strip + 1 < n_strips:
                    advance(x, center, None, dims, borders[strip], longest, first, last, probabilities, distances)
                sweep_back(probabilities, arriving, longest, last - first)
                gather_sums(probabilities, x, dim, longest, last - first, held, first)
            if (start - starts[part]) // w % _FLUSHED == _FLUSHED - 1:
                _flush(held, w, sums[part])
        _flush(held, w, sums[part])


@njit(cache=True)
def _strip_height(n_rows, n_columns, cell_bytes):
    """Return how many rows' probabilities are kept together: all rows', or about the square root of many."""
    if n_rows * n_columns * cell_bytes <= _KEPT_BYTES:
        return n_rows
    return ROWS * max(1, int(np.sqrt(n_rows) / ROWS))


@njit(cache=True)
def _flush(held, w, sums):
    """Add the lanes' sums to (T, d + 1) float64, and set them to 0."""
    n_rows, n_sums = sums.shape
    for i in range(n_rows):
        for q in range(n_sums):
            for lane in range(w):
                sums[i, q] += held[(i * n_sums + q) * w + lane]
    held[:] = 0
