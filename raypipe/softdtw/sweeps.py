"""The recursion of soft-DTW for a block of series against one center, compiled by numba over `Lanes`.

A cell holds ``p = exp(−R / γ)``, in which the recursion is a sum and a product,
``p[i, j] = 2^(−D[i, j]) · (p[i−1, j] + p[i−1, j−1] + p[i, j−1])`` (data scaled by √(log2 e / γ), so powers are of 2).
What underflows in plain numbers does not here: p is kept as ``m · 2^(−e)``, e a whole number of any size and m near 1.
So a cell takes one exp2, of a fraction, and three shifts of exponents; no logarithm, which only the result needs. The
ways into a cell have the probabilities ``p / Σ p``, and carrying them back from the end gives the expected alignment
(Mensch & Blondel, ICML 2018): between 0 and 1 at any γ.

Rows are steps of the center and columns those of the series; rows are swept four at a time, so that a column's steps,
once loaded, serve four distances and four cells pass in registers. Layouts, flat, ``w`` lanes each: x ``(T, d, w)``;
the border below the last row swept ``(T + 1, 2, w)``, e and m; probabilities ``(rows, T, 2, w)``, from above and left.
Under a global constraint a row has few columns: see `raypipe.softdtw.limits`.
"""

from numba import njit, types
from numba.extending import overload

from raypipe.softdtw.cells import INLINE, INNER, at_step, cell, distance_at, log2_of_fraction, normal, unreached
from raypipe.softdtw.compiling import compiled
from raypipe.softdtw.lanes import align_stack, hide, in_units, lane_bytes, load, splat, store, width
from raypipe.softdtw.limits import MEASURED, ROWS, bounded, clipped, columns, columns_of_group, is_outside, limits_from

BAND = 2 * MEASURED  # With many dimensions, distances of this many rows are computed before these rows are swept.
UNROLLED = 3  # Up to this many dimensions are unrolled; more are looped over.
NORMALISED = 16  # m of cells that pass in registers is brought to [1, 2) in every column of this number.


@compiled(**INNER)
def begin(border, n_columns):
    """Set the border above the first row, where only the corner can be reached."""
    w = width(border)
    one = splat(border.dtype.type(1))
    never = unreached(border)
    for j in range(n_columns + 1):
        store(border, 2 * j * w, never)
        store(border, (2 * j + 1) * w, one)
    store(border, 0, one - one)


def advance(x, z, paired, dims, border, n_columns, first, last, probabilities, distances, limits):
    """Sweep rows ``first`` to ``last``; with many dimensions, their distances are computed beforehand, band by band.

    Parameters are those of `sweep`, and ``distances`` (BAND, T | 1, w), a buffer that is overwritten. All rows of a
    band use a column's steps while these are in the nearest cache, as in a blocked matrix product.
    """
    raise NotImplementedError("only in compiled code")


@overload(advance, jit_options=INNER)
def _advance(x, z, paired, dims, border, n_columns, first, last, probabilities, distances, limits):
    if isinstance(dims, types.BaseTuple):

        def direct(x, z, paired, dims, border, n_columns, first, last, probabilities, distances, limits):
            sweep(x, z, paired, dims, border, n_columns, first, last, probabilities, limits)

        return direct
    kept = isinstance(probabilities, types.Array)

    def banded(x, z, paired, dims, border, n_columns, first, last, probabilities, distances, limits):
        zero = first - first  # For a literal 0 numba would compile the sweep once more.
        for top in range(first, last, BAND):
            n_rows = min(BAND, last - top)
            measure(x, z, paired, dims, n_columns, top, n_rows, distances, limits)
            own = limits_from(limits, top, width(x))
            if kept:
                room = probabilities[2 * (top - first) * n_columns * width(x) :]
                sweep(distances, n_columns | 1, None, None, border, n_columns, zero, n_rows, room, own)
            else:
                sweep(distances, n_columns | 1, None, None, border, n_columns, zero, n_rows, None, own)

    return banded


def measure(x, z, paired, d, n_columns, first, n_rows, distances, limits):
    """Write the squared distances (n_rows, T, w) of rows from ``first`` on, eight sums in flight.

    Rows beyond the last one are read and written too, to no effect, so z and the distances must have room for them.
    Where lanes have 64 bytes the sums are of eight rows and a column, and an instruction spreads a number of z as it
    reads it. Else they are of four rows and two columns: what is spread by an instruction of its own serves twice. In
    both the sums fit in the registers. Rows have an odd number of columns, so that they do not compete for one place of
    the nearest cache. A product ``x · z`` would save little, because the subtractions of one sum run beside the
    multiplications of another, and it loses digits.
    """
    raise NotImplementedError("only in compiled code")


@overload(measure, jit_options=INNER)
def _measure(x, z, paired, d, n_columns, first, n_rows, distances, limits):  # noqa: C901 - it holds two functions
    def tall(x, z, paired, d, n_columns, first, n_rows, distances, limits):
        align_stack()
        w = width(x)
        zero = splat(x.dtype.type(0))
        one = hide(1)  # If LLVM unrolled the loop over dimensions, it would keep some of the sums in memory.
        row = (n_columns | 1) * w
        start, stop = columns(limits, first, n_rows, n_columns)
        for j in range(start, stop):
            for i in range(0, n_rows, MEASURED):
                if is_outside(limits, first + i, min(MEASURED, n_rows - i), j, j + 1):
                    continue
                z0 = (first + i) * d
                z1, z2, z3 = z0 + d, z0 + 2 * d, z0 + 3 * d
                z4, z5, z6, z7 = z0 + 4 * d, z0 + 5 * d, z0 + 6 * d, z0 + 7 * d
                s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
                q = 0
                while q < d:
                    step = load(x, (j * d + q) * w)
                    t0, t1 = step - at_step(z, z0 + q, paired), step - at_step(z, z1 + q, paired)
                    t2, t3 = step - at_step(z, z2 + q, paired), step - at_step(z, z3 + q, paired)
                    t4, t5 = step - at_step(z, z4 + q, paired), step - at_step(z, z5 + q, paired)
                    t6, t7 = step - at_step(z, z6 + q, paired), step - at_step(z, z7 + q, paired)
                    s0, s1, s2, s3 = s0 + t0 * t0, s1 + t1 * t1, s2 + t2 * t2, s3 + t3 * t3
                    s4, s5, s6, s7 = s4 + t4 * t4, s5 + t5 * t5, s6 + t6 * t6, s7 + t7 * t7
                    q += one
                at = i * row + j * w
                store(distances, at, s0)
                store(distances, at + row, s1)
                store(distances, at + 2 * row, s2)
                store(distances, at + 3 * row, s3)
                store(distances, at + 4 * row, s4)
                store(distances, at + 5 * row, s5)
                store(distances, at + 6 * row, s6)
                store(distances, at + 7 * row, s7)

    def square(x, z, paired, d, n_columns, first, n_rows, distances, limits):
        align_stack()
        w = width(x)
        zero = splat(x.dtype.type(0))
        one = hide(1)
        row = (n_columns | 1) * w
        start, stop = columns(limits, first, n_rows, n_columns)
        for j in range(start, stop, 2):
            beside = min(j + 1, n_columns - 1)
            for i in range(0, n_rows, 4):
                if is_outside(limits, first + i, min(4, n_rows - i), j, j + 2):
                    continue
                z0 = (first + i) * d
                z1, z2, z3 = z0 + d, z0 + 2 * d, z0 + 3 * d
                s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
                q = 0
                while q < d:
                    a, b = load(x, (j * d + q) * w), load(x, (beside * d + q) * w)
                    step = at_step(z, z0 + q, paired)
                    t, u = a - step, b - step
                    s0, s4 = s0 + t * t, s4 + u * u
                    step = at_step(z, z1 + q, paired)
                    t, u = a - step, b - step
                    s1, s5 = s1 + t * t, s5 + u * u
                    step = at_step(z, z2 + q, paired)
                    t, u = a - step, b - step
                    s2, s6 = s2 + t * t, s6 + u * u
                    step = at_step(z, z3 + q, paired)
                    t, u = a - step, b - step
                    s3, s7 = s3 + t * t, s7 + u * u
                    q += one
                left, right = i * row + j * w, i * row + beside * w
                store(distances, left, s0)
                store(distances, left + row, s1)
                store(distances, left + 2 * row, s2)
                store(distances, left + 3 * row, s3)
                store(distances, right, s4)
                store(distances, right + row, s5)
                store(distances, right + 2 * row, s6)
                store(distances, right + 3 * row, s7)

    return tall if lane_bytes() == 64 else square


@compiled(**INNER)
def sweep(x, z, paired, dims, border, n_columns, first, last, probabilities, limits):
    """Carry the border from below row ``first − 1`` to below row ``last − 1``.

    Parameters
    ----------
    x
        The series; or distances, row by row, from row 0 on.
    z
        (T_z, d) flat, the center's steps; with ``paired`` (T_z, d, w), a center a lane. With distances, their number in
        a row.
    paired
        True if each lane has its own center, or None if all lanes have the same.
    dims
        A tuple with an entry for each dimension, which are unrolled; or None with distances.
    border
        The border, read and written, so that rows can be swept in one call or in several.
    n_columns, first, last
        Length of the longest series; first row of the center to sweep, counted from 0, and last + 1.
    probabilities
        The array for the probabilities of the rows from ``first`` on, or None.
    limits
        The rows' columns, or None.
    """
    align_stack()
    w = width(x)
    one = splat(x.dtype.type(1))
    never = unreached(x)
    i = first
    while i + ROWS <= last:
        start, stop = columns(limits, i, ROWS, n_columns)
        e_diagonal, m_diagonal = load(border, 2 * start * w), load(border, (2 * start + 1) * w)
        store(border, 2 * start * w, never)
        e0, e1, e2, e3 = never, never, never, never
        m0, m1, m2, m3 = one, one, one, one
        for j in range(start, stop):
            above = 2 * (j + 1) * w
            kept = 2 * ((i - first) * n_columns + j) * w
            row = 2 * n_columns * w
            e_above, m_above = load(border, above), load(border, above + w)
            d0 = bounded(distance_at(x, j, z, i, paired, dims), limits, i, j)
            d1 = bounded(distance_at(x, j, z, i + 1, paired, dims), limits, i + 1, j)
            d2 = bounded(distance_at(x, j, z, i + 2, paired, dims), limits, i + 2, j)
            d3 = bounded(distance_at(x, j, z, i + 3, paired, dims), limits, i + 3, j)
            e, m = cell(d0, e_above, m_above, e0, m0, e_diagonal, m_diagonal, probabilities, kept)
            e = clipped(e, limits, never)
            e_diagonal, m_diagonal = e_above, m_above
            e_next, m_next = cell(d1, e, m, e1, m1, e0, m0, probabilities, kept + row)
            e_next = clipped(e_next, limits, never)
            e0, m0 = e, m
            e, m = cell(d2, e_next, m_next, e2, m2, e1, m1, probabilities, kept + 2 * row)
            e = clipped(e, limits, never)
            e1, m1 = e_next, m_next
            e_next, m_next = cell(d3, e, m, e3, m3, e2, m2, probabilities, kept + 3 * row)
            e_next = clipped(e_next, limits, never)
            e2, m2 = e, m
            e3, m3 = e_next, m_next
            # What is stored is normal, and so is the row in every so many columns, but no cell waits for that of the
            # column before: that would then wait for the whole chain. Between two normalisations lie at most 20 steps,
            # each of which multiplies m by at most 3 · 1.41: far from overflow.
            if j % NORMALISED == NORMALISED - 1:
                e0, m0 = normal(e0, m0)
                e1, m1 = normal(e1, m1)
                e2, m2 = normal(e2, m2)
                e3, m3 = normal(e3, m3)
            e, m = normal(e_next, m_next)
            store(border, above, e)
            store(border, above + w, m)
        i += ROWS
    top = i
    while i < last:
        start, stop = columns(limits, top, last - top, n_columns)
        e_diagonal, m_diagonal = load(border, 2 * start * w), load(border, (2 * start + 1) * w)
        store(border, 2 * start * w, never)
        e0, m0 = never, one
        for j in range(start, stop):
            above = 2 * (j + 1) * w
            e_above, m_above = load(border, above), load(border, above + w)
            distance = bounded(distance_at(x, j, z, i, paired, dims), limits, i, j)
            kept = 2 * ((i - first) * n_columns + j) * w
            e0, m0 = cell(distance, e_above, m_above, e0, m0, e_diagonal, m_diagonal, probabilities, kept)
            e0 = clipped(e0, limits, never)
            e_diagonal, m_diagonal = e_above, m_above
            e, m = normal(e0, m0)
            store(border, above, e)
            store(border, above + w, m)
            if j % NORMALISED == NORMALISED - 1:
                e0, m0 = e, m
        i += 1


@compiled(**INNER)
def sweep_back(probabilities, arriving, n_columns, n_rows, limits):
    """Turn the probabilities of ``n_rows`` rows into expected alignments, which overwrite those from above.

    The limits are those of the rows from the first of these on.

    ``arriving`` (T, w) holds what flows from below into each column of the last row, and afterwards what flows into the
    row above the first. Where an alignment ends, 1 flows in.
    """
    w = width(probabilities)
    zero = splat(probabilities.dtype.type(0))
    for i in range(n_rows - 1, -1, -1):
        from_right = zero
        to_diagonal = zero
        start, stop = columns_of_group(limits, i, n_rows, n_columns)
        for j in range(stop - 1, start - 1, -1):
            at = 2 * (i * n_columns + j) * w
            expected = load(arriving, j * w) + from_right
            up = expected * load(probabilities, at)
            from_right = expected * load(probabilities, at + w)
            store(probabilities, at, expected)
            store(arriving, j * w, up + to_diagonal)
            to_diagonal = expected - up - from_right
        if start > 0:  # The row above may begin further left.
            store(arriving, (start - 1) * w, to_diagonal)


@compiled(**INNER)
def gather_sums(expected, x, d, n_columns, n_rows, sums, first, limits):
    """Add ``Σ_j E[i, j]`` and ``Σ_j E[i, j] x_j`` to the sums ``(T_z, d + 1, w)`` of rows from ``first`` on."""
    w = width(x)
    zero = splat(x.dtype.type(0))
    row = 2 * n_columns * w
    for i in range(n_rows):
        mass = zero
        start, stop = columns_of_group(limits, i, n_rows, n_columns)
        for j in range(start, stop):
            mass = mass + load(expected, i * row + 2 * j * w)
        _add(sums, (first + i) * (d + 1) * w, mass)
    for i in range(0, n_rows, 2):
        a, b = i * row, min(i + 1, n_rows - 1) * row
        start, stop = columns_of_group(limits, i, n_rows, n_columns)
        for q in range(0, d, 2):
            p, r = q * w, min(q + 1, d - 1) * w
            s0, s1, s2, s3 = zero, zero, zero, zero
            for j in range(start, stop):
                x0, x1 = load(x, j * d * w + p), load(x, j * d * w + r)
                e0, e1 = load(expected, a + 2 * j * w), load(expected, b + 2 * j * w)
                s0, s1, s2, s3 = s0 + e0 * x0, s1 + e0 * x1, s2 + e1 * x0, s3 + e1 * x1
            to = ((first + i) * (d + 1) + q + 1) * w
            _add(sums, to, s0)
            if q + 1 < d:
                _add(sums, to + w, s1)
            if i + 1 < n_rows:
                _add(sums, to + (d + 1) * w, s2)
                if q + 1 < d:
                    _add(sums, to + (d + 2) * w, s3)


@compiled(**INNER)
def read_values(border, column, out):
    """Write ``R`` at a column of the border, in units of γ / log2 e, to ``out`` (w,)."""
    w = width(border)
    at = 2 * column * w
    one = in_units(splat(border.dtype.type(1)))
    store(out, 0, load(border, at) / one - log2_of_fraction(load(border, at + w)))


@njit(**INLINE)
def _add(sums, at, value):
    store(sums, at, load(sums, at) + value)
