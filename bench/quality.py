"""How well clusters agree with known classes, for several reductions: the evidence for the defaults.

    python -m bench.quality [--demo-seeds 101 102 103] [--seeds 4]

The videos are those of the demo (classes are behaviours) and the real robot videos below RAYPIPE_TEST_DATA (classes
are tasks), embedded by the descriptor. The figures are the mean, standard deviation and minimum of the ARI over
clustering seeds, with γ and all other parameters at their defaults. For comparison, k-means on mean-pooled embeddings
and Euclidean k-means on the trajectories are given the same number of clusters.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep
from raypipe import pipeline
from raypipe.analysis.evaluation import score_agreement, score_mean_pooled
from raypipe.clustering import fit_clusters
from raypipe.config import ClusterConfig, ReduceConfig, make_config
from raypipe.demo import render_demo
from raypipe.progress import Progress
from raypipe.reduction import reduce_trajectories
from raypipe.runs.directory import Run
from raypipe.runs.results import read_truth, write_trajectories
from raypipe.schema import Trajectories
from raypipe.trajectories import build_trajectories

REDUCTIONS: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "pca-3": {"method": "pca", "n_components": 3},
    "pca-5": {"method": "pca", "n_components": 5},
    "pca-8": {"method": "pca", "n_components": 8},
    "pca-16": {"method": "pca", "n_components": 16},
    "umap-2": {"method": "umap", "n_components": 2},
    "umap-5": {"method": "umap", "n_components": 5},
    "umap-5, 64 neighbours": {"method": "umap", "n_components": 5, "n_neighbors": 64},
    "umap-5, 64 neighbours, min_dist 0": {"method": "umap", "n_components": 5, "n_neighbors": 64, "min_dist": 0.0},
}


def embed(videos: Path, folder: Path) -> tuple[Trajectories, list[str | None]]:
    """Embed videos with the descriptor; return their trajectories and groups."""
    run = Run(str(folder))
    pipeline.embed(videos, run, make_config(flags={"encode": {"encoder": "descriptor"}}), Progress())
    paths = build_trajectories(run)
    write_trajectories(run, paths, {})  # The classes are read of the videos that have one.
    return paths, read_truth(run)[1]


def collections(demo_seeds: list[int], folder: Path) -> Iterator[tuple[str, Trajectories, list[str | None]]]:
    """Yield the collections to cluster: name, trajectories, groups."""
    for seed in demo_seeds:
        render_demo(folder / f"videos-{seed}", seed=seed)
        yield f"demo, seed {seed}", *embed(folder / f"videos-{seed}", folder / f"run-{seed}")
    robots = Path(os.environ.get("RAYPIPE_TEST_DATA", "../shared/data")) / "videos" / "robot_tasks"
    if robots.is_dir():
        yield "robot_tasks", *embed(robots, folder / "run-robots")


def score(paths: Trajectories, truth: list[str | None], n_seeds: int) -> dict[str, Any]:
    """Return the figures of one collection by name of the method."""
    k = len(set(truth))

    def agree(reduce: dict[str, Any], **cluster: Any) -> dict[str, float]:
        found = []
        for seed in range(n_seeds):
            reduced, _ = reduce_trajectories(paths, ReduceConfig(seed=seed, **reduce))
            fitted = fit_clusters(reduced.values, ClusterConfig(n_clusters=k, seed=seed, **cluster))
            found.append(score_agreement(fitted.labels, truth)["ari"])
        return {"mean": float(np.mean(found)), "sd": float(np.std(found)), "least": float(np.min(found))}

    pooled = [score_mean_pooled(paths.values, truth, k, seed) for seed in range(n_seeds)]
    figures: dict[str, Any] = {"mean-pooled k-means": {"mean": float(np.mean([ari or 0.0 for ari in pooled]))}}
    figures["Euclidean k-means, pca-5"] = agree(REDUCTIONS["pca-5"], method="euclidean")
    figures["γ = 1, pca-5"] = agree(REDUCTIONS["pca-5"], gamma=1.0)
    figures["1 run, pca-5"] = agree(REDUCTIONS["pca-5"], n_init=1)
    return {**figures, **{name: agree(reduce) for name, reduce in REDUCTIONS.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo-seeds", type=int, nargs="*", default=[101, 102, 103])
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, paths, truth in collections(arguments.demo_seeds, Path(folder)):
            figures[name] = score(paths, truth, arguments.seeds)
            print(name)
            for method, ari in figures[name].items():
                print(f"  {method:36}" + "  ".join(f"{key} {value:.3f}" for key, value in ari.items()), flush=True)
    print(f"kept in {keep('quality', figures)}")


if __name__ == "__main__":
    main()
