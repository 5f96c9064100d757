"""Sums that come out the same in any order."""

import math
from fractions import Fraction

import numpy as np


def add_exactly(rows: np.ndarray) -> list[Fraction]:
    """Sum each of (c, n) rows of finite numbers without rounding, so that neither order nor grouping matters.

    The numbers are cut at a bit so high that the upper parts, multiples of it, add up without rounding; then what is
    left of them is, until nothing is (Rump, Ogita & Oishi 2008, "Accurate floating-point summation", part I).
    """
    rest = np.array(rows, dtype=np.float64)
    upper = np.empty_like(rest)
    room = (rest.shape[1] + 2).bit_length()
    totals = [Fraction()] * len(rest)
    while (largest := max(rest.max(initial=0), -rest.min(initial=0))) > 0:
        cut = math.ldexp(1.0, math.frexp(largest)[1] + room)
        np.add(rest, cut, out=upper)
        upper -= cut
        rest -= upper
        totals = [total + Fraction(one) for total, one in zip(totals, upper.sum(axis=1).tolist(), strict=True)]
    return totals
