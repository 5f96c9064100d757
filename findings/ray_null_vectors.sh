#!/usr/bin/env bash
# Ray Data 2.60.0 with pyarrow 26.0.1: one null in a block turns its column of vectors into Python pickles.
#
# Setting: a dataset of two Arrow blocks, each row with an embedding (fixed_size_list<float>[4]) and a large integer.
# One row of the second block has neither, as the row of a video that failed. The blocks go through
# map_batches(lambda batch: batch), which changes nothing, and are written by write_parquet.
#
# Expected: two Parquet files with the columns that went in; at worst, lists of another kind, the same in both files.
#
# What happens: map_batches hands out NumPy arrays by default, and what comes back is typed block by block.
# - In the file with the null, EVERY embedding is a Python pickle in a binary column: a reader without Ray sees bytes
#   that only unpickling can read. In the other file it is a list of floats.
# - In the file with the null, all integers are doubles: 2**53 + 1 has become 2**53, though it was not null.
# - Dataset.schema() answers from the first block alone: a tensor of floats.
# - The two blocks no longer fit together: repartition(1) raises ArrowConversionError.
# With batch_format="pyarrow" or "pandas" both files keep the types of these columns.
#
# Why it matters to raypipe: a segment that failed is a row with a null embedding, so that failures are as durable as
# results, and embeddings/ is to be read without Ray. raypipe asks for batch_format="pyarrow" at every stage, carries
# the clips through Ray as Arrow IPC messages, and writes embeddings/ itself with one schema.
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
import json
import logging
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import ray
from ray.data import DataContext

WORK = Path(sys.argv[1])
LARGE = 2**53 + 1
READ = """
import json, sys
import pyarrow.parquet as pq
table = pq.read_table(sys.argv[1])
first = table["embedding"][0].as_py()
first = first[:2].hex() if isinstance(first, bytes) else first
print(json.dumps([str(table["embedding"].type), first, str(table["n"].type), table["n"][0].as_py()]))
"""


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def read_without_ray(folder):
    """Return (type, first value) of both columns for each file of a folder, as a process without Ray sees them."""
    found = []
    for file in sorted(folder.glob("*.parquet")):
        read = subprocess.run([sys.executable, "-c", READ, file], check=True, capture_output=True, text=True)
        embedding, vector, integer, n = json.loads(read.stdout)
        found.append((embedding.partition("<")[0], vector, integer, n))
    return found


def block(embeddings, integers):
    return pa.table({"embedding": pa.array(embeddings, pa.list_(pa.float32(), 4)), "n": pa.array(integers)})


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{WORK}/ray")
logging.getLogger("ray.data").setLevel(logging.CRITICAL)
DataContext.get_current().enable_progress_bars = False
VECTOR = [1.0, 2.0, 3.0, 4.0]
blocks = [block([VECTOR, VECTOR], [LARGE, 5]), block([VECTOR, None], [LARGE, None])]

for form in ("pyarrow", "pandas"):
    ray.data.from_blocks(blocks).map_batches(lambda batch: batch, batch_format=form).write_parquet(WORK / form)
    kept = ("fixed_size_list", VECTOR, "int64", LARGE)
    check(f"{form}: type and first value of each column, file by file", read_without_ray(WORK / form), [kept, kept])

dataset = ray.data.from_blocks(blocks).map_batches(lambda batch: batch)
dataset.write_parquet(WORK / "default")
good, bad = read_without_ray(WORK / "default")
check("default: the file without a null", good, ("large_list", VECTOR, "int64", LARGE))
check("default: the file with a null (8005 begins a pickle)", bad, ("large_binary", "8005", "double", float(2**53)))
of = type(dataset.materialize().schema().base_schema.field("embedding").type).__name__
check("default: what the dataset says its embeddings are", of, "ArrowTensorTypeV2")
try:
    raised = dataset.repartition(1).take_all() and None
except Exception as error:
    raised = next((line for line in str(error).splitlines() if "both objects and tensors" in line), str(error))
    raised = "Found columns with both objects and tensors" if "both objects and tensors" in raised else raised
check("default: both blocks in one", raised, "Found columns with both objects and tensors")
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
