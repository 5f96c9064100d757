#!/usr/bin/env bash
# pyarrow 26.0.1 and Ray 2.60.0: ten rows of a table are small in Ray's object store, but a column of these rows is not.
#
# One expects: Ray serializes with pickle, so a slice of a table weighs there what it weighs in pickle; and a column of
#   the slice weighs less than the slice.
# What happens: pickle takes all buffers of the table along, 62 MB for ten rows. Ray has a way of its own for tables,
#   which copies the slice: 1.4 kB. It has none for ChunkedArray, Array and RecordBatch: the same ten rows of one column
#   are 54 MB in the object store, and in every message. A slice written as an IPC stream is small.
# What raypipe does: Videos pickle as an IPC stream of their own rows; Ray is handed tables, never columns of a slice.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check "ray[data]==2.60.0" pyarrow==26.0.1
cd "$folder"
RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 "$folder/env/bin/python" -W ignore - << 'EOF'
import pickle

import pyarrow as pa
import ray

table = pa.table({"n": range(1_000_000), "text": [f"{i:050d}" for i in range(1_000_000)]})
ten = table.slice(10, 10)
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


def bytes_in_ray(thing) -> int:
    """Return what an object takes of the object store."""
    context = ray._private.worker.global_worker.get_serialization_context()
    return context.serialize(thing).total_bytes


def as_stream(table: pa.Table) -> int:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().size


seen = {
    "pickle, table": len(pickle.dumps(ten)),
    "IPC stream, table": as_stream(ten),
    "Ray, table": bytes_in_ray(ten),
    "Ray, its column (ChunkedArray)": bytes_in_ray(ten["text"]),
    "Ray, its column (Array)": bytes_in_ray(ten["text"].chunk(0)),
    "Ray, its rows (RecordBatch)": bytes_in_ray(ten.to_batches()[0]),
}
print(f"pyarrow {pa.__version__}, Ray {ray.__version__}: ten rows of a million")
for name, size in seen.items():
    print(f"  {name:32} {size:12,} bytes")
ray.shutdown()
for name, size in seen.items():
    as_recorded = size < 5_000 if name in ("Ray, table", "IPC stream, table") else size > 50_000_000
    assert as_recorded, f"{name} is {size:,} bytes now: this finding is out of date"
EOF
