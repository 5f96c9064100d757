"""How many clusters, and which γ: fits of many, and what they are worth beside data without structure.

Two things make clusters: they come back when other videos of the same kind are fitted, and they lie further apart than
pieces of one cloud would. The first is measured by fits of random halves of the videos: for each cluster the Jaccard
index with the most similar cluster of the half's fit, averaged over halves; at 0.75 or more a cluster is stable
(Hennig, Cluster-wise assessment of cluster stability, 2007, who draws bootstrap samples). Splitting a true group in two
puts one such index far below, however many other clusters there are, which is less plain in the adjusted Rand index.
A cluster of a few odd videos (`find_groups`) is no group: half of the videos may have none of them. So it is set aside
with its videos, and the fits of halves of the others have as many clusters fewer.

The second is measured by the silhouette beside that of collections of the data's size, mean and covariance, smoothness
in time included, that have no groups: the reference of the gap statistic (Tibshirani, Walther & Hastie, 2001, §3, "b"),
for silhouettes instead of inertia. Halving one long cloud is perfectly stable, and silhouettes without any structure
differ from 0, so neither would do alone; `raypipe.analysis.recommendation` takes both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from numbers import Integral
from typing import Any

import numpy as np
from sklearn import metrics

from raypipe.analysis.evaluation import affordable_videos, compare_pairs, score_davies_bouldin, score_silhouette
from raypipe.analysis.recommendation import recommend
from raypipe.analysis.sizes import LEAST_SWEPT
from raypipe.clustering import Clustering, fit_clusters
from raypipe.clustering.assignment import assign_to_centers
from raypipe.clustering.vectors import pool_steps
from raypipe.config import ClusterConfig
from raypipe.errors import UsageError, check_type
from raypipe.schema import finite_or_none
from raypipe.softdtw import auto_gamma, check_gamma
from raypipe.softdtw.barycenter import resample

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

METHODS = ("softdtw", "dtw", "euclidean", "kmeans")  # Those that take a number of clusters.
MAX_VIDEOS = 1000  # More are not compared: silhouettes and stability of so many are known to two digits.
DEFAULT_MOST = 12  # The largest number of clusters that is tried if none is given.
N_REFERENCES = 4  # Collections without structure; the spread of their silhouettes is small beside a real gain.
_RUNS = 2  # Runs of a fit of a half, or of a reference, of which the better one is kept.
_PASSES = 12  # Of a fit at most; later passes move few videos.
_FEW, _RARE = 5, 0.02  # Odd videos are alone in a cluster, or fewer than so many and than this share of all.


@dataclass(frozen=True)
class _Fit:
    """A job: fits of one collection (0 is the data, the others are references) with one γ and k; ``n_fits`` of them."""

    collection: int
    gamma: float | None
    n_clusters: int
    n_fits: int = field(default=1, compare=False)


@dataclass(frozen=True)
class _Fitted:
    """What a job found.

    ``labels`` is (n,), of the fit of the lowest ``objective``. The rest is not computed for references: ``seeds`` is
    the mean pairwise ARI of fits from different seeds, ``halves`` the mean ARI of fits of two halves, and ``weakest``
    the least of the groups' mean Jaccard indices with the fits of halves, 0 where there is one group alone.
    """

    labels: np.ndarray
    objective: float
    seeds: float = np.nan
    halves: float = np.nan
    weakest: float = np.nan


def _objective(fit: Clustering) -> float:
    assert fit.inertia is not None  # Only a density has none, and it has no number of clusters to choose.
    return fit.inertia


@dataclass(frozen=True)
class _Fitter:
    """Does the jobs; it travels to other processes with all collections."""

    collections: tuple[Any, ...]
    config: ClusterConfig
    n_seeds: int

    def __call__(self, job: _Fit) -> _Fitted:
        values = _own(self.collections[job.collection])
        changes: dict[str, Any] = {"n_clusters": job.n_clusters, "max_iter": min(self.config.max_iter, _PASSES)}
        changes |= {} if job.gamma is None else {"gamma": job.gamma}
        config = self.config.model_copy(update=changes)
        if job.collection:
            fit = self._fit(values, config, 0, _RUNS)
            return _Fitted(fit.labels, _objective(fit))
        fits = [self._fit(values, config, seed) for seed in range(self.n_seeds)]
        best = min(fits, key=_objective)
        is_group = find_groups(np.bincount(best.labels, minlength=job.n_clusters))
        rows = np.flatnonzero(is_group[best.labels])
        n_groups = int(is_group.sum())
        halves = self._fit_halves(take(values, rows), config.model_copy(update={"n_clusters": n_groups}))
        recovered = [measure_recovery(best.labels[rows], labels, job.n_clusters) for pair in halves for labels in pair]
        return _Fitted(
            labels=best.labels,
            objective=_objective(best),
            seeds=_agreement([fit.labels for fit in fits]),
            halves=float(np.mean([_agreement(pair) for pair in halves])),
            weakest=float(np.mean(recovered, axis=0)[is_group].min()) if n_groups > 1 else 0.0,
        )

    def _fit(self, values: Any, config: ClusterConfig, seed: int, n_init: int = 1) -> Clustering:
        return fit_clusters(values, config.model_copy(update={"seed": config.seed + seed, "n_init": n_init}))

    def _fit_halves(self, values: Any, config: ClusterConfig) -> list[list[np.ndarray]]:
        """Split the collection in halves, once for each seed; return the labels that both give to all of it."""
        found = []
        for seed in range(self.n_seeds):
            order = np.random.default_rng((config.seed, seed)).permutation(len(values))
            fits = [self._fit(take(values, part), config, seed, _RUNS) for part in np.array_split(order, 2)]
            found.append([assign_to_centers(values, fit.centers, config, fit.gamma)[0] for fit in fits])
        return found


def _score(collections: tuple[Any, ...], job: tuple[int, float, Sequence[np.ndarray]]) -> list[float | None]:
    """Score the labellings of one collection by silhouettes of the divergence, which is computed once for a γ."""
    number, gamma, labellings = job
    apart = compare_pairs(_own(collections[number]), gamma)
    return [score_silhouette(apart, labels, "precomputed") for labels in labellings]


def sweep_clusters(
    values: Any,
    config: ClusterConfig,
    ks: Sequence[int] | None = None,
    gammas: Sequence[float | str] = ("auto",),
    n_seeds: int = 5,
    *,
    map: Map = map,
) -> dict[str, Any]:
    """Fit many numbers of clusters and values of γ, and recommend one of them, or none.

    Parameters
    ----------
    values
        The trajectories as they would be clustered: (n, T, c), or a list of (T_i, c) arrays.
    config
        How to cluster; ``n_clusters``, ``gamma`` and ``n_init`` are replaced.
    ks
        Numbers of clusters, each between 2 and n / 2; by default all of these up to 12.
    gammas
        Values of γ, "auto" among them perhaps; of no meaning for methods other than soft-DTW.
    n_seeds
        Fits from so many seeds, and as many splits in halves.
    map
        A function that is called as the built-in ``map``; a parallel one is quicker. Jobs that are fits have
        ``n_fits``, by which they differ in length.

    Returns
    -------
    A dict that can be written as JSON.

    ``rows``
        For each γ and k: ``silhouette`` and ``davies_bouldin`` on mean vectors, ``silhouette_softdtw`` on the
        divergence with that γ; ``reference`` and ``noise``, its mean and standard deviation over collections without
        structure, and ``gain``, how much more the data have; ``objective``, of the best of the seeds, whose clusters
        are the ones judged; ``stability_seeds``, the mean pairwise ARI of the seeds' fits; ``stability_halves``, the
        mean ARI of fits of two random halves, on all videos; ``stability_weakest``, the Jaccard index of the cluster
        that these halves find again the least; ``sizes``; ``groups``, how many of the clusters are more than a few odd
        videos, which neither stability of halves counts.
    ``recommended``
        The row's ``k`` and ``gamma``, or None if there is no structure.
    ``reason``
        Why, in words.

    Raises
    ------
    UsageError
        If a number of clusters or of seeds is out of range, or γ is given to a method that has none.
    """
    ks, resolved = check_sweep(values, config, ks, gammas, n_seeds)
    rng = np.random.default_rng(config.seed)
    collections = (values, *(make_reference(values, rng) for _ in range(N_REFERENCES)))
    n_fits = [n_seeds * (1 + 2 * _RUNS), *[_RUNS] * N_REFERENCES]  # Of the data each seed has a fit, and two halves.
    jobs = [_Fit(number, gamma, k, n) for number, n in enumerate(n_fits) for gamma in resolved for k in ks]
    fitted = dict(zip(jobs, map(_Fitter(collections, config, n_seeds), jobs), strict=True))

    to_score = [
        (
            number,
            gamma if gamma is not None else auto_gamma(values),
            [fitted[_Fit(number, gamma, k)].labels for k in ks],
        )
        for number in range(len(collections))
        for gamma in resolved
    ]
    scored = iter(list(map(partial(_score, collections), to_score)))
    # By collection, γ and k; None becomes NaN.
    silhouettes = np.array([[next(scored) for _ in resolved] for _ in collections], np.float64)
    means = pool_steps(values).astype(np.float64)
    rows = [
        _row(k, gamma, fitted[_Fit(0, gamma, k)], silhouettes[:, g, i], means)
        for g, gamma in enumerate(resolved)
        for i, k in enumerate(ks)
    ]
    chosen, reason = recommend(rows)
    return {
        "recommended": chosen and {"k": chosen["k"], "gamma": chosen["gamma"]},
        "reason": reason,
        "rows": rows,
        "method": config.method,
        "seeds": n_seeds,
        "several_gammas": len(resolved) > 1,
    }


def find_groups(sizes: np.ndarray) -> np.ndarray:
    """Return which clusters of these sizes, (k,), are more than a few odd videos, (k,) bool; an empty one counts.

    All are, if half of the videos of those that are would be too few for as many clusters.
    """
    is_group = (sizes == 0) | (sizes >= _FEW) | ((sizes >= _RARE * sizes.sum()) & (sizes > 1))
    return is_group if 0 < 2 * is_group.sum() <= sizes[is_group].sum() else np.ones(len(sizes), bool)


def measure_recovery(labels: np.ndarray, others: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return for each cluster the Jaccard index with the most similar cluster of other labels, (n_clusters,) float64.

    It is 0 for a cluster without videos.
    """
    both = metrics.cluster.contingency_matrix(labels, others).astype(np.float64)
    either = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    found = np.zeros(n_clusters)
    found[np.unique(labels)] = (both / either).max(axis=1)
    return found


def make_reference(values: Any, rng: np.random.Generator) -> Any:
    """Make a collection without structure that is as large as another, and has its mean and covariance.

    Paths are points of n_steps × c dimensions. Along each of their principal axes the new points are uniform, with the
    variance that the old ones have there. Where lengths differ, paths are taken at their median length, and stretched
    to those lengths again.

    Parameters
    ----------
    values
        (n, T, c), or a list of (T_i, c) arrays.
    rng
        Draws the points.

    Returns
    -------
    The same form, in the same floats.
    """
    n_steps = int(np.median([len(path) for path in values]))
    points = np.stack([resample(path, n_steps) for path in values]).astype(np.float64)
    shape = points.shape
    points = points.reshape(len(points), -1)
    middle = points.mean(axis=0)
    axes = np.linalg.eigh((points - middle) @ (points - middle).T)[1]  # (n, n): what each path has of each axis
    uniform = rng.uniform(-np.sqrt(3), np.sqrt(3), axes.shape) / np.sqrt(len(points))
    made = (middle + (uniform @ axes.T) @ (points - middle)).reshape(shape)
    if isinstance(values, np.ndarray):
        return made.astype(values.dtype)
    return [resample(path, len(old)).astype(old.dtype) for path, old in zip(made, values, strict=True)]


def take(values: Any, rows: np.ndarray) -> Any:
    """Return some of the trajectories."""
    return values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]


def affordable_sweep(values: Any, seed: int = 0) -> Any:
    """Return the trajectories, or a random sample of as many as a sweep compares in minutes, `MAX_VIDEOS` at most."""
    most = min(MAX_VIDEOS, affordable_videos(values))
    if len(values) <= most:
        return values
    return take(values, np.sort(np.random.default_rng(seed).choice(len(values), most, replace=False)))


def read_ks(text: str) -> list[int]:
    """Read numbers of clusters, such as ``2:12`` (both ends included) or ``5``."""
    first, colon, last = text.partition(":")
    try:
        found = list(range(int(first), int(last if colon else first) + 1))
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"--k takes FROM:TO, such as 2:12; got {text!r}")
    return found


def read_gammas(text: str) -> list[float | str]:
    """Read values of γ, such as ``auto,0.1``."""
    try:
        return [each if each == "auto" else float(each) for each in (part.strip() for part in text.split(","))]
    except ValueError:
        raise UsageError(f"--gamma takes auto or numbers with commas, such as auto,0.1; got {text!r}") from None


def check_sweep(
    values: Any, config: ClusterConfig, ks: Sequence[int] | None, gammas: Sequence[float | str], n_seeds: int
) -> tuple[list[int], list[float | None]]:
    """Return the numbers of clusters and the values of γ that `sweep_clusters` tries, or raise its `UsageError`."""
    _check_lists(ks, gammas)
    n = len(values)
    most = n // 2  # Halves of the videos are clustered too.
    if config.method not in METHODS:
        raise UsageError(f"cluster.method={config.method} finds the number of clusters itself: sweep another method")
    if n < LEAST_SWEPT:
        there = "there is 1" if n == 1 else f"there are {n}"
        raise UsageError(f"a sweep needs at least {LEAST_SWEPT} videos, and {there}")
    ks = list(range(2, min(DEFAULT_MOST, most) + 1)) if ks is None else sorted({int(k) for k in ks})
    if not ks or ks[0] < 2 or ks[-1] > most:
        asked = f"{ks[0]} to {ks[-1]}" if ks else "none"
        raise UsageError(f"k goes from 2 to half the number of videos, here {most}; {asked} was asked for")
    if n_seeds < 2:
        raise UsageError(f"seeds must be 2 or more, for fits to be compared; got {n_seeds}")
    if config.method != "softdtw":
        if list(gammas) != ["auto"]:
            raise UsageError(f"cluster.method={config.method} has no gamma: leave it out")
        return ks, [None]
    resolved = [auto_gamma(values) if gamma == "auto" else check_gamma(gamma) for gamma in gammas]  # type: ignore[arg-type]
    return ks, list(dict.fromkeys(resolved))


def _check_lists(ks: Sequence[int] | None, gammas: Sequence[float | str]) -> None:
    for name, given in (("ks", ks), ("gammas", gammas)):
        if given is not None and (isinstance(given, str) or not isinstance(given, Collection)):
            raise UsageError(f"{name} must be a list of numbers, not {given!r}")
    for k in () if ks is None else ks:
        check_type("each of ks", k, Integral)
    if not len(gammas):
        raise UsageError("gammas must be a list of numbers, auto among them perhaps; it is empty")


def _row(k: int, gamma: float | None, fitted: _Fitted, silhouettes: np.ndarray, means: np.ndarray) -> dict[str, Any]:
    """Return the figures of one γ and k; ``silhouettes`` are those of the data and of each reference."""
    own, reference = silhouettes[0], silhouettes[1:].mean()
    sizes = np.bincount(fitted.labels, minlength=k)
    return {
        "k": k,
        "groups": int(find_groups(sizes).sum()),
        "gamma": gamma,
        "silhouette_softdtw": finite_or_none(float(own)),
        "reference": finite_or_none(float(reference)),
        "gain": finite_or_none(float(own - reference)),
        "noise": finite_or_none(float(silhouettes[1:].std(ddof=1))),
        "stability_seeds": fitted.seeds,
        "stability_halves": fitted.halves,
        "stability_weakest": fitted.weakest,
        "silhouette": score_silhouette(means, fitted.labels, "euclidean"),
        "davies_bouldin": score_davies_bouldin(means, fitted.labels),
        "objective": fitted.objective,
        "sizes": sizes.tolist(),
    }


def _agreement(labellings: Sequence[np.ndarray]) -> float:
    """Return the mean ARI of all pairs of labellings."""
    pairs = combinations(labellings, 2)
    return float(np.mean([metrics.adjusted_rand_score(*pair) for pair in pairs]))


def _own(values: Any) -> Any:
    """Return arrays that may be written to, for which the kernels are compiled: those that travelled may not."""
    if isinstance(values, np.ndarray):
        return values if values.flags.writeable else values.copy()
    return [_own(path) for path in values]
