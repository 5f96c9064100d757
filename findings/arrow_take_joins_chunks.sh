#!/usr/bin/env bash
# pyarrow 26.0.1: taking ten rows of a memory-mapped table brings a whole column to memory.
#
# One expects: the table lies in an Arrow IPC file that is memory-mapped, so take() of ten rows allocates ten rows.
# What happens: take() of a column in several chunks first joins all of its chunks. Ten rows out of a million cost 50 MB
#   for a moment, the size of the largest column, although they lie side by side. A slice, a filter over all rows, and
#   take() of a slice that only spans the rows cost next to nothing.
# What raypipe does: raypipe.schema.take_rows slices to the rows' first and last before it takes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" - << 'EOF'
import numpy as np
import pyarrow as pa

N, CHUNK = 1_000_000, 10_000
schema = pa.schema([("id", pa.string()), ("n", pa.int64())])
with pa.OSFile("table.arrow", "wb") as file, pa.ipc.new_file(file, schema) as writer:
    for start in range(0, N, CHUNK):
        rows = range(start, start + CHUNK)
        writer.write_table(pa.table({"id": [f"{i:050d}" for i in rows], "n": list(rows)}, schema=schema))
table = pa.ipc.open_file(pa.memory_map("table.arrow")).read_all()
few = pa.array(np.arange(500_000, 500_010))
mask = pa.array(np.arange(N) % 100_000 == 0)


ways = {
    "slice of 10 rows": lambda: table.slice(500_000, 10),
    "filter that keeps 10 rows": lambda: table.filter(mask),
    "slice to the rows, then take": lambda: table.slice(500_000, 10).take(pa.array(np.arange(10))),
    "take of 10 rows, 100 chunks": lambda: table.take(few),
}
pool, peaks = pa.default_memory_pool(), {}
for name, call in ways.items():  # The last is the one that raises the peak.
    call()
    peaks[name] = pool.max_memory() / 1e6
print(f"pyarrow {pa.__version__}, a memory-mapped table of {N:,} rows: the peak of Arrow's memory")
for name, mb in peaks.items():
    print(f"  after the {name:32} {mb:6.1f} MB")
*others, last = peaks.values()
assert max(others) < 15, "one of the cheap ways is no longer cheap: this finding is out of date"
assert last > max(others) + 40, "take() no longer joins the chunks: this finding is out of date"
EOF
