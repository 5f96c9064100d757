#!/usr/bin/env bash
# Ray Data 2.60.0: what `/`, `//` and `%` of two columns mean depends on the block that a row is in.
#
# Setting: expressions (ray.data.expressions, new in 2025) are written with Python's operators, for with_column and
# filter. JSON and CSV have one kind of number, and pyarrow decides file by file whether a column is of integers. So of
# a folder of recordings, the file in which each happens to last whole seconds has integers, and the next one floats.
#
# Expected: `/` divides, as in Python, numpy, pandas, polars and DuckDB; `//` rounds down and `%` has the sign of the
# divisor, as Python's have. Ray's own code says of `%`: "r = N - floor(N/M) * M".
#
# What happens: between two integers `/` drops the fraction, and `//` and `%` are made of it, so that they round towards
# zero. Between floats they do what was expected. Which of the two it is, is decided block by block:
# - two equal rows, of 100 frames in 3 seconds, have 33 and 33.33 frames a second, in one column of one dataset;
# - filter(expr=… > 33) keeps one of them and loses the other;
# - −7 // 2 is −3 in one block and −4 in the other, and −7 % 2 is −1 and 1;
# - the dataset's schema shows the first block alone, and says int64. Nothing is raised.
# pyarrow's `divide` of integers is what is called, and is known to drop the fraction; but there one array has one type.
#
# What raypipe does: it calculates in numpy and pyarrow, inside functions of its own, and hands Ray Data no expressions.
# Beside it: multiply by 1.0 first, or cast.
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
from pathlib import Path

import ray
from ray.data import DataContext
from ray.data.expressions import col, lit


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{sys.argv[1]}/ray")
logging.getLogger("ray.data").setLevel(logging.ERROR)
context = DataContext.get_current()
context.enable_progress_bars, context.execution_options.preserve_order = False, True
print("Ray", ray.__version__)

# The first recording of both days is the same. Only on the second day is there one that did not last whole seconds.
days = {"monday": [(100, 3, -7), (200, 8, 5)], "tuesday": [(100, 3, -7), (200, 7.5, 5)]}
folder = Path("json")
folder.mkdir()
for day, rows in days.items():
    lines = [f'{{"day": "{day}", "frames": {n}, "seconds": {s}, "shift": {shift}}}' for n, s, shift in rows]
    (folder / f"{day}.jsonl").write_text("\n".join(lines))
folder = Path("csv")
folder.mkdir()
for day, rows in days.items():
    lines = [f"{day},{n},{s},{shift}" for n, s, shift in rows]
    (folder / f"{day}.csv").write_text("\n".join(["day,frames,seconds,shift", *lines]))


def find_same(dataset, column):
    """Return by day what the recording of 100 frames has in the column, which is the same recording on both days."""
    found = {row["day"]: row[column] for row in dataset.take_all() if row["frames"] == 100}
    return [found.get(day) for day in days]


rate = col("frames") / col("seconds")
for kind, read in (("json", ray.data.read_json), ("csv", ray.data.read_csv)):
    recordings = read(kind)
    rated = recordings.with_column("rate", rate)
    check(f"{kind}: 100 frames / 3 seconds, on both days", find_same(rated, "rate"), [33, 100 / 3])
    kept = find_same(recordings.filter(expr=rate > lit(33)), "frames")
    check(f"{kind}: more than 33 frames a second, on both days", kept, [None, 100])

# The divisor is 2 on both days: 2 of integers, and 2.0 of floats.
halves = recordings.with_column("two", col("seconds") * lit(0) + lit(2))
check("−7 / 2", find_same(halves.with_column("x", col("shift") / col("two")), "x"), [-3, -3.5])
check("−7 // 2", find_same(halves.with_column("x", col("shift") // col("two")), "x"), [-3, -4])
check("−7 % 2", find_same(halves.with_column("x", col("shift") % col("two")), "x"), [-1, 1])

rated = ray.data.read_json("json").with_column("rate", rate).materialize()
shown = str(rated.schema().types[rated.schema().names.index("rate")])
held = sorted({str(table.schema.field("rate").type) for table in ray.get(rated.to_arrow_refs())})
check("type of the rate in the dataset's schema, and in its blocks", (shown, held), ("int64", ["double", "int64"]))
times_one = recordings.with_column("x", col("frames") * lit(1.0) / col("seconds"))
check("100 frames · 1.0 / 3 seconds", find_same(times_one, "x"), [100 / 3, 100 / 3])
ray.shutdown()
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
