#!/usr/bin/env bash
# lerobot 0.6.1: a dataset whose pictures lerobot itself converted to videos cannot be edited by lerobot any more.
#
# Setting: a dataset was recorded with pictures in its tables (use_videos=False), and lerobot-edit-dataset makes videos
# of them by convert_image_to_video, as its documentation proposes. Then an episode is to be deleted.
#
# Expected: the converted dataset is one like any other of version 3.0: the frames are videos, and all else is as before.
#
# What happens: the table of episodes (meta/episodes) is written anew with what tells of videos and frames alone. The
# tasks of each episode are gone from it, and so are its statistics and the places of its own rows. Loading works, and a
# training run too, since frames have a task_index. But delete_episodes of the result ends in a KeyError; the same edit
# of the dataset before its conversion works.
#
# Why it matters to raypipe: labels of episodes came from that table, so that the videos of such a dataset had none.
# Where it has no tasks the frames are asked for theirs now; `inspect` says once what the table lacks; and
# `export --to lerobot` says that the edit it prints has to be made on the dataset before its conversion.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'lerobot[dataset]==0.6.1'

cd "$work"
export HF_LEROBOT_HOME="$work/home" HF_HUB_OFFLINE=1
"$work/venv/bin/python" - 2> "$work/said" <<'PYTHON' || { cat "$work/said"; exit 1; }
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

features = {
    "observation.images.top": {"dtype": "image", "shape": (64, 96, 3), "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": (1,), "names": ["a"]},
}
dataset = LeRobotDataset.create("local/pictures", fps=10, features=features, root="pictures", use_videos=False)
for episode in range(3):
    for frame in range(5):
        picture = np.full((64, 96, 3), 40 * episode + frame, np.uint8)
        state = np.array([episode], np.float32)
        task = ("pour", "wipe")[episode % 2]
        dataset.add_frame({"observation.images.top": picture, "observation.state": state, "task": task})
    dataset.save_episode()
dataset.finalize()
PYTHON

edit() { # FROM TO OPERATION ARGUMENTS…
    "$work/venv/bin/lerobot-edit-dataset" --repo_id "local/$1" --root "$work/$1" --new_repo_id "local/$2" \
        --new_root "$work/$2" --operation.type "${@:3}" > "$work/said" 2>&1
}
edit pictures videos convert_image_to_video --operation.output_dir "$work/videos" || { cat "$work/said"; exit 1; }
edit pictures fewer_pictures delete_episodes --operation.episode_indices "[0]" || { cat "$work/said"; exit 1; }
code=0
edit videos fewer_videos delete_episodes --operation.episode_indices "[0]" || code=$?
last=$(tail -n 1 "$work/said")

"$work/venv/bin/python" - "$code" "$last" 2> /dev/null <<'PYTHON'
import sys
from pathlib import Path

import pyarrow.parquet as pq

code, last = int(sys.argv[1]), sys.argv[2]


def describe(folder):
    """Return the tasks in the table of episodes, and how many columns of statistics and of its own places it has."""
    (file,) = Path(folder, "meta/episodes").rglob("*.parquet")
    table = pq.read_table(file)
    tasks = table["tasks"].to_pylist() if "tasks" in table.column_names else None
    starts = [sum(name.startswith(prefix) for name in table.column_names) for prefix in ("stats/", "meta/episodes/")]
    return tasks, *starts


seen = {
    "recorded": describe("pictures"),
    "converted": describe("videos"),
    "deleting from the recorded": describe("fewer_pictures")[0],
    "deleting from the converted": (code, last),
}
recorded = {
    "recorded": ([["pour"], ["wipe"], ["pour"]], 70, 2),
    "converted": (None, 0, 0),
    "deleting from the recorded": [["wipe"], ["pour"]],
    "deleting from the converted": (1, "KeyError: 'meta/episodes/chunk_index'"),
}
for name, value in seen.items():
    print(f"{name}: {value}")
if seen != recorded:
    print(f"CHANGED: recorded {recorded}")
    sys.exit(2)
print("as recorded")
PYTHON
