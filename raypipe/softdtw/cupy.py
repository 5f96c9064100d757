"""Soft-DTW on an NVIDIA GPU: the launches of the kernels in ``tiles.cu`` and ``kernels.cu``.

No array is as large as series times centers, or as a pair's matrix, unless it is the result. The kernels keep their
intermediate values in a scratch whose size depends on the device, not on the data. Every sum has a fixed order, so a
result has the same bits on every run.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from raypipe import packages
from raypipe.softdtw.constraints import Constraint, Limits
from raypipe.softdtw.launches import WARP, Tile, assign_tile, find_spans, plan_statistics, share, statistics_tile
from raypipe.softdtw.series import Series, Statistics, to_host

SCRATCH = 1 << 29  # Bytes of scratch for the kernels. With less, fewer pairs are computed at the same time.
_LOADED = 1 << 24  # At most this many values are copied to the device, or laid out there, at a time.
_FAR = {"float32": 1e30, "float64": 1e300}  # These equal FAR in tiles.cu.
_ALL, _TRIANGLE, _OWN = range(3)  # The kernel "assign" computes one of these sets of pairs.


@cache
def read_source() -> str:
    """Read the kernels' source, one file after the other: CuPy's cache sees no change in a file that is included."""
    folder = files("raypipe.softdtw")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in ("tiles.cu", "kernels.cu"))


class Gpu:
    """The current CUDA device, which tests replace by a model. CuPy compiles a kernel once and keeps it on disk."""

    def __init__(self) -> None:
        self.xp = packages.require("cupy")

    @cache  # noqa: B019 - there is one instance, and it lives as long as the process
    def _kernel(self, kernel: str) -> Any:
        module = self.xp.RawModule(code=read_source(), options=("-std=c++17",), name_expressions=(kernel,))
        return module.get_function(kernel)

    @cache  # noqa: B019
    def _resident(self, kernel: str, device: int) -> int:
        runtime, driver = self.xp.cuda.runtime, self.xp.cuda.driver
        processors = runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, device)
        return processors * driver.occupancyMaxActiveBlocksPerMultiprocessor(self._kernel(kernel).kernel.ptr, WARP, 0)

    def resident(self, kernel: str) -> int:
        """Return how many blocks of a kernel run at the same time."""
        return self._resident(kernel, self.xp.cuda.runtime.getDevice())

    def launch(self, kernel: str, blocks: int, *arguments: Any) -> None:
        """Run blocks of one warp; arguments are arrays, numpy scalars, or None for a null pointer."""
        null = np.uintp(0)
        self._kernel(kernel)((blocks,), (WARP,), tuple(null if one is None else one for one in arguments))


@dataclass(frozen=True)
class DeviceSeries:
    """Series on the device, in the layout that the kernels read.

    Attributes
    ----------
    values
        (T, d, n) float32 or float64 on the device, minus ``mean``; 0 beyond a series' length.
    lengths
        (n,) int32 on the device, or None if all series have length T.
    mean
        (d,) float64 on the host, near the middle of all steps. Subtracting it does not change soft-DTW, and float32
        keeps most digits of numbers near 0.
    """

    values: Any
    lengths: Any
    mean: np.ndarray

    def __len__(self) -> int:
        return self.values.shape[2]


class Engine:
    """The functions of a backend on a given device, with a given number of bytes of scratch."""

    NAME = "cupy"

    def __init__(self, device: Gpu, scratch: int = SCRATCH) -> None:
        self.device = device
        self.xp = device.xp
        self.scratch = scratch

    def prepare(self, x: Series, dtype: str, origin: np.ndarray | None = None) -> DeviceSeries:
        """Copy series to the device as ``dtype``, a bounded part at a time, once for all computations with them."""
        xp = self.xp
        n, n_steps, dim = x.values.shape
        lengths = None if x.lengths is None else xp.asarray(x.lengths, dtype=np.int32)
        mean = self._mean(x.values, lengths) if origin is None else origin
        values = xp.empty((n_steps, dim, n), dtype)
        together = max(1, _LOADED // (n_steps * dim))
        for start in range(0, n, together):
            part = xp.asarray(x.values[start : start + together]) - xp.asarray(mean)
            if lengths is not None:
                part[xp.arange(n_steps) >= lengths[start : start + together, None]] = 0
            values[:, :, start : start + together] = part.transpose(1, 2, 0)
        return DeviceSeries(values, lengths, mean)

    def cdist(self, x: DeviceSeries, y: DeviceSeries | None, gamma: float, constraint: Constraint | None = None) -> Any:
        """Return soft-DTW between n series and m others, or among the n if ``y`` is None: (n, m) on the device.

        The rows of the constraint are the steps of ``x``, and among the n those of the series of the lower number.
        """
        others, which = (x, _TRIANGLE) if y is None else (y, _ALL)
        found = self.xp.empty((len(others), len(x)), x.values.dtype)
        bound = constraint.turned if constraint and which == _ALL else constraint
        kinds = self._kinds(x) if bound else None
        for part, points, lengths in self._parts(others, x.mean, kinds):
            limits = Limits.of(bound, _lengths_on_host(points, lengths), kinds) if bound and kinds else None
            self._compare(x, points, lengths, gamma, found[part], part.start, which, limits)
        if y is None:
            _mirror(self.xp, found)
        return found.T

    def self_values(self, x: DeviceSeries, gamma: float, constraint: Constraint | None = None) -> Any:
        """Return soft-DTW of each of n series with itself: (n,) on the device."""
        found = self.xp.empty(len(x), x.values.dtype)
        whole = Limits.of_own(constraint, self._kinds(x)) if constraint else None
        for part, points, lengths in self._parts(x, x.mean):
            piece = DeviceSeries(self.xp.ascontiguousarray(x.values[:, :, part]), lengths, x.mean)
            own = whole and Limits(whole.table, np.zeros(len(piece), np.int64), whole.column_kinds[part])
            self._compare(piece, points, lengths, gamma, found[part], 0, _OWN, own)
        return found

    def assign(
        self, x: DeviceSeries, centers: Any, gamma: float, offsets: Any, constraint: Constraint | None = None
    ) -> tuple[Any, Any]:
        """Find the nearest of (k, T, d) centers to each series, by soft-DTW minus the center's offset.

        The rows of the constraint are the steps of ``x``. Returns (n,) labels, and the (n,) values of soft-DTW without
        the offset.
        """
        xp, n, dtype = self.xp, len(x), x.values.dtype
        k, n_rows, dim = centers.shape
        limits = Limits.of(constraint.turned, np.full(k, n_rows), self._kinds(x)) if constraint else None
        tile = assign_tile(n_rows, dim, dtype, limits is not None)
        z = self._lay_out(to_host(centers) - x.mean, None, gamma, tile, dtype)
        offsets = xp.asarray(offsets, dtype=dtype)
        groups, slots = -(-n // WARP), self.device.resident(tile.kernel("assign", dtype))
        chunk = share(groups * k, slots, k, lambda each: groups * -(-k // each), self.scratch // (8 * n) * groups)
        chunks = -(-k // chunk)
        values, labels = xp.empty((chunks, n), dtype), xp.empty((chunks, n), np.int32)
        self._assign(x, z, offsets, gamma, tile, chunk, values, labels, limits=limits)
        best = (values - offsets[labels]).argmin(axis=0)[None]  # Ties go to the first center, as within a chunk.
        return xp.take_along_axis(labels, best, axis=0)[0], xp.take_along_axis(values, best, axis=0)[0]

    def statistics(
        self,
        x: DeviceSeries,
        centers: Any,
        labels: Any,
        gamma: float,
        weights: Any | None = None,
        constraint: Constraint | None = None,
    ) -> Statistics:
        """Sum the values and expected alignments of each center's series, as numpy float64.

        The rows of the constraint are the steps of the centers.
        """
        xp, dtype, n_steps = self.xp, x.values.dtype, len(x.values)
        k, n_rows, dim = centers.shape
        limits = Limits.of(constraint, np.array([n_rows]), self._kinds(x)) if constraint else None
        tile = statistics_tile(n_rows, n_steps, dim, dtype, limits is not None)
        kernel = tile.kernel("statistics", dtype)
        z, _ = self._lay_out(to_host(centers) - x.mean, None, gamma, tile, dtype)
        labels = xp.asarray(labels)
        counts = to_host(xp.bincount(labels, minlength=k))
        resident = self.device.resident(kernel)
        spans = find_spans(limits, n_rows, n_steps, tile)
        plan = plan_statistics(counts, n_rows, dim, tile, spans, dtype.itemsize, resident, self.scratch)
        table, _, places = self._place(limits)
        jobs, n_jobs, size = xp.asarray(plan.jobs), len(plan.jobs), n_rows * (1 + dim) + 1
        sums, totals = xp.empty((n_jobs, size), np.float64), xp.empty((k, size), np.float64)
        self.device.launch(
            kernel,
            plan.blocks,
            *_arguments(x, gamma),
            *(z, np.int32(n_rows)),
            *(xp.argsort(labels).astype(np.int32), None if weights is None else xp.asarray(weights, dtype=dtype)),
            *(jobs, np.int32(n_jobs), np.int32(plan.team), _unit(gamma, dtype)),
            *(xp.empty(plan.blocks * plan.kept, dtype), sums),
            *(table, places, np.int32(plan.room)),
        )
        starts = xp.asarray(np.searchsorted(plan.jobs[:, 0], np.arange(k + 1)).astype(np.int32))
        self.device.launch("total<double>", -(-totals.size // WARP), sums, starts, np.int32(k), np.int32(size), totals)
        found = to_host(totals)
        of_rows = found[:, :-1].reshape(k, n_rows, 1 + dim)
        mass = of_rows[:, :, 0]
        moved = of_rows[:, :, 1:] / float(_scale(gamma, dtype)) + mass[:, :, None] * x.mean
        total = counts if weights is None else np.bincount(to_host(labels), to_host(weights), k)
        return Statistics(moved, mass, found[:, -1], total.astype(np.float64))

    def _assign(
        self,
        x: DeviceSeries,
        z: tuple[Any, Any],
        offsets: Any | None,
        gamma: float,
        tile: Tile,
        chunk: int,
        values: Any,
        labels: Any | None,
        first: int = 0,
        which: int = _ALL,
        limits: Limits | None = None,
    ) -> None:
        points, lengths = z
        kernel, dtype = tile.kernel("assign", x.values.dtype), x.values.dtype
        k, n_tiles = points.shape[:2]
        kept = WARP * (len(x.values) + tile.width) if n_tiles > 1 else 0
        jobs = -(-len(x) // WARP) * -(-k // chunk)
        blocks = max(1, min(jobs, self.device.resident(kernel), self.scratch // max(1, kept * dtype.itemsize)))
        self.device.launch(
            kernel,
            blocks,
            *_arguments(x, gamma),
            *(points, lengths, np.int32(k), np.int32(n_tiles), np.int32(chunk)),
            *(offsets, _unit(gamma, dtype), np.int32(first), np.int32(which)),
            *(self.xp.empty(blocks * kept, dtype), values, labels),
            *self._place(limits),
        )

    def _compare(
        self,
        x: DeviceSeries,
        points: Any,
        lengths: Any | None,
        gamma: float,
        values: Any,
        first: int,
        which: int,
        limits: Limits | None,
    ) -> None:
        """Compare series with each of some centers (k, T, d), and write the values."""
        dtype = x.values.dtype
        tile = assign_tile(points.shape[1], points.shape[2], dtype, limits is not None)
        z = self._lay_out(points, lengths, gamma, tile, dtype)
        chunk = len(points) if which == _OWN else 1
        self._assign(x, z, None, gamma, tile, chunk, values, None, first, which, limits)

    def _parts(
        self, y: DeviceSeries, mean: np.ndarray, kinds: tuple[np.ndarray, Any] | None = None
    ) -> Iterator[tuple[slice, Any, Any | None]]:
        """Take series as centers (k, T, d), less ``mean``, and their lengths: a bounded part at a time.

        The limits of a part with series of these kinds of lengths are bounded too.
        """
        n_steps, dim, m = y.values.shape
        size = n_steps * (dim if kinds is None else max(dim, 2 * len(kinds[0])))
        together = max(1, _LOADED // size)
        for start in range(0, m, together):
            part = slice(start, min(start + together, m))
            points = y.values[:, :, part].transpose(2, 0, 1) + self.xp.asarray(y.mean - mean)
            yield part, points, None if y.lengths is None else y.lengths[part]

    def _kinds(self, x: DeviceSeries) -> tuple[np.ndarray, Any]:
        """Return the lengths that there are, (c,), and on the device which of them each series has, (n,) int32."""
        if x.lengths is None:
            return np.array([len(x.values)]), self.xp.zeros(len(x), np.int32)
        lengths, kinds = self.xp.unique(x.lengths, return_inverse=True)
        return to_host(lengths), kinds.astype(np.int32)

    def _place(self, limits: Limits | None) -> tuple[Any, Any, Any]:
        """Copy a table of limits to the device, and find where those of each center and of each series begin."""
        if limits is None:
            return None, None, None
        _, n_kinds, n_rows, _ = limits.table.shape
        rows = (limits.row_kinds * (n_kinds * n_rows)).astype(np.int32)
        return self.xp.asarray(limits.table), self.xp.asarray(rows), limits.column_kinds * np.int32(n_rows)

    def _lay_out(self, points: Any, lengths: Any | None, gamma: float, tile: Tile, dtype: np.dtype) -> tuple[Any, Any]:
        """Scale (k, T, d) centers and cut them into the tiles that the kernels read; return them and (k,) lengths."""
        # Centers on the host are few, and the host lays them out before a GPU would begin.
        xp = np if isinstance(points, np.ndarray) else self.xp
        (k, n_rows, dim), height = points.shape, tile.height
        n_tiles = -(-n_rows // height)
        lengths = xp.full(k, n_rows, np.int32) if lengths is None else lengths
        row = xp.arange(n_tiles * height) - (-lengths % height)[:, None]
        inside = ((row >= 0) & (row < lengths[:, None]))[:, :, None]
        scale = float(_scale(gamma, dtype))
        points = xp.take_along_axis(points * scale, row.clip(0, n_rows - 1)[:, :, None], axis=1)
        if tile.dim:
            laid = xp.where(inside, points, math.sqrt(_FAR[dtype.name]))
        else:
            norms = xp.where(inside, (points**2).sum(axis=2, keepdims=True), _FAR[dtype.name])
            laid = xp.concatenate([xp.where(inside, -2 * scale * points, 0.0), norms], axis=2)
            laid = laid.reshape(k, n_tiles, height, dim + 1).transpose(0, 1, 3, 2)
        laid = laid.reshape(k, n_tiles, -1)
        filled = xp.zeros((k, n_tiles, -(-laid.shape[2] // 4) * 4), dtype)
        filled[:, :, : laid.shape[2]] = laid
        return self.xp.asarray(filled), self.xp.asarray(lengths)

    def _mean(self, values: Any, lengths: Any | None) -> np.ndarray:
        """Return the mean step (d,) of evenly chosen series; any point near the data would do."""
        xp, every = self.xp, max(1, values.size // _LOADED)
        taken = xp.asarray(values[::every], dtype=np.float64)
        if lengths is None:
            return to_host(taken.mean(axis=(0, 1)))
        inside = xp.arange(taken.shape[1]) < lengths[::every, None]
        return to_host(xp.where(inside[:, :, None], taken, 0.0).sum(axis=(0, 1)) / inside.sum())


@cache
def load_engine() -> Engine:
    """Return the backend "cupy": the engine of this process's GPU."""
    return Engine(Gpu())


def _lengths_on_host(points: Any, lengths: Any | None) -> np.ndarray:
    return np.full(len(points), points.shape[1]) if lengths is None else to_host(lengths)


def _scale(gamma: float, dtype: np.dtype) -> Any:
    """Return the factor on the data that makes the recursion work in base 2."""
    return dtype.type(math.sqrt(math.log2(math.e) / gamma))


def _unit(gamma: float, dtype: np.dtype) -> Any:
    """Return the factor that undoes the scale, as it was rounded, in a value."""
    return dtype.type(1 / float(_scale(gamma, dtype)) ** 2)


def _arguments(x: DeviceSeries, gamma: float) -> tuple[Any, ...]:
    n_steps, dim, n = x.values.shape
    return x.values, x.lengths, np.int32(n), np.int32(n_steps), np.int32(dim), _scale(gamma, x.values.dtype)


def _mirror(xp: Any, square: Any) -> None:
    """Copy the numbers above the diagonal below it, a bounded part at a time."""
    for start in range(0, len(square), 1024):
        stop = min(start + 1024, len(square))
        corner = square[start:stop, start:stop]
        corner[:] = xp.triu(corner) + xp.triu(corner, 1).T
        square[stop:, start:stop] = square[start:stop, stop:].T
