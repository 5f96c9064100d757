"""Where in a long path a short one happens: soft-DTW whose ends in the long path are free.

For a query (m, d) and a path (T, d), ``R[i, j] = ‖query_i − path_j‖² + softmin_γ(R[i−1, j], R[i−1, j−1], R[i, j−1])``,
where an alignment may begin at any step of the path: ``R[0, j] = ‖query_0 − path_j‖² + softmin_γ(0, R[0, j−1])``. It
may end at any step too: ``R[m−1, j]`` is soft-DTW between the query and the best pieces of the path that end at step j.
This is the subsequence DTW of Müller (Information Retrieval for Music and Motion, 2007, §4.4) with the soft minimum of
Cuturi & Blondel (ICML 2017). The step at which a match begins is found by going back from its end, each time to the
cell from which most of the alignments came.
"""

from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from raypipe.errors import UsageError
from raypipe.softdtw import check_gamma
from raypipe.softdtw.compiling import compiled

_FARTHEST = 40.0  # A way that is so many times γ longer than the shortest adds less than float64 can tell.


class Piece(NamedTuple):
    """A piece of a path that is like the query: its soft-DTW to it, its first step, and the step after its last."""

    distance: float
    first: int
    after: int


def find_best_ends(
    query: np.ndarray, steps: np.ndarray, edges: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best match in each of many paths.

    Parameters
    ----------
    query
        (m, d), what is looked for.
    steps
        (N, d), the steps of all n paths, one after another.
    edges
        (n + 1,), where each path begins, and N.
    gamma
        Smoothness, greater than 0.

    Returns
    -------
    distances, ends
        (n,) float64, soft-DTW of the best match in each path, and (n,) int64, the step of the path at which it ends.

    Raises
    ------
    UsageError
        If ``gamma`` is not positive, there is no step, or dimensions differ.
    """
    query, steps = _check(query, steps)
    gamma = check_gamma(gamma)
    n = len(edges) - 1
    distances, ends = np.empty(n), np.empty(n, np.int64)
    edges = np.asarray(edges, np.int64)
    cuts = np.searchsorted(edges, np.linspace(0, len(steps), get_num_threads() + 1)[1:-1])
    parts = [(a, b) for a, b in zip([0, *cuts], [*cuts, n], strict=True) if b > a]

    def work(part: tuple[int, int]) -> None:
        a, b = part
        _find_ends(query, steps, edges[a : b + 1], gamma, distances[a:b], ends[a:b])

    with ThreadPoolExecutor(max(len(parts), 1)) as threads:
        list(threads.map(work, parts))
    return distances, ends


def find_pieces(query: np.ndarray, path: np.ndarray, gamma: float, n: int) -> list[Piece]:
    """Find the n best matches in one path that do not overlap, the best first.

    After each match its steps are gone: further ones lie before or behind it.

    Parameters
    ----------
    query, path
        (m, d) and (T, d).
    gamma
        Smoothness, greater than 0.
    n
        How many to find at most.
    """
    query, path = _check(query, path)
    gamma = check_gamma(gamma)
    found: list[Piece] = []
    waiting: list[tuple[Piece, int, int]] = []

    def look(start: int, stop: int) -> None:
        if stop > start:
            distance, first, last = _trace(query, path[start:stop], gamma)
            heappush(waiting, (Piece(float(distance), start + first, start + last + 1), start, stop))

    look(0, len(path))
    while waiting and len(found) < n:
        piece, start, stop = heappop(waiting)
        found.append(piece)
        look(start, piece.first)
        look(piece.after, stop)
    return found


def _check(query: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if query.ndim != 2 or steps.ndim != 2 or query.shape[1] != steps.shape[1] or not len(query) or not len(steps):
        raise UsageError(f"a query {query.shape} cannot be looked for in steps {steps.shape}")
    # These are copies: numba would compile everything anew for arrays that are read-only.
    return np.array(query, dtype=np.float64, order="C"), np.array(steps, dtype=np.float64, order="C")


@compiled(nogil=True)
def _soft_minimum(a, b, c, gamma):
    least = min(a, b, c)
    total = 0.0
    for each in (a, b, c):
        if each - least < _FARTHEST * gamma:
            total += np.exp((least - each) / gamma)
    return least - gamma * np.log(total)


@compiled(nogil=True)
def _advance_column(query, step, gamma, column):
    """Replace R[:, j − 1] in ``column`` (m,) by R[:, j]."""
    above, corner = 0.0, np.inf  # An alignment may begin here; it does so once, and not from two cells.
    for i in range(len(query)):
        distance = 0.0
        for q in range(len(step)):
            distance += (query[i, q] - step[q]) ** 2
        left = column[i]
        column[i] = distance + _soft_minimum(above, corner, left, gamma)
        above, corner = column[i], left


@compiled(nogil=True)
def _find_ends(query, steps, edges, gamma, distances, ends):
    column = np.empty(len(query))
    for n in range(len(edges) - 1):
        column[:] = np.inf
        distances[n], ends[n] = np.inf, -1
        for j in range(edges[n], edges[n + 1]):
            _advance_column(query, steps[j], gamma, column)
            if column[-1] < distances[n]:
                distances[n], ends[n] = column[-1], j - edges[n]


@compiled(nogil=True)
def _trace(query, path, gamma):
    """Return the distance of the best match in a path, and its first and last step."""
    cells = np.empty((len(path), len(query)))
    column = np.full(len(query), np.inf)
    for j in range(len(path)):
        _advance_column(query, path[j], gamma, column)
        cells[j] = column
    last = np.argmin(cells[:, -1])
    i, j = len(query) - 1, last
    while True:
        above = 0.0 if i == 0 else cells[j, i - 1]
        corner = np.inf if i == 0 or j == 0 else cells[j - 1, i - 1]
        left = np.inf if j == 0 else cells[j - 1, i]
        if i == 0 and above <= left:
            return cells[last, -1], j, last
        if corner <= above and corner <= left:
            i, j = i - 1, j - 1
        elif above <= left:
            i -= 1
        else:
            j -= 1
