"""Pooled videos and densities beside paths: agreement with the tasks of real robot videos, and what a density costs.

    python -m bench.pooled [--scale 2500 5000 10000 20000]

The videos are those of ``videos/robot_tasks`` below RAYPIPE_TEST_DATA (classes are tasks), embedded by the descriptor
and by the MobileNet whose weights are there. Methods that draw are run from four seeds, and the mean counts. Noise
counts as a class of its own. The costs are those of `raypipe.clustering.density` on random walks of 16 steps in five
dimensions in three groups, in a process of its own each: CPU seconds of the distances of all pairs and of the labels,
and the peak of memory; beside it those of scikit-learn with the whole matrix ("dense").
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep
from raypipe import pipeline
from raypipe.analysis.evaluation import score_agreement
from raypipe.clustering import fit_clusters
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.reduction import reduce_trajectories
from raypipe.runs.directory import Run
from raypipe.runs.results import read_truth, write_trajectories
from raypipe.trajectories import build_trajectories

ROOT = Path(__file__).resolve().parents[1]
ENCODERS = {"descriptor": "descriptor", "mobilenet": "mobilenet_encoder:MobileNet"}
N_SEEDS = 4
DENSE_AT_MOST = 5000  # The whole matrix of more takes scikit-learn many GB.
DENSITY = {"method": "density", "min_cluster_size": 3}
METHODS: dict[str, dict[str, Any]] = {
    "pooled k-means, mean": {"preset": "video-kmeans"},
    "pooled k-means, max": {"preset": "video-kmeans", "trajectory": {"pool": "max"}},
    "pooled k-means, median": {"preset": "video-kmeans", "trajectory": {"pool": "median"}},
    "pooled k-means, first": {"preset": "video-kmeans", "trajectory": {"pool": "first"}},
    "density of means, UMAP-5": {"preset": "video-density", "cluster": DENSITY},
    "density of means": {"preset": "video-density", "cluster": DENSITY, "reduce": {"method": "none"}},
    "density of paths, PCA-5": {"cluster": DENSITY},
    "k-means of paths, PCA-5": {},
}


def score(run: Run, method: dict[str, Any], truth: list[str | None]) -> dict[str, float]:
    """Return the ARI, the NMI, the number of clusters and the share of noise, each a mean over the seeds."""
    flags = {name: keys for name, keys in method.items() if name != "preset"}
    found = []
    for seed in range(N_SEEDS):
        seeds = {"reduce": {"seed": seed}, "cluster": {"seed": seed, "n_clusters": len(set(truth))}}
        layers = {name: {**seeds.get(name, {}), **flags.get(name, {})} for name in {*seeds, *flags}}
        config = make_config(preset=method.get("preset"), flags=layers)
        paths = build_trajectories(run, **config.trajectory.model_dump(exclude={"method"}))
        reduced, _ = reduce_trajectories(paths, config.reduce)
        clustering = fit_clusters(reduced.values, config.cluster)
        agreement = score_agreement(clustering.labels, truth)
        noise = float(np.mean(clustering.labels == -1))
        found.append((agreement["ari"], agreement["nmi"], clustering.n_clusters, noise))
    return dict(zip(("ari", "nmi", "clusters", "noise"), np.mean(found, axis=0).tolist(), strict=True))


def measure_cost(n: int, dense: bool) -> dict[str, float]:
    """Return CPU seconds of the density of n paths and the peak of this process's memory in GB.

    With ``dense`` scikit-learn is given the whole matrix, as one would without `raypipe.clustering.density`.
    """
    from sklearn.cluster import HDBSCAN

    from raypipe.clustering import density

    rng = np.random.default_rng(0)
    groups = rng.normal(size=(3, 16, 5)).cumsum(axis=1)
    values = (groups[np.arange(n) % 3] + rng.normal(scale=0.5, size=(n, 16, 5)).cumsum(axis=1)).astype(np.float32)
    density.compare_paths(values[:100], 0.1)  # compiles
    started = time.process_time()
    apart = density.compare_paths(values, 0.1)
    compared = time.process_time()
    if dense:
        labels = HDBSCAN(min_cluster_size=5, metric="precomputed", copy=False).fit_predict(apart)
    else:
        labels = density._label_pairs(apart, 5, 5)
    labelled = time.process_time()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "pairs_cpu_s": compared - started,
        "labels_cpu_s": labelled - compared,
        "peak_gb": int(peak.split()[1]) / 1e6,
        "clusters": int(labels.max()) + 1,
        "noise": int((labels == -1).sum()),
    }


def measure_apart(n: int, dense: bool) -> dict[str, float]:
    code = f"import json; from bench.pooled import measure_cost; print(json.dumps(measure_cost({n}, {dense})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, nargs="*", default=[2500, 5000, 10_000, 20_000])
    arguments = parser.parse_args()
    robots = Path(os.environ.get("RAYPIPE_TEST_DATA", ROOT / "../shared/data")).resolve() / "videos" / "robot_tasks"
    helpers = str(ROOT / "tests/helpers")
    sys.path.insert(0, helpers)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), helpers, os.environ.get("PYTHONPATH", "")]
    )  # for Ray's workers
    agreement: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, encoder in ENCODERS.items():
            run = Run(str(Path(folder) / name))
            pipeline.embed(robots, run, make_config(flags={"encode": {"encoder": encoder}}), Progress())
            write_trajectories(run, build_trajectories(run), {})  # The classes are read of the videos that have one.
            truth = read_truth(run)[1]
            agreement[name] = {label: score(run, method, truth) for label, method in METHODS.items()}
            print(name)
            for label, figures in agreement[name].items():
                print(f"  {label:28}" + "  ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
    costs = {}
    for n in arguments.scale:
        for how in ("chain", "dense") if n <= DENSE_AT_MOST else ("chain",):
            costs[f"{n}, {how}"] = found = measure_apart(n, how == "dense")
            print(f"{n} paths, {how}: " + "  ".join(f"{key} {value:.3g}" for key, value in found.items()), flush=True)
    print(f"kept in {keep('pooled', {'robot_tasks': agreement, 'density_of_paths': costs})}")


if __name__ == "__main__":
    main()
