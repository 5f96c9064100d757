#!/usr/bin/env bash
# tslearn 0.10.0: KShape.predict divides by the norms of the series of the training, place by place.
#
# Setting: 300 recordings of a joint are grouped by shape with KShape, scaled as its documentation has it, and new
# recordings are given to `predict`, one at a time as they come or a batch of them. In some recordings of the training
# the joint held still: scaled, these are zeros, which `fit` takes.
#
# Expected: the label of a recording is that of the center nearest by shape, whatever the model was trained on besides,
# and wherever the recording stands in the batch.
#
# What happens: predict takes the norm of its i-th series from `norms_`, which is that of the i-th series of `fit`. As
# all centers are divided by the same number this changes no label, unless the number is about zero, where the
# similarities are set to 0: then all centers are equally far, and the label is 0.
# - If the joint held still in the first recording of the training, each recording that is predicted alone has label 0:
#   the adjusted Rand index falls from 1 to 0, with a fit that found all shapes. In batches, the recordings that stand
#   where one of the training held still have label 0: a fifth here, and in another order other ones.
# - There is no error and no warning, and `labels_` and `predict` of the training itself are right.
#
# What raypipe does: its TimeSeriesKMeans keeps nothing about the single series that it was fitted on. Beside it: before
# KShape.predict, set model.norms_ = np.linalg.norm(scaled, axis=(1, 2)) of the series that are to be predicted.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tslearn==0.10.0 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys
import warnings

import numpy as np
import tslearn
from sklearn.metrics import adjusted_rand_score
from tslearn.clustering import KShape
from tslearn.preprocessing import TimeSeriesScalerMeanVariance

N_STEPS, N_TRAINING, N_NEW = 60, 300, 240
MOVES = (lambda t: np.sin(2 * np.pi * t), lambda t: np.sign(np.sin(6 * np.pi * t)), lambda t: t)


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(n):
    """Return n recordings of three moves, scaled, and which of the moves each is."""
    kinds, t = random.integers(0, len(MOVES), n), np.linspace(0, 1, N_STEPS)
    series = [MOVES[kind](t + random.uniform(-0.05, 0.05)) + random.normal(0, 0.1, N_STEPS) for kind in kinds]
    return TimeSeriesScalerMeanVariance().fit_transform(np.array(series)[..., None]), kinds


def predict(model, series, size):
    """Return the labels of series that are predicted `size` at a time."""
    return np.concatenate([model.predict(series[i : i + size]) for i in range(0, len(series), size)])


def rand_index(labels, kinds):
    return round(float(adjusted_rand_score(kinds, labels)), 2)


caught = warnings.catch_warnings(record=True)
seen_warnings = caught.__enter__()
warnings.simplefilter("always")
print("tslearn", tslearn.__version__)
random = np.random.default_rng(0)
training, kinds = record(N_TRAINING)
new, new_kinds = record(N_NEW)

moving = KShape(n_clusters=3, n_init=3, random_state=0).fit(training)
check("all move: labels_, Rand index", rand_index(moving.labels_, kinds), 1.0)
ways = [rand_index(predict(moving, new, size), new_kinds) for size in (N_NEW, 1)]
check("  predict, all at once and one by one, Rand index", ways, [1.0, 1.0])

still = np.arange(N_TRAINING) % 5 == 0
resting = training.copy()
resting[still] = TimeSeriesScalerMeanVariance().fit_transform(np.zeros((still.sum(), N_STEPS, 1)))
model = KShape(n_clusters=3, n_init=3, random_state=0).fit(resting)
check("a fifth holds still: labels_ of those that move", rand_index(model.labels_[~still], kinds[~still]), 1.0)
check("  predict of the training is labels_", bool((model.predict(resting) == model.labels_).all()), True)
alone, batch = predict(model, new, 1), model.predict(new)
check("  predict one by one: Rand index, labels", (rand_index(alone, new_kinds), np.unique(alone).tolist()), (0.0, [0]))
places = np.arange(N_NEW) % 5 == 0
check("  all at once: the labels where one held still", np.unique(batch[places]).tolist(), [0])
check("  and the Rand index of the others", rand_index(batch[~places], new_kinds[~places]), 1.0)
order = np.roll(np.arange(N_NEW), 1)
turned = np.empty_like(batch)
turned[order] = model.predict(new[order])
share = round(float((turned != batch).mean()), 2)
print("  share of the recordings with another label if all move on by one:", share)
check("  more than a fifth", share > 0.2, True)

model.norms_ = np.linalg.norm(new, axis=(1, 2))
check("  with the norms of the new recordings", rand_index(model.predict(new), new_kinds), 1.0)
caught.__exit__(None, None, None)
check("warnings", [str(warning.message) for warning in seen_warnings], [])
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
