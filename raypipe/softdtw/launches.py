"""How the work of the kernels is laid out on a GPU: the tiles of a lane, and the pairs of each block and lane."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raypipe.softdtw.constraints import Limits

WARP = 32
_SPECIALISED = {"float32": 8, "float64": 3}  # Up to this dimension a kernel is compiled for each; it loops over more.
_LOW = 8  # A tile of a banded kernel has at most so many rows.


@dataclass(frozen=True)
class Tile:
    """A variant of a kernel.

    Attributes
    ----------
    dim
        The dimension at compile time; 0 stands for any.
    height, width
        The cells that a lane holds in registers, rows by columns.
    is_banded
        Whether rows have limits.
    """

    dim: int
    height: int
    width: int
    is_banded: bool = False

    def kernel(self, name: str, dtype: np.dtype) -> str:
        """Return the C++ name of the kernel's instance for this tile."""
        real = "double" if dtype == np.float64 else "float"
        banded = ", true" if self.is_banded else ""
        return f"{name}<{real}, {self.dim}, {self.height}, {self.width}{banded}>"


def assign_tile(n_rows: int, dim: int, dtype: np.dtype, banded: bool = False) -> Tile:
    """Choose how much of a center a lane holds: a taller tile needs less memory traffic, and more code.

    A row of tiles computes as many cells beside a band as its height squared, so in a band it is low.
    """
    double = dtype == np.float64
    if dim > _SPECIALISED[dtype.name]:
        # NVRTC 13.0.88 spills three registers of a 16 x 8 tile in float32 on sm_100.
        dim, height, width = (0, 4, 4) if double else (0, 12, 8)
    else:
        height, width = 8 if double else 32 if dim <= 2 else 16, 2
    return Tile(dim, _even(n_rows, min(height, _LOW) if banded else height), width, banded)


def statistics_tile(n_rows: int, n_steps: int, dim: int, dtype: np.dtype, banded: bool = False) -> Tile:
    """Choose a tile whose transition probabilities and sums over rows, and limits, fit in registers."""
    dim = dim if dim <= _SPECIALISED[dtype.name] else 0
    if dtype == np.float64:
        height, width = 4, 2
    else:
        height, width = (6, 4) if banded else (8, 4 if dim > 2 else 8)
    return Tile(dim, _even(n_rows, height), _even(n_steps, width), banded)


def find_spans(limits: Limits | None, n_rows: int, n_steps: int, tile: Tile) -> np.ndarray:
    """Return the first tile and the last + 1 of each row of tiles: (c, rows of tiles, 2) by kinds of lengths of series.

    The kernel "statistics" finds the same: under limits a row of tiles begins at the column before its first one,
    because the expected alignment comes there.
    """
    down, across = -(-n_rows // tile.height), -(-n_steps // tile.width)
    if limits is None:
        return np.tile([0, across], (1, down, 1))
    last = np.arange(1, down + 1) * tile.height - 1 - (-n_rows % tile.height)
    top = (last - tile.height + 1).clip(0)
    first, stop = limits.table[0, :, top, 0].T, limits.table[0, :, last, 1].T
    return np.stack([(first - 1).clip(0) // tile.width, -(-stop // tile.width)], axis=2)


@dataclass(frozen=True)
class LaunchPlan:
    """The distribution of the pairs of series and their centers over blocks and lanes.

    Attributes
    ----------
    team
        Number of lanes that share a pair.
    blocks
        Number of blocks, of one warp each, to launch.
    room
        Number of tiles of a row of tiles that there is scratch for.
    kept
        Number of values in the scratch of a block.
    jobs
        (n_jobs, 3) int32: a center, and the first and last + 1 of its series in the order of centers.
    """

    team: int
    blocks: int
    room: int
    kept: int
    jobs: np.ndarray


def plan_statistics(
    counts: np.ndarray, n_rows: int, dim: int, tile: Tile, spans: np.ndarray, itemsize: int, resident: int, scratch: int
) -> LaunchPlan:
    """Distribute (k,) counts of series: many series take a lane each, few or long ones share a warp's lanes.

    ``spans`` are those of `find_spans`. Members of a team wait for each other along the diagonal, so a narrow band is
    for small teams.
    """
    down, room = spans.shape[1], int((spans[..., 1] - spans[..., 0]).max())
    first, stop = spans[..., 0].min(axis=0), spans[..., 1].max(axis=0)

    def kept(team: int) -> int:
        trail = 0 if tile.dim else room * tile.width * tile.height * WARP
        return down * room * (tile.height + tile.width) * (WARP // team) + trail

    def slots(team: int) -> int:
        return max(1, min(resident, scratch // (kept(team) * itemsize)))

    def cost(team: int) -> int:
        waves = -(-int((-(-counts // (WARP // team))).sum()) // slots(team))
        strips = np.arange(0, down, team)
        return waves * int((stop[np.minimum(strips + team, down) - 1] - first[strips] + team - 1).sum())

    team = min((1, 2, 4, 8, 16, 32), key=cost)
    rounds = -(-counts // (WARP // team))
    limit = scratch // (8 * n_rows * (1 + dim))
    most, work = int(rounds.max()), int(rounds.sum())
    step = share(work, slots(team), most, lambda each: int((-(-rounds // each)).sum()), limit) * (WARP // team)
    per_center = -(-counts // step)
    centers = np.arange(len(counts)).repeat(per_center)
    place = np.arange(len(centers)) - (per_center.cumsum() - per_center)[centers]
    ends = counts.cumsum()
    begins = (ends - counts)[centers] + place * step
    jobs = np.stack([centers, begins, np.minimum(begins + step, ends[centers])], axis=1).astype(np.int32)
    return LaunchPlan(team, min(len(jobs), slots(team)), room, kept(team), jobs)


def share(work: int, slots: int, most: int, jobs_of: Callable[[int], int], limit: int) -> int:
    """Choose the size of a job, 1 to ``most``, so that jobs are few and all slots end at about the same time."""
    sizes = {min(most, -(-work // (slots * waves))) for waves in range(1, 17)}
    jobs = {size: jobs_of(size) for size in sorted(sizes, reverse=True)}
    costs = {size: size * -(-n_jobs // slots) for size, n_jobs in jobs.items() if n_jobs <= limit}
    return next((size for size, cost in costs.items() if cost <= 1.1 * min(costs.values())), most)


def _even(steps: int, most: int) -> int:
    """Return the size of a part when ``steps`` are cut into the fewest equal parts of at most ``most``."""
    return -(-steps // -(-steps // most))
