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


@np.errstate(under="ignore")  # Steps that lie far apart are aligned with probability 0.
def align_pairs(x: np.ndarray, z: np.ndarray, gamma: float) -> Alignment:
    """Align n paths (n, T_x, d) with as many others (n, T_z, d).

    The probability of a pair of steps follows from what lies before and behind it: of all alignments, those through
    the pair have the value ``forward + backward − apart``.
    """
    x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
    apart = ((z[:, :, None, :] - x[:, None, :, :]) ** 2).sum(axis=3)
    forward = _accumulate(apart, gamma)
    backward = _accumulate(np.ascontiguousarray(apart[:, ::-1, ::-1]), gamma)[:, ::-1, ::-1]
    through = forward + backward - apart
    expected = np.exp(np.minimum((forward[:, -1:, -1:] - through) / gamma, 0))
    return Alignment(apart, forward, backward, expected)


@compiled(nogil=True)
def _accumulate(apart: np.ndarray, gamma: float) -> np.ndarray:
    """Return soft-DTW of all prefixes: (n, T_z, T_x)."""
    n, n_rows, n_columns = apart.shape
    costs = np.empty((n, n_rows, n_columns))
    for pair in range(n):
        for i in range(n_rows):
            for j in range(n_columns):
                above = costs[pair, i - 1, j] if i > 0 else np.inf
                before = costs[pair, i, j - 1] if j > 0 else np.inf
                across = costs[pair, i - 1, j - 1] if i > 0 and j > 0 else np.inf
                least = min(above, before, across)
                if i == 0 and j == 0:
                    costs[pair, i, j] = apart[pair, i, j]
                    continue
                total = np.exp((least - above) / gamma) + np.exp((least - before) / gamma)
                total += np.exp((least - across) / gamma)
                costs[pair, i, j] = apart[pair, i, j] + least - gamma * np.log(total)
    return costs
