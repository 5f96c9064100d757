#!/usr/bin/env bash
# Ray Data 2.60.0 (with polars 2.1.0): a filter behind a join is applied to the other side's column, where one side's
# columns get a suffix and the other's keep their names.
#
# Setting: two runs have scored the same videos, and what they say is joined by id, to look at the videos that the new
# run scores highly. Both have a column "score", so the old run's is given a suffix: left_suffix="_old". The joined rows
# have "score_old" and "score", as they should.
#
# Expected: filter(expr=col("score") > 0.65) keeps the rows whose "score" is above 0.65, as with polars.
#
# What happens: it keeps the rows whose "score_old" is. None of the three rows that come out has a score above 0.65, and
# the three that have one are gone. Nothing is raised, and every row that comes out is right but for being there. The
# optimizer moves the filter below the join by name alone: the left side has a column "score" too, before the suffix.
# - inner and left_outer joins are wrong with left_suffix alone; right_outer joins are wrong with right_suffix alone.
#   The other way round, in full_outer joins, and with two suffixes, the filter is right.
# - filter(fn), with a Python function, is right; so is the expression behind materialize().
#
# What raypipe does: it joins no datasets by Ray Data, and hands it no expressions.
# Beside it: give both sides a suffix.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    'ray[data]==2.60.0' polars==2.1.0 pyarrow==26.0.1 numpy==2.4.6 pandas==3.1.1

cd "$work"
code=0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0
"$work/venv/bin/python" - "$work" 2>"$work/stderr" <<'PYTHON' || code=$?
import logging
import sys

import polars as pl
import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.expressions import col, lit

N, LEAST = 10, 0.65


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{sys.argv[1]}/ray")
logging.getLogger("ray.data").setLevel(logging.ERROR)
DataContext.get_current().enable_progress_bars = False
print("Ray", ray.__version__, "polars", pl.__version__)

rising, falling = [i / 10 for i in range(N)], [(N - 1 - i) / 10 for i in range(N)]
left, right = pa.table({"id": range(N), "score": rising}), pa.table({"id": range(N), "score": falling})


def join(how, **suffixes):
    return ray.data.from_arrow(left).join(ray.data.from_arrow(right), how, num_partitions=2, on=("id",), **suffixes)


def scores(dataset):
    """Return the scores by which was filtered, of the rows that came out, by id."""
    return [row["score"] for row in sorted(dataset.take_all(), key=lambda row: row["id"])]


high = col("score") > lit(LEAST)
old = {"left_suffix": "_old"}
by_polars = pl.from_arrow(left).rename({"score": "score_old"}).join(pl.from_arrow(right), on="id").sort("id")
wanted = by_polars.filter(pl.col("score") > LEAST)["score"].to_list()
check("by polars", wanted, [0.9, 0.8, 0.7])
check("all joined scores are there", scores(join("inner", **old)), falling)
check("columns", join("inner", **old).schema().names, ["id", "score_old", "score"])

rows = sorted(join("inner", **old).filter(expr=high).take_all(), key=lambda row: row["id"])
print(f"rows with a score above {LEAST}, by Ray:", *rows, sep="\n  ")
check("their scores", [row["score"] for row in rows], [0.2, 0.1, 0.0])
check("filter(fn)", scores(join("inner", **old).filter(lambda row: row["score"] > LEAST)), wanted)
check("behind materialize()", scores(join("inner", **old).materialize().filter(expr=high)), wanted)

for how, suffixes, is_right in (
    ("left_outer", {"left_suffix": "_old"}, False),
    ("left_outer", {"right_suffix": "_old"}, True),
    ("right_outer", {"left_suffix": "_old"}, True),
    ("right_outer", {"right_suffix": "_old"}, False),
    ("full_outer", {"left_suffix": "_old"}, True),
    ("full_outer", {"right_suffix": "_old"}, True),
):
    kept = scores(join(how, **suffixes).filter(expr=high))
    check(f"{how}, {suffixes}: scores {kept}, all above {LEAST}", len(kept) == 3 and min(kept) > LEAST, is_right)
both = join("inner", left_suffix="_old", right_suffix="_new").filter(expr=col("score_new") > lit(LEAST)).take_all()
check("with two suffixes", sorted(row["score_new"] for row in both), sorted(wanted))
ray.shutdown()
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
