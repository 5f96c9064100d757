#!/usr/bin/env bash
# scikit-learn 1.9.1 (numpy 2.4.6): PCA and KMeans.predict of float32 depend on how far from zero the numbers lie.
#
# Setting: 2,000 readings of 20 barometers in pascals: 101,325 and some hundreds more or less, along three directions,
# with noise of 5. All are whole numbers, which float32 holds exactly. Beside them are the same numbers as float64, and
# the same less 101,325, exact in float32 too.
#
# Expected: PCA "centers" its input, so that nothing but rounding of the results, in the seventh digit, tells the three
# apart; and k-means gives each row, when asked again, the label that it gave it in the fit.
#
# What happens, without a warning:
# - PCA's axes are not those of the data: the second stands at right angles to the true one. The shares of the variance
#   are about 0.55, 0.28, 0.04 instead of 0.88, 0.09, 0.02, and what is reconstructed is four times as far from the
#   data. Where there are ten times as many rows as columns, and at most 1,000 columns, svd_solver="auto" takes
#   "covariance_eigh", which is described as working on centered data. It does not: it multiplies the data as they are
#   and takes away the part of the means afterwards, and in float32 the difference of two numbers so large is their
#   rounding. svd_solver="full" is right, and so is "auto" as long as it takes that, as for 150 of these rows.
# - KMeans.fit subtracts the mean first, and its labels are right. KMeans.predict does not, and labels a third of the
#   very rows that it was fitted on otherwise than labels_, though fit_predict(X), which gives labels_, is described
#   as fit(X), then predict(X).
#
# Why it matters to raypipe: its default reduction is this PCA, and its steps are float32 and mostly ten times as many
# as their dimensions. Embeddings are of length 1 and lose nothing, but trajectories that were computed elsewhere, such
# as readings of sensors, may lie anywhere: so raypipe takes the mean away in float64 before scikit-learn sees them. Of
# scikit-learn's k-means it reads labels_, and never asks it to predict.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

USUAL = 101_325  # pascals


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def describe(name, points, solver="auto"):
    """Print what PCA finds; return (solver, whether all axes are right, whether one is far from right)."""
    model = PCA(3, svd_solver=solver).fit(points)
    cosines = np.abs((model.components_ * true.components_).sum(axis=1))
    back = model.inverse_transform(model.transform(points))
    error = np.sqrt(np.square(back.astype(np.float64) - points).mean())
    shares = model.explained_variance_ratio_
    print(f"{name}: |cosine| with the true axes {cosines.round(2)}, shares of the variance {shares.round(2)}, ", end="")
    print(f"distance of the reconstruction {error:.1f}")
    return model._fit_svd_solver, bool((cosines > 0.999).all()), bool(cosines.min() < 0.7)


def agree(points):
    """Return the share of the rows that a fitted k-means labels again as it did."""
    model = KMeans(8, n_init=3, random_state=0).fit(points)
    return round(float((model.predict(points) == model.labels_).mean()), 2)


random = np.random.default_rng(0)
axes = np.linalg.qr(random.normal(size=(20, 3)))[0]
spread = (random.normal(size=(2000, 3)) * [300, 100, 50]) @ axes.T + random.normal(size=(2000, 20)) * 5
exact = np.round(USUAL + spread)
readings = exact.astype(np.float32)
centered = readings - np.float32(USUAL)
assert (readings == exact).all() and (centered == exact - USUAL).all()
true = PCA(3, svd_solver="full").fit(exact)

quick = "covariance_eigh"
check("PCA: (solver, all right, one far off)", describe("float32", readings), (quick, False, True))
check("PCA: (solver, all right, one far off)", describe("float64", exact), (quick, True, False))
check("PCA: (solver, all right, one far off)", describe("float32 around zero", centered), (quick, True, False))
check("PCA: (solver, all right, one far off)", describe("float32, full", readings, "full"), ("full", True, False))
few = describe("float32, 150 rows", readings[:150])
check("PCA: solver for fewer rows", few[0], "full")

share = agree(readings)
print("k-means: share of the rows that predict labels as fit did, float32:", share)
check("k-means: it is less than 0.8", share < 0.8, True)
check("k-means: float64", agree(exact), 1.0)
check("k-means: float32 around zero", agree(centered), 1.0)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
