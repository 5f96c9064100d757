"""Soft-DTW in plain numpy and float64, one pair after another: the reference for all other backends.

Each cell is the textbook's ``−γ log Σ exp(−r / γ)``, computed by `numpy.logaddexp` along the anti-diagonals, whose
cells do not depend on each other. The gradient is that of Mensch & Blondel (ICML 2018): the probabilities of the three
ways into a cell, carried back from the end.
"""

import numpy as np

from raypipe.softdtw.constraints import Constraint
from raypipe.softdtw.series import Series, Statistics


def prepare(x: Series, dtype: str, origin: np.ndarray | None = None) -> Series:
    """Return the series unchanged, because numpy needs no other layout."""
    return x


def cdist(x: Series, y: Series | None, gamma: float, constraint: Constraint | None = None) -> np.ndarray:
    """Return soft-DTW between n series and m others, or among the n if ``y`` is None: (n, m) float64.

    The rows of the constraint are the steps of ``x``, and among the n those of the series of the lower number.
    """
    turned = constraint and constraint.turned
    others = list(x.rows() if y is None else y.rows())
    values = np.zeros((len(x), len(others)))
    for i, one in enumerate(x.rows()):
        for j in range(i if y is None else 0, len(others)):
            values[i, j] = _forward(one, others[j], gamma, turned)[-1, -1]
    return values + np.triu(values, 1).T if y is None else values


def self_values(x: Series, gamma: float, constraint: Constraint | None = None) -> np.ndarray:
    """Return soft-DTW of each of n series with itself: (n,) float64."""
    return np.array([_forward(one, one, gamma, constraint)[-1, -1] for one in x.rows()])


def assign(
    x: Series, centers: np.ndarray, gamma: float, offsets: np.ndarray, constraint: Constraint | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of (k, T, d) centers to each series, by soft-DTW minus the center's offset.

    The rows of the constraint are the steps of ``x``. Returns (n,) labels, and the (n,) values of soft-DTW without the
    offset.
    """
    values = cdist(x, Series(centers), gamma, constraint)
    labels = (values - offsets).argmin(axis=1)
    return labels.astype(np.int32), values[np.arange(len(labels)), labels]


def statistics(
    x: Series,
    centers: np.ndarray,
    labels: np.ndarray,
    gamma: float,
    weights: np.ndarray | None = None,
    constraint: Constraint | None = None,
) -> Statistics:
    """Sum the values and expected alignments of each center's series.

    The rows of the constraint are the steps of the centers.
    """
    k, n_steps, dim = centers.shape
    found = Statistics(np.zeros((k, n_steps, dim)), np.zeros((k, n_steps)), np.zeros(k), np.zeros(k))
    for n, one in enumerate(x.rows()):
        weight = 1.0 if weights is None else weights[n]
        value, aligned = align(one, centers[labels[n]], gamma, constraint)
        found.sums[labels[n]] += weight * (aligned @ one)
        found.mass[labels[n]] += weight * aligned.sum(axis=1)
        found.values[labels[n]] += weight * value
        found.weights[labels[n]] += weight
    return found


def align(x: np.ndarray, z: np.ndarray, gamma: float, constraint: Constraint | None = None) -> tuple[float, np.ndarray]:
    """Return soft-DTW of (T_x, d) and (T_z, d), and the expected alignment (T_z, T_x).

    The rows of the constraint are the steps of z. The alignment holds the probability, in [0, 1], that z_i is aligned
    with x_j.
    """
    costs = _forward(x, z, gamma, constraint)
    expected = np.zeros(costs.shape)
    expected[-1, -1] = 1.0
    for i, j in _diagonals(len(z), len(x))[::-1]:
        reached = np.isfinite(costs[i, j])
        i, j = i[reached], j[reached]
        ways = np.stack([costs[i - 1, j], costs[i - 1, j - 1], costs[i, j - 1]])
        shares = np.exp((ways.min(axis=0) - ways) / gamma)
        above, across, before = expected[i, j] * shares / shares.sum(axis=0)
        expected[i - 1, j] += above
        expected[i - 1, j - 1] += across
        expected[i, j - 1] += before
    return float(costs[-1, -1]), expected[1:, 1:]


def _forward(x: np.ndarray, z: np.ndarray, gamma: float, constraint: Constraint | None = None) -> np.ndarray:
    """Return accumulated costs R, (T_z + 1, T_x + 1), infinite in row 0 and column 0 except at R[0, 0].

    They are infinite too where the constraint, whose rows are z's steps, lets no alignment pass.
    """
    distances = _distances(x, z)
    if constraint is not None:
        distances[~constraint.mask(len(z), len(x))] = np.inf
    costs = np.full((len(z) + 1, len(x) + 1), np.inf)
    costs[0, 0] = 0.0
    for i, j in _diagonals(len(z), len(x)):
        ways = -costs[i - 1, j] / gamma, -costs[i - 1, j - 1] / gamma, -costs[i, j - 1] / gamma
        costs[i, j] = distances[i - 1, j - 1] - gamma * np.logaddexp(np.logaddexp(ways[0], ways[1]), ways[2])
    return costs


def _distances(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return ((z[:, None, :] - x[None, :, :]) ** 2).sum(axis=2)


def _diagonals(n_rows: int, n_columns: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows and columns, counted from 1, of the cells on each anti-diagonal."""
    found = []
    for total in range(2, n_rows + n_columns + 1):
        i = np.arange(max(1, total - n_columns), min(n_rows, total - 1) + 1)
        found.append((i, total - i))
    return found


def match_ends(query: np.ndarray, path: np.ndarray, gamma: float) -> np.ndarray:
    """Return soft-DTW of (m, d) with the best pieces of (T, d) that end at each step: (T,) float64.

    See `raypipe.softdtw.subsequence`. It is computed by column, each cell from the textbook's logarithm of a sum.
    """
    cost = np.square(query[:, None] - path[None]).sum(axis=2)
    rows = np.full((len(query) + 1, len(path) + 1), np.inf)
    rows[0, 1:] = 0.0
    for i in range(1, len(query) + 1):
        for j in range(1, len(path) + 1):
            corner = np.inf if i == 1 else rows[i - 1, j - 1]
            ways = np.array([rows[i - 1, j], corner, rows[i, j - 1]]) / -gamma
            rows[i, j] = cost[i - 1, j - 1] - gamma * np.logaddexp.reduce(ways)
    return rows[-1, 1:]
