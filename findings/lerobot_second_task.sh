#!/usr/bin/env bash
# lerobot 0.6.1: to rename the task of one episode gives each episode of several tasks one for all of its frames.
#
# Setting: a dataset whose frames have their tasks, as `add_frame` takes one with each: in three of four episodes "pick"
# for ten frames and then "place". The fourth is given a new name, by modify_tasks(episode_tasks={3: …}), or a name that
# is in no other is replaced by task_replacements, as `lerobot-edit-dataset --operation.type modify_tasks` does.
#
# Expected: the other episodes keep their tasks: "Keep original task if not overridden".
#
# What happens: of each episode the first of the tasks that the table of episodes lists is written to all of its frames,
# in the files of the dataset, in place, without a backup. The half of the frames that were "place" are "pick", or the
# other way round: the list has the order of a Python set, which differs from one process of recording to the next. The
# table of episodes forgets the other task too, and so does meta/tasks.parquet. No error, no warning.
# - Episodes of one task are as expected.
#
# What raypipe does: an episode's label is the task that most of its frames have, not the first of the list. It edits no
# dataset.
# Beside it: rename in meta/tasks.parquet and in the lists of meta/episodes, and leave the frames as they are.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'lerobot[dataset]==0.6.1'

cd "$work"
export HF_LEROBOT_HOME="$work/home" HF_HOME="$work/hf" HF_HUB_OFFLINE=1
cat >rename.py <<'PYTHON'
import importlib.metadata
import sys
import warnings

import numpy as np
from lerobot.datasets.dataset_tools import modify_tasks
from lerobot.datasets.lerobot_dataset import LeRobotDataset

N_EPISODES, N_FRAMES = 4, 20
SEED, KEPT = sys.argv[1:]


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(name):
    """Record three episodes of two tasks and one of one."""
    features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["shoulder", "elbow"]}}
    dataset = LeRobotDataset.create(f"lab/{name}", 10, features, root=name, use_videos=False)
    for episode in range(N_EPISODES):
        for number in range(N_FRAMES):
            task = "wipe" if episode == N_EPISODES - 1 else "pick" if number < N_FRAMES // 2 else "place"
            dataset.add_frame({"observation.state": np.array([episode, number], np.float32), "task": task})
        dataset.save_episode()
    dataset.finalize()


def open_dataset(name):
    return LeRobotDataset(f"lab/{name}", root=name)


def tasks_of(dataset):
    """Return the tasks of each episode's frames, in the order in which they come."""
    frames = [dataset[i] for i in range(len(dataset))]
    return [list(dict.fromkeys(f["task"] for f in frames if f["episode_index"] == e)) for e in range(N_EPISODES)]


caught = warnings.catch_warnings(record=True)
seen_warnings = caught.__enter__()
warnings.simplefilter("always")
print("PYTHONHASHSEED", SEED, "lerobot", importlib.metadata.version("lerobot"))
BEFORE = [["pick", "place"]] * 3 + [["wipe"]]
changes = {"episode_tasks": {3: "clean"}, "task_replacements": {"wipe": "clean"}}
for option, value in changes.items():
    name = f"{option}_{SEED}"
    record(name)
    dataset = open_dataset(name)
    check(f"{option}: tasks before", tasks_of(dataset), BEFORE)
    listed = [sorted(episode["tasks"]) for episode in dataset.meta.episodes]
    check("  and in the table of episodes", listed, BEFORE)
    first = [episode["tasks"][0] for episode in dataset.meta.episodes]
    modify_tasks(dataset, **{option: value})
    after = tasks_of(open_dataset(name))
    print("  tasks of the frames after it:", after)
    check("  how many the first three episodes have", [len(tasks) for tasks in after[:3]], [1, 1, 1])
    check("  which is the first of the list", [tasks[0] for tasks in after[:3]], first[:3])
    check("  with this PYTHONHASHSEED", first[0], KEPT)
    check("  the fourth", after[3], ["clean"])
    listed = [len(episode["tasks"]) for episode in open_dataset(name).meta.episodes]
    check("  how many the table of episodes lists", listed, [1, 1, 1, 1])
    check("  the tasks of the dataset", sorted(open_dataset(name).meta.tasks.index), sorted({"clean", first[0]}))
caught.__exit__(None, None, None)
told = [str(warning.message) for warning in seen_warnings if "task" in str(warning.message).lower()]
check("warnings that tell of tasks", told, [])
PYTHON
code=0
{
    PYTHONHASHSEED=0 "$work/venv/bin/python" rename.py 0 pick &&
        PYTHONHASHSEED=1 "$work/venv/bin/python" rename.py 1 place &&
        echo "as recorded"
} 2>"$work/stderr" || code=$?
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
