"""Which γ gives the best clusters without knowledge of the data: the evidence for ``gamma="auto"``.

    python -m bench.gamma [--seeds 5] [--demo-seeds 7 101] [--only NAME ...]

Every rule takes γ as a scale of the data times a constant, and `TimeSeriesKMeans` (solver "mm", 50 passes, one run a
seed, k the number of classes) is fitted with it, without and with the divergence. A figure is the mean, over seeds, of
the ARI with the known classes; "best of 5" is the ARI of the run with the least objective among five. Every data set
has one vote in a rule's mean, however many forms of it there are. The standard error is that of the mean over data
sets, over seeds. A seed chooses the same initial centers under all rules, so whether a rule ties with the best is
judged by the difference seed by seed.

The data are below RAYPIPE_TEST_DATA. Six sets of time series are z-normalised: each dimension of each series by its own
mean and deviation, and the two sets with several dimensions once more by those of all series together, which keeps the
levels of the series. Skeletons are one view, half of the sequences, with joints relative to the first and 32 steps. The
demo and real robot videos have the pipeline's defaults (16 steps, PCA-5).

For comparison there are γ = 1 by L-BFGS, which finds exactly tslearn's labels (10 passes at most if series have more
than 250 steps); DTW k-means, which is "mm" at γ → 0 (a hundred-thousandth of the median: each step is then one of DBA);
Euclidean k-means of series, resampled to the longest; and k-means on each series' mean, the best of ten, which means
nothing for series that were each normalised on their own.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from bench.machine import keep
from bench.quality import collections as embed_videos
from raypipe.analysis.evaluation import score_mean_pooled
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.config import ReduceConfig
from raypipe.reduction import reduce_trajectories
from raypipe.softdtw import cdist_soft_dtw
from raypipe.trajectories.interpolation import interpolate

TIME_SERIES = ("BasicMotions", "Coffee", "JapaneseVowels", "Plane", "SyntheticControl", "Trace")

RULES: dict[str, tuple[str, float]] = {
    "1": ("one", 1),
    "median of pairs of steps / 1000": ("median", 1 / 1000),
    "median of pairs of steps / 100": ("median", 1 / 100),
    "median of pairs of steps / 30": ("median", 1 / 30),
    "median of pairs of steps / 10": ("median", 1 / 10),
    "median of pairs of steps": ("median", 1),
    "variance of steps / 50": ("variance", 1 / 50),
    "10 % quantile of pairs of steps / 3": ("decile", 1 / 3),
    "median of steps of one index / 10": ("same index", 1 / 10),
    "mean of consecutive steps / 10": ("consecutive", 1 / 10),
    "median DTW² a step / 10": ("aligned", 1 / 10),
    "10 % quantile of DTW² a step / 3": ("aligned decile", 1 / 3),
    "DTW² a step to the nearest series / 3": ("nearest", 1 / 3),
}
"""For each rule a scale of `measure`, and the factor on it.

Soft-DTW of series of T steps is up to γ ln Delannoy(T) ≈ 1.76 γ T below DTW². So a rule that makes this a fraction of
the cost of two series is the rule of "one index" or of "DTW² a step" with another constant.
"""

_PAIRS, _STEPS, _SERIES = 1000, 1000, 200  # The scales are estimated from samples of this size.
_SKELETON_STEPS = 32
_LONG, _LONG_PASSES = 250, 10
# With γ this fraction of the median, soft-DTW equals DTW² to four digits of a step's usual cost.
_TO_DTW = 1e-5


class Collection(NamedTuple):
    """Series with known classes; ``vote`` names the data set of which this is a form.

    ``pooled`` is the data whose mean is taken for k-means on means, or None if that is the series.
    """

    name: str
    vote: str
    series: list[np.ndarray]
    truth: list[Any]
    pooled: Any = None


def read_series(path: Path) -> tuple[list[np.ndarray], list[Any]]:
    """Read series as (T_i, d) float64, and their labels."""
    with np.load(path) as arrays:
        values, lengths = arrays["values"].astype(np.float64), arrays["lengths"]
        return np.split(values, np.cumsum(lengths)[:-1]), arrays["labels"].tolist()


def read_collections(data: Path, demo_seeds: list[int]) -> Iterator[Collection]:
    """Yield all collections; those of videos are embedded here."""
    with tempfile.TemporaryDirectory() as folder:
        for name, paths, groups in embed_videos(demo_seeds, Path(folder)):
            reduced, _ = reduce_trajectories(paths, ReduceConfig())
            series = [np.asarray(path, dtype=np.float64) for path in reduced.values]
            yield Collection(name, name.split(",")[0], series, groups, paths.values)
    for name in TIME_SERIES:
        series, truth = read_series(data / "timeseries" / f"{name}.npz")
        yield Collection(name, name, [standardise(path, path) for path in series], truth)
        if series[0].shape[1] > 1:
            steps = np.concatenate(series)
            yield Collection(f"{name}, by set", name, [standardise(path, steps) for path in series], truth)
    yield read_skeletons(data / "skeletons" / "nw_ucla_views12.npz")


def standardise(path: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Shift and scale each dimension by the mean and deviation of ``by``; a constant one is only shifted."""
    deviation = by.std(axis=0)
    return (path - by.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1)


def read_skeletons(path: Path) -> Collection:
    """Read every second sequence of the first view that has at least eight frames, relative to the first joint."""
    series, labels = read_series(path)
    with np.load(path) as arrays:
        kept = [i for i, name in enumerate(arrays["names"]) if name.endswith("v01") and len(series[i]) >= 8][::2]
    relative = [series[i] - np.tile(series[i][:, :3], series[i].shape[1] // 3) for i in kept]
    resampled = [interpolate(each, np.arange(len(each)), _SKELETON_STEPS) for each in relative]
    return Collection("skeletons", "skeletons", resampled, [labels[i] for i in kept])


def measure(series: list[np.ndarray], seed: int = 0) -> dict[str, float]:
    """Return the scales that the rules use: squared distances of steps or of aligned steps."""
    rng = np.random.default_rng(seed)
    steps = np.concatenate(series)
    apart = pdist(steps[rng.choice(len(steps), min(len(steps), _STEPS), replace=False)], "sqeuclidean")
    pairs = rng.integers(len(series), size=(_PAIRS, 2))
    common = [(series[i][: len(series[j])], series[j][: len(series[i])]) for i, j in pairs if i != j]
    few = [series[i] for i in rng.permutation(len(series))[:_SERIES]]
    lengths = np.array([len(path) for path in few])
    aligned = cdist_soft_dtw(few, gamma=_TO_DTW * np.median(apart)) / np.maximum(lengths[:, None], lengths)
    between = aligned[np.triu_indices(len(few), 1)]
    np.fill_diagonal(aligned, np.inf)
    return {
        "one": 1.0,
        "median": float(np.median(apart)),
        "variance": float(steps.var(axis=0).sum()),
        "decile": float(np.quantile(apart, 0.1)),
        "same index": float(np.median(np.concatenate([((x - y) ** 2).sum(axis=1) for x, y in common]))),
        "consecutive": float(np.mean(np.concatenate([(np.diff(path, axis=0) ** 2).sum(axis=1) for path in series]))),
        "aligned": float(np.median(between)),
        "aligned decile": float(np.quantile(between, 0.1)),
        "nearest": float(np.median(aligned.min(axis=1))),
    }


def agree(series: list[np.ndarray], truth: list[Any], n_seeds: int, **parameters: Any) -> dict[str, list[float]]:
    """Fit once for each seed; return each fit's ARI and objective."""
    found: dict[str, list[float]] = {"ari": [], "objective": []}
    for seed in range(n_seeds):
        model = TimeSeriesKMeans(len(set(truth)), random_state=seed, **parameters).fit(series)
        found["ari"].append(float(adjusted_rand_score(truth, model.labels_)))
        found["objective"].append(model.objective_)
    return found


def score(collection: Collection, n_seeds: int) -> dict[str, dict[str, list[float]]]:
    """Return the fits of one collection by name of the method."""
    _, _, series, truth, pooled = collection
    scales, longest = measure(series), max(len(path) for path in series)

    def fit(gamma: float, **more: Any) -> dict[str, list[float]]:
        found = agree(series, truth, n_seeds, metric="softdtw", metric_params={"gamma": gamma}, **more)
        return {**found, "gamma": [gamma]}

    passes = _LONG_PASSES if longest > _LONG else 50
    resampled = [interpolate(path, np.arange(len(path)), longest) for path in series]
    means = [score_mean_pooled(series if pooled is None else pooled, truth, len(set(truth)), s) for s in range(n_seeds)]
    methods = {
        "k-means of means": {"ari": [ari or 0.0 for ari in means], "objective": [0.0] * n_seeds},
        "Euclidean k-means": agree(resampled, truth, n_seeds, metric="euclidean"),
        "DTW k-means": fit(_TO_DTW * scales["median"]),
        "1, L-BFGS (tslearn)": fit(1.0, solver="lbfgs", max_iter=passes),
    }
    for rule, (scale, factor) in RULES.items():
        methods[rule] = fit(factor * scales[scale])
        methods[f"{rule}, divergence"] = fit(factor * scales[scale], divergence=True)
    return methods


def best_of(found: dict[str, list[float]], n: int = 5) -> float:
    """Return the mean ARI of the runs of least objective among every n."""
    groups = range(0, max(1, len(found["ari"]) - n + 1), n)
    return float(np.mean([found["ari"][g + int(np.argmin(found["objective"][g : g + n]))] for g in groups]))


def summarise(fits: dict[str, dict[str, Any]], votes: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return for each method the ARI by vote, their mean and its standard error, best of 5, and whether it ties."""
    by_vote: dict[str, list[str]] = {}
    for name, vote in votes.items():
        by_vote.setdefault(vote, []).append(name)

    def over_votes(of: Any) -> dict[str, Any]:
        return {vote: np.mean([of(fits[name]) for name in names], axis=0) for vote, names in by_vote.items()}

    table, by_seed = {}, {}
    for method in next(iter(fits.values())):
        aris = over_votes(lambda fit, method=method: fit[method]["ari"])
        best = over_votes(lambda fit, method=method: best_of(fit[method]))
        by_seed[method] = np.mean(list(aris.values()), axis=0)
        table[method] = {
            "votes": {vote: float(np.mean(each)) for vote, each in aris.items()},
            "mean": float(by_seed[method].mean()),
            "standard_error": standard_error(by_seed[method]),
            "best_of_5": float(np.mean(list(best.values()))),
        }
    winner = max(by_seed, key=lambda method: by_seed[method].mean())
    for method, means in by_seed.items():
        behind = by_seed[winner] - means
        table[method]["ties"] = bool(behind.mean() <= standard_error(behind))
    return table


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean, or 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def to_markdown(table: dict[str, dict[str, Any]]) -> str:
    """Return the summary as a table with a row for each method; an asterisk marks the best mean and those that tie."""
    votes = list(next(iter(table.values()))["votes"])
    lines = [f"| γ | {' | '.join(votes)} | mean ± s.e. | best of 5 |", "| --- |" + " --- |" * (len(votes) + 2)]
    for method, row in table.items():
        cells = [f"{row['votes'][vote]:.2f}" for vote in votes]
        mean = f"{row['mean']:.3f} ± {row['standard_error']:.3f}{' *' if row['ties'] else ''}"
        lines.append(f"| {method} | {' | '.join(cells)} | {mean} | {row['best_of_5']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--demo-seeds", type=int, nargs="*", default=[7, 101])
    parser.add_argument("--only", nargs="*", help="measure only these data sets, and write no results")
    arguments = parser.parse_args()
    data = Path(os.environ.get("RAYPIPE_TEST_DATA", "../shared/data"))
    fits, votes = {}, {}
    for collection in read_collections(data, arguments.demo_seeds):
        if arguments.only and collection.vote not in arguments.only:
            continue
        print(f"{collection.name}: {len(collection.series)} series", flush=True)
        fits[collection.name] = score(collection, arguments.seeds)
        votes[collection.name] = collection.vote
    table = summarise(fits, votes)
    print(to_markdown(table))
    if not arguments.only:
        print(f"kept in {keep('gamma', {'seeds': arguments.seeds, 'table': table, 'fits': fits})}")


if __name__ == "__main__":
    main()
