"""Which frames of a map a poster shows, and which tile each of them gets.

Frames are assigned to tiles so that the sum of the squared distances which they move is least: the linear assignment
problem (Kuhn 1955), solved by shortest augmenting paths (Crouse 2016, as in SciPy). Squares rather than distances,
since of two ways to fill a row of tiles, one in which every frame moves by one tile and one in which a single frame
moves past all others, the sum of distances tells no difference, and the first keeps neighbours together.

The time of the exact solution grows with the cube of the number of tiles, so beyond some two thousand it is solved in
parts: tiles are halved again and again, each half gets the frames that lie there, and the parts are solved exactly.
Then the frames of blocks that lie across the borders are assigned anew, which never makes the sum larger.
"""

from __future__ import annotations

import numpy as np

_EXACT = 2_000 * 2_000
"""Pairs of a frame and a tile up to which all are assigned at once: some seconds, and 32 MB."""
_BLOCK = 24
"""Tiles along a side of the blocks otherwise: a block takes a twentieth of a second."""
_ROUNDS, _ENOUGH = 3, 1e-2
"""Rounds of four passes at most; they end where one makes the sum less by no more than this part of it."""
_FINEST = 1 << 14


def choose_spread(points: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Choose points that are spread evenly over the ground that all of them cover, however dense they lie there.

    Parameters
    ----------
    points
        (N, 2), each coordinate in [0, 1].
    n
        How many to choose.
    seed
        Of points in one cell of the grid, the choice is random.

    Returns
    -------
    (n,) places in ``points``, ascending; all of them if there are no more. Each cell of a grid gives one point, of the
    coarsest grid in which so many cells have any; where even the finest has fewer, cells give a second one, and so on.
    """
    if len(points) <= n:
        return np.arange(len(points))

    def cells(side: int) -> np.ndarray:
        column, row = np.minimum((points * side).astype(np.int64), side - 1).T
        return row * side + column

    low, high = 1, _FINEST
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(np.unique(cells(middle))) >= n else (middle + 1, high)
    order = np.random.default_rng(seed).permutation(len(points))
    cell = cells(low)[order]
    by_cell = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[by_cell], prepend=-1))
    rank = np.empty(len(points), np.int64)
    rank[by_cell] = np.arange(len(points)) - np.repeat(starts, np.diff(starts, append=len(points)))
    return np.sort(order[np.argsort(rank, kind="stable")[:n]])


def assign_tiles(places: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Give each frame a tile of a grid so that frames move least from their places, by the sum of squared distances.

    Parameters
    ----------
    places
        (n, 2) float64, x from the left and y from the top, in tiles: the middle of the first tile is (0.5, 0.5). At
        most as many as there are tiles.
    columns, rows
        The size of the grid.

    Returns
    -------
    (n,) int64, the number of each frame's tile, counted row by row; no two are equal. The sum is the least there is up
    to some two thousand tiles (`_EXACT`), and close to it beyond.
    """
    frames, tiles = np.arange(len(places)), np.arange(columns * rows)
    middles = np.column_stack([tiles % columns + 0.5, tiles // columns + 0.5])
    found = np.empty(len(places), np.int64)
    if len(frames) * len(tiles) <= _EXACT:
        _solve(places, middles, frames, tiles, found)
        return found
    _halve(places, middles, frames, (0, 0, columns, rows), columns, found)
    _improve(places, middles, columns, found)
    return found


def _improve(places: np.ndarray, middles: np.ndarray, columns: int, found: np.ndarray) -> None:
    """Assign the frames of blocks of tiles anew, of four grids of blocks in turn, until that gains little."""
    half = _BLOCK // 2
    x, y = np.floor(middles.T).astype(np.int64)
    wide = columns // _BLOCK + 2
    blocks = [
        (y + top) // _BLOCK * wide + (x + left) // _BLOCK for left, top in ((half, half), (0, half), (half, 0), (0, 0))
    ]
    n_done, changed = 0, np.zeros(len(middles), np.int64)  # When each tile last got another frame.
    solved = [np.full(int(block.max()) + 1, -1) for block in blocks]
    before = np.inf
    for _ in range(_ROUNDS):
        for block, done in zip(blocks, solved, strict=True):
            n_done += 1
            newest = np.zeros(len(done), np.int64)
            np.maximum.at(newest, block, changed)
            of_frames = block[found]
            for number in np.unique(of_frames):
                if newest[number] > done[number]:  # Else it would come out as the last time.
                    frames = np.flatnonzero(of_frames == number)
                    earlier = found[frames].copy()
                    _solve(places, middles, frames, np.flatnonzero(block == number), found)
                    moved = found[frames] != earlier
                    changed[earlier[moved]] = changed[found[frames][moved]] = n_done
                    done[number] = n_done
        total = float(np.square(places - middles[found]).sum())
        if total >= before * (1 - _ENOUGH):
            return
        before = total


def _solve(places: np.ndarray, middles: np.ndarray, frames: np.ndarray, tiles: np.ndarray, found: np.ndarray) -> None:
    """Assign some frames to some tiles, exactly."""
    from scipy.optimize import linear_sum_assignment

    costs = np.square(places[frames][:, None] - middles[tiles][None]).sum(axis=2)
    rows, columns = linear_sum_assignment(costs)
    found[frames[rows]] = tiles[columns]


def _halve(
    places: np.ndarray,
    middles: np.ndarray,
    frames: np.ndarray,
    box: tuple[int, int, int, int],
    columns: int,
    found: np.ndarray,
) -> None:
    """Assign frames to the tiles of a box (left, top, right, bottom), which is halved until it is a block."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if width * height <= _BLOCK**2:
        tiles = np.arange(top, bottom)[:, None] * columns + np.arange(left, right)
        return _solve(places, middles, frames, tiles.ravel(), found)
    along = 0 if width >= height else 1
    cut = (left + right) // 2 if along == 0 else (top + bottom) // 2
    first = (left, top, cut, bottom) if along == 0 else (left, top, right, cut)
    second = (cut, top, right, bottom) if along == 0 else (left, cut, right, bottom)
    room = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    frames = frames[np.argsort(places[frames, along], kind="stable")]
    # As many as lie in the first half go there, as far as both halves have room.
    n_first = min(max(int((places[frames, along] < cut).sum()), len(frames) - room[1]), room[0])
    _halve(places, middles, frames[:n_first], first, columns, found)
    _halve(places, middles, frames[n_first:], second, columns, found)
