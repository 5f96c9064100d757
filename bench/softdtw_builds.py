"""Soft-DTW on the CPU by instruction set: this build, an earlier one and tslearn side by side, and their compilers.

    python -m bench.softdtw_builds --before FOLDER [--rounds 5] [--first 3]

FOLDER holds a checkout of the earlier build. Each build runs in a process of its own for each instruction set: that of
this processor, and AVX2 by name if that is another. (`NUMBA_CPU_NAME` alone would leave a name the features of this
processor.) They and tslearn, in its better number of jobs, compute the matrix in turn; ratios are medians over rounds.
Those of wall time use all cores, and are what a user sees on an idle machine. Those of CPU time compare one job of
tslearn with the time of all our threads together, and hold on a busy one too. No build is timed before its values agree
with the reference.

The first fit is that of `TimeSeriesKMeans` in a fresh process, with an empty folder for what numba compiles, and the
second that of another process which finds the folder full. What is compiled for the matrix is kept in a folder for each
build below `NUMBA_CACHE_DIR`, if that is set.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe_machine, keep, of_this_isa
from bench.softdtw import GAMMA, SIZES, TOLERANCES, make_data
from raypipe.softdtw import reference
from raypipe.softdtw.series import Series

SETS = {
    "this processor's": {},
    "AVX2": {"NUMBA_CPU_NAME": "znver3", "NUMBA_CPU_FEATURES": "+avx2"},
}
ROOT = Path(__file__).resolve().parents[1]
SHOWN = 20  # The values of this many series are compared with the reference.

# A process that times calls: it is told a file and a call, and answers with seconds of wall and CPU time.
WORKER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
import llvmlite.binding
from raypipe.softdtw import cdist_soft_dtw
def call(name, x, centers, gamma):
    if name.startswith("tslearn"):
        from tslearn.metrics import cdist_soft_dtw as peer
        return lambda: peer(x, centers, gamma, n_jobs=int(name[-1]))
    x, centers = x.astype(name), centers.astype(name)
    return lambda: cdist_soft_dtw(x, centers, gamma, precision=name)
for line in sys.stdin:
    file, name, least, gamma = json.loads(line)
    data = np.load(file)
    work = call(name, data["x"], data["centers"], gamma)
    if least == 0:
        print(json.dumps(work()[:20].tolist()), flush=True)
        continue
    wall, cpu, calls = time.perf_counter(), time.process_time(), 0
    while calls == 0 or time.perf_counter() - wall < least:
        work()
        calls += 1
    print(json.dumps([(time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls]), flush=True)
"""
FIRST_FIT = """
import json, time
import numpy as np
from numba.core import event
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
x = np.random.default_rng(0).normal(size=(48, 16, 5)).astype(np.float32)
model = TimeSeriesKMeans(4, metric="softdtw", metric_params={"gamma": "auto"}, n_init=5, random_state=0)
with event.install_recorder("numba:compile") as compiled:
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(x)
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, len(compiled.buffer) // 2]))
"""


class Worker:
    """A process with a build, for an instruction set."""

    def __init__(self, build: Path, instructions: dict[str, str], cache: str):
        environment = os.environ | instructions | {"PYTHONPATH": str(build), "NUMBA_CACHE_DIR": cache}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", WORKER], env=environment, cwd=build, **pipes)

    def ask(self, file: str, name: str, least_s: float = 0.1) -> Any:
        """Return the seconds of wall and CPU time of a call, or with ``least_s=0`` its first values."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([file, name, least_s, GAMMA]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def measure_set(
    builds: dict[str, Path], instructions: dict[str, str], rounds: int, folder: str
) -> list[dict[str, Any]]:
    """Compare the builds and tslearn for an instruction set, size by size."""
    kept = os.environ.get("NUMBA_CACHE_DIR", folder)
    workers = {name: Worker(build, instructions, f"{kept}/{name}") for name, build in builds.items()}
    calls = [(build, precision) for build in workers for precision in TOLERANCES]
    calls += [("now", "tslearn 1"), ("now", "tslearn 2")]
    rows = []
    for size in SIZES[:3]:
        x, centers = make_data(size)
        file = f"{folder}/data.npz"
        np.savez(file, x=x, centers=centers)
        expected = reference.cdist(Series(x[:SHOWN]), Series(centers), GAMMA)
        for build, name in calls:
            off = abs(np.array(workers[build].ask(file, name, 0)) - expected).max() / abs(expected).max()
            if not off < TOLERANCES.get(name, 1e-9):
                raise SystemExit(f"{name} of build {build} is off by {off:.1e} at {size}: nothing is timed")
        times = np.array([[workers[build].ask(file, name) for build, name in calls] for _ in range(rounds)])
        rows.append({"size": str(size)} | _compare(calls, times))
        print(json.dumps(rows[-1]), flush=True)
    for one in workers.values():
        one.process.communicate()
    return rows


def _compare(calls: list[tuple[str, str]], times: np.ndarray) -> dict[str, Any]:
    """Return medians of (rounds, calls, 2) seconds, wall and CPU, and of their ratios."""
    wall, cpu = ({call: times[:, i, kind] for i, call in enumerate(calls)} for kind in (0, 1))
    best = np.minimum(wall["now", "tslearn 1"], wall["now", "tslearn 2"])
    ratios = {}
    for build, name in calls[:-2]:
        ratios[f"tslearn's best / {build}, {name}"] = best / wall[build, name]
        ratios[f"CPU: tslearn / {build}, {name}"] = cpu["now", "tslearn 1"] / cpu[build, name]
    for name in TOLERANCES:
        ratios[f"CPU: before / now, {name}"] = cpu["before", name] / cpu["now", name]
    for build in ("before", "now"):
        ratios[f"CPU: float64 / float32, {build}"] = cpu[build, "float64"] / cpu[build, "float32"]
    found = {" ".join(call): float(np.median(wall[call])) for call in calls}
    return {"seconds": found, "ratios": {name: float(np.median(each)) for name, each in ratios.items()}}


def measure_first_fit(builds: dict[str, Path], instructions: dict[str, str], rounds: int) -> dict[str, Any]:
    """Time the first fit and the second, and count what is compiled."""
    found: dict[str, list[Any]] = {f"{build}, {which}": [] for build in builds for which in ("first", "second")}
    for _ in range(rounds):
        for build, path in builds.items():
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | instructions | {"PYTHONPATH": str(path), "NUMBA_CACHE_DIR": cache}
                for which in ("first", "second"):
                    command = [sys.executable, "-c", FIRST_FIT]
                    ran = subprocess.run(command, env=environment, cwd=path, capture_output=True, check=True)
                    found[f"{build}, {which}"].append(json.loads(ran.stdout))
    medians = {
        name: dict(zip(("wall_s", "cpu_s", "compiled"), np.median(each, axis=0).tolist(), strict=True))
        for name, each in found.items()
    }
    pairs = zip(found["before, first"], found["now, first"], strict=True)
    ratio = statistics.median(before[1] / now[1] for before, now in pairs)
    print(json.dumps(medians), f"CPU: before / now {ratio:.2f}", flush=True)
    return medians | {"CPU: before / now, first": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first", type=int, default=3, help="rounds of first fits")
    arguments = parser.parse_args()
    builds = {"now": ROOT, "before": arguments.before.resolve()}
    described = ["git", "-C", str(builds["before"]), "rev-parse", "--short", "HEAD"]
    figures: dict[str, Any] = {"before": subprocess.run(described, capture_output=True, text=True).stdout.strip()}
    figures["load_before"] = os.getloadavg()[0]
    for name, instructions in SETS.items():
        if name == describe_machine()["isa"]:  # It is this processor's.
            continue
        print(name, flush=True)
        figures[name] = {
            "settings": instructions,
            "first_fit": measure_first_fit(builds, instructions, arguments.first),
        }
        with tempfile.TemporaryDirectory() as folder:
            figures[name]["cdist"] = measure_set(builds, instructions, arguments.rounds, folder)
    figures["load_after"] = os.getloadavg()[0]
    print(f"kept in {keep(of_this_isa('softdtw_builds'), figures)}")


if __name__ == "__main__":
    main()
