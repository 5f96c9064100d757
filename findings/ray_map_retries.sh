#!/usr/bin/env bash
# Ray Data 2.60.0 (with pyarrow 26.0.1): its retries of a function that raised lose rows, without an error.
#
# Setting: DataContext.retried_map_errors and max_map_retries (new in 2026) make Ray Data try again what raised in a
# map_batches function: for a server that is busy, say. The docstring of DataContext speaks of "retry attempts per map
# task", and not of what is done again.
#
# Expected: the batch that failed is given to the function again, and the others are left alone; or, if the whole task
# begins again, what its first try had put out is thrown away. Either way, each row comes out once.
#
# What happens: the whole task begins again at its first batch, on the same object, and of the second try as many BLOCKS
# are skipped as the first try had put out, whatever is in them.
# (a) A function is called again on batches that it had done, and an actor that remembers what it has seen takes them
#     for duplicates: 60 of 100 rows are gone.
# (b) A generator that yields its rows in another order the second time, as one does that yields what is finished first:
#     100 rows come out, of which 50 are there twice and the other 50 never. The sum of rows is right.
# Nothing is raised, and the retry is logged at debug level alone. In (a) blocks have Ray's default size: all rows fit
# into one, and none has been put out when the error comes. In (b) blocks are small, as where rows are large: pictures.
#
# Why it matters to raypipe: a decoder yields a row at a time, blocks are as small as one batch of frames, and a user's
# encoder may raise whatever it likes. raypipe leaves these settings off. It catches what an encoder raises, tries
# segment by segment inside the call, and ticks off each plan row by its number, so that what did not come out is done
# again.
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
from collections import Counter

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

N = 100


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


class Unseen:
    """Keeps rows whose id it has not seen before. Its server is busy once, at the sixth batch."""

    def __init__(self):
        self.seen, self.calls, self.was_busy = set(), 0, False

    def __call__(self, batch):
        self.calls += 1
        ids = batch["id"].to_pylist()
        is_new = [each not in self.seen for each in ids]
        self.seen.update(ids)
        if 50 in ids and not self.was_busy:
            self.was_busy = True
            raise ConnectionError("the server is busy")
        return batch.filter(pa.array(is_new)).append_column("calls", pa.array([self.calls] * sum(is_new)))


class InOrderOfCompletion:
    """Yields rows as they are finished, which is another order each time. Its server is busy once, halfway."""

    def __init__(self):
        self.tries = 0

    def __call__(self, batch):
        self.tries += 1
        order = range(N) if self.tries == 1 else reversed(range(N))
        for done, row in enumerate(order):
            if self.tries == 1 and done == N // 2:
                raise ConnectionError("the server is busy")
            yield batch.slice(row, 1)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{sys.argv[1]}/ray")
logging.getLogger("ray.data").setLevel(logging.ERROR)
context = DataContext.get_current()
context.enable_progress_bars = False
context.retried_map_errors, context.max_map_retries = ["busy"], 3
table = pa.table({"id": range(N), "picture": [b"x" * 200] * N})


def run(function, batch_size):
    dataset = ray.data.from_blocks([table]).map_batches(
        function, batch_size=batch_size, batch_format="pyarrow", compute=ActorPoolStrategy(size=1)
    )
    return dataset.take_all()


rows = run(Unseen, 10)
check("(a) rows in, rows out", (N, len(rows)), (N, 40))
check("(a) ids out", sorted(row["id"] for row in rows), list(range(60, 100)))
check("(a) calls for ten batches, one of which failed once", max(row["calls"] for row in rows), 16)

context.target_max_block_size = 2_000
times = Counter(row["id"] for row in run(InOrderOfCompletion, None))
check("(b) rows in, rows out", (N, times.total()), (N, N))
check("(b) ids that came out twice, and never", (sum(n == 2 for n in times.values()), N - len(times)), (50, 50))
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
