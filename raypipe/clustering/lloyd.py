"""k-means of series under soft-DTW over any `Shards`: the passes of Lloyd's algorithm, by two solvers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from raypipe.clustering.seeding import fill_length, seed_centers
from raypipe.clustering.shard import Assignment
from raypipe.clustering.shards import Shards
from raypipe.softdtw.barycenter import Descent, descend_lbfgs, slope

# As in tslearn, a fit takes what it has when so many runs have ended with an empty cluster.
_LEAST_ATTEMPTS = 10
# Centers take so many steps a pass: they matter more for convergence than labels do, and cost less.
_STEPS = 8
# tslearn's tolerance of each L-BFGS.
_BARYCENTER_TOL = 1e-3


@dataclass(frozen=True)
class Rules:
    """The parameters of a fit; see `raypipe.TimeSeriesKMeans`."""

    n_clusters: int
    solver: str = "mm"
    init: Any = "k-means++"
    n_init: int = 1
    max_iter: int = 50
    tol: float = 1e-6
    max_iter_barycenter: int = 100
    report: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Fit:
    """The result of one run from one seeding.

    Attributes
    ----------
    centers
        (k, T, d) float64.
    score
        The best of several runs has the lowest: the sum of soft-DTW less offsets; but under "lbfgs" the mean of squared
        soft-DTW in the last pass, unless it left a cluster empty.
    n_iter
        Passes.
    n_empty
        The number of clusters that no series belongs to. A run with fewer of them is better, whatever its score.
    """

    centers: np.ndarray
    score: float
    n_iter: int
    n_empty: int

    def beats(self, other: "Fit | None") -> bool:
        """Return whether this is a better result than another, or than none."""
        return other is None or (self.n_empty, self.score) < (other.n_empty, other.score)


def fit(shards: Shards, rules: Rules, random: np.random.RandomState) -> Fit:
    """Find centers, the best of ``n_init`` runs, and leave the shards with their labels, computed in float64.

    A run that leaves a cluster empty is made again from other seeds, and is the result only if all do.
    """
    best, done = None, 0
    run = _run_mm if rules.solver == "mm" else _run_lbfgs
    seeded = isinstance(rules.init, str)  # Given centers lead to the same result every time.
    for attempt in range(max(rules.n_init, _LEAST_ATTEMPTS) if seeded else 1):
        rules.report(f"\nrun {attempt + 1}:" if attempt else "")
        seeds = seed_centers(shards, rules.init, rules.n_clusters, random)
        found = _label_exactly(shards, run(shards, seeds, rules), rules)
        if found.beats(best):
            best = found
        if found.n_empty:
            rules.report("a cluster was left empty")
            continue
        done += 1
        if done == rules.n_init:
            break
    assert best is not None
    return best if best is found else _label_exactly(shards, best, rules)


def _label_exactly(shards: Shards, run: Fit, rules: Rules) -> Fit:
    """Label the series with a run's centers, in float64; return the run with what this pass says of it."""
    found = shards.assign(run.centers, exact=True)
    n_empty = _count_empty(found)
    as_tslearn = rules.solver == "lbfgs" and not n_empty  # Where all runs fail, tslearn has none to repeat.
    return replace(run, score=run.score if as_tslearn else found.objective, n_empty=n_empty)


def _count_empty(found: Assignment) -> int:
    return int(np.count_nonzero(found.counts == 0))


def _run_mm(shards: Shards, centers: np.ndarray, rules: Rules) -> Fit:
    """Assign, and move the centers downhill, until the objective stands still; refill what a pass finds empty."""
    best = last = None
    descent = Descent(len(centers))
    for n_iter in range(1, rules.max_iter + 2):  # The last pass only assigns.
        found = shards.assign(centers)
        rules.report(f"{found.objective:.6g} -->")
        now = Fit(centers, found.objective, min(n_iter, rules.max_iter), _count_empty(found))
        if last is not None and now.n_empty >= last.n_empty:
            gain = last.score - now.score
            still = gain <= rules.tol * found.magnitude
            # Only rounding or the divergence make the objective rise; and clusters were refilled in vain.
            if gain < 0 or (still and now.n_empty and last.n_empty):
                break
            if still and not now.n_empty:
                best = now
                break
        if now.beats(best):
            best = now
        if n_iter > rules.max_iter:
            break
        last = now
        centers = _move_centers(shards, descent, centers, found, rules)
    assert best is not None
    return replace(best, n_iter=now.n_iter)


def _move_centers(shards: Shards, descent: Descent, centers: np.ndarray, found: Assignment, rules: Rules) -> np.ndarray:
    """Take steps downhill; a cluster that a pass found empty gets a series first, and its center begins there."""
    rows, left, entered = _refill(shards, found.counts)
    centers = centers.copy()
    # The series' center of before serves the series as well as before: so the objective does not rise.
    centers[entered] = centers[left]
    centers = descent.run(shards.statistics, centers, _STEPS, rules.tol)
    # No center has less of a divergence from a series than the series itself.
    if shards.measure.divergence and len(rows):
        centers[entered] = fill_length(shards.paths(rows), centers.shape[1])
    return centers


def _refill(shards: Shards, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the series that lie farthest off members of the empty clusters, one each, but empty no other for that.

    Returns
    -------
    The numbers of these series, the clusters that they have left, and those that they have entered: not all that are
    empty, if there are too few series.
    """
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return empty, empty, empty
    # Each cluster that has series keeps one at most that could be wanted, so that more than k need not be looked at.
    rows, labels, _ = shards.farthest(len(counts))
    counts, moves = counts.copy(), list[int]()
    for place, label in enumerate(labels):
        if counts[label] > 1 and len(moves) < len(empty):
            counts[label] -= 1
            moves.append(place)
    entered = empty[: len(moves)]
    shards.move(rows[moves], entered)
    return rows[moves], labels[moves], entered


def _run_lbfgs(shards: Shards, centers: np.ndarray, rules: Rules) -> Fit:
    """Assign, and solve for every center, until the inertia stands still: tslearn's passes, in tslearn's order.

    As in tslearn, the run ends where a pass leaves a cluster empty.
    """
    before, n_iter = np.inf, 0
    centers = centers.copy()
    while n_iter < rules.max_iter:
        n_iter += 1
        found = shards.assign(centers)
        inertia = found.mean_square
        rules.report(f"{inertia:.3f} -->")
        if not found.counts.all():
            break
        for cluster in range(len(centers)):
            objective = partial(_evaluate, shards, cluster)
            centers[cluster] = descend_lbfgs(objective, centers[cluster], rules.max_iter_barycenter, _BARYCENTER_TOL)
        if abs(before - inertia) < rules.tol:
            break
        before = inertia
    return Fit(centers, inertia, n_iter, _count_empty(found))


def _evaluate(shards: Shards, cluster: int, center: np.ndarray) -> tuple[float, np.ndarray]:
    found = shards.statistics(center[None], cluster)
    return found.values[0], slope(found, center)
