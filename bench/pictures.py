"""The pictures' map by umap-learn, which drew it before, and by what draws it now, side by side.

    python -m bench.pictures [--demo-seed 101] [--seeds 3]

The steps of the demo's videos, those of the real robot videos below RAYPIPE_TEST_DATA, and scikit-learn's digits are
laid out in two dimensions: "before" by umap-learn on all of them, "now" as `ReduceConfig.for_picture` says. Of both,
the trustworthiness and the part of the 15 nearest neighbours that is kept (cosine in the embedding, Euclidean on the
map), each the mean over seeds, on at most `COMPARED` steps. ``bench/results/pictures.png`` shows the first seed's.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from bench.machine import RESULTS, keep
from bench.quality import collections
from raypipe.config import ReduceConfig
from raypipe.reduction import reduce_trajectories
from raypipe.schema import Trajectories

mpl.use("Agg")
N_NEIGHBORS, COMPARED = 15, 4000


def digits() -> tuple[Trajectories, list[str | None]]:
    """Return the digits as trajectories of one step."""
    points, labels = load_digits(return_X_y=True)
    ids = tuple(map(str, range(len(points))))
    return Trajectories(ids, points.astype(np.float32)[:, None], np.ones(len(points), np.int64)), list(map(str, labels))


def find_neighbors(points: np.ndarray, metric: str) -> np.ndarray:
    """Return each point's nearest others, (n, N_NEIGHBORS)."""
    found = NearestNeighbors(n_neighbors=N_NEIGHBORS, metric=metric, algorithm="brute").fit(points)
    return found.kneighbors(return_distance=False)


def judge(steps: np.ndarray, flat: np.ndarray) -> dict[str, float]:
    """Compare a map with what it shows."""
    rows = np.random.default_rng(0).permutation(len(steps))[:COMPARED]
    steps, flat = steps[rows], flat[rows]
    near, kept = find_neighbors(steps, "cosine"), find_neighbors(flat, "euclidean")
    return {
        "trustworthiness": float(trustworthiness(steps, flat, n_neighbors=N_NEIGHBORS, metric="cosine")),
        "neighbors_kept": float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(near, kept, strict=True)]))
        / N_NEIGHBORS,
    }


def draw(axes: Any, flat: np.ndarray, truth: list[str | None], title: str) -> None:
    names = sorted({str(name) for name in truth})
    for path, name in zip(flat, truth, strict=True):
        axes.plot(*path.T, "o-" if len(path) > 1 else "o", ms=1.5, lw=0.6, alpha=0.6, c=f"C{names.index(str(name))}")
    axes.set(title=title, xticks=[], yticks=[])


def main() -> None:
    """Measure, draw and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo-seed", type=int, default=101)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    from matplotlib import pyplot as plt

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shown = [*collections([chosen.demo_seed], Path(folder)), ("digits", *digits())]
    figure, panels = plt.subplots(len(shown), 2, figsize=(10, 4.6 * len(shown)), layout="constrained")
    for (name, paths, truth), row in zip(shown, panels, strict=True):
        figures[name] = {"n_steps": int(np.prod(paths.values.shape[:2]))}
        for build, axes in zip(("before", "now"), row, strict=True):
            found = []
            for seed in range(chosen.seeds):
                config = ReduceConfig(seed=seed).for_picture()
                if build == "before":
                    config = config.model_copy(update={"backend": "cpu", "fit_points": 100_000})
                flat, reducer = reduce_trajectories(paths, config)
                found.append(judge(paths.values.reshape(-1, paths.values.shape[2]), flat.values.reshape(-1, 2)))
                if seed == 0:
                    draw(axes, flat.values, truth, f"{name}: {build}, {reducer.implementation}")
            means = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
            figures[name][build] = {"implementation": reducer.implementation, **means}
        print(name, figures[name], flush=True)
    figure.savefig(RESULTS / "pictures.png", dpi=80)
    keep("pictures", figures)


if __name__ == "__main__":
    main()
