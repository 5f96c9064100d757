"""k-means of series under soft-DTW over any `Shards`: seeding, and the passes of Lloyd's algorithm by two solvers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from raypipe.clustering.shards import Shards
from raypipe.softdtw import half_self_values
from raypipe.softdtw.barycenter import Descent, descend_lbfgs, resample, slope

# As in tslearn, a fit gives up when so many runs have ended with an empty cluster.
_LEAST_ATTEMPTS = 10
# Centers take so many steps a pass: they matter more for convergence than labels do, and cost less.
_STEPS = 8
# tslearn's tolerance of each L-BFGS.
_BARYCENTER_TOL = 1e-3


@dataclass(frozen=True)
class Rules:
    """The parameters of a fit; see `raypipe.TimeSeriesKMeans`."""

    n_clusters: int
    gamma: float
    solver: str = "mm"
    divergence: bool = False
    backend: str = "auto"
    init: Any = "k-means++"
    n_init: int = 1
    max_iter: int = 50
    tol: float = 1e-6
    max_iter_barycenter: int = 100
    report: Callable[[str], None] = lambda line: None

    def offsets(self, centers: np.ndarray) -> np.ndarray:
        """Return what is subtracted from soft-DTW to each center: half its self-value under the divergence, else 0."""
        return half_self_values(centers, self.gamma, self.backend) if self.divergence else np.zeros(len(centers))


@dataclass(frozen=True)
class Fit:
    """The result of one run from one seeding.

    Attributes
    ----------
    centers
        (k, T, d) float64.
    score
        The best of several runs has the lowest: the mean of squared soft-DTW under "lbfgs", and the sum of soft-DTW
        less offsets under "mm".
    n_iter
        Passes.
    """

    centers: np.ndarray
    score: float
    n_iter: int


def fit(shards: Shards, rules: Rules, random: np.random.RandomState) -> Fit | None:
    """Find centers, the best of ``n_init`` runs, and leave the shards with their labels, computed in float64.

    Returns
    -------
    The best run; or None if every run ended with an empty cluster.
    """
    best, labelled, done = None, None, 0
    run = _run_mm if rules.solver == "mm" else _run_lbfgs
    seeded = isinstance(rules.init, str)  # Given centers lead to the same result every time.
    for attempt in range(max(rules.n_init, _LEAST_ATTEMPTS) if seeded else 1):
        rules.report(f"\nrun {attempt + 1}:" if attempt else "")
        found = run(shards, seed_centers(shards, rules, random), rules)
        labelled = None
        if found is not None and (best is None or found.score < best.score):
            found = labelled = found if _assign_exactly(shards, found, rules) else None
            best = found or best
        if found is None:
            rules.report("a cluster was left empty")
            continue
        done += 1
        if done == rules.n_init:
            break
    if best is not None and labelled is not best:
        _assign_exactly(shards, best, rules)
    return best


def _assign_exactly(shards: Shards, run: Fit, rules: Rules) -> bool:
    """Label the series with a run's centers, in float64; return whether every cluster has a series."""
    return bool(shards.assign(run.centers, rules.offsets(run.centers), exact=True).counts.all())


def seed_centers(shards: Shards, rules: Rules, random: np.random.RandomState) -> np.ndarray:
    """Choose (k, T, d) centers to begin with, with tslearn's draws."""
    if not isinstance(rules.init, str):
        seeds = np.asarray(rules.init, dtype=np.float64)
        return _full_length(seeds, seeds.shape[1])
    if rules.init == "random":
        seeds = shards.paths(random.choice(shards.n_series, rules.n_clusters, replace=False))
    else:
        seeds = _draw_seeds(shards, rules.n_clusters, random)
    return _full_length(seeds, shards.outline.values.shape[1])


def _draw_seeds(shards: Shards, n_clusters: int, random: np.random.RandomState) -> np.ndarray:
    """Draw seeds by k-means++ (Arthur & Vassilvitskii) with squared soft-DTW as weights, the best of a few each."""
    n_trials = 2 + int(np.log(n_clusters))
    seeds = shards.paths(np.array([random.randint(shards.n_series)]))
    shards.begin_seeding()
    potential = float(shards.try_seeds(seeds)[0])
    shards.take_seed(0)
    for _ in range(1, n_clusters):
        rows = shards.draw(random.random_sample(n_trials) * potential)
        candidates = shards.paths(rows)
        potentials = shards.try_seeds(candidates)
        best = potentials.index(min(potentials))
        shards.take_seed(best)
        potential = float(potentials[best])
        seeds = np.concatenate([seeds, candidates[best : best + 1]])
    return seeds


def _full_length(paths: np.ndarray, n_steps: int) -> np.ndarray:
    """Resample paths, each of which ends where NaN begins, to n_steps: (k, n_steps, d)."""
    return np.stack([resample(path[~np.isnan(path).all(axis=1)], n_steps) for path in paths])


def _run_mm(shards: Shards, centers: np.ndarray, rules: Rules) -> Fit | None:
    """Assign, and move the centers downhill, until the objective stands still."""
    before, last, reseeded = np.inf, centers, False
    descent = Descent(len(centers))
    for n_iter in range(1, rules.max_iter + 1):
        found = shards.assign(centers, rules.offsets(centers))
        rules.report(f"{found.objective:.6g} -->")
        if found.objective > before:  # Only rounding or the divergence make it rise.
            return None if reseeded else Fit(last, before, n_iter)
        empty = np.flatnonzero(found.counts == 0)
        if before - found.objective <= rules.tol * found.magnitude and (reseeded or not len(empty)):
            break
        before, last, reseeded = found.objective, centers, bool(len(empty))
        centers = descent.run(shards.statistics, centers, _STEPS, rules.tol)
        if len(empty):
            centers[empty] = _full_length(shards.paths(shards.farthest(len(empty))), centers.shape[1])
    else:
        found = shards.assign(centers, rules.offsets(centers))
    return Fit(centers, found.objective, n_iter) if found.counts.all() else None


def _run_lbfgs(shards: Shards, centers: np.ndarray, rules: Rules) -> Fit | None:
    """Assign, and solve for every center, until the inertia stands still: tslearn's passes, in tslearn's order."""
    before, n_iter = np.inf, 0
    centers = centers.copy()
    while n_iter < rules.max_iter:
        n_iter += 1
        found = shards.assign(centers, rules.offsets(centers))
        if not found.counts.all():
            return None
        inertia = found.mean_square
        rules.report(f"{inertia:.3f} -->")
        for cluster in range(len(centers)):
            if rules.max_iter_barycenter > 0:
                objective = partial(_evaluate, shards, cluster)
                centers[cluster] = descend_lbfgs(
                    objective, centers[cluster], rules.max_iter_barycenter, _BARYCENTER_TOL
                )
        if abs(before - inertia) < rules.tol:
            break
        before = inertia
    return Fit(centers, inertia, n_iter)


def _evaluate(shards: Shards, cluster: int, center: np.ndarray) -> tuple[float, np.ndarray]:
    found = shards.statistics(center[None], cluster)
    return found.values[0], slope(found, center)
