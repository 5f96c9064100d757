"""A cell of the recursion of soft-DTW: its arithmetic over `Lanes`, and the distances that go into it.

See `raypipe.softdtw.sweeps` for how p = exp(−R / γ) is kept as a fraction m and a whole exponent e.
"""

from numba import njit, types
from numba.extending import overload

from raypipe.softdtw.lanes import (
    exponent,
    fraction,
    in_units,
    least,
    load,
    nearest,
    scale_by_power,
    splat,
    spread,
    store,
    width,
)

INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Only compiled code calls these functions.
INLINE = {"forceinline": True} | INNER

_NEVER_FLOAT32, _NEVER_FLOAT64 = 1e38, 1e300  # This is the e of a cell that cannot be reached.

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


@njit(**INLINE)
def normal(e, m):
    """Return the same number with m in [1, 2)."""
    return e - exponent(m), fraction(m)


@njit(**INLINE)
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


@overload(cell, jit_options=INLINE)
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


@overload(exp2_of_fraction, jit_options=INLINE)
def _exp2_of_fraction(f):
    if f.dtype is types.float32:
        c0, c1, c2, c3, c4, c5 = _EXP2_FLOAT32
        return lambda f: f * (f * (f * (f * (f * c5 + c4) + c3) + c2) + c1) + c0
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11 = _EXP2_FLOAT64

    def impl(f):
        high = f * (f * (f * (f * (f * b11 + b10) + b9) + b8) + b7) + b6
        return f * (f * (f * (f * (f * (f * high + b5) + b4) + b3) + b2) + b1) + b0

    return impl


def unreached(array):
    """Return e of a cell that cannot be reached, for the array's type."""
    raise NotImplementedError("only in compiled code")


@overload(unreached, jit_options=INLINE)
def _unreached(array):
    never = _NEVER_FLOAT32 if array.dtype is types.float32 else _NEVER_FLOAT64
    return lambda array: splat(array.dtype.type(never))


def at_step(z, index, paired):
    """Return a number of the center in all lanes, or with ``paired`` the number of each lane's own center."""
    raise NotImplementedError("only in compiled code")


@overload(at_step, jit_options=INLINE)
def _at_step(z, index, paired):
    if isinstance(paired, types.NoneType):
        return lambda z, index, paired: spread(z, index)
    return lambda z, index, paired: load(z, index * width(z))


def distance_at(x, j, z, i, paired, dims):
    """Return the squared distance between step j of the series and step i of the center."""
    raise NotImplementedError("only in compiled code")


@overload(distance_at, jit_options=INLINE)
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
