#!/usr/bin/env bash
# datasets 5.2.0 with pandas 3.1.1, and lerobot 0.6.1 with the versions that it takes: once datasets is imported, pandas
# cannot choose rows of a Parquet file that has a column of matrices.
#
# Setting: a frame of a robot has a feature of two dimensions, such as a pose or the taxels of a fingertip. datasets
# writes it as an Arrow extension type into an ordinary Parquet file, and lerobot does so in each dataset.
#
# Expected: to import a library changes nothing about what pandas does with a file.
#
# What happens: pandas reads the column as lists, and all works, until datasets is imported somewhere in the process.
# From then on the column has a dtype of datasets' own, whose `_metadata` is one string where pandas wants a tuple of
# names, and pandas goes through its letters: a mask, `iloc`, `concat` and even the comparison of the dtype with itself
# end in AttributeError: no attribute 'v'. read_parquet, slices and loading for a training work.
# So delete_episodes, split and merge of lerobot-edit-dataset fail for each dataset with such a feature. The new folder
# is left behind with videos and without frames.
#
# What raypipe does: it reads Parquet with pyarrow alone, and `export --to lerobot` says beside the edit that it will
# fail, and what to do instead: LeRobotDataset reads the episodes that stay where it is given `episodes=[…]`.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
python=${PYTHON:-python3.12}
for name in newest lerobot; do "$python" -m venv "$work/$name"; done
"$work/newest/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pandas==3.1.1 pyarrow==26.0.1
"$work/lerobot/bin/pip" install --quiet --disable-pip-version-check \
    'lerobot[dataset]==0.6.1' datasets==4.8.5 pandas==2.3.3 pyarrow==26.0.1

cd "$work"
cat > rows.py <<'PYTHON'
import sys

if "with" in sys.argv:
    import datasets
import pandas as pd

frame = pd.read_parquet("set/data/chunk-000/file-000.parquet")
for name, choose in {
    "mask": lambda: frame[frame["episode_index"] == 0],
    "iloc": lambda: frame.iloc[[0]],
    "concat": lambda: pd.concat([frame, frame]),
    "slice": lambda: frame[:1],
}.items():
    try:
        print(name, len(choose()))
    except AttributeError as error:
        print(name, error)
PYTHON

export HF_LEROBOT_HOME="$work/home" HF_HUB_OFFLINE=1
lerobot/bin/python - 2> said <<'PYTHON' || { cat said; exit 1; }
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

features = {
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "observation.pose": {"dtype": "float32", "shape": (3, 4), "names": None},
}
dataset = LeRobotDataset.create("local/set", fps=10, features=features, root="set", use_videos=False)
for episode in range(3):
    for frame in range(2):
        pose = np.full((3, 4), frame, np.float32)
        dataset.add_frame({"observation.state": pose[0, :2], "observation.pose": pose, "task": "pour"})
    dataset.save_episode()
dataset.finalize()
assert LeRobotDataset("local/set", root="set", episodes=[1, 2])[3]["observation.pose"].shape == (3, 4)
PYTHON

edit() { # NAME OPERATION ARGUMENTS…: print the last line of what is said
    lerobot/bin/lerobot-edit-dataset --repo_id local/set --root "$work/set" --new_repo_id "local/$1" \
        --new_root "$work/$1" --operation.type "${@:2}" > said 2>&1 || tail -n 1 said
}
for name in newest lerobot; do
    echo "$name, pandas alone: $($name/bin/python rows.py | paste -sd ,)"
    echo "$name, with datasets: $($name/bin/python rows.py with | paste -sd ,)"
done > seen
{
    echo "delete_episodes: $(edit fewer delete_episodes --operation.episode_indices '[0]')"
    echo "split: $(edit parts split --operation.splits '{"train": [0, 1], "val": [2]}')"
    echo "remove_feature: $(edit flat remove_feature --operation.feature_names "['observation.pose']")"
} >> seen
cat seen
lost="'PandasArrayExtensionDtype' object has no attribute 'v'"
diff seen - <<EOF || { echo "CHANGED"; exit 2; }
newest, pandas alone: mask 2,iloc 1,concat 12,slice 1
newest, with datasets: mask $lost,iloc $lost,concat $lost,slice 1
lerobot, pandas alone: mask 2,iloc 1,concat 12,slice 1
lerobot, with datasets: mask $lost,iloc $lost,concat $lost,slice 1
delete_episodes: AttributeError: $lost
split: AttributeError: $lost
remove_feature: 
EOF
echo "as recorded"
