#!/usr/bin/env bash
# lerobot 0.6.1: the second edit of a dataset in place removes the original that the first one had kept.
#
# Setting: bad episodes of a recording are found, and deleted with lerobot-edit-dataset, in place. Some days later more
# are found, and deleted in the same way.
#
# Expected: each edit in place keeps a backup, as the help says ("a backup of the original dataset is created"), so that
# after two edits the recording as it was made is still there, or the second edit refuses to go on.
#
# What happens: the backup is NAME_old, and the second edit removes it to make room for its own. Of ten recorded episodes
# eight are left in NAME and nine in NAME_old; the one that was deleted first is nowhere, and of that nothing was said.
# Besides, the episodes are numbered anew: the episode 0 of the second edit is the recording's episode 1.
#
# Why it matters to raypipe: `raypipe export RUN --to lerobot` prints the edit that deletes outliers, and clusters are
# looked at more than once. The printed line always names another folder for the result, so that the original stays.
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

features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}}
dataset = LeRobotDataset.create("local/reach", fps=10, features=features, root="reach", use_videos=False)
for episode in range(10):
    for frame in range(5):
        state = np.array([episode, frame], np.float32)  # each frame says which episode of the recording it is of
        dataset.add_frame({"observation.state": state, "task": "reach"})
    dataset.save_episode()
dataset.finalize()
PYTHON

edit() {
    "$work/venv/bin/lerobot-edit-dataset" --repo_id local/reach --root "$work/reach" --new_root "$work/reach" \
        --operation.type delete_episodes --operation.episode_indices "[0]" > "$work/said" 2>&1 ||
        { cat "$work/said"; exit 1; }
}
edit
edit

"$work/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import pyarrow.parquet as pq


def recorded(folder):
    """Return which episodes of the recording a dataset holds."""
    files = sorted(Path(folder, "data").rglob("*.parquet"))
    return sorted({int(state[0]) for file in files for state in pq.read_table(file)["observation.state"].to_pylist()})


folders = {each.name: recorded(each) for each in sorted(Path().iterdir()) if (each / "meta/info.json").exists()}
for name, episodes in folders.items():
    print(f"{name}: the recording's episodes {episodes}")
expected = {"reach": list(range(2, 10)), "reach_old": list(range(1, 10))}
if folders != expected:
    print(f"this has changed: it was {expected}")
    sys.exit(1)
print("the recording's episode 0 is nowhere: the second edit removed what the first one had kept")
PYTHON
