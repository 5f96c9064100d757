#!/usr/bin/env bash
# Ray Data 2.60.0 (with torch 2.14.1): what a training loop does to its batches in place, it does to the dataset.
#
# Setting: 1,000 frames' features, of mean 5 and deviation 2, are materialized, so that they are computed once. Each
# epoch reads them by iter_torch_batches on the CPU, standardizes a batch in place, `x.sub_(5).div_(2)`, and uses it.
#
# Expected: a batch belongs to the loop, as that of a DataLoader does; objects in Ray's store cannot be changed, and
# who tries is told: the same with iter_batches ends in "output array is read-only".
#
# What happens: the tensors are views of the object store, and torch, which knows no read-only tensors, writes to it.
# Ray silences torch's warning of such arrays. No error and no line in a log; to pass dtypes=torch.float32 or
# device="cpu" changes nothing.
# - The second epoch sees mean 0 and deviation 1 and standardizes them again, the third mean -2.5.
# - Only batches that lie within one block are views, those that span two are copies. With blocks of 250 rows and
#   batches of 100 the second epoch trains on 800 rows that are standardized twice and on 200 that are right; which
#   ones these are depends on the batch size.
# - Everyone else reads the changed rows too: tasks of other processes, and datasets that were made of this one.
# - A dropout of features, `x[mask] = 0`, gathers: of a tenth in each epoch there come to be 10, 19, 27 and 34 %.
# With local_shuffle_buffer_size, another dtype, or what is read from files anew in each epoch, nothing is changed.
#
# What raypipe does: it reads no dataset by iter_torch_batches, and gives torch a copy of what comes from the store.
# Beside it: x = x.clone(), or the same out of place, (x - 5) / 2.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    'ray[data]==2.60.0' torch==2.14.1 pyarrow==26.0.1 numpy==2.4.6 pandas==3.1.1 pydantic==2.14.4

cd "$work"
code=0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0
"$work/venv/bin/python" - "$work" 2>"$work/stderr" <<'PYTHON' || code=$?
import logging
import sys
import warnings

import numpy as np
import ray
import torch
from ray.data import DataContext


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{sys.argv[1]}/ray")
logging.getLogger("ray.data").setLevel(logging.ERROR)
DataContext.get_current().enable_progress_bars = False
print("Ray", ray.__version__, "torch", torch.__version__)

FEATURES = np.random.default_rng(0).normal(5, 2, (1000, 64)).astype(np.float32)


def materialize():
    return ray.data.from_numpy([FEATURES[start : start + 250] for start in range(0, 1000, 250)]).materialize()


def describe(rows):
    """Return the mean and the deviation, of which the sign of a zero is left out."""
    return float(rows.mean().round(1)) + 0, float(rows.std().round(1))


def standardize(frames, **options):
    """Run an epoch that standardizes each batch in place; return mean and deviation of what it was given."""
    seen = []
    for batch in frames.iter_torch_batches(**options):
        x = batch["data"]
        seen.append(x.numpy().copy())
        x.sub_(5).div_(2)
    return describe(np.concatenate(seen))


def read(frames):
    return np.concatenate([batch["data"] for batch in frames.iter_batches(batch_size=250)])


frames = materialize()
try:
    for batch in frames.iter_batches(batch_size=50):
        batch["data"] -= 5
    message = "no error"
except ValueError as error:
    message = str(error)
check("in place in a batch of iter_batches", message, "output array is read-only")

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    epochs = [standardize(frames, batch_size=50) for _ in range(3)]
check("mean and deviation, epoch by epoch", epochs, [(5.0, 2.0), (0.0, 1.0), (-2.5, 0.5)])
told = [each for each in caught if "writ" in str(each.message)]
check("warnings of arrays that cannot be written to", len(told), 0)
elsewhere = frames.limit(100).map_batches(lambda batch: {"mean": [batch["data"].mean()]}).take_all()
check("mean that another process reads", round(float(elsewhere[0]["mean"]), 2), -3.75)

frames = materialize()
standardize(frames, batch_size=100)
rows = read(frames)
halved = np.isclose(rows, (FEATURES - 5) / 2).all(axis=1)
same = (rows == FEATURES).all(axis=1)
counts = int(halved.sum()), int(same.sum())
check("after an epoch in batches of 100: rows (changed, as they were)", counts, (800, 200))

frames = materialize()
torch.manual_seed(0)
zeros = []
for _ in range(4):
    for batch in frames.iter_torch_batches(batch_size=50):
        batch["data"][torch.rand(batch["data"].shape) < 0.1] = 0
    zeros.append(round(100 * float((read(frames) == 0).mean())))
check("percent of zeros after each epoch that sets a tenth", zeros, [10, 19, 27, 34])

for name, options, recorded in (
    ("dtypes=torch.float32", {"dtypes": torch.float32}, True),
    ('device="cpu"', {"device": "cpu"}, True),
    ("dtypes=torch.float64", {"dtypes": torch.float64}, False),
    ("local_shuffle_buffer_size=500", {"local_shuffle_buffer_size": 500}, False),
):
    frames = materialize()
    standardize(frames, batch_size=50, **options)
    check(f"{name}: is the dataset changed", not np.array_equal(read(frames), FEATURES), recorded)
frames.write_parquet("files")
files = ray.data.read_parquet("files")
check("read from files in each epoch", [standardize(files, batch_size=50) for _ in range(2)], [(5.0, 2.0)] * 2)
ray.shutdown()
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
