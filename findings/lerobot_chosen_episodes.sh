#!/usr/bin/env bash
# lerobot 0.6.1: LeRobotDataset(episodes=[…]) reads those episodes, and has the statistics of all; its tools write all.
#
# Setting: 20 episodes of a joint that moves by 30 degrees. In episode 7 the encoder was lost for five frames and sent
# 65535. It is left out: LeRobotDataset(…, episodes=[all but 7]), or lerobot-train with --dataset.episodes.
#
# Expected: episode 7 plays no part: the dataset is normalised by the mean and the deviation of what it reads, and is
# split, merged and edited as what it is, 19 episodes: num_episodes says 19, and len the frames of 19.
#
# What happens: meta.stats, by which a policy's inputs and actions are normalised, is the file meta/stats.json, of all 20.
# The joint's deviation is 2300 in place of 21, and between its ends the policy sees 0.03 in place of 2.8: it stands
# still. By MIN_MAX it is no better. Of the train and validation that eval_split makes both have the statistics of both.
# - split_dataset of it by fractions divides all 20, and episode 7 is in the training again.
# - merge_datasets of the 19 episodes and others has 20 more; of two parts of one dataset, 40 of 20, each twice.
# - delete_episodes(dataset, [0]) leaves 19, not 18, with episode 7 among them.
# - recompute_stats(dataset) computes them of all 20 again.
# No error, and no warning. delete_episodes of the whole dataset, [7], is right: it aggregates what stays.
#
# What raypipe does: `raypipe export --to lerobot` prints that edit, and not a list of episodes for a training; where
# lerobot cannot make it, and a list is all that is left, a line says what the statistics are of.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'lerobot[dataset]==0.6.1'

cd "$work"
export HF_LEROBOT_HOME="$work/home" HF_HOME="$work/hf" HF_HUB_OFFLINE=1
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import importlib.metadata
import sys
import warnings

import numpy as np
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets, recompute_stats, split_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.processor import NormalizerProcessorStep, TransitionKey

N_EPISODES, N_FRAMES, BAD = 20, 200, 7
STATE = "observation.state"


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(root):
    """Record episodes of a joint; the other value is the number of the episode, so that copies can be told apart."""
    features = {STATE: {"dtype": "float32", "shape": (2,), "names": ["joint", "episode"]}}
    dataset = LeRobotDataset.create("lab/joint", 10, features, root=root, use_videos=False)
    for episode in range(N_EPISODES):
        angles = 30 * np.sin(np.linspace(0, 2 * np.pi, N_FRAMES))
        if episode == BAD:
            angles[90:95] = 65535
        for angle in angles:
            dataset.add_frame({STATE: np.array([angle, episode], np.float32), "task": "turn"})
        dataset.save_episode()
    dataset.finalize()


def open_dataset(episodes=None):
    return LeRobotDataset("lab/joint", root="joint", episodes=episodes)


def episodes_of(dataset):
    """Return the numbers that the episodes had when they were recorded."""
    return sorted({int(state[1]) for state in dataset.hf_dataset[STATE]})


def range_seen(dataset, mode=NormalizationMode.MEAN_STD):
    """Return how far apart the joint's ends are for a policy, by the normalizer that lerobot trains with."""
    features = {STATE: PolicyFeature(FeatureType.STATE, (2,))}
    normalize = NormalizerProcessorStep(features, {FeatureType.STATE: mode}, dataset.meta.stats)
    states = [dataset[i][STATE] for i in range(N_FRAMES)]
    seen = [normalize({TransitionKey.OBSERVATION: {STATE: state}})[TransitionKey.OBSERVATION][STATE] for state in states]
    joint = [float(state[0]) for state in seen]
    return max(joint) - min(joint)


caught = warnings.catch_warnings(record=True)
seen_warnings = caught.__enter__()
warnings.simplefilter("always")
print("lerobot", importlib.metadata.version("lerobot"))
record("joint")
good = [episode for episode in range(N_EPISODES) if episode != BAD]
chosen = open_dataset(good)
check("episodes that are read", (chosen.num_episodes, len(chosen), episodes_of(chosen) == good), (19, 3800, True))
joint = np.array(chosen.hf_dataset[STATE])[:, 0]
check("deviation of what is read", round(float(joint.std())), 21)
check("deviation by which it is normalised, in hundreds", round(float(chosen.meta.stats[STATE]["std"][0]) / 100), 23)
check("greatest value in the statistics", float(chosen.meta.stats[STATE]["max"][0]), 65535.0)
check("distance of the joint's ends for a policy", round(range_seen(chosen), 2), 0.03)
check("  by MIN_MAX, of 2", round(range_seen(chosen, NormalizationMode.MIN_MAX), 3), 0.002)

parts = split_dataset(chosen, {"train": 0.8, "val": 0.2}, output_dir="parts")
check("split_dataset: episodes", [len(episodes_of(part)) for part in parts.values()], [16, 4])
check("  the bad one is in the training", BAD in episodes_of(parts["train"]), True)
halves = [open_dataset(list(range(10))), open_dataset(list(range(10, N_EPISODES)))]
merged = merge_datasets(halves, output_repo_id="lab/merged", output_dir="merged")
check("merge_datasets: frames given", sum(map(len, halves)), 4000)
check("  frames and episodes of the result", (len(merged), merged.num_episodes), (8000, 40))
fewer = delete_episodes(chosen, [0], output_dir="fewer", repo_id="lab/fewer")
check("delete_episodes of one of 19: left", (fewer.num_episodes, BAD in episodes_of(fewer)), (19, True))
recompute_stats(chosen)
check("recompute_stats: deviation in hundreds", round(float(chosen.meta.stats[STATE]["std"][0]) / 100), 23)
caught.__exit__(None, None, None)
told = [str(each.message) for each in seen_warnings if "episodes" in str(each.message) or "stat" in str(each.message)]
check("warnings that tell of episodes or statistics", told, [])

deleted = delete_episodes(open_dataset(), [BAD], output_dir="deleted", repo_id="lab/deleted")
check("delete_episodes of the whole: left", episodes_of(deleted) == good, True)
check("  deviation by which it is normalised", round(float(deleted.meta.stats[STATE]["std"][0])), 21)
check("  distance of the joint's ends for a policy", round(range_seen(deleted), 1), 2.8)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
