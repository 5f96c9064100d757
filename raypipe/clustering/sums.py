"""Sums that come out the same in any order, and in any grouping."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

# So many numbers are taken at a time: they fit a core's cache, and need no further array of all.
_CHUNK = 1 << 13


def cut(n: int) -> list[slice]:
    """Cut n numbers into the parts that sums over all of them take at a time."""
    return [slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]


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
        cut_at = math.ldexp(1.0, math.frexp(largest)[1] + room)
        np.add(rest, cut_at, out=upper)
        upper -= cut_at
        rest -= upper
        totals = [total + Fraction(one) for total, one in zip(totals, upper.sum(axis=1).tolist(), strict=True)]
    return totals


def search_running_sum(numbers: np.ndarray, targets: Any) -> np.ndarray:
    """Return where the exact running sum of (n,) numbers, none of them negative, reaches each of (m,) targets.

    Returns
    -------
    (m,) int64; n − 1 for a target that it does not reach.
    """
    parts = cut(len(numbers))
    sums = [add_exactly(numbers[None, part])[0] for part in parts]
    return np.array([_search(numbers, Fraction(target), parts, sums) for target in targets], np.int64)


def _search(numbers: np.ndarray, target: Fraction, parts: list[slice], sums: list[Fraction]) -> int:
    """Search the parts, of these sums, one after another, and then one of them by halves."""
    for part, total in zip(parts, sums, strict=True):
        if target <= total:
            return _halve(numbers, target, part.start, part.stop)
        target -= total
    return len(numbers) - 1


def _halve(numbers: np.ndarray, target: Fraction, low: int, high: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        half = add_exactly(numbers[None, low:middle])[0]
        if target <= half:
            high = middle
        else:
            low, target = middle, target - half
    return low
