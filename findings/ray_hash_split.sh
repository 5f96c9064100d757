#!/usr/bin/env bash
# Ray Data 2.60.0 (with pyarrow 26.0.1): a split by the hash of a column sets equal keys on both sides, if a null stands
# beside them in one block.
#
# Setting: frames of 100 episodes, which two cameras recorded into a JSON file each. Training and test must not share an
# episode, so the frames are split by streaming_train_test_split(0.25, split_type="hash", hash_column="episode"). One
# frame of one camera belongs to no episode, and its number is null.
#
# Expected: equal keys have equal hashes, and all frames of an episode are on one side. That is what a split by hash is
# for: unlike a random one it does not depend on how rows lie in files and blocks.
#
# What happens: the hash is taken of str(key), and keys are what pyarrow's to_numpy makes of a block's column. In the
# block with the null all numbers are floats, and "7.0" has another hash than "7". With one null among 201 frames 37 of
# 100 episodes are on both sides, as many as if each camera's frames had been split for themselves. No error.
# - A block of floats beside one of integers does the same, and so do times in milliseconds beside such in microseconds.
# - The split depends on the blocks: in one block no episode is on both sides, but others are in the test.
# - Keys of text are right, null or not, and so are integers once the rows without one are filtered out.
#
# What raypipe does: it splits nothing, and its keys are texts: video_id, whatever a source's own ids are.
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
import sys
from pathlib import Path

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.expressions import col


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{sys.argv[1]}/ray")
logging.getLogger("ray.data").setLevel(logging.ERROR)
DataContext.get_current().enable_progress_bars = False
print("Ray", ray.__version__)

N = 100
WHOLE, ONE_NULL = list(range(N)), [*range(N), None]


def record(name, left, right):
    """Write the episode of each frame of two cameras, and return the frames as Ray reads them, a block a camera."""
    folder = Path(name)
    folder.mkdir()
    for camera, episodes in (("left", left), ("right", right)):
        lines = [json.dumps({"episode": episode}) for episode in episodes]
        (folder / f"{camera}.jsonl").write_text("\n".join(lines))
    return ray.data.read_json(name, override_num_blocks=2)


def in_blocks(*columns):
    return ray.data.from_blocks([pa.table({"episode": column}) for column in columns])


def split(frames):
    """Return the episodes that have frames in the training, and those that have some in the test."""
    parts = frames.streaming_train_test_split(0.25, split_type="hash", hash_column="episode")
    return [{row["episode"] for row in part.take_all()} - {None} for part in parts]


def count_shared(frames):
    train, test = split(frames)
    return len(train & test)


frames = record("whole", WHOLE, WHOLE)
_, test = split(frames)
check(f"of {N} episodes so many are on both sides, without a null", count_shared(frames), 0)
frames = record("one_null", WHOLE, ONE_NULL)
check("with one null", count_shared(frames), 37)
is_known = col("episode").is_not_null()
check("with one null, which is filtered out", count_shared(frames.filter(expr=is_known)), 0)
texts = record("texts", [str(each) for each in WHOLE], [None if each is None else str(each) for each in ONE_NULL])
check("texts, with one null", count_shared(texts), 0)
check("integers and floats", count_shared(in_blocks(pa.array(WHOLE), pa.array(WHOLE, pa.float64()))), 37)
times = pa.array([1_700_000_000 + 60 * each for each in WHOLE], pa.timestamp("s"))
shared = count_shared(in_blocks(times.cast(pa.timestamp("ms")), times.cast(pa.timestamp("us"))))
print("times in milliseconds and in microseconds:", shared)
check("  more than 20", shared > 20, True)

train, other_test = split(frames.repartition(1))
check("with one null, in one block", len(train & other_test), 0)
common = len(test & other_test)
print(f"in the test are {len(test)} episodes without a null, {len(other_test)} with one in one block, {common} in both")
check("less than half of them", common < len(test) / 2, True)
ray.shutdown()
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
