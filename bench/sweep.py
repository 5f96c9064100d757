"""How often ``raypipe sweep`` finds the number of groups: the evidence for its rule.

    python -m bench.sweep [--seeds 2] [--demo-seeds 101] [--only NAME ...]

Every collection is swept over k = 2 to 12 with γ and all other parameters at their defaults. Where the number of groups
is known, the figure is how far the recommended one is from it; where there are none, whether "no structure" is said.

- Real: three sets of time series below RAYPIPE_TEST_DATA, each series z-normalised and taken at 32 steps; the robot
  videos of the same folder; and the demo's. Videos have the pipeline's defaults (16 steps, PCA-5).
- Made, with groups: paths of 16 steps in 5 dimensions around k smooth random curves. Each path is its group's curve,
  run through at a pace of its own, and bent by a smooth random curve of ``noise`` times the size, with a little white
  noise beside. 120 paths in groups of one size, or of sizes from a Dirichlet distribution (the smallest has 5). Random
  curves may happen to lie near together, and at noise 0.4 groups may overlap: not all k can be found.
- Made, without groups: see `EMPTY`.
- Either of these (groups of one size, noise 0.15) with three odd paths beside: random curves of their own, three times
  as wide. The figure is how many groups the recommended clusters have; one of a few odd paths is none.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.gamma import read_series, standardise
from bench.machine import keep
from bench.quality import collections as embed_videos
from raypipe.analysis.sweep import sweep_clusters
from raypipe.config import ClusterConfig, ReduceConfig
from raypipe.reduction import reduce_trajectories
from raypipe.trajectories.interpolation import interpolate

TIME_SERIES = ("JapaneseVowels", "Plane", "Trace")
N, N_STEPS, DIM = 120, 16, 5
NOISES = (0.15, 0.4)
GROUPS = (2, 3, 5, 8)
N_ODD, ODDNESS = 3, 3.0


class Collection(NamedTuple):
    """Paths in a known number of groups; ``n_groups`` is 1 where there are none, and ``kind`` names the kind."""

    name: str
    kind: str
    values: Any
    n_groups: int


def draw_curve(rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth random curve, (N_STEPS, DIM), of three half waves and their like."""
    steps = np.pi * np.linspace(0, 1, N_STEPS)[:, None]
    waves = [
        (rng.normal(size=DIM) * np.sin(f * steps) + rng.normal(size=DIM) * np.cos(f * steps)) / np.sqrt(f)
        for f in (1, 2, 3)
    ]
    return np.sum(waves, axis=0)


def change_pace(path: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Run through a path at another pace, which changes at three random moments."""
    moments = np.sort(rng.uniform(0, 1, 3))
    there = np.sort(np.clip(moments + rng.normal(0, amount, 3), 0.02, 0.98))
    at = np.interp(np.linspace(0, 1, len(path)), [0, *moments, 1], [0, *there, 1])
    return np.column_stack([np.interp(at, np.linspace(0, 1, len(path)), column) for column in path.T])


def draw_groups(n_groups: int, noise: float, equal: bool, rng: np.random.Generator, n: int = N) -> np.ndarray:
    """Draw about ``n`` paths in groups, as the module's head says."""
    middles = [draw_curve(rng) for _ in range(n_groups)]
    shares = np.full(n_groups, 1 / n_groups) if equal else rng.dirichlet(np.full(n_groups, 1.5))
    sizes = np.maximum((shares * n).astype(int), 5)
    return np.array(
        [
            change_pace(middle, rng, 0.1) + noise * draw_curve(rng) + 0.05 * rng.normal(size=(N_STEPS, DIM))
            for middle, size in zip(middles, sizes, strict=True)
            for _ in range(size)
        ]
    )


def _around_one(rng: np.random.Generator, noise: float, pace: float, n: int = N) -> np.ndarray:
    middle = draw_curve(rng)
    white = 0.05 * rng.normal(size=(n, N_STEPS, DIM))
    return np.array([change_pace(middle, rng, pace) + noise * draw_curve(rng) for _ in range(n)]) + white


def _across_a_square(rng: np.random.Generator) -> np.ndarray:
    begin, end = rng.uniform(size=(2, N, 1, 2))
    return begin + (end - begin) * np.linspace(0, 1, N_STEPS)[:, None] + 0.01 * rng.normal(size=(N, N_STEPS, 2))


EMPTY: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "uniform noise": lambda rng: rng.uniform(size=(N, N_STEPS, DIM)),
    "Gaussian noise": lambda rng: rng.normal(size=(N, N_STEPS, DIM)),
    "random walks": lambda rng: rng.normal(size=(N, N_STEPS, DIM)).cumsum(axis=1),
    "a single blob": lambda rng: _around_one(rng, 0.3, 0.1),
    "one path at many paces": lambda rng: _around_one(rng, 0.0, 0.2),
    "still, anywhere in a square": lambda rng: rng.uniform(size=(N, 1, 2)) + 0.01 * rng.normal(size=(N, N_STEPS, 2)),
    "straight, between any places of a square": _across_a_square,
    "uniform vectors": lambda rng: rng.uniform(size=(N, 1, DIM)),
}


def add_odd(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add `N_ODD` random curves to some paths, (n, n_steps, dim), with `ODDNESS` times their spread."""
    curves = np.array([draw_curve(rng) for _ in range(N_ODD)])
    curves = curves[:, : values.shape[1], : values.shape[2]] * (ODDNESS * values.std() / curves.std()) + values.mean()
    return np.concatenate([values, curves])


def read_collections(seeds: int, demo_seeds: list[int]) -> Iterator[Collection]:
    """Yield all collections; videos are embedded here."""
    data = Path(os.environ.get("RAYPIPE_TEST_DATA", "../shared/data"))
    for name in TIME_SERIES:
        series, truth = read_series(data / "timeseries" / f"{name}.npz")
        values = np.stack([interpolate(standardise(s, s), np.arange(len(s)), 32) for s in series])
        yield Collection(name, "real", values, len(set(truth)))
    with tempfile.TemporaryDirectory() as folder:
        for name, paths, groups in embed_videos(demo_seeds, Path(folder)):
            values = reduce_trajectories(paths, ReduceConfig())[0].values
            yield Collection(name, "real", values, len(set(groups)))
    for seed in range(seeds):
        for number, (name, draw) in enumerate(EMPTY.items()):
            values = draw(np.random.default_rng((seed, number)))
            yield Collection(f"{name}, seed {seed}", "no groups", values, 1)
            values = add_odd(values, np.random.default_rng((seed, number, 1)))
            yield Collection(f"{name} and odd ones, seed {seed}", "no groups, odd ones", values, 1)
        for k in GROUPS:
            for noise in NOISES:
                for equal in (True, False):
                    rng = np.random.default_rng((seed, k, int(100 * noise), equal))
                    name = f"{k} groups of {'one size' if equal else 'unequal sizes'}, noise {noise}, seed {seed}"
                    values = draw_groups(k, noise, equal, rng)
                    yield Collection(name, f"noise {noise}", values, k)
                    if equal and noise == NOISES[0]:
                        yield Collection(f"{name}, and odd ones", "odd ones", add_odd(values, rng), k)


def score(collection: Collection) -> dict[str, Any]:
    """Sweep a collection; return what is recommended, the truth, and the seconds that it took."""
    started = time.process_time()
    found = sweep_clusters(collection.values, ClusterConfig(), range(2, 13))
    seconds = time.process_time() - started
    recommended = (found["recommended"] or {}).get("k")
    chosen = next((row["groups"] for row in found["rows"] if row["k"] == recommended), 1)
    rows = [
        {name: row[name] for name in ("k", "silhouette_softdtw", "reference", "gain", "stability_weakest")}
        for row in found["rows"]
    ]
    return {
        "kind": collection.kind,
        "n": len(collection.values),
        "n_groups": collection.n_groups,
        "recommended": chosen,
        "by_silhouette_alone": max(rows, key=lambda row: row["silhouette_softdtw"])["k"],
        "reason": found["reason"],
        "cpu_s": round(seconds, 1),
        "rows": rows,
    }


def summarise(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each kind how many collections there are, and for how many the right k, or one beside it, is found."""
    table = {}
    for kind in dict.fromkeys(each["kind"] for each in figures.values()):
        mine = [each for each in figures.values() if each["kind"] == kind]
        off = np.array([abs(each["recommended"] - each["n_groups"]) for each in mine])
        alone = np.array([abs(each["by_silhouette_alone"] - each["n_groups"]) for each in mine])
        none = np.array([each["recommended"] == 1 for each in mine])
        table[kind] = {
            "n": len(mine),
            "right": int((off == 0).sum()),
            "within_1": int(((off <= 1) & (none == kind.startswith("no groups"))).sum()),
            "no_structure": int(none.sum()),
            "right_by_silhouette_alone": int((alone == 0).sum()),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--demo-seeds", type=int, nargs="*", default=[101])
    parser.add_argument("--only", nargs="*", help="kinds to measure; no results are written then")
    arguments = parser.parse_args()
    figures = {}
    for collection in read_collections(arguments.seeds, arguments.demo_seeds):
        if arguments.only and collection.kind not in arguments.only:
            continue
        figures[collection.name] = found = score(collection)
        print(f"{collection.name}: {found['n_groups']} → {found['recommended']} ({found['cpu_s']} s)", flush=True)
    table = summarise(figures)
    for kind, row in table.items():
        print(f"{kind:12}" + "  ".join(f"{name} {value}" for name, value in row.items()))
    if not arguments.only:
        print(f"kept in {keep('sweep', {'table': table, 'collections': figures})}")


if __name__ == "__main__":
    main()
