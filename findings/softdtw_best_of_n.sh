#!/usr/bin/env bash
# tslearn 0.10.0 (with scikit-learn 1.9.1, numba 0.68.1): of several soft-DTW k-means runs, n_init keeps the worst.
#
# Setting: TimeSeriesKMeans(metric="softdtw") at its default gamma = 1.0, on 48 noisy sine curves of four kinds,
# of amplitude 1. Four of five runs find the four kinds; one ends in a poor optimum.
#
# Expected: n_init=5 keeps the best of the five runs, as with every k-means. tslearn promises the
# best "in terms of inertia", and calls inertia_ the "sum of distances of samples to their closest cluster center".
#
# What happens: it keeps the one run that failed. inertia_ is the mean of the SQUARED soft-DTW values. Soft-DTW is no
# distance: between series that are alike it goes below zero (down to -gamma * log of the number of ways to align them),
# and the better the fit, the further below. There a better fit has a larger square, and the order of the runs is turned
# around: the lowest inertia_ goes to the worst fit. At gamma = 0.03, where the values are positive, all is well, and
# with metric="dtw" too.
#
# Why it matters to raypipe: its estimator is a drop-in for tslearn's. raypipe compares runs by the sum of the soft-DTW
# values themselves, which is what a step of its k-means lowers, reports inertia_ as tslearn does, and takes
# gamma="auto" in the pipeline. Only solver="lbfgs", which is there to repeat tslearn, compares as tslearn does.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tslearn==0.10.0 scikit-learn==1.9.1 scipy==1.17.1 numba==0.68.1 numpy==2.4.6

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys

import numpy as np
from sklearn.metrics import adjusted_rand_score
from tslearn.clustering import TimeSeriesKMeans

N_RUNS = 5


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def describe(model):
    """Return inertia_, the mean soft-DTW (or DTW) to the closest center, and the agreement with the four kinds."""
    value = model.transform(series).min(axis=1).mean()
    return tuple(round(float(each), 3) for each in (model.inertia_, value, adjusted_rand_score(kinds, model.labels_)))


def fit(metric, gamma, n_init, random):
    model = TimeSeriesKMeans(
        4,
        metric=metric,
        metric_params={"gamma": gamma} if gamma else None,  # None: tslearn's default, 1.0
        max_iter=10,
        max_iter_barycenter=10,
        n_init=n_init,
        random_state=random,
    )
    return describe(model.fit(series))


random = np.random.default_rng(1)
angles = np.linspace(0, 2 * np.pi, 16)
kinds = np.repeat(np.arange(4), 12)
series = np.stack([np.sin((kind + 1) * angles + kind) + 0.1 * random.normal(size=16) for kind in kinds])[..., None]

for metric, gamma in (("softdtw", None), ("softdtw", 0.03), ("dtw", None)):
    draws = np.random.RandomState(0)  # shared, so that the runs are the five that n_init=5 makes
    runs = [fit(metric, gamma, 1, draws) for _ in range(N_RUNS)]
    kept = fit(metric, gamma, N_RUNS, np.random.RandomState(0))
    name = f"{metric}, gamma {gamma or 'default'}"
    print(f"{name}: (inertia_, mean value, agreement) of single runs:", *runs, sep="\n    ")
    print("  kept by n_init=5:", kept)
    check(f"{name}: the kept run is the one of lowest inertia_", kept[0], min(run[0] for run in runs))
    if metric == "softdtw" and gamma is None:
        check("  of the runs, how many find the four kinds", sum(run[2] == 1 for run in runs), N_RUNS - 1)
        check("  and the kept one does", kept[2] == 1, False)
        check("  it has the highest mean value of all", kept[1], max(run[1] for run in runs))
    else:
        check("  the kept one finds the four kinds", kept[2] == 1, True)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
