#!/usr/bin/env bash
# tslearn 0.10.0, aeon 1.6.0: a joint that holds still is 0, 1 or -1 after scaling, by how its mean is rounded.
#
# Setting: recordings of two joints, of which one moves and one holds still, at another angle in each recording, as
# where a wrist or a gripper has no part in a move. They are scaled by TimeSeriesScalerMeanVariance or Normalizer, which
# give each joint of each recording the mean 0 and the deviation 1, and are clustered.
#
# Expected: the joint that holds still is 0 throughout and plays no part, as by scikit-learn's StandardScaler: both take
# a deviation of 0 for 1.
#
# What happens: they ask for a deviation of exactly 0. The mean of 100 equal numbers is often the number next to them, so
# of a hundred 0.7s, and the deviation is then that last bit: the joint is divided by its own rounding, and is 1 or -1
# throughout, by the angle's last bits. No move is as large throughout, so that it outweighs the joint that moves.
# - k-means by the Euclidean distance and by DTW finds all three moves with the joint that moves alone, and divides the
#   recordings by the sign of a rounding with both: the adjusted Rand index falls from 1 to about 0.2, and with three
#   joints that hold still to 0. No error, and no warning.
# - Where the deviation is exactly 0 (all angles at home, at 0 or 0.5) it is as expected, which a test by zeros shows.
# - scikit-learn's StandardScaler, pyts' and stumpy's take such a deviation for 0; scipy's zscore warns.
#
# What raypipe does: it scales no recording by itself, but features by all of their frames; it averages float32 in
# float64, where the mean of equal numbers is that number, and measures a feature anew where lerobot's statistics of it
# are rounding. Beside it: scikit-learn's StandardScaler per recording, or subtract the first step before scaling.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tslearn==0.10.0 aeon==1.6.0 pyts==0.14.1 scikit-learn==1.9.1 numpy==2.3.5 scipy==1.17.1

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys
import warnings

import aeon
import numpy as np
import tslearn
from aeon.transformations.collection import Normalizer
from pyts.preprocessing import StandardScaler as PytsScaler
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler
from tslearn.clustering import TimeSeriesKMeans
from tslearn.preprocessing import TimeSeriesScalerMeanVariance

N_RECORDINGS, N_STEPS = 120, 100
MOVES = (lambda t: np.sin(2 * np.pi * t), lambda t: np.sin(4 * np.pi * t), lambda t: t)


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(n_still):
    """Return recordings (n, steps, 1 + n_still), of which the first joint moves, and which move each is."""
    random = np.random.default_rng(0)
    kinds, t = random.integers(0, len(MOVES), N_RECORDINGS), np.linspace(0, 1, N_STEPS)
    recordings = []
    for kind in kinds:
        move = MOVES[kind](t + random.uniform(-0.03, 0.03)) * random.uniform(0.5, 1.5) + random.uniform(-1, 1)
        angles = np.round(random.uniform(-2, 2, n_still), 3)
        recordings.append(np.column_stack([move + random.normal(0, 0.02, N_STEPS), np.tile(angles, (N_STEPS, 1))]))
    return np.array(recordings), kinds


def by_tslearn(recordings):
    return TimeSeriesScalerMeanVariance().fit_transform(recordings)


def by_aeon(recordings):
    return np.asarray(Normalizer().fit_transform(recordings.transpose(0, 2, 1))).transpose(0, 2, 1)


def by_scikit_learn(recordings):
    return np.array([StandardScaler().fit_transform(recording) for recording in recordings])


def rand_index(scaled, kinds, metric):
    model = TimeSeriesKMeans(n_clusters=3, metric=metric, n_init=3, random_state=0)
    return round(float(adjusted_rand_score(kinds, model.fit_predict(scaled))), 1)


caught = warnings.catch_warnings(record=True)
seen_warnings = caught.__enter__()
warnings.simplefilter("always")
print("tslearn", tslearn.__version__, "aeon", aeon.__version__)
moving, kinds = record(n_still=0)
one, kinds_of_one = record(n_still=1)
three, kinds_of_three = record(n_still=3)
for name, scale in (("tslearn", by_tslearn), ("aeon", by_aeon)):
    still = scale(one)[:, :, 1]
    check(f"{name}: the values of a joint that holds still", np.unique(still.round(6) + 0.0).tolist(), [-1.0, 0.0, 1.0])
    check("  more than nine of ten recordings have it at 1 or -1", bool((abs(still[:, 0]) > 0.5).mean() > 0.9), True)
    for metric in ("euclidean", "dtw"):
        found = [rand_index(scale(recordings), of, metric) for recordings, of in ((moving, kinds), (one, kinds_of_one))]
        check(f"  Rand index by {metric}, without it and with it", found[0] == 1.0 and found[1] < 0.3, True)
        print("   ", found)
    check("  with three that hold still, by dtw", abs(rand_index(scale(three), kinds_of_three, "dtw")), 0.0)
for metric in ("euclidean", "dtw"):
    found = rand_index(by_scikit_learn(three), kinds_of_three, metric)
    check(f"scikit-learn's scaler: Rand index by {metric}, with three that hold still", found, 1.0)
for name, still in (("scikit-learn", by_scikit_learn(one)[:, :, 1]), ("pyts", PytsScaler().transform(one[:, :, 1]))):
    check(f"{name}: a joint that holds still is 0 but for rounding", bool(abs(still).max() < 1e-12), True)
at_home = np.full((1, N_STEPS, 1), 0.5)
values = [np.unique(scale(at_home)).tolist() for scale in (by_tslearn, by_aeon)]
check("at 0.5, whose mean is exact: tslearn and aeon", values, [[0.0], [0.0]])
caught.__exit__(None, None, None)
of_scaling = [str(warning.message) for warning in seen_warnings if issubclass(warning.category, RuntimeWarning)]
check("warnings of numbers", of_scaling, [])
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
