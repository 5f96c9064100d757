#!/usr/bin/env bash
# Ray Data 2.60.0: an actor whose start fails once ends the whole dataset, whatever max_restarts says.
#
# Setting: map_batches with a class loads a model in __init__, once an actor. Loading may fail in passing: the weights'
# server is busy, or a disk is slow. Ray Data makes its actors with max_restarts = -1, so that lost ones are made anew.
#
# Expected: an actor whose __init__ raised is made anew as one that died is; the other actors go on meanwhile.
#
# What happens: __init__ is not called again, and the dataset ends with the error, although the second of two actors is
# there and works. max_restarts and max_task_retries, given to map_batches, change nothing. The setting that does is
# DataContext.max_consecutive_actor_init_deaths: with 3, the actor is made anew and all rows come out.
#
# Why it matters to raypipe: hundreds of encoders fetch their weights at the same moment. raypipe sets it for its own
# datasets, gives each start three tries, and says the reason if they all fail.
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
import os
import sys
from pathlib import Path

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


class Model:
    """Its first start of all fails."""

    def __init__(self, folder):
        try:
            (Path(folder) / "failed").touch(exist_ok=False)
        except FileExistsError:
            (Path(folder) / f"started-{os.getpid()}").touch()
        else:
            raise ConnectionError("the server of the weights is busy")

    def __call__(self, batch):
        return batch


ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=f"{sys.argv[1]}/ray")
logging.getLogger("ray.data").setLevel(logging.CRITICAL)
context = DataContext.get_current()
context.enable_progress_bars = False


def run(name, **options):
    """Return what came of 100 rows in ten blocks: how many came out, or the error that ended the dataset."""
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    blocks = [pa.table({"id": range(start, start + 10)}) for start in range(0, 100, 10)]
    dataset = ray.data.from_blocks(blocks).map_batches(
        Model,
        fn_constructor_args=(str(folder),),
        batch_format="pyarrow",
        num_cpus=1,
        compute=ActorPoolStrategy(size=2),
        **options,
    )
    try:
        return len(dataset.take_all())
    except Exception as error:
        return "the server of the weights is busy" in str(error)


check("by default, is the failed start the end of it", run("default"), True)
check("with max_restarts=3", run("restarts", max_restarts=3, max_task_retries=3), True)
context.max_consecutive_actor_init_deaths = 3
check("rows out with max_consecutive_actor_init_deaths = 3", run("deaths"), 100)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
