#!/usr/bin/env bash
# Ray 2.60.0: ray.data.from_arrow starts a remote task for each table that it is given; from_blocks starts none.
#
# One expects: from_arrow is given tables of this process, so their rows and schemas are known; the dataset is lazy, and
#   nothing runs before it is consumed.
# What happens: each table is put into the object store, and a task of its own is sent to a worker to look at its rows
#   and schema. 300 tables of one row are 300 tasks and start the workers; a million tables would be a million tasks
#   before the first row moves. from_blocks takes the same tables, looks at them here, and starts no task.
# What raypipe does: raypipe.engine.streaming.in_tasks makes its datasets by from_blocks.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check "ray[data]==2.60.0" pyarrow==26.0.1
cd "$folder"
RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 "$folder/env/bin/python" -W ignore - << 'EOF'
import time

import pyarrow as pa
import ray
import ray.data

N = 300
tables = [pa.table({"n": [i]}) for i in range(N)]


def tasks_of(make) -> tuple[int, float]:
    """Make a dataset in a Ray of its own; return the tasks that ran, though nothing was consumed, and the seconds."""
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    started = time.monotonic()
    make(tables)
    seconds = time.monotonic() - started
    deadline = time.monotonic() + 15  # Workers report their tasks now and then.
    n = 0
    while time.monotonic() < deadline:
        n = sum(event["name"] == "task:execute" for event in ray.timeline())
        if n >= N:
            break
        time.sleep(1)
    ray.shutdown()
    return n, seconds


seen = {make.__name__: tasks_of(make) for make in (ray.data.from_arrow, ray.data.from_blocks)}
print(f"Ray {ray.__version__}: {N} tables of one row, made into a dataset and not consumed")
for name, (n, seconds) in seen.items():
    print(f"  {name:12} {n:4} tasks, {seconds:.2f} s")
assert seen["from_arrow"][0] >= N, "from_arrow no longer starts a task for each table: this finding is out of date"
assert seen["from_blocks"][0] == 0, "from_blocks starts tasks now: this finding is out of date"
EOF
