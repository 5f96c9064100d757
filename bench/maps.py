"""The maps in two dimensions side by side: what they keep, how evenly they fill the plane, and what they cost.

    python -m bench.maps [--demo-seed 101] [--steps 100000]

The steps of the demo's videos, those of the real robot videos below RAYPIPE_TEST_DATA, and synthetic ones (64
dimensions, 20 kinds of paths) are laid out by each method. "trustworthiness" and "neighbors_kept" are as in
`bench.pictures`, at 15 neighbours, on at most 4,000 steps; "of_new_videos" is the trustworthiness among the steps of a
quarter of the videos, on a map that was fitted to the others. "fill" is the part of a 20 × 20 grid's cells that hold a
step. Seconds are of CPU time. "ari" is the agreement with the classes of soft-DTW k-means on the map's paths. The
pictures go to ``bench/results/maps.png``.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from bench.machine import RESULTS, keep
from bench.pictures import draw, judge
from bench.quality import collections
from raypipe.analysis.evaluation import score_agreement
from raypipe.clustering import fit_clusters
from raypipe.config import ClusterConfig, ReduceConfig
from raypipe.reduction import Reducer, choose_points, find_consecutive, make_reducer
from raypipe.reduction.stretch import measure_fill
from raypipe.schema import Trajectories

mpl.use("Agg")
METHODS: dict[str, dict[str, Any]] = {
    "PCA": {"method": "pca"},
    "UMAP, fastumap on 2,000": {"method": "umap", "backend": "quick", "fit_points": 2000},
    "UMAP, umap-learn": {"method": "umap", "backend": "cpu"},
    "t-SNE on 10,000": {"method": "tsne", "backend": "cpu", "fit_points": 10_000},
    "autoencoder, not stretched": {"method": "autoencoder", "stretch": False},
    "autoencoder": {"method": "autoencoder"},
}
DIM, N_KINDS, N_STEPS = 64, 20, 16
SHOWN_PATHS = 400  # More of the synthetic paths would be a blot.
PLACED, MANY = 10_000, 1_000_000  # Further steps that are mapped: by each method, and by those that take seconds.


def make_paths(n: int, seed: int = 0) -> tuple[Trajectories, list[str | None]]:
    """Return n paths of `N_KINDS` kinds, walked at different paces, and the kind of each; steps have unit length."""
    rng = np.random.default_rng(seed)
    shapes = np.random.default_rng(0)
    waves = shapes.normal(size=(N_KINDS, 4, DIM)) / np.array([1, 1.5, 2, 3])[:, None]
    manners = 0.4 * shapes.normal(size=(N_KINDS, 3, DIM))
    kinds = rng.integers(N_KINDS, size=n)
    times = np.linspace(0, 1, N_STEPS) ** np.exp(rng.normal(0, 0.3, (n, 1)))
    basis = np.cos(np.pi * np.arange(4) * times[..., None])
    paths = np.matmul(basis, waves[kinds]) + np.matmul(rng.normal(size=(n, 1, 3)), manners[kinds])
    paths += rng.normal(0, 0.15, paths.shape)
    paths /= np.linalg.norm(paths, axis=2, keepdims=True)
    ids = tuple(map(str, range(n)))
    return Trajectories(ids, paths.astype(np.float32), np.full(n, N_STEPS)), [f"kind {kind}" for kind in kinds]


def fit(paths: np.ndarray, config: ReduceConfig) -> tuple[np.ndarray, Reducer, float]:
    """Lay out (n, T, dim) paths; return them in two dimensions, the reducer, and the CPU seconds of the fit."""
    points = paths.reshape(-1, paths.shape[2])
    chosen = choose_points(len(points), config)
    started = time.process_time()
    reducer = make_reducer(config, find_consecutive([paths.shape[1]] * len(paths), chosen))
    places = reducer.fit_transform(points[chosen])
    seconds = time.process_time() - started
    if len(chosen) < len(points):
        places = reducer.transform(points)
    return places.reshape(len(paths), -1, 2), reducer, seconds


def time_transform(reducer: Reducer, n: int) -> float:
    """Return the CPU seconds in which n new steps are mapped."""
    points = make_paths(n // N_STEPS, seed=1)[0].values.reshape(-1, DIM)
    started = time.process_time()
    reducer.transform(points)
    return time.process_time() - started


def measure(paths: np.ndarray, truth: list[str | None], config: ReduceConfig) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the map of (n, T, dim) paths and its figures."""
    steps = paths.reshape(-1, paths.shape[2])
    places, reducer, seconds = fit(paths, config)
    lengths = np.linalg.norm(np.diff(places, axis=1), axis=2)
    found: dict[str, Any] = {
        "implementation": reducer.implementation,
        **judge(steps, places.reshape(-1, 2)),
        "fill": measure_fill(places.reshape(-1, 2)),
        "median_step": float(np.median(lengths) / places.reshape(-1, 2).std()),
        "fit_cpu_s": seconds,
    }
    if len(paths) < 100:
        new = np.arange(len(paths)) % 4 == 0
        _, others, _ = fit(paths[~new], config)
        of_new = paths[new].reshape(-1, paths.shape[2])
        found["of_new_videos"] = judge(of_new, others.transform(of_new))["trustworthiness"]
        k = len(set(truth))
        labels = fit_clusters(places, ClusterConfig(n_clusters=k)).labels
        found["ari"] = score_agreement(labels, truth)["ari"]
    else:
        found[f"map_{PLACED}_cpu_s"] = time_transform(reducer, PLACED)
        if config.method in ("pca", "autoencoder"):
            found[f"map_{MANY}_cpu_s"] = time_transform(reducer, MANY)
    return places, found


def main() -> None:
    """Measure, draw and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo-seed", type=int, default=101)
    parser.add_argument("--steps", type=int, default=100_000)
    chosen = parser.parse_args()
    from matplotlib import pyplot as plt

    with tempfile.TemporaryDirectory() as folder:
        shown = [*collections([chosen.demo_seed], Path(folder))]
    shown.append(("synthetic", *make_paths(chosen.steps // N_STEPS)))
    figure, panels = plt.subplots(len(METHODS), len(shown), figsize=(13, 4.2 * len(METHODS)), layout="constrained")
    figures: dict[str, Any] = {}
    for column, (name, trajectories, truth) in enumerate(shown):
        paths = np.asarray(trajectories.values)
        random = np.random.default_rng(0).uniform(size=(paths.shape[0] * paths.shape[1], 2))
        figures[name] = {"n_steps": len(random), "fill_of_random_places": measure_fill(random)}
        for row, (method, values) in enumerate(METHODS.items()):
            places, figures[name][method] = measure(paths, truth, ReduceConfig(n_components=2, **values))
            print(name, method, figures[name][method], flush=True)
            draw(panels[row, column], places[:SHOWN_PATHS], truth[:SHOWN_PATHS], f"{name}: {method}")
        figure.savefig(RESULTS / "maps.png", dpi=60)
        print(f"kept in {keep('maps', figures)}", flush=True)


if __name__ == "__main__":
    main()
