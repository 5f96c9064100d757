"""Soft-DTW and its k-means on the CPU: compared with tslearn, aeon and the machine's limit, by size, and in memory.

    python -m bench.softdtw [--rounds 5] [--aeon PYTHON] [--only cdist statistics fit floor scaling memory]

Both sides of a ratio run in turn, after warming up, on all cores and float64 arrays; the ratio is the median over
rounds. tslearn runs with n_jobs 1 and 2, and the better counts. No kernel is timed before its values agree with
`raypipe.softdtw.reference`, which the tests use too. With ``--only`` the figures are printed, but not written.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np
from tslearn.barycenters.softdtw import _acc_softdtw_func
from tslearn.clustering import TimeSeriesKMeans as Peer
from tslearn.metrics import cdist_soft_dtw as peer_cdist

from bench.machine import keep
from bench.softdtw_aeon import Aeon
from bench.softdtw_floor import describe_floor
from bench.softdtw_memory import measure_memory
from raypipe.clustering.shard import Measure
from raypipe.clustering.shards import LocalShards
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.softdtw import cdist_soft_dtw, reference
from raypipe.softdtw import numba as backend
from raypipe.softdtw.barycenter import slope
from raypipe.softdtw.series import Series, read_series

GAMMA = 1.0  # tslearn's default
JOBS = 1, 2  # tslearn's threads
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
LEAST_S = 0.05  # A call is repeated until all repetitions have taken this long.
FEW = 2000  # Peers are timed on at most this many series, because their time is linear in the number.
PARTS = ("cdist", "statistics", "fit", "floor", "scaling", "memory")


@dataclass(frozen=True)
class Size:
    """A size of n series of T steps and d dimensions and k clusters, and the ratios to reach (None: no goal is set)."""

    n: int
    n_steps: int
    dim: int
    k: int
    cdist: float | None = None
    statistics: float | None = None
    fit: float | None = None

    def __str__(self) -> str:
        return f"({self.n}, {self.n_steps}, {self.dim}, {self.k})"

    @property
    def cells(self) -> int:
        """Number of cells of all series with all centers."""
        return self.n * self.k * self.n_steps**2


SIZES = (
    Size(2000, 6, 2, 3, cdist=200, fit=100),
    Size(1000, 64, 8, 5, cdist=40, statistics=30, fit=40),
    Size(300, 128, 32, 5, cdist=25),
    Size(100_000, 16, 2, 20),
)
FLOORS = (Size(2000, 6, 2, 3), Size(100_000, 16, 2, 20), Size(10_000, 64, 2, 10), Size(1000, 256, 2, 10))
BASE = Size(4096, 32, 2, 8)
AXES = {
    "n": (64, 512, 4096, 32_768, 262_144),
    "n_steps": (4, 6, 16, 31, 32, 33, 64, 256, 1024),
    "k": (1, 3, 8, 32, 128),
    "dim": (1, 2, 3, 4, 8, 32, 128, 512),
}


def make_data(size: Size, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make series (n, T, d), each one of k smooth paths in its own rhythm and with noise, and take k as centers."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(size.k, size.dim, 3)), rng.uniform(0, 2 * np.pi, (size.k, size.dim, 3))
    of = rng.integers(size.k, size=size.n)
    when = np.linspace(0, 1, size.n_steps) ** np.exp(rng.normal(scale=0.3, size=(size.n, 1)))
    x = rng.normal(scale=0.3, size=(size.n, size.n_steps, size.dim))
    for wave in range(3):
        height, phase = (numbers[of, None, :, wave] for numbers in waves)
        x += height * np.sin(2 * np.pi * (wave + 1) * when[:, :, None] + phase)
    return x, x[rng.choice(size.n, size.k, replace=False)].copy()


def verify(x: np.ndarray, centers: np.ndarray) -> None:
    """Compare values and statistics of a few series with the reference; exit if they differ."""
    few, centers = Series(x[:20]), centers[:3]
    expected = reference.cdist(few, Series(centers), GAMMA)
    labels = expected.argmin(axis=1).astype(np.int32)
    wanted = reference.statistics(few, centers, labels, GAMMA)
    for precision, tolerance in TOLERANCES.items():
        prepared = backend.prepare(read_series(few.values), precision)
        found = backend.statistics(prepared, centers, labels, GAMMA)
        pairs = {
            "cdist": (cdist_soft_dtw(few.values, centers, GAMMA, precision=precision), expected),
            "assignment": (backend.assign(prepared, centers, GAMMA, np.zeros(len(centers)))[1], expected.min(axis=1)),
            "sums": (found.sums, wanted.sums),
            "mass": (found.mass, wanted.mass),
        }
        for name, (ours, theirs) in pairs.items():
            off = abs(ours - theirs).max() / abs(theirs).max()
            if not off < tolerance:
                raise SystemExit(f"{name} in {precision} is off by {off:.1e} at {x.shape}: nothing is timed")


def seconds(call: Callable[[], Any]) -> float:
    """Return the mean seconds of a call, which is repeated for at least `LEAST_S`."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < LEAST_S:
        call()
        calls += 1
    return (time.perf_counter() - started) / calls


def compare(
    ours: Mapping[str, Callable[[], Any]], peers: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, Any]:
    """Time raypipe and its peers in turn; peers return their own seconds, for the same number of series.

    Returns
    -------
    Median seconds of each, and the median over rounds of each peer's seconds over each of ours.
    """
    for call in ours.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in (*ours, *peers)}
    for _ in range(rounds):
        for name, call in ours.items():
            found[name].append(seconds(call))
        for name, timed in peers.items():
            found[name].append(timed())
    ratios = {
        name: {peer: statistics.median(np.array(found[peer]) / np.array(found[name])) for peer in peers}
        for name in ours
    }
    return {"seconds": {name: statistics.median(times) for name, times in found.items()}, "ratios": ratios}


def measure_cdist(size: Size, rounds: int, aeon: Aeon, folder: str) -> dict[str, Any]:
    """Measure the public call for distances of series to centers."""
    x, centers = make_data(size)
    verify(x, centers)
    few = x[:FEW]
    times = len(x) / len(few)
    peer_cdist(few[:10], centers, GAMMA)
    ours = {name: partial(cdist_soft_dtw, x, centers, GAMMA, precision=name) for name in TOLERANCES}
    calls = {f"tslearn n_jobs={n}": partial(peer_cdist, few, centers, GAMMA, n_jobs=n) for n in JOBS}
    peers = {name: partial(lambda call: times * seconds(call), call) for name, call in calls.items()}
    found = compare(ours, peers | aeon.peers(few, centers, GAMMA, times, folder), rounds)
    return _show("cdist", size, found, size.cells, size.cdist)


def measure_statistics(size: Size, rounds: int) -> dict[str, Any]:
    """Measure what one step of all centers needs, compared with tslearn's objective and gradient."""
    x, centers = make_data(size)
    verify(x, centers)
    shards = {name: LocalShards(read_series(x)) for name in TOLERANCES}
    for name, one in shards.items():
        one.open(Measure(GAMMA, name, "numba"))
        one.assign(centers)
    labels = shards["float64"].outcome().labels[:FEW]
    verify_slope(x[:FEW], labels, centers)
    members = [[*x[:FEW][labels == cluster]] for cluster in range(size.k)]
    times = len(x) / len(labels)

    def peer(n_jobs: int) -> None:
        for center, own in zip(centers, members, strict=True):
            _acc_softdtw_func(center.ravel(), own, np.ones(len(own)), GAMMA, n_jobs=n_jobs)

    ours = {name: partial(one.statistics, centers) for name, one in shards.items()}
    peers = {f"tslearn n_jobs={n}": partial(lambda n: times * seconds(partial(peer, n)), n) for n in JOBS}
    return _show("statistics", size, compare(ours, peers, rounds), size.cells / size.k, size.statistics)


def verify_slope(x: np.ndarray, labels: np.ndarray, centers: np.ndarray) -> None:
    """Compare one cluster's gradient with tslearn's; exit if they differ."""
    cluster = np.bincount(labels).argmax()
    members, center = x[labels == cluster], centers[cluster]
    value, gradient = _acc_softdtw_func(center.ravel(), [*members], np.ones(len(members)), GAMMA)
    prepared = backend.prepare(read_series(members), "float64")
    found = backend.statistics(prepared, center[None], np.zeros(len(members), np.int32), GAMMA)
    off = abs(slope(found, center).ravel() - gradient).max() / abs(gradient).max()
    if not (off < 1e-6 and np.isclose(found.values[0], value, rtol=1e-9)):
        raise SystemExit(f"our gradient and tslearn's differ by {off:.1e} at {x.shape}: nothing is timed")


def measure_fit(size: Size, rounds: int) -> dict[str, Any]:
    """Measure whole fits with the defaults from the same centers, and raypipe's fit up to tslearn's objective.

    tslearn runs with the n_jobs with which its first pass is faster.
    """
    x, centers = make_data(size)
    verify(x, centers)
    common: dict[str, Any] = {"n_clusters": size.k, "metric": "softdtw", "init": centers}
    Peer(**common, max_iter=1, max_iter_barycenter=1).fit(x)
    first_pass = {n: _time_fit(Peer(**common, max_iter=1, max_iter_barycenter=5, n_jobs=n), x)[0] for n in JOBS}
    best = min(first_pass, key=lambda n: first_pass[n])
    taken, peer_model = _time_fit(Peer(**common, n_jobs=best), x)
    models = {"default": TimeSeriesKMeans(**common).fit(x), "tslearn": peer_model}
    sums = {name: _total(x, model.cluster_centers_) for name, model in models.items()}
    goal = sums["tslearn"] + 1e-4 * abs(sums["tslearn"])
    passes = _passes_to(goal, x, common)
    ours = {"default": lambda: TimeSeriesKMeans(**common).fit(x)}
    if passes:
        ours["to tslearn's sum"] = lambda: TimeSeriesKMeans(**common, max_iter=passes).fit(x)
    first = iter([taken])  # tslearn's fit above is its first round.
    peers = {f"tslearn n_jobs={best}": lambda: next(first, None) or _time_fit(Peer(**common, n_jobs=best), x)[0]}
    details = {
        "sums": sums,
        "passes": {name: model.n_iter_ for name, model in models.items()} | {"to tslearn's sum": passes},
        "labels_alike": float((models["default"].labels_ == models["tslearn"].labels_).mean()),
        "first_pass_by_n_jobs": first_pass,
    }
    row = _show("fit", size, compare(ours, peers, rounds), None, size.fit)
    print(f"    {details}", flush=True)
    return row | details


def _time_fit(model: Any, x: np.ndarray) -> tuple[float, Any]:
    started = time.perf_counter()
    model.fit(x)
    return time.perf_counter() - started, model


def _passes_to(goal: float, x: np.ndarray, common: dict[str, Any]) -> int | None:
    """Return the fewest passes after which raypipe's objective reaches the goal, or None."""
    for passes in range(1, 51):
        if _total(x, TimeSeriesKMeans(**common, max_iter=passes).fit(x).cluster_centers_) <= goal:
            return passes
    return None


def _total(x: np.ndarray, centers: np.ndarray) -> float:
    """Return the sum of soft-DTW to the nearest centers."""
    return float(cdist_soft_dtw(x, centers, GAMMA).min(axis=1).sum())


@contextmanager
def cores(n: int) -> Iterator[None]:
    """Make the passes use this many cores."""
    every = numba.get_num_threads()
    numba.set_num_threads(n)
    try:
        yield
    finally:
        numba.set_num_threads(every)


def assign_rate(size: Size, rounds: int) -> float:
    """Return cells a second of the float32 assignment, the median over rounds."""
    x, centers = make_data(size)
    prepared = backend.prepare(read_series(x.astype(np.float32)), "float32")
    times = [seconds(lambda: backend.assign(prepared, centers, GAMMA, np.zeros(size.k))) for _ in range(rounds + 1)]
    return size.cells / statistics.median(times[1:])


def measure_floor(rounds: int) -> dict[str, Any]:
    """Time the assignment on one core and on all, and compare it with what the instructions allow."""
    floor = describe_floor(dim=2)
    best = floor.get("cells_per_s_one_core", float("nan"))
    counts = sorted({1, numba.config.NUMBA_NUM_THREADS})
    rows = []
    for size in FLOORS:
        for n in counts:
            with cores(n):
                rate = assign_rate(size, rounds)
            rows.append({"size": str(size), "cores": n, "cells_per_s": rate, "fraction_of_floor": rate / (n * best)})
            print(f"floor {size}, {n} cores: {rate:.3g} cells/s, {rate / (n * best):.0%} of the floor", flush=True)
    print(floor)
    return {"kernel": floor, "assignment": rows}


def measure_scaling(rounds: int) -> dict[str, Any]:
    """Measure the cells a second of the assignment, varying one axis at a time."""
    found: dict[str, Any] = {"base": str(BASE)}
    for axis, values in AXES.items():
        found[axis] = {}
        for value in values:
            size = Size(**{"n": BASE.n, "n_steps": BASE.n_steps, "dim": BASE.dim, "k": BASE.k, axis: value})
            found[axis][value] = assign_rate(size, min(rounds, 3))
        rates = ", ".join(f"{value}: {rate:.3g}" for value, rate in found[axis].items())
        print(f"scaling {axis}: {rates} cells/s", flush=True)
    return found


def _show(what: str, size: Size, found: dict[str, Any], cells: float | None, goal: float | None) -> dict[str, Any]:
    """Print the results; return them with the ratios to tslearn's best and the cells a second."""
    best = {name: min(r for peer, r in by.items() if "tslearn" in peer) for name, by in found["ratios"].items()}
    ratios = ", ".join(f"{name} {ratio:.1f}x" for name, ratio in best.items())
    times = ", ".join(f"{name} {taken:.3g} s" for name, taken in found["seconds"].items())
    print(f"{what} {size}: {ratios} tslearn (goal {goal or 'none'}); {times}", flush=True)
    row = {"size": str(size), **found, "times_tslearn": best, "goal": goal}
    if cells:
        row["cells_per_s"] = {name: cells / taken for name, taken in found["seconds"].items()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fit-rounds", type=int, default=1, help="tslearn takes minutes for each")
    parser.add_argument("--aeon", default=sys.executable, metavar="PYTHON", help="an interpreter that has aeon")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    figures: dict[str, Any] = {"load_before": os.getloadavg()[0], "peers_timed_on_at_most": FEW}
    with tempfile.TemporaryDirectory() as folder, Aeon(arguments.aeon) as aeon:
        measures: dict[str, Callable[[], Any]] = {
            "cdist": lambda: [measure_cdist(size, rounds, aeon, folder) for size in SIZES],
            "statistics": lambda: [measure_statistics(size, rounds) for size in SIZES],
            "fit": lambda: [measure_fit(size, arguments.fit_rounds) for size in SIZES if size.fit],
            "floor": lambda: measure_floor(rounds),
            "scaling": lambda: measure_scaling(rounds),
            "memory": lambda: measure_memory(),
        }
        figures["aeon"] = aeon.version
        for name in arguments.only:
            figures[name] = measures[name]()
    if arguments.only == PARTS:
        print(f"kept in {keep('softdtw', figures)}")


if __name__ == "__main__":
    main()
