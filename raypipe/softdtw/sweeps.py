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

Under a global constraint a row has few columns. ``limits`` then hold these, ``(T_z, 2, w)`` numbers, the first column
and the last + 1 of each lane; and ``(T_z, 2)`` whole numbers, the same of all lanes together. Neither falls from row to
row. The rows that are swept together take the columns of any of them, and what lies outside a row's own is never
reached. Without a constraint ``limits`` is None, and nothing of this is compiled.
"""

from numba import njit, types
from numba.extending import overload

from raypipe.softdtw.lanes import (
    align_stack,
    between,
    exponent,
    fraction,
    hide,
    in_units,
    lane_bytes,
    least,
    load,
    nearest,
    scale_by_power,
    splat,
    spread,
    store,
    width,
)

_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Only compiled code calls these functions.
_INLINE = {"forceinline": True} | _INNER

ROWS = 4  # This many rows are swept at a time.
MEASURED = 8  # With many dimensions, distances of this many rows are computed at a time: eight sums in flight.
BAND = 2 * MEASURED  # With many dimensions, distances of this many rows are computed before these rows are swept.
UNROLLED = 3  # Up to this many dimensions are unrolled; more are looped over.
NORMALISED = 16  # m of cells that pass in registers is brought to [1, 2) in every column of this number.

_NEVER_FLOAT32, _NEVER_FLOAT64 = 1e38, 1e300  # e of a cell that cannot be reached

# Polynomials of least relative error (9e-8 and 3e-18) to 2^f for f in [−½, ½]. They are exact at 0, near which a large
# γ makes most f.
_EXP2_FLOAT32 = (
    1.0, 0.6931469775991654, 0.24022242085374992, 0.05550733743251099, 0.009671512639657792, 0.001326472719756236,
)  # fmt: skip
_EXP2_FLOAT64 = (
    1.0, 0.6931471805599453, 0.24022650695910155, 0.055504108664819925, 0.009618129107588335, 0.001333355814678995,
    0.00015403530462514614, 1.5252733489960805e-05, 1.321543308959463e-06, 1.0178198033328528e-07,
    7.074105626245659e-09, 4.4352809446103363e-10,
)  # fmt: skip


@njit(cache=True, **_INNER)
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


@overload(advance, jit_options=_INNER)
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
    multiplications of another (on Zen 4, 0.50 cycles a number at best for both; measured 0.60 and 0.53 with 32
    dimensions on AVX2, 1.05 and 1.04 with lanes twice as wide on AVX-512), and it loses digits.
    """
    raise NotImplementedError("only in compiled code")


@overload(measure, jit_options=_INNER)
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


@njit(cache=True, **_INNER)
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


@njit(cache=True, **_INNER)
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


@njit(cache=True, **_INNER)
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


@njit(cache=True, **_INNER)
def read_values(border, column, out):
    """Write ``R`` at a column of the border, in units of γ / log2 e, to ``out`` (w,)."""
    w = width(border)
    at = 2 * column * w
    one = in_units(splat(border.dtype.type(1)))
    store(out, 0, load(border, at) / one - log2_of_fraction(load(border, at + w)))


@njit(**_INLINE)
def _add(sums, at, value):
    store(sums, at, load(sums, at) + value)


@njit(**_INLINE)
def normal(e, m):
    """Return the same number with m in [1, 2)."""
    return e - exponent(m), fraction(m)


@njit(**_INLINE)
def log2_of_fraction(m):
    """Return log2 of m in [1, 2), by the series of atanh around √2, whose remainder is 2e-18."""
    t = (m - 1.4142135623730951) / (m + 1.4142135623730951)
    s = t * t
    series = s * (1 / 23) + (1 / 21)
    series = s * series + (1 / 19)
    series = s * series + (1 / 17)
    series = s * series + (1 / 15)
    series = s * series + (1 / 13)
    series = s * series + (1 / 11)
    series = s * series + (1 / 9)
    series = s * series + (1 / 7)
    series = s * series + (1 / 5)
    series = s * series + (1 / 3)
    series = s * series + 1.0
    return t * series * 2.8853900817779268 + 0.5


def cell(distance, e_above, m_above, e_left, m_left, e_diagonal, m_diagonal, probabilities, at):
    """Return e and m of a cell from its distance and the three cells before it; store its probabilities if asked to."""
    raise NotImplementedError("only in compiled code")


@overload(cell, jit_options=_INLINE)
def _cell(distance, e_above, m_above, e_left, m_left, e_diagonal, m_diagonal, probabilities, at):
    keep = isinstance(probabilities, types.Array)

    def impl(distance, e_above, m_above, e_left, m_left, e_diagonal, m_diagonal, probabilities, at):
        whole = nearest(distance)
        # The cell above is the newest, so it comes last.
        e = least(least(e_left, e_diagonal), e_above)
        left = scale_by_power(m_left, e - e_left)
        before = left + scale_by_power(m_diagonal, e - e_diagonal)
        above = scale_by_power(m_above, e - e_above)
        total = before + above
        if keep:
            share = 1.0 / total
            store(probabilities, at, above * share)
            store(probabilities, at + width(probabilities), left * share)
        return e + in_units(whole), total * exp2_of_fraction(whole - distance)

    return impl


def exp2_of_fraction(f):
    """Return 2^f for f in [−½, ½]."""
    raise NotImplementedError("only in compiled code")


@overload(exp2_of_fraction, jit_options=_INLINE)
def _exp2_of_fraction(f):
    if f.dtype is types.float32:
        c0, c1, c2, c3, c4, c5 = _EXP2_FLOAT32
        return lambda f: f * (f * (f * (f * (f * c5 + c4) + c3) + c2) + c1) + c0
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11 = _EXP2_FLOAT64

    def impl(f):
        high = f * (f * (f * (f * (f * b11 + b10) + b9) + b8) + b7) + b6
        return f * (f * (f * (f * (f * (f * high + b5) + b4) + b3) + b2) + b1) + b0

    return impl


def columns(limits, first, n_rows, n_columns):
    """Return the first column of any of some rows, and the last + 1."""
    raise NotImplementedError("only in compiled code")


@overload(columns, jit_options=_INLINE)
def _columns(limits, first, n_rows, n_columns):
    if isinstance(limits, types.NoneType):
        return lambda limits, first, n_rows, n_columns: (0, n_columns)
    return lambda limits, first, n_rows, n_columns: (limits[1][2 * first], limits[1][2 * (first + n_rows) - 1])


def columns_of_group(limits, i, n_rows, n_columns):
    """Return the columns of the rows that are swept together with row i of ``n_rows``."""
    raise NotImplementedError("only in compiled code")


@overload(columns_of_group, jit_options=_INLINE)
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


@overload(is_outside, jit_options=_INLINE)
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


@overload(bounded, jit_options=_INLINE)
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


@overload(clipped, jit_options=_INLINE)
def _clipped(e, limits, never):
    if isinstance(limits, types.NoneType):
        return lambda e, limits, never: e
    return lambda e, limits, never: least(e, never)


def limits_from(limits, first, w):
    """Return the limits of the rows from ``first`` on."""
    raise NotImplementedError("only in compiled code")


@overload(limits_from, jit_options=_INLINE)
def _limits_from(limits, first, w):
    if isinstance(limits, types.NoneType):
        return lambda limits, first, w: None
    return lambda limits, first, w: (limits[0][2 * first * w :], limits[1][2 * first :])


def unreached(array):
    """Return e of a cell that cannot be reached, for the array's type."""
    raise NotImplementedError("only in compiled code")


@overload(unreached, jit_options=_INLINE)
def _unreached(array):
    never = _NEVER_FLOAT32 if array.dtype is types.float32 else _NEVER_FLOAT64
    return lambda array: splat(array.dtype.type(never))


def at_step(z, index, paired):
    """Return a number of the center in all lanes, or with ``paired`` the number of each lane's own center."""
    raise NotImplementedError("only in compiled code")


@overload(at_step, jit_options=_INLINE)
def _at_step(z, index, paired):
    if isinstance(paired, types.NoneType):
        return lambda z, index, paired: spread(z, index)
    return lambda z, index, paired: load(z, index * width(z))


def distance_at(x, j, z, i, paired, dims):
    """Return the squared distance between step j of the series and step i of the center."""
    raise NotImplementedError("only in compiled code")


@overload(distance_at, jit_options=_INLINE)
def _distance_at(x, j, z, i, paired, dims):
    if isinstance(dims, types.NoneType):
        return lambda x, j, z, i, paired, dims: load(x, (i * z + j) * width(x))
    count = len(dims)

    def unrolled(x, j, z, i, paired, dims):
        at, row = j * count * width(x), i * count
        t = load(x, at) - at_step(z, row, paired)
        total = t * t
        if count > 1:
            t = load(x, at + width(x)) - at_step(z, row + 1, paired)
            total = total + t * t
        if count > 2:
            t = load(x, at + 2 * width(x)) - at_step(z, row + 2, paired)
            total = total + t * t
        return total

    return unrolled
