"""How long a user waits: whole processes from the command to the picture, beside an older build and beside the peers.

python -m bench.latency                            # this tree and the peers
python -m bench.latency --against e21d3cd          # an older commit as well, in turns with this tree
python -m bench.latency --only run report --rounds 5

run      `raypipe run` on 444 trajectories of about 20 steps and 256 dimensions, with the defaults, beside the lines
         of the notebook that the preset embedding-analysis repeats (umap-learn, tslearn, matplotlib), with the
         same 16 steps and 5 clusters
demo     `raypipe demo` with the caches of all compilers empty, and again with what the first time left
cluster  `raypipe cluster` on the demo's run, of which everything has been done before
report   `raypipe report` on it
map      100,000 points of 64 dimensions drawn in two, and 1,000,000 points placed among them, beside umap-learn
memory   the most anonymous memory of `raypipe cluster` on 100,000 trajectories of 16 steps and 512 dimensions

Beside run, demo, cluster and report stands what of them is not ours: a process that imports the same packages, and for
the demo streams as many rows through two pools of actors that do nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import RESULTS, keep, of_this_isa

HERE = Path(__file__).resolve().parent.parent
N_TRAJECTORIES, DIM = 444, 256
N_LARGE, LARGE_STEPS, LARGE_DIM = 100_000, 16, 512
N_FITTED, N_PLACED, MAP_DIM = 100_000, 1_000_000, 64

NOTEBOOK = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import umap
from tslearn.clustering import TimeSeriesKMeans

paths = [np.array(path) for path in json.load(open(sys.argv[1]))]
grid = np.linspace(0, 1, 16)
steps = np.stack([np.stack([np.interp(grid, np.linspace(0, 1, len(p)), c) for c in p.T], axis=1) for p in paths])
reducer = umap.UMAP(n_neighbors=15, min_dist=0.1, n_components=2, metric="cosine", random_state=1, n_jobs=1)
flat = reducer.fit_transform(steps.reshape(-1, steps.shape[2])).reshape(len(paths), 16, 2)
labels = TimeSeriesKMeans(n_clusters=5, metric="softdtw", max_iter=50, random_state=1).fit_predict(flat)
figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6))
for path, label in zip(flat, labels):
    left.plot(*path.T, color=f"C{label}", alpha=0.3)
right.scatter(*flat.mean(axis=1).T, c=labels)
figure.savefig(sys.argv[2], dpi=150)
"""

_REPORT = (
    "numpy, pyarrow.parquet, pyarrow.compute, pydantic, yaml, fsspec, typer, PIL.Image, matplotlib.figure, "
    "matplotlib.backends.backend_agg"
)
_CLUSTER = f"{_REPORT}, sklearn.decomposition, sklearn.metrics, sklearn.neighbors, numba, fastumap"
_DEMO = f"""
import os, {_CLUSTER}
import ray, ray.data

class Same:
    def __call__(self, batch):
        return batch

ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
rows = ray.data.range(48, override_num_blocks=4)
for size in (os.cpu_count(), max(os.cpu_count() // 2, 1)):
    rows = rows.map_batches(Same, compute=ray.data.ActorPoolStrategy(size=size), num_cpus=0.25, batch_format="pyarrow")
assert sum(1 for _ in rows.iter_rows()) == 48
ray.shutdown()
"""
NOT_OURS = {"run": f"import {_CLUSTER}", "cluster": f"import {_CLUSTER}", "report": f"import {_REPORT}", "demo": _DEMO}
"""What the packages below raypipe take of each part."""

PEERS_MAP = """
import sys, time
import numpy as np
import umap
fitted, placed = np.load(sys.argv[1]), np.load(sys.argv[2])[: int(sys.argv[3])]
begin = time.monotonic()
model = umap.UMAP(n_neighbors=15, min_dist=0.1, metric="cosine").fit(fitted)
middle = time.monotonic()
model.transform(placed)
print(middle - begin, time.monotonic() - middle)
"""

OUR_MAP = """
import sys, time
import numpy as np
from raypipe.config import ReduceConfig
from raypipe.reduction import choose_points, make_reducer
fitted, placed = np.load(sys.argv[1]), np.load(sys.argv[2])
begin = time.monotonic()
config = ReduceConfig().for_picture()
reducer = make_reducer(config)
reducer.fit(fitted[choose_points(len(fitted), config)])
reducer.transform(fitted)
middle = time.monotonic()
reducer.transform(placed)
print(middle - begin, time.monotonic() - middle)
"""


class Build:
    """A tree of raypipe's code whose commands are timed, with caches of its own."""

    def __init__(self, name: str, tree: Path, folder: Path) -> None:
        self.name, self.tree, self.folder = name, tree, folder / name
        self.folder.mkdir()
        self.caches = self.folder / "caches"

    def call(self, *command: str) -> float:
        """Run a command of raypipe in a process of its own, and return the seconds that it took."""
        return self.python("-m", "raypipe", *command)[0]

    def python(self, *arguments: str) -> tuple[float, str]:
        """Run Python on this tree, and return the seconds that it took and what it printed."""
        return timed([sys.executable, *arguments], self.tree, self.caches)


def timed(command: list[str], tree: Path, caches: Path) -> tuple[float, str]:
    begin = time.monotonic()
    done = subprocess.run(command, env=environment(tree, caches), cwd=caches.parent, capture_output=True, text=True)
    taken = time.monotonic() - begin
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return taken, done.stdout


def environment(tree: Path, caches: Path) -> dict[str, str]:
    """Return the variables by which all compilers and matplotlib keep what they make in one folder."""
    kept = {"NUMBA_CACHE_DIR": str(caches / "numba"), "MPLCONFIGDIR": str(caches / "matplotlib")}
    for folder in kept.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    as_users_have_it = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**as_users_have_it, **kept, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}


def not_ours(part: str, build: Build) -> Callable[[int], float]:
    """Return a work that does of a part what the packages below raypipe do, with a build's caches."""
    return lambda _: build.python("-c", NOT_OURS[part])[0]


def in_turns(rounds: int, works: Mapping[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """Do each work in every round, in turns, so that a slow minute of the machine meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds):
        for name, work in works.items():
            taken[name].append(work(i))
            print(f"    {name}: {taken[name][-1]:.1f}", flush=True)
    return taken


def compare(taken: dict[str, list[float]]) -> dict[str, Any]:
    """Return all figures, and the medians of the others' ratios to ours, round by round."""
    ratios = {
        f"{name}_over_ours": statistics.median(a / b for a, b in zip(others, taken["ours"], strict=True))
        for name, others in taken.items()
        if name != "ours"
    }
    print("  ", ", ".join(f"{name} {value:.1f}" for name, value in ratios.items()) or taken)
    return {"taken": taken, **ratios}


def time_run(builds: list[Build], folder: Path, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(5, 4, DIM))
    paths = []
    for i in range(N_TRAJECTORIES):
        n = int(rng.integers(15, 26))
        grid = np.sort(rng.uniform(0, 3, n))
        whole = np.stack([np.interp(grid, np.arange(4), column) for column in shapes[i % 5].T], axis=1)
        paths.append((whole + rng.normal(scale=0.3, size=(n, DIM))).round(5).tolist())
    source, picture = folder / "trajectories.json", folder / "notebook.png"
    source.write_text(json.dumps(paths))
    peer = Build("notebook", HERE, folder)

    def run(build: Build) -> Callable[[int], float]:
        return lambda i: build.call("run", str(source), "--output", str(build.folder / f"run_{i}"), "--quiet")

    def notebook(_: int) -> float:
        return peer.python("-c", NOTEBOOK, str(source), str(picture))[0]

    for build in builds:  # What compilers keep on the disk is there from the second time on.
        build.call("run", str(source), "--output", str(build.folder / "run_before"), "--quiet")
    notebook(0)
    works = {build.name: run(build) for build in builds}
    return compare(in_turns(rounds, {**works, "notebook": notebook, "not_ours": not_ours("run", peer)}))


def time_demo(builds: list[Build], folder: Path, rounds: int) -> dict[str, Any]:
    """Make each build's demo twice, first with empty caches: the run of the second is what later parts work on."""
    cold: dict[str, list[float]] = {build.name: [] for build in builds}
    warm: dict[str, list[float]] = {name: [] for name in (*cold, "not_ours")}
    for i in range(rounds):
        for build in builds:
            build.caches = build.folder / f"caches_{i}"
            for taken in (cold, warm):
                out = build.folder / ("demo" if taken is warm and i == 0 else f"demo_{taken is warm}_{i}")
                taken[build.name].append(build.call("demo", "--output", str(out), "--quiet"))
                print(f"    {build.name}, {'cold' if taken is cold else 'warm'}: {taken[build.name][-1]:.1f}")
        warm["not_ours"].append(not_ours("demo", builds[0])(i))
    return {"cold": compare(cold), "warm": compare(warm)}


def time_again(command: str) -> Callable[[list[Build], Path, int], dict[str, Any]]:
    def measure(builds: list[Build], folder: Path, rounds: int) -> dict[str, Any]:
        for build in builds:
            run = build.folder / "demo"
            if not run.exists():
                build.call("demo", "--output", str(run), "--quiet")
            build.call(command, str(run), "--quiet")
        runs = {build.name: str(build.folder / "demo") for build in builds}
        works = {b.name: (lambda _, b=b: b.call(command, runs[b.name], "--quiet")) for b in builds}
        figures = compare(in_turns(rounds, {**works, "not_ours": not_ours(command, builds[0])}))
        steps = json.loads((builds[0].folder / "demo" / "run.json").read_text())["seconds"]
        return {**figures, "seconds_by_step": steps}  # of the last round; those before ``trajectories`` are the demo's

    return measure


def time_map(builds: list[Build], folder: Path, rounds: int) -> dict[str, Any]:
    """Draw points of 40 groups on the unit sphere; umap-learn places a tenth of the further ones, at the same rate."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(40, MAP_DIM))
    files = []
    for name, n in (("fitted", N_FITTED), ("placed", N_PLACED)):
        points = centers[rng.integers(0, 40, n)] + rng.normal(scale=0.5, size=(n, MAP_DIM))
        files.append(str(folder / f"{name}.npy"))
        np.save(files[-1], (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32))
    fit: dict[str, list[float]] = {"ours": [], "umap_learn": []}
    place: dict[str, list[float]] = {"ours": [], "umap_learn": []}
    ours, peer = builds[0], Build("umap_learn", HERE, folder)
    n_peers = N_PLACED // 10
    for _ in range(rounds):
        for name, build, script, n in (
            ("ours", ours, OUR_MAP, N_PLACED),
            ("umap_learn", peer, PEERS_MAP, n_peers),
        ):
            fit_s, place_s = map(float, build.python("-c", script, *files, str(n))[1].split())
            fit[name].append(fit_s)
            place[name].append(place_s * N_PLACED / n)
            print(f"    {name}: fit {fit_s:.1f}, {n / place_s:.0f} points placed a second", flush=True)
    return {"fit": compare(fit), "place": compare(place)}


def measure_memory(builds: list[Build], folder: Path, rounds: int) -> dict[str, Any]:
    """Cluster precomputed trajectories that have the length that they are built in, with the defaults."""
    source = folder / "large.npz"
    if not source.exists():
        rng = np.random.default_rng(0)
        shapes = rng.normal(size=(20, LARGE_STEPS, LARGE_DIM)).astype(np.float32)
        clips = np.empty((N_LARGE, LARGE_STEPS, LARGE_DIM), dtype=np.float32)
        for i in range(0, N_LARGE, 1000):
            noise = rng.normal(scale=0.5, size=(1000, LARGE_STEPS, LARGE_DIM)).astype(np.float32)
            clips[i : i + 1000] = shapes[rng.integers(0, 20, 1000)] + noise
        np.savez(source, trajectories=clips)
        del clips
    data = 4 * N_LARGE * LARGE_STEPS * LARGE_DIM
    figures: dict[str, Any] = {"data_bytes": data}
    for build in builds:
        run = str(build.folder / "large")
        build.call("embed", str(source), "--output", run, "--quiet")
        command = [sys.executable, "-m", "raypipe", "cluster", run, "--quiet"]
        begin = time.monotonic()
        with subprocess.Popen(command, env=environment(build.tree, build.caches), cwd=build.folder) as process:
            most = 0
            while process.poll() is None:
                most = max(most, anonymous_bytes(process.pid))
                time.sleep(0.05)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        taken = {"bytes": most, "of_data": most / data, "seconds": time.monotonic() - begin}
        print(f"    {build.name}: {most / 1e9:.2f} GB, {most / data:.2f} of the data, {taken['seconds']:.0f} s")
        figures[build.name] = taken
    return figures


def anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


PARTS: dict[str, tuple[Callable[[list[Build], Path, int], dict[str, Any]], int]] = {
    "run": (time_run, 2),
    "demo": (time_demo, 1),
    "cluster": (time_again("cluster"), 3),
    "report": (time_again("report"), 3),
    "map": (time_map, 1),
    "memory": (measure_memory, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="an older commit, which is measured as well")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--rounds", type=int, help="how often, instead of each part's own number")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        builds = [Build("ours", HERE, folder)]
        if chosen.against:
            older = folder / "older"
            subprocess.run(["git", "clone", "--quiet", str(HERE), str(older)], check=True)
            subprocess.run(["git", "checkout", "--quiet", chosen.against], cwd=older, check=True)
            builds.append(Build("older_build", older, folder))
        name = of_this_isa("latency")
        kept = RESULTS / f"{name}.json"
        figures: dict[str, Any] = json.loads(kept.read_text())["figures"] if kept.exists() else {}
        for part in (part for part in PARTS if part in chosen.only):  # Later ones work on the demo of the first.
            measure, rounds = PARTS[part]
            print(part, flush=True)
            figures[part] = {"older_build": chosen.against, **measure(builds, folder, chosen.rounds or rounds)}
            keep(name, figures)


if __name__ == "__main__":
    main()
