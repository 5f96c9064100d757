#!/usr/bin/env bash
# scikit-learn 1.9.1: TSNE of a precomputed matrix squares the caller's matrix, each time that it is fitted.
#
# Setting: distances of all pairs cost much (DTW of paths, say), so they are computed once and kept, and several read
# them: t-SNE with a few perplexities, a silhouette, nearest neighbours. TSNE takes them as metric="precomputed". Its
# other method, barnes_hut, is the default.
#
# Expected: fit_transform(D) reads D. HDBSCAN, which may overwrite a matrix, has a parameter `copy` and a warning for
# it; TSNE has neither. MDS, Isomap, DBSCAN, OPTICS, AgglomerativeClustering and the silhouette leave a matrix alone.
#
# What happens under method="exact", without a warning:
# - D is squared in place, and by the next fit again: after five fits it holds the 32nd powers.
# - The silhouette of the same labels on the same matrix "improves" with every map that is drawn: 0.40, 0.61, 0.80 and
#   0.91.
# - Fits with one seed and one perplexity differ, so that of a scan over perplexities only the first is right. In
#   float32 the sixth fit squares some into infinity, and returns a map all the same.
# - If D is a file that was opened by np.load(…, mmap_mode="r+"), the file is squared. A matrix that may not be written
#   to is refused with "output array is read-only".
# method="barnes_hut" leaves the matrix alone.
#
# What raypipe does: it gives t-SNE points, never distances. The one matrix that it keeps, of soft-DTW divergences, is
# only read: by silhouettes, by neighbours, and where HDBSCAN's tree is grown.
# Beside it: pass D.copy(), or D.setflags(write=False), which makes an error of it.
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
import sklearn
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_score


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def fit(matrix, method="exact"):
    """Return the Kullback-Leibler divergence of a map, rounded; seed and perplexity are always the same."""
    model = TSNE(metric="precomputed", init="random", method=method, perplexity=20, max_iter=500, random_state=0)
    model.fit_transform(matrix)
    return round(float(model.kl_divergence_), 2)


def judge(matrix):
    return round(float(silhouette_score(matrix, labels, metric="precomputed")), 2)


random = np.random.default_rng(0)
labels = np.repeat([0, 1, 2], 40)
points = random.normal(size=(120, 5)) + 2 * labels[:, None]
original = pairwise_distances(points)
print("scikit-learn", sklearn.__version__)

matrix = original.copy()
silhouettes, fits = [judge(matrix)], []
for power in (2, 4, 8):
    fits.append(fit(matrix))
    check(f"the matrix is now the distances to the power of {power}", np.allclose(matrix, original**power), True)
    silhouettes.append(judge(matrix))
check("silhouette of the same labels, before and after each fit", silhouettes, [0.4, 0.61, 0.8, 0.91])
print("divergence of the map, fit by fit:", fits)
check("all fits alike", len(set(fits)) == 1, False)
check("all fits alike, each of a copy", len({fit(original.copy()) for _ in range(3)}) == 1, True)

single = original.astype(np.float32)
for _ in range(6):
    fit(single)
check("float32: infinite after six fits", bool(np.isinf(single).any()), True)

np.save("distances.npy", original)
fit(np.load("distances.npy", mmap_mode="r+"))
check("the file that was mapped is squared", np.allclose(np.load("distances.npy"), original**2), True)

locked = original.copy()
locked.setflags(write=False)
try:
    fit(locked)
    message = "no error"
except ValueError as error:
    message = str(error)
check("a matrix that may not be written to", message, "output array is read-only")

matrix = original.copy()
fit(matrix, "barnes_hut")
check("barnes_hut leaves the matrix as it was", np.array_equal(matrix, original), True)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
