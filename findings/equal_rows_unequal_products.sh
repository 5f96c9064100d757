#!/usr/bin/env bash
# numpy 2.4.6 (OpenBLAS 0.3.31; with scikit-learn 1.9.1, scipy 1.17.1): equal rows of a float32 matrix have unequal
# products with the same matrix, by where among the rows they stand.
#
# Setting: a row 12 or 16 times below itself, times a 64 x 32 matrix, on the kernels that OpenBLAS takes on processors with
# AVX2 and without AVX-512 (Haswell, Zen), in one thread. And 40 points, each five times in a row, in such a product, whose
# columns are then mapped by their percentiles.
#
# Expected: a row of a product depends on that row alone, so that copies stay copies; whoever knows that a batch of one
# rounds otherwise than a batch of many expects it within one product, in one thread, at the least.
#
# What happens: 12 equal rows have two different products, 16 have three; 40 points with four copies each are 66. float64
# has one, and so have the kernels for older processors. The last bit is all that differs, but what asks which of two
# values is greater sees ranks: QuantileTransformer sets copies of a point 0.02 of the range apart, and np.unique finds
# points that nobody gave.
#
# Why it matters to raypipe: the learned map is stretched by percentiles, and set copies of a moment, such as still pictures,
# a rank each apart, up to a fortieth of the plane. Values that differ by no more than rounding share a rank there now.
set -euo pipefail

if ! grep -q avx2 /proc/cpuinfo; then
    echo "this processor has no AVX2, which these kernels need" >&2
    exit 3
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1

cat > "$work/rows.py" <<'PYTHON'
import sys

import numpy as np
from sklearn.preprocessing import QuantileTransformer


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def count(n, dtype):
    return len(np.unique(np.repeat(row, n, axis=0).astype(dtype) @ matrix.astype(dtype), axis=0))


kernels, *recorded = sys.argv[1], *map(int, sys.argv[2:])
random = np.random.default_rng(0)
row, matrix = random.normal(size=(1, 64)), random.normal(size=(64, 32))
for n, one in zip((8, 12, 16), recorded, strict=False):
    check(f"{kernels}: different products of {n} equal rows, float32", count(n, np.float32), one)
check(f"{kernels}: different products of 16 equal rows, float64", count(16, np.float64), 1)

points = np.repeat(random.normal(size=(40, 64)), 5, axis=0).astype(np.float32)
products = points @ matrix.astype(np.float32)
check(f"{kernels}: different products of 40 points, five times each", len(np.unique(products, axis=0)), recorded[3])
placed = QuantileTransformer(n_quantiles=200).fit_transform(products).reshape(40, 5, -1)
apart = float(np.ptp(placed, axis=1).max())
check(f"{kernels}: by percentiles, copies lie {apart:.4f} of the range apart: more than 0.015", apart > 0.015, recorded[3] > 40)
PYTHON

cd "$work"
export OPENBLAS_NUM_THREADS=1
OPENBLAS_CORETYPE=Haswell "$work/venv/bin/python" rows.py "AVX2" 1 2 3 66
OPENBLAS_CORETYPE=Nehalem "$work/venv/bin/python" rows.py "SSE" 1 1 1 40
echo "as recorded"
