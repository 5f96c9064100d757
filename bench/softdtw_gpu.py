"""Soft-DTW and its k-means on a GPU: verified, and compared with the floor, this machine's CPU and a public kernel.

Under global constraints it is verified too, and compared with the same passes without: this has not been run yet.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.machine import RESULTS
from raypipe import packages
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.softdtw import reference
from raypipe.softdtw.backends import load_backend
from raypipe.softdtw.constraints import Constraint
from raypipe.softdtw.series import Series, read_series, to_host

GAMMA = 1.0
LARGE = 100_000, 64, 2, 20  # series, steps, dimensions, centers
# The floor is the least time of an H200 at this size, by its special functions and issue slots.
FLOOR_MS = {"assign": 5.9, "statistics": 0.6}
SIZES = (2000, 6, 2, 3), (1000, 64, 8, 5), (300, 128, 32, 5), (100_000, 16, 2, 20), (1000, 1100, 2, 5), LARGE
RADII = 0.05, 0.1, 0.25, 1.0  # of the number of steps; the last excludes no cell
Case = tuple[int, int, int, int, float, Constraint | None]
CASES: list[Case] = [  # n, T of series and of centers, d, γ, constraint
    (n, steps, rows, dim, gamma, None)
    for n, steps, rows in ((5, 1, 2), (33, 6, 6), (40, 31, 33), (37, 64, 64), (3, 275, 270), (2, 1100, 1100))
    for dim in (1, 2, 3, 17, 64, 512)
    for gamma in (1e-3, 1.0, 1e3)
    if steps * dim <= 20_000
]
BANDED_CASES: list[Case] = [
    (n, steps, rows, dim, gamma, constraint)
    for n, steps, rows in ((40, 31, 33), (37, 64, 20), (37, 20, 64), (3, 275, 270), (2, 1100, 1100))
    for dim in (1, 2, 3, 8, 17)
    for gamma in (1e-3, 1.0, 1e3)
    for constraint in (Constraint("sakoe_chiba", 0), Constraint("sakoe_chiba", 7), Constraint("itakura", 4.0))
]
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}


def make_series(n: int, n_steps: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return smooth paths of a few kinds, each in its own rhythm and with noise: (n, T, d) float32."""
    rng = np.random.default_rng(seed)
    when = np.linspace(0, 1, n_steps) ** rng.uniform(0.6, 1.7, (n, 1))
    kinds = rng.uniform(0, 6, (20, dim))[rng.integers(20, size=n)]
    waves = np.sin(6 * when[:, :, None] + kinds[:, None, :])
    return (waves + rng.normal(scale=0.2, size=(n, n_steps, dim))).astype(np.float32)


def verify(cases: list[Case]) -> dict[str, float]:
    """Compare the device with the numpy reference; return the values' largest relative error for each precision."""
    gpu = load_backend("cupy")
    worst = dict.fromkeys(TOLERANCES, 0.0)
    for n, steps, rows, dim, gamma, constraint in cases:
        x, centers = make_series(n, steps, dim).astype(np.float64), make_series(2, rows, dim, 1).astype(np.float64)
        expected = reference.cdist(Series(x), Series(centers), gamma, constraint)
        labels = np.arange(n, dtype=np.int32) % 2
        wanted = reference.statistics(Series(x), centers, labels, gamma, None, constraint)
        for precision, tolerance in TOLERANCES.items():
            prepared = gpu.prepare(read_series(x), precision)
            values = to_host(gpu.assign(prepared, centers, gamma, np.zeros(2), constraint)[1])
            off = abs(values - expected.min(axis=1)).max() / max(gamma, abs(expected).max())
            mass = gpu.statistics(prepared, centers, labels, gamma, None, constraint).mass
            doubt = 8 * np.finfo(precision).eps * abs(expected).max() / gamma  # from rounding
            off_mass = abs(mass - wanted.mass).max() / abs(wanted.mass).max()
            if not (off < tolerance and off_mass < max(tolerance, doubt)):
                case = n, steps, rows, dim, gamma, constraint
                raise SystemExit(f"{precision} is off by {off:.1e}, {off_mass:.1e} at {case}")
            worst[precision] = max(worst[precision], float(off))
    return worst


def seconds(call: Callable[[], Any], synchronise: Callable[[], Any], rounds: int = 9) -> float:
    """Return the median seconds of a call, including its work on the device."""
    call()
    times = []
    for _ in range(rounds):
        synchronise()
        started = time.perf_counter()
        call()
        synchronise()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure_passes() -> list[dict[str, Any]]:
    """Time assignment and statistics in float32 on the device and on this machine's CPU."""
    cupy, rows = packages.require("cupy"), []
    for n, steps, dim, k in SIZES:
        x, labels = make_series(n, steps, dim), np.arange(n, dtype=np.int32) % k
        centers = x[:k].astype(np.float64)
        row: dict[str, Any] = {"size": (n, steps, dim, k)}
        for name, wait, rounds in (("cupy", cupy.cuda.Device().synchronize, 9), ("numba", lambda: None, 3)):
            backend = load_backend(name)
            prepared = backend.prepare(read_series(x), "float32")
            assign = partial(backend.assign, prepared, centers, GAMMA, np.zeros(k))
            sums = partial(backend.statistics, prepared, centers, labels, GAMMA)
            calls = {"assign_ms": assign, "statistics_ms": sums}
            row[name] = {what: 1e3 * seconds(call, wait, rounds) for what, call in calls.items()}
        row["times_cpu"] = row["numba"]["assign_ms"] / row["cupy"]["assign_ms"]
        if (n, steps, dim, k) == LARGE:
            row["of_floor"] = {name: row["cupy"][f"{name}_ms"] / floor for name, floor in FLOOR_MS.items()}
        rows.append(row)
        print(row, flush=True)
    return rows


def measure_bands() -> list[dict[str, Any]]:
    """Time assignment and statistics in float32 within bands, in turn with the same without one."""
    gpu, wait, rows = load_backend("cupy"), packages.require("cupy").cuda.Device().synchronize, []
    for n, steps, dim, k in ((1000, 1100, 2, 5), (2000, 256, 8, 5), LARGE):
        x, labels = make_series(n, steps, dim), np.arange(n, dtype=np.int32) % k
        centers = x[:k].astype(np.float64)
        prepared = gpu.prepare(read_series(x), "float32")
        assign = partial(gpu.assign, prepared, centers, GAMMA, np.zeros(k))
        sums = partial(gpu.statistics, prepared, centers, labels, GAMMA, None)
        for part in RADII:
            band = Constraint("sakoe_chiba", round(part * steps))
            row: dict[str, Any] = {"size": (n, steps, dim, k), "radius": band.reach}
            row["cells"] = float(band.mask(steps, steps).mean())
            for name, call in (("assign", assign), ("statistics", sums)):
                times = np.array([[seconds(partial(call, one), wait, 3) for one in (band, None)] for _ in range(5)])
                row[f"{name}_ms"] = 1e3 * float(np.median(times[:, 0]))
                row[f"{name}_of_no_band"] = float(np.median(times[:, 0] / times[:, 1]))
            rows.append(row)
            print(row, flush=True)
    return rows


def measure_fit() -> dict[str, Any]:
    """Time a fit of 100,000 series, and estimate tslearn's time for its own passes from its cells a second."""
    n, steps, dim, k = LARGE
    x = make_series(n, steps, dim)
    model = TimeSeriesKMeans(k, metric="softdtw", random_state=0, backend="cupy")
    model.fit(x[:1000])
    started = time.perf_counter()
    model.fit(x)
    found: dict[str, Any] = {"seconds": time.perf_counter() - started, "passes": model.n_iter_}
    kept = RESULTS / "softdtw.json"
    if kept.exists():
        figures = json.loads(kept.read_text())["figures"]
        rate = max(row["cells_per_s"][name] for row in figures["cdist"] for name in row["cells_per_s"] if "tsl" in name)
        found["tslearn_hours_extrapolated"] = model.n_iter_ * n * k * steps**2 / rate / 3600
        found["extrapolated_from"] = f"as many assignments alone, at tslearn's best of {rate:.3g} cells/s on two cores"
    return found


def measure_peer() -> dict[str, Any]:
    """Time value and gradient of pairs by pysdtw (numba on CUDA, PyPI), and raypipe's statistics of as many."""
    if not packages.is_installed("pysdtw"):
        return {"skipped": "pysdtw is not installed"}
    import pysdtw
    import torch

    n, steps, dim = 2000, 64, 2
    x = make_series(n, steps, dim)
    series = torch.tensor(x, device="cuda")
    center = torch.tensor(x[:1], device="cuda").repeat(n, 1, 1).requires_grad_()
    theirs = pysdtw.SoftDTW(gamma=GAMMA, use_cuda=True)

    def peer() -> None:
        theirs(center, series).sum().backward()

    gpu = load_backend("cupy")
    prepared, labels = gpu.prepare(read_series(x), "float32"), np.zeros(n, np.int32)
    ours = seconds(lambda: gpu.statistics(prepared, x[:1].astype(np.float64), labels, GAMMA), torch.cuda.synchronize)
    peers = seconds(peer, torch.cuda.synchronize)
    return {"size": (n, steps, dim), "ours_ms": 1e3 * ours, "pysdtw_ms": 1e3 * peers, "ratio": peers / ours}


def measure_softdtw() -> dict[str, Any]:
    """Verify soft-DTW on the GPU, then measure it."""
    if not packages.is_installed("cupy"):
        return {"skipped": "cupy is not installed"}
    return {
        "largest_error": verify(CASES),
        "largest_error_in_bands": verify(BANDED_CASES),
        "passes": measure_passes(),
        "bands": measure_bands(),
        "fit_100k": measure_fit(),
        "pysdtw": measure_peer(),
    }
