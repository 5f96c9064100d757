#!/usr/bin/env bash
# safetensors 0.8.0: an array that lies column by column, as those of pandas and polars, is written with its rows mixed.
#
# Setting: embeddings of 1,000 clips, five of each of 200 scenes, are saved by safetensors.numpy.save_file for a search.
# They come from a table with a column a dimension, by `to_numpy()` of pandas or polars, or from PCA's fit_transform.
#
# Expected: what is loaded is what was saved, as by numpy.save and by safetensors 0.7.0. The documentation asks for
# contiguous tensors, and safetensors.torch raises ValueError for others.
#
# What happens: the bytes are written as they lie in memory, and the shape as it is: an array in Fortran's order, which
# numpy calls contiguous too, comes back with other rows. Its shape, its type, its mean and its deviation are right; the
# nearest neighbour of a clip, which was of its scene, is so in less than 1 % of the cases. No error, no warning.
# - What lies so: to_numpy() of pandas and of polars, and each `X.T`.
# - Other arrays with gaps are mixed too, and get numbers from the gaps: `X[:, :16]`, as Matryoshka embeddings are cut, is
#   written as an eighth of the rows in eight pieces each; and PCA's fit_transform, where it takes the SVD of the points
#   (up to ten for each dimension), but not its transform: the clips of the fit are mixed, and new ones are not.
# - save is like save_file. numpy.ascontiguousarray(X) before it mends all of them.
#
# What raypipe does: it writes arrays by numpy and Arrow, which take any order, and reads no safetensors but a model's.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    safetensors==0.8.0 numpy==2.4.6 pandas==3.1.1 polars==2.1.0 scikit-learn==1.9.1 scipy==1.17.1
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/before" \
    safetensors==0.7.0

cd "$work"
cat >save.py <<'PYTHON'
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import safetensors
from safetensors.numpy import load, load_file, save, save_file
from sklearn.decomposition import PCA

N_CLIPS, N_SCENES, DIM = 1000, 200, 128
VERSION, MIXED = sys.argv[1], sys.argv[2] == "mixed"


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def same_scene(vectors):
    """Return the share of the clips whose nearest neighbour is of their scene."""
    distances = ((vectors[:, None] - vectors) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    return float((distances.argmin(axis=1) % N_SCENES == np.arange(N_CLIPS) % N_SCENES).mean())


caught = warnings.catch_warnings(record=True)
seen_warnings = caught.__enter__()
warnings.simplefilter("always")
check("safetensors", safetensors.__version__, VERSION)
random = np.random.default_rng(0)
scenes = random.normal(size=(N_SCENES, DIM))
X = (scenes[np.arange(N_CLIPS) % N_SCENES] + 0.2 * random.normal(size=(N_CLIPS, DIM))).astype(np.float32)
columns = {f"e{i}": X[:, i] for i in range(DIM)}
pca = PCA(32, random_state=0)
fitted = pca.fit_transform(X)
arrays = {
    "numpy": (X, False),
    "pandas": (pd.DataFrame(columns).to_numpy(), True),
    "polars": (pl.DataFrame(columns).to_numpy(), True),
    "PCA, fit_transform": (fitted, True),
    "PCA, transform": (pca.transform(X), False),
    "the first 16 dimensions": (X[:, :16], True),
}
for name, (array, mixed) in arrays.items():
    save_file({"x": array}, "x.safetensors")
    loaded = load_file("x.safetensors")["x"]
    check(f"{name}: comes back as it was", np.array_equal(loaded, array), not (mixed and MIXED))
    check("  by save", np.array_equal(load(save({"x": array}))["x"], loaded), True)
    check("  its shape and type", (loaded.shape, loaded.dtype) == (array.shape, array.dtype), True)
    np.save("x.npy", array)
    check("  by numpy", np.array_equal(np.load("x.npy"), array), True)
    save_file({"x": np.ascontiguousarray(array)}, "x.safetensors")
    check("  by ascontiguousarray", np.array_equal(load_file("x.safetensors")["x"], array), True)
    if name in ("pandas", "polars"):
        check("  in Fortran's order, which is contiguous", array.flags.f_contiguous, True)
        check("  the same numbers in another order", np.array_equal(np.sort(loaded, None), np.sort(array, None)), True)
    if mixed and name != "the first 16 dimensions":
        shares = same_scene(array), same_scene(loaded)
        print("   nearest neighbour of the same scene, before and after:", *shares)
        check("  all before", shares[0], 1.0)
        check("  less than 1 % after", shares[1] < 0.01, MIXED)
caught.__exit__(None, None, None)
told = [str(each.message) for each in seen_warnings if "contiguous" in str(each.message)]
check("warnings that tell of order", told, [])
PYTHON
code=0
{
    "$work/venv/bin/python" save.py 0.8.0 mixed &&
        PYTHONPATH="$work/before" "$work/venv/bin/python" save.py 0.7.0 right &&
        echo "as recorded"
} 2>"$work/stderr" || code=$?
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
