#!/usr/bin/env bash
# dtaidistance 2.5.1: distance_fast gives inf for series between which there is a distance, as it prunes by default.
#
# Setting: a joint moves on smooth curves, recorded 60 times, for 80 to 120 steps; all pairs are compared by
# `dtw.distance_fast`, with a penalty for each step that waits, so that alignments do not stretch too far. Or the joint
# holds still; or window=1 is asked for, which is the Euclidean distance.
#
# Expected: the numbers of `dtw.distance`, sooner: "Same as distance but with different defaults to choose the fast C
# version". One of these defaults is use_pruning=True, by which paths longer than the Euclidean distance, an upper bound
# of DTW, are given up.
#
# What happens: where the result is above the bound it is inf, without a warning, and the bound is not always one.
# - It knows nothing of the penalty, which series of unequal lengths cannot avoid. With penalty=0.5, 39 % of the pairs of
#   recordings are inf, and 87 % of the tenth that are most alike, whose bound is low: as many recordings have another
#   nearest neighbour. With penalty=0.1, 15 % have.
# - Where the straight alignment is the best one, DTW and the bound are the same number, summed and rooted in two ways;
#   if the last bit of DTW is the larger, it is inf. Of joints that hold still a quarter of the pairs are, without any
#   option; so are those of window=1.
# - distance with use_pruning=True does the same. distance_fast(…, use_pruning=False), distance, warping_paths_fast and
#   distance_matrix_fast are right, though the last is described with use_pruning=True: a matrix and its pairs differ.
#
# What raypipe does: it prunes nothing; its DTW is the soft one, whose sum goes over all alignments.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check dtaidistance==2.5.1 numpy==2.3.5

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys

import dtaidistance
import numpy as np
from dtaidistance import dtw


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def pairs(function, series, **options):
    """Return the distance of each pair (i, j) with i < j, as a symmetric matrix with inf on its diagonal."""
    matrix = np.full((len(series),) * 2, np.inf)
    for i, one in enumerate(series):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = function(one, series[j], **options)
    return matrix


def plain(x, y, penalty):
    """Return DTW by its definition: a step that waits costs the square of the penalty besides."""
    sums = np.full((len(x) + 1, len(y) + 1), np.inf)
    sums[0, 0] = 0
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            sums[i + 1, j + 1] = (a - b) ** 2 + min(sums[i, j], min(sums[i, j + 1], sums[i + 1, j]) + penalty**2)
    return np.sqrt(sums[-1, -1])


def share_of_inf(matrix):
    return round(float(np.isinf(matrix[np.tril_indices(len(matrix), -1)]).mean()), 2)


def other_neighbours(one, other):
    """Return the share of the series whose nearest neighbour by the one matrix is not that by the other."""
    return round(float((one.argmin(axis=1) != other.argmin(axis=1)).mean()), 2)


print("dtaidistance", dtaidistance.__version__)
random = np.random.default_rng(0)
moves = []
for n_steps in random.integers(80, 121, 60):
    t = np.linspace(0, 1, n_steps)
    moves.append(random.uniform(-1, 1) + random.uniform(0.8, 1.2) * (10 * t**3 - 15 * t**4 + 6 * t**5))

fast = pairs(dtw.distance_fast, moves, penalty=0.5)
right = pairs(dtw.distance_fast, moves, penalty=0.5, use_pruning=False)
some = [(i, j) for i in range(12) for j in range(i)]
same = np.allclose([right[i, j] for i, j in some], [plain(moves[i], moves[j], 0.5) for i, j in some])
check("penalty=0.5: without pruning as by the definition", bool(same), True)
lower = np.tril_indices(60, -1)
matrix = dtw.distance_matrix_fast(moves, penalty=0.5)
check("  and as in distance_matrix_fast", np.allclose(right[lower], matrix[lower]), True)
check("  distance_fast, share of inf", share_of_inf(fast), 0.39)
alike = right <= np.quantile(right[lower], 0.1)
check("  of the tenth of the pairs that are most alike", round(float(np.isinf(fast[alike]).mean()), 2), 0.87)
check("  recordings with another nearest neighbour", other_neighbours(fast, right), 0.87)
fast = pairs(dtw.distance_fast, moves, penalty=0.1)
right = pairs(dtw.distance_fast, moves, penalty=0.1, use_pruning=False)
check("penalty=0.1: recordings with another nearest neighbour", other_neighbours(fast, right), 0.15)

still = [np.full(100, angle) for angle in np.round(random.uniform(-1, 1, 60), 2)]
true = np.array([[10 * abs(one[0] - other[0]) for other in still] for one in still])
fast, slow = pairs(dtw.distance_fast, still), pairs(dtw.distance, still)
check("joints at rest: distance is 10 times the difference", np.allclose(slow[lower], true[lower]), True)
check("  distance_fast, more than a tenth is inf", share_of_inf(fast) > 0.1, True)
print("  share of inf:", share_of_inf(fast))
noise = list(random.normal(size=(60, 50)))
fast = pairs(dtw.distance_fast, noise, window=1)
true = pairs(lambda x, y: np.linalg.norm(x - y), noise)
finite = np.isfinite(fast)
check("window=1: where it is finite it is the Euclidean distance", np.allclose(fast[finite], true[finite]), True)
check("  distance_fast, more than a tenth is inf", share_of_inf(fast) > 0.1, True)
print("  share of inf:", share_of_inf(fast))
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
