"""What `raypipe.softdtw.numba` compiles to go through blocks of series: sort them, lay out, compare, sum."""

import numpy as np

from raypipe.softdtw.compiling import compiled
from raypipe.softdtw.limits import forget, limits_from, lookup
from raypipe.softdtw.sweeps import advance, begin, gather_sums, read_values, sweep_back


@compiled(nogil=True)
def count_sort(labels, n_labels, lengths, longest):
    """Return the order of series by label, and of one label by length: (n,) int32."""
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


@compiled(nogil=True)
def lay_out(values, lengths, origin, scale, x, widths, order, starts, stops):
    """Write blocks of series to x (b, T · d · w), and their lengths to widths (b, w), 0 where a lane has none."""
    _, n_steps, dim = values.shape
    _, w = widths.shape
    for block in range(len(starts)):
        last = stops[block] - 1
        longest = lengths[order[last]] if len(lengths) else n_steps  # Lanes are sorted from the shortest series.
        for lane in range(w):
            at = starts[block] + lane
            row = order[min(at, last)]
            length = lengths[row] if len(lengths) else n_steps
            widths[block, lane] = length if at <= last else 0
            for j in range(longest):
                for q in range(dim):
                    number = (values[row, j, q] - origin[q]) * scale if j < length else 0.0
                    x[block, (j * dim + q) * w + lane] = number


@compiled(nogil=True)
def compare_blocks(
    x, widths, order, starts, stops, dims, border, distances, column,
    z, z_lengths, others, symmetric, matrix, offsets, labels, nearest, limits,
):  # fmt: skip
    """Compare blocks of series with others: write the matrix (n, m), or labels and values (n,) if there are offsets.

    In a symmetric matrix the others are the series, in their order, and each pair is compared once.
    """
    top = np.int64(0)  # For a literal 0 numba would compile the sweep once more.
    kind = -1
    for block in range(len(starts)):
        start, stop = starts[block], stops[block]
        own, longest = x[block], widths[block, stop - start - 1]
        kind = forget(limits, kind)
        for place in range(start if symmetric else 0, len(others)):
            other = others[place]
            kind, bounds = lookup(limits, kind, other, order[start:stop], widths.shape[1])
            begin(border, longest)
            advance(own, z[other], None, dims, border, longest, top, z_lengths[other], None, distances, bounds)
            at = 0
            for lane in range(stop - start):
                if widths[block, lane] != at:
                    at = widths[block, lane]
                    read_values(border, at, column)
                row, value = order[start + lane], column[lane]
                if len(offsets):
                    if place == 0 or value - offsets[other] < nearest[row] - offsets[labels[row]]:
                        nearest[row] = value
                        labels[row] = other
                elif not symmetric:
                    matrix[row, other] = value
                elif place >= start + lane:
                    matrix[row, other] = value
                    matrix[other, row] = value


@compiled(nogil=True)
def compare_own_blocks(x, widths, order, starts, stops, dims, border, distances, column, out, limits):
    """Compare each series of some blocks with itself, and write the values to out (n,)."""
    for block in range(len(starts)):
        own = x[block]
        _, bounds = lookup(limits, -1, 0, order[starts[block] : stops[block]], widths.shape[1])
        n = stops[block] - starts[block]
        longest = widths[block, n - 1]
        begin(border, longest)
        done = np.int64(0)
        for lane in range(n):
            width = widths[block, lane]
            if width > done:
                advance(own, own, True, dims, border, longest, done, width, None, distances, bounds)
                done = width
                read_values(border, done, column)
            out[order[starts[block] + lane]] = column[lane]


@compiled(nogil=True)
def sum_alignments(
    x, widths, order, starts, stops, dims, border, distances, column,
    z, weights, clusters, to, height, borders, probabilities, arriving, held, sums, totals, limits,
):  # fmt: skip
    """Add the alignments of blocks with their clusters' centers to the sums, and their values to the totals.

    Borders (strips, T + 1, 2, w) are those above the strips of the center's rows.
    """
    w = widths.shape[1]
    n_rows, n_sums = sums.shape[1:]
    n_strips = (n_rows + height - 1) // height
    size = len(border)
    kind = -1
    _clear(held)
    for block in range(len(starts)):
        kind = forget(limits, kind)
        kind, bounds = lookup(limits, kind, 0, order[starts[block] : stops[block]], w)
        start, stop = starts[block], stops[block]
        longest = widths[block, stop - start - 1]
        own, center = x[block], z[clusters[block]]
        begin(borders, longest)
        for strip in range(n_strips - 1):
            above, below = strip * size, borders[(strip + 1) * size :]
            for i in range(size):
                below[i] = borders[above + i]
            first = strip * height
            advance(own, center, None, dims, below, longest, first, first + height, None, distances, bounds)
        for strip in range(n_strips - 1, -1, -1):
            first, last = strip * height, min((strip + 1) * height, n_rows)
            below = borders[strip * size :]
            advance(own, center, None, dims, below, longest, first, last, probabilities, distances, bounds)
            if strip == n_strips - 1:
                rows = order[start:stop]
                totals[to[block]] += _enter(below, widths[block], rows, weights, column, arriving)
            below_first = limits_from(bounds, first, w)
            sweep_back(probabilities, arriving, longest, last - first, below_first)
            gather_sums(probabilities, own, n_sums - 1, longest, last - first, held, first, below_first)
        if block + 1 == len(starts) or to[block + 1] != to[block]:
            _flush(held, w, sums[to[block]])


@compiled(nogil=True)
def _enter(border, widths, rows, weights, column, arriving):
    """Let each series' weight arrive where its alignment ends, (T, w); return the weighted sum of the values."""
    _clear(arriving)
    total, at = 0.0, 0
    for lane in range(len(rows)):
        if widths[lane] != at:
            at = widths[lane]
            read_values(border, at, column)
        weight = weights[rows[lane]] if len(weights) else border.dtype.type(1)
        arriving[(at - 1) * len(widths) + lane] = weight
        total += weight * np.float64(column[lane])
    return total


@compiled(nogil=True)
def _flush(held, w, sums):
    """Add the lanes' sums to (T, d + 1) float64, and set them to 0."""
    n_rows, n_sums = sums.shape
    for i in range(n_rows):
        for q in range(n_sums):
            for lane in range(w):
                sums[i, q] += held[(i * n_sums + q) * w + lane]
    _clear(held)


@compiled(nogil=True)
def _clear(array):
    for i in range(len(array)):
        array[i] = 0
