"""Soft-DTW of single pairs with all that lies on the way: the costs of every prefix and suffix, and the alignment.

The kernels of the backends sum over many series and keep none of this. Here a few pairs are looked at closely, in
float64 and cell by cell as the textbook has it.
"""

from dataclasses import dataclass

import numpy as np

from raypipe.softdtw.compiling import compiled


@dataclass(frozen=True)
class Alignment:
    """The alignment of n paths x, (T_x, d) each, with a path z of T_z steps for each.

    Attributes
    ----------
    apart
        (n, T_z, T_x) float64, the squared distance of z's step i from x's step j.
    forward, backward
        (n, T_z, T_x) float64, soft-DTW of ``z[:i + 1]`` with ``x[:j + 1]``, and of ``z[i:]`` with ``x[j:]``.
    expected
        (n, T_z, T_x) float64 in [0, 1], the probability that the two steps are aligned (Cuturi & Blondel 2017, §2.2).
    """

    apart: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    expected: np.ndarray


def align_pairs(x: np.ndarray, z: np.ndarray, gamma: float) -> Alignment:
    """Align n paths (n, T_x, d) with as many others (n, T_z, d)."""
    x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
    apart = ((z[:, :, None, :] - x[:, None, :, :]) ** 2).sum(axis=3)
    forward = _accumulate(apart, gamma)
    backward = _accumulate(np.ascontiguousarray(apart[:, ::-1, ::-1]), gamma)[:, ::-1, ::-1]
    return Alignment(apart, forward, backward, np.minimum(_expect(forward, gamma), 1))  # Only rounding makes any more.


@compiled(nogil=True)
def _accumulate(apart: np.ndarray, gamma: float) -> np.ndarray:
    """Return soft-DTW of all prefixes: (n, T_z, T_x)."""
    n, n_rows, n_columns = apart.shape
    costs = np.empty((n, n_rows, n_columns))
    for pair in range(n):
        for i in range(n_rows):
            for j in range(n_columns):
                if i == 0 and j == 0:
                    costs[pair, i, j] = apart[pair, i, j]
                    continue
                least, above, before, across = _weigh(costs[pair], i, j, gamma)
                costs[pair, i, j] = apart[pair, i, j] + least - gamma * np.log(above + before + across)
    return costs


@compiled(nogil=True)
def _expect(costs: np.ndarray, gamma: float) -> np.ndarray:
    """Return the expected alignments (n, T_z, T_x): the ways into each cell, carried back (Mensch & Blondel 2018)."""
    n, n_rows, n_columns = costs.shape
    expected = np.zeros((n, n_rows, n_columns))
    for pair in range(n):
        expected[pair, -1, -1] = 1.0
        for i in range(n_rows - 1, -1, -1):
            for j in range(n_columns - 1, -1, -1):
                if expected[pair, i, j] > 0 and (i > 0 or j > 0):
                    _, above, before, across = _weigh(costs[pair], i, j, gamma)
                    share = expected[pair, i, j] / (above + before + across)
                    if i > 0:
                        expected[pair, i - 1, j] += share * above
                    if j > 0:
                        expected[pair, i, j - 1] += share * before
                    if i > 0 and j > 0:
                        expected[pair, i - 1, j - 1] += share * across
    return expected


@compiled(nogil=True)
def _weigh(costs: np.ndarray, i: int, j: int, gamma: float) -> tuple[float, float, float, float]:
    """Return the least of the cells above, before and across from one, and the weights exp((least − each) / γ)."""
    above = costs[i - 1, j] if i > 0 else np.inf
    before = costs[i, j - 1] if j > 0 else np.inf
    across = costs[i - 1, j - 1] if i > 0 and j > 0 else np.inf
    least = min(above, before, across)
    return least, np.exp((least - above) / gamma), np.exp((least - before) / gamma), np.exp((least - across) / gamma)
