#!/usr/bin/env bash
# pyarrow 26.0.1, pandas 3.1.1: what imports pandas.
#
# One expects: pyarrow, of which pandas is no requirement, imports it for to_pandas and from_pandas alone.
# What happens: where pandas is installed, pa.array([1, 2]) imports it, as do a table of a dict, to_numpy, a scalar
#   argument of a compute function and pq.read_table; a process pays about 0.2 s for it.
#   ParquetFile.read, to_pylist and np.from_dlpack do without.
# What raypipe does: the report reads Parquet with ParquetFile.read, and numbers by dlpack (schema.numbers_of); a test
#   holds that it loads no pandas.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
"$folder/env/bin/python" - << 'EOF'
import pyarrow as pa, pyarrow.parquet as pq
pq.write_table(pa.table({"a": [1, 2]}), "numbers.parquet")
EOF
cat > does.py << 'EOF'
import sys
import numpy as np, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
column = pq.ParquetFile("numbers.parquet").read()["a"]
assert "pandas" not in sys.modules
exec(sys.argv[1])
print("pandas" in sys.modules)
EOF
while IFS='|' read -r expected statement; do
    seen="$("$folder/env/bin/python" does.py "$statement")"
    printf '  pandas: %-5s %s\n' "$seen" "$statement"
    [[ "$seen" == "$expected" ]] || { echo "this finding is out of date"; exit 1; }
done << 'EOF'
True|pa.array([1, 2])
True|pa.table({"a": ["x"]})
True|column.to_numpy()
True|pc.equal(column, 1)
True|pq.read_table("numbers.parquet")
False|column.to_pylist()
True|column.chunk(0).to_numpy()
False|np.from_dlpack(column.chunk(0))
EOF
