#!/usr/bin/env bash
# Ray Data 2.60.0: where random_sample follows on random_sample, its seed does nothing: all samples are the same.
#
# Setting: to see how far a result depends on which episodes are in it, half of the rows are drawn once (seed 0), and of
# these several halves, each with another seed: `half.random_sample(0.5, seed=k)` for k = 1, 2, 3.
#
# Expected: three samples, any two of which have about half of their rows in common; without a seed another sample in
# each execution ("If None, the sample is non-deterministic").
#
# What happens: the three are one and the same, row by row, and so is that without a seed: whatever is calculated of
# them agrees perfectly. No error. The steps run in one task, which keeps the generator of the first for all: the second
# goes on with it, and never looks at its own seed, nor at RandomSeedConfig(reseed_after_execution=True).
# - A map_batches between the two changes nothing, for it is run in the same task.
# - An actor between the two, or materialize(), makes two tasks of it, and the seeds count: the same lines draw other
#   rows depending on how the steps before are run.
#
# What raypipe does: it draws its samples in numpy, by row numbers, and never by Ray Data.
# Beside it: half.materialize() before the second sample, or one random_sample with the product of the fractions.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    'ray[data]==2.60.0' pyarrow==26.0.1 numpy==2.4.6 pandas==3.1.1

cd "$work"
code=0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0
"$work/venv/bin/python" - "$work" 2>"$work/stderr" <<'PYTHON' || code=$?
import logging
import sys

import ray
from ray.data import ActorPoolStrategy, DataContext, RandomSeedConfig


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{sys.argv[1]}/ray")
logging.getLogger("ray.data").setLevel(logging.ERROR)
DataContext.get_current().enable_progress_bars = False
print("Ray", ray.__version__)


class Same:
    def __call__(self, batch):
        return batch


def draw(half, seeds):
    """Draw half of the half with each seed; return how many different samples there are, and the first of them."""
    samples = [frozenset(row["id"] for row in half.random_sample(0.5, seed=seed).take_all()) for seed in seeds]
    shared = [round(100 * len(samples[0] & other) / len(samples[0])) for other in samples[1:]]
    print(f"  rows: {[len(sample) for sample in samples]}, of the first so many percent are in each other: {shared}")
    return len(set(samples)), samples[0]


half = ray.data.range(2000, override_num_blocks=4).random_sample(0.5, seed=0)
n_different, sample = draw(half, [1, 2, 3])
check("different samples, seeds 1, 2, 3", n_different, 1)
n_different, unseeded = draw(half, [None, None])
check("different samples without a seed, in two executions", n_different, 1)
check("  and they are those of the seeds 1, 2 and 3", unseeded == sample, True)
reseeded = RandomSeedConfig(seed=1, reseed_after_execution=True)
check("different samples with reseed_after_execution, in two executions", draw(half, [reseeded] * 2)[0], 1)
check("with map_batches between, seeds 1, 2", draw(half.map_batches(lambda batch: batch), [1, 2])[0], 1)
actors = half.map_batches(Same, compute=ActorPoolStrategy(size=1))
check("with an actor between, seeds 1, 2", draw(actors, [1, 2])[0], 2)
check("after materialize(), seeds 1, 2, 3", draw(half.materialize(), [1, 2, 3])[0], 3)
ray.shutdown()
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
