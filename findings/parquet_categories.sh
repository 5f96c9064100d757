#!/usr/bin/env bash
# pyarrow 26.0.1, pandas 3.1.1: how a column is encoded in Parquet decides what its categories mean, and whether the file
# can be read at all.
#
# One expects: use_dictionary=False is a choice of encoding, and a table reads back as it was written.
# What happens: (1) without a dictionary page an ordered categorical comes back ordered still, but in the order in which
#   its values are met first: low < mid < high < huge becomes high < low < mid, the maximum is another, and comparisons
#   give other rows. pandas' own use_dictionary=[names of other columns] does the same.
#   (2) two frames with 100 categories each, one behind the other in one table, are written without a word; reading the
#   file back fails, because the 8-bit indices that the schema remembers cannot number 200 categories.
# What raypipe does: runs.directory writes every text by a dictionary, so that categories keep their order, and
#   sources.columns.with_room gives the indices 32 bits where a column's parts have more categories than fit.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
"$folder/env/bin/python" - << 'EOF'
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

print(f"pyarrow {pa.__version__}, pandas {pd.__version__}")
sizes = pd.Categorical(["high", "low", "mid"], categories=["low", "mid", "high", "huge"], ordered=True)
frame = pd.DataFrame({"size": sizes})
told = {}
for use_dictionary in (True, False, ["other"]):
    frame.to_parquet("sizes.parquet", use_dictionary=use_dictionary)
    back = pd.read_parquet("sizes.parquet")["size"]
    told[str(use_dictionary)] = (" < ".join(back.cat.categories), back.max(), (back > "low").tolist())
    print(f"  use_dictionary={use_dictionary!s:10} {told[str(use_dictionary)]}, ordered: {back.cat.ordered}")
assert told["True"] == ("low < mid < high < huge", "high", [True, False, True])
assert told["False"] == told["['other']"] == ("high < low < mid", "mid", [False, False, True]), "out of date"

parts = [pd.DataFrame({"name": pd.Categorical([f"{part}{i}" for i in range(100)])}) for part in "ab"]
pq.write_table(pa.concat_tables([pa.Table.from_pandas(part) for part in parts]), "names.parquet")
try:
    rows = pq.read_table("names.parquet").num_rows
except pa.ArrowInvalid as error:
    print(f"  200 categories in two parts of 100, written and read back: {error}")
else:
    raise SystemExit(f"{rows} rows were read back: this finding is out of date")
EOF
