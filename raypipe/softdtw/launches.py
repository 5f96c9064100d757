"""How the work of the kernels is laid out on a GPU: the tiles of a lane, and the pairs of each block and lane."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WARP = 32
_SPECIALISED = {"float32": 8, "float64": 3}  # Up to this dimension a kernel is compiled for each; it loops over more.


@dataclass(frozen=True)
class Tile:
    """A variant of a kernel: its dimension at compile time (0: any), and the cells that a lane holds in registers."""

    dim: int
    height: int
    width: int

    def kernel(self, name: str, dtype: np.dtype) -> str:
        """Return the C++ name of the kernel's instance for this tile."""
        real = "double" if dtype == np.float64 else "float"
        return f"{name}<{real}, {self.dim}, {self.height}, {self.width}>"


def assign_tile(n_rows: int, dim: int, dtype: np.dtype) -> Tile:
    """Choose how much of a center a lane holds: a taller tile needs less memory traffic, and more code."""
    double = dtype == np.float64
    if dim > _SPECIALISED[dtype.name]:
        # NVRTC 13.0.88 spills three registers of a 16 x 8 tile in float32 on sm_100.
        return Tile(0, _even(n_rows, 4 if double else 12), 4 if double else 8)
    return Tile(dim, _even(n_rows, 8 if double else 32 if dim <= 2 else 16), 2)


def statistics_tile(n_rows: int, n_steps: int, dim: int, dtype: np.dtype) -> Tile:
    """Choose a tile whose transition probabilities and sums over rows fit in registers."""
    dim = dim if dim <= _SPECIALISED[dtype.name] else 0
    height, width = (4, 2) if dtype == np.float64 else (8, 4 if dim > 2 else 8)
    return Tile(dim, _even(n_rows, height), _even(n_steps, width))


@dataclass(frozen=True)
class LaunchPlan:
    """The distribution of the pairs of series and their centers over blocks and lanes.

    Attributes
    ----------
    team
        Number of lanes that share a pair.
    blocks
        Number of blocks, of one warp each, to launch.
    kept
        Number of values in the scratch of a block.
    jobs
        (n_jobs, 3) int32: a center, and the first and last + 1 of its series in the order of centers.
    """

    team: int
    blocks: int
    kept: int
    jobs: np.ndarray


def plan_statistics(
    counts: np.ndarray, n_rows: int, n_steps: int, dim: int, tile: Tile, itemsize: int, resident: int, scratch: int
) -> LaunchPlan:
    """Distribute (k,) counts of series: many series take a lane each, few or long ones share a warp's lanes."""
    down, across = -(-n_rows // tile.height), -(-n_steps // tile.width)

    def kept(team: int) -> int:
        trail = 0 if tile.dim else across * tile.width * tile.height * WARP
        return down * across * (tile.height + tile.width) * (WARP // team) + trail

    def slots(team: int) -> int:
        return max(1, min(resident, scratch // (kept(team) * itemsize)))

    def cost(team: int) -> int:
        waves = -(-int((-(-counts // (WARP // team))).sum()) // slots(team))
        return waves * -(-down // team) * (across + team - 1)

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
    return LaunchPlan(team, min(len(jobs), slots(team)), kept(team), jobs)


def share(work: int, slots: int, most: int, jobs_of: Callable[[int], int], limit: int) -> int:
    """Choose the size of a job, 1 to ``most``, so that jobs are few and all slots end at about the same time."""
    sizes = {min(most, -(-work // (slots * waves))) for waves in range(1, 17)}
    jobs = {size: jobs_of(size) for size in sorted(sizes, reverse=True)}
    costs = {size: size * -(-n_jobs // slots) for size, n_jobs in jobs.items() if n_jobs <= limit}
    return next((size for size, cost in costs.items() if cost <= 1.1 * min(costs.values())), most)


def _even(steps: int, most: int) -> int:
    """Return the size of a part when ``steps`` are cut into the fewest equal parts of at most ``most``."""
    return -(-steps // -(-steps // most))
