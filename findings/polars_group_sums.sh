#!/usr/bin/env bash
# polars 2.1.0: the sum of a float32 column within groups is off by percents, and right if a deviation stands beside it.
#
# Setting: hours recorded by each of two robots: a table of 16 million frames with the time that each frame lasted, 1/30 s
# more or less, as float32. Both robots have the same 8 million numbers, 74.07 hours.
#
# Expected: `group_by("robot").agg(pl.col("seconds").sum())` is the sum of each robot's column to seven digits. Series.sum
# adds pairwise and into float64, since a sum of float32 was found wrong in 2023 (issue 10553), and sums in groups are
# compensated since 2025 (pull request 24774).
#
# What happens: the rows of a group are added one by one in float32, where a thirtieth of a second to 200,000 seconds
# rounds to a thirty-second. One robot has two or four hours less than the other, and with another number of threads,
# or in the next run, others. No warning.
# - It is so for group_by of a DataFrame, for lazy queries by either engine, and in SQL. The len, mean, min or max beside
#   the sum change nothing, and the mean itself is right: mean times count is not the sum.
# - With std, n_unique or median beside it the very same expression is right to the last digit, for such a query is run
#   in another way; with engine="streaming" std does not help.
# - over("robot"), a filter for each robot, pandas, pyarrow and DuckDB are right.
# The more rows and the fewer threads, the worse; a million rows of 33.3 in a group are 0.04 to 0.3 % off.
#
# What raypipe does: it sums in float64, by numpy and pyarrow.
# Beside it: pl.col("seconds").cast(pl.Float64).sum().
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check polars==2.1.0 pyarrow==26.0.1 numpy==2.4.6

cd "$work"
code=0
# What is recorded holds for one thread. With two and more the sums differ from run to run.
POLARS_MAX_THREADS=1 "$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import math
import sys

import numpy as np
import polars as pl


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def hours(sums):
    """Return the sums of seconds of the robots 0 and 1 in hours."""
    return [round(seconds / 3600, 2) for seconds in sums.sort("robot")["seconds"]]


print("polars", pl.__version__, "with", pl.thread_pool_size(), "thread")
n = 8_000_000
of_one = (1 / 30 + np.random.default_rng(0).normal(0, 0.001, n)).astype(np.float32)
frames = pl.DataFrame({"robot": np.repeat([0, 1], n), "seconds": np.concatenate([of_one, of_one])})
true = round(math.fsum(of_one) / 3600, 2)
check("hours of each robot, by math.fsum", true, 74.07)

column = pl.col("seconds")
lazy = frames.lazy().group_by("robot")
both = frames.group_by("robot").agg
wrong, right = [70.76, 74.07], [true, true]
check("group_by, sum", hours(both(column.sum())), wrong)
check("lazy, in memory", hours(lazy.agg(column.sum()).collect(engine="in-memory")), wrong)
check("lazy, streaming", hours(lazy.agg(column.sum()).collect(engine="streaming")), wrong)
check("SQL", hours(frames.sql("select robot, sum(seconds) as seconds from self group by robot")), wrong)
for name, beside in {"len": pl.len(), "mean": column.mean(), "min": column.min()}.items():
    check(f"sum with {name} beside it", hours(both(column.sum(), beside.alias("beside"))), wrong)
for name, beside in {"std": column.std(), "n_unique": column.n_unique(), "median": column.median()}.items():
    check(f"sum with {name} beside it", hours(both(column.sum(), beside.alias("beside"))), right)
streamed = lazy.agg(column.sum(), column.std().alias("beside")).collect(engine="streaming")
check("  with std, streaming", hours(streamed), wrong)

check("mean times count", hours(both(column.mean() * pl.len())), right)
check("sum of float64", hours(both(column.cast(pl.Float64).sum())), right)
check("over, first row of each", hours(frames.select("robot", column.sum().over("robot")).unique()), right)
check("filter, then sum", [round(frames.filter(robot=k)["seconds"].sum() / 3600, 2) for k in (0, 1)], right)
arrow = pl.from_arrow(frames.to_arrow().group_by("robot").aggregate([("seconds", "sum")]))
check("pyarrow", hours(arrow.rename({"seconds_sum": "seconds"})), right)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
