#!/usr/bin/env bash
# lerobot 0.6.1: a second session of recording that dies takes the first one, which was finalized, with it.
#
# Setting: a dataset is recorded in sessions. The first is finalized, and its dataset is read. The next day the recording
# is resumed; two episodes are saved, and then the process is killed, the power fails or the robot's driver crashes.
#
# Expected: what the dead session had not finalized is lost, or what it had saved is not. The first session's files are
# whole and were closed, so its episodes are read as before. At the least, the next session says what is wrong.
#
# What happens: the dataset can no longer be read at all. The dead session has left a file of frames without its end
# beside those of the first one, and all files of data/ are read as one. meta/info.json counts its episodes already, and
# no table holds them. A third session resumes without a word, writes over the dead one's frames, and is finalized; then
# lerobot misses the dead one's episodes, and asks the Hub for a dataset that was never there.
#
# Why it matters to raypipe: recordings do die. raypipe goes by the tables of meta/episodes, and reads a file of data/ for
# its own episodes alone: the episodes of the finalized sessions are read, and a line says that meta/info.json tells of
# more. `raypipe inspect` lists it. Where the dead session had begun a table of its own, which it does with its tenth
# episode, a line names that table, and says that the videos can be named alone.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'lerobot[dataset]==0.6.1'

cd "$work"
export HF_LEROBOT_HOME="$work/home" HF_HUB_OFFLINE=1 HF_HOME="$work/hf"
cat > session.py <<'PYTHON'
"""Record episodes of five frames each: session.py FIRST_EPISODE N_EPISODES [die]."""
import os
import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

first, n = int(sys.argv[1]), int(sys.argv[2])
features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}}
if first == 0:
    dataset = LeRobotDataset.create("local/reach", fps=10, features=features, root="reach", use_videos=False)
else:
    dataset = LeRobotDataset.resume("local/reach", root="reach")
for episode in range(first, first + n):
    for frame in range(5):
        dataset.add_frame({"observation.state": np.array([episode, frame], np.float32), "task": "reach"})
    dataset.save_episode()
if sys.argv[3:] == ["die"]:
    os._exit(0)  # As a killed process ends: nothing is closed any more.
dataset.finalize()
PYTHON

cat > look.py <<'PYTHON'
"""Print how many episodes lerobot reads, how many meta/info.json counts, and how many the finished tables hold."""
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
from lerobot.datasets.lerobot_dataset import LeRobotDataset

try:
    dataset = LeRobotDataset("local/reach", root="reach")
    read = len({int(dataset[i]["episode_index"]) for i in range(len(dataset))})
except Exception as error:
    read = "nothing"
    print(f"{type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
counted = json.loads(Path("reach/meta/info.json").read_text())["total_episodes"]
in_tables = sum(pq.read_metadata(path).num_rows for path in Path("reach/meta/episodes").rglob("*.parquet"))
print(f"lerobot reads: {read}; info.json: {counted}; tables of episodes: {in_tables}")
PYTHON

record() { "$work/venv/bin/python" session.py "$@" > said 2>&1 || { cat said; exit 1; }; }
look() { "$work/venv/bin/python" look.py 2> why | tee -a seen; tail -n 1 why; }

record 0 3
echo "after the first session:"; look
record 3 2 die
echo "after the second one, which died:"; look
record 5 1
echo "after the third one, which was finalized:"; look

cat > expected <<'TEXT'
lerobot reads: 3; info.json: 3; tables of episodes: 3
lerobot reads: nothing; info.json: 5; tables of episodes: 3
lerobot reads: nothing; info.json: 6; tables of episodes: 4
TEXT
diff expected seen || { echo "this has changed: < is what it was"; exit 1; }
echo "the episodes of two finalized sessions cannot be read, because one between them died"
