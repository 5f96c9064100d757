"""k-means of a million trajectories over shards, compared with the same in one process.

    python -m bench.shards [--n 1000000] [--shards 2]

A run directory of Parquet files is written. Actors of a local Ray read it, and k-means is fitted over them; then one
process reads all of it and fits with one thread on each core. The figures are the seconds, the proportional set size of
each process, and the pickled bytes that travel to and from the shards.
"""

import argparse
import os
import pickle
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone

from bench.machine import keep
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.runs.directory import Run
from raypipe.runs.results import write_trajectories
from raypipe.schema import Trajectories

N_STEPS, DIM, N_CLUSTERS, MAX_ITER = 16, 2, 20, 10
FIT = TimeSeriesKMeans(
    N_CLUSTERS, metric="softdtw", metric_params={"gamma": "auto"}, max_iter=MAX_ITER, n_init=1, random_state=0
)


def write_run(folder: str, n: int) -> Run:
    """Write trajectories of as many shapes as there are clusters, at various speeds, with noise."""
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(N_CLUSTERS, 4, DIM)).cumsum(axis=1)
    at = np.linspace(0, 3, N_STEPS) ** rng.uniform(0.8, 1.2, (n, 1))
    low = np.minimum(at.astype(int), 2)
    of = rng.integers(0, N_CLUSTERS, (n, 1))
    share = (at - low)[:, :, None]
    values = (1 - share) * shapes[of, low] + share * shapes[of, low + 1] + rng.normal(scale=0.3, size=(n, N_STEPS, DIM))
    values = values.astype(np.float32)
    paths = Trajectories(tuple(map(str, range(n))), values, np.ones(n, np.int64))
    run = Run(folder)
    write_trajectories(run, paths, {"reduced": paths})
    return run


def pss(pid: int) -> float:
    """Return a process's proportional set size in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@contextmanager
def watching(pids: dict[str, int]) -> Iterator[dict[str, float]]:
    """Record the peak of each process in MiB while the block runs."""
    peaks, done = {name: pss(pid) for name, pid in pids.items()}, threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for name, pid in pids.items():
                peaks[name] = max(peaks[name], pss(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def count_travel(actors: Any) -> dict[str, list[tuple[int, int, float]]]:
    """Make actors record, by the name of each call, its bytes to and from one shard and its seconds."""
    seen: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    ask_all: Callable[..., list[Any]] = actors.ask_all

    def counted(numbers: Any, *call: Any) -> list[Any]:
        started = time.perf_counter()
        found = ask_all(numbers, *call)
        seconds = time.perf_counter() - started
        seen[call[0]].append((len(pickle.dumps(call)), max(len(pickle.dumps(each)) for each in found), seconds))
        return found

    actors.ask_all = counted
    return seen


def fit_over_shards(run: Run, n_shards: int) -> tuple[TimeSeriesKMeans, dict[str, Any]]:
    """Fit over actors of a local Ray."""
    import ray

    from raypipe.config import RayConfig
    from raypipe.engine.ray_shards import RayShards, split_trajectories
    from raypipe.engine.session import ray_session

    with ray_session(RayConfig(address="local")):
        started = time.perf_counter()
        with RayShards(split_trajectories(run, n_shards)) as shards:
            loaded = time.perf_counter() - started
            described = shards.actors.ask_all(range(n_shards), "describe")
            pids = {f"shard {shard}": pid for shard, (pid, _) in enumerate(described)}
            loaded_mib = {name: pss(pid) for name, pid in pids.items()}
            travelled = count_travel(shards.actors)
            with watching({"driver": os.getpid(), **pids}) as peaks:
                started = time.perf_counter()
                model = clone(FIT).fit_shards(shards)
                seconds = time.perf_counter() - started
        assert ray.is_initialized()
    calls = {
        name: {
            "calls": len(each),
            "bytes_out": each[-1][0],
            "bytes_back": each[-1][1],
            "seconds": sum(e[2] for e in each),
        }
        for name, each in travelled.items()
    }
    figures = {
        "threads": [threads for _, threads in described],
        "load_seconds": loaded,
        "fit_seconds": seconds,
        "loaded_mib": loaded_mib,
        "peak_mib": peaks,
        "calls": calls,
    }
    return model, figures


def fit_in_one_process(run: Run) -> tuple[TimeSeriesKMeans, dict[str, Any]]:
    """Fit in this process, on all cores."""
    from raypipe.engine.ray_shards import split_trajectories

    started = time.perf_counter()
    values, _ = split_trajectories(run, 1)[0]()
    loaded = time.perf_counter() - started
    clone(FIT).fit(values[:2000])  # This compiles the kernels or reads them from numba's cache.
    with watching({"process": os.getpid()}) as peaks:
        started = time.perf_counter()
        model = clone(FIT).fit(values)
        seconds = time.perf_counter() - started
    return model, {"load_seconds": loaded, "fit_seconds": seconds, "peak_mib": peaks["process"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(folder, arguments.n)
        ours, shards = fit_over_shards(run, arguments.shards)
        theirs, local = fit_in_one_process(run)
    figures = {
        "n": arguments.n,
        "shape": [N_STEPS, DIM],
        "n_clusters": N_CLUSTERS,
        "max_iter": MAX_ITER,
        "n_iter": [ours.n_iter_, theirs.n_iter_],
        "load_average": os.getloadavg(),
        "shards": shards,
        "one_process": local,
        "ratio": shards["fit_seconds"] / local["fit_seconds"],
        "labels_that_differ": int((ours.labels_ != theirs.labels_).sum()),
        "objectives": [float(ours.distances_.sum()), float(theirs.distances_.sum())],
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(f"kept in {keep('shards', figures)}")


if __name__ == "__main__":
    main()
