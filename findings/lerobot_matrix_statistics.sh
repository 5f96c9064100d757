#!/usr/bin/env bash
# lerobot 0.6.1: a feature that is a matrix is normalised by the statistics of its columns, not by those of its numbers.
#
# Setting: a robot of two arms keeps its joints as a feature of shape (2, 3), an arm a row; or six sensors of touch have
# three forces each, (6, 3). lerobot records such features, reads them back in their shape, and trains on them.
#
# Expected: meta/stats.json has a mean and a standard deviation of each number, in the feature's shape, as it has of a
# vector: the same six numbers as shape (6,) are normalised to the same.
#
# What happens: all but the last axis count as further frames. The statistics are of 3 numbers, each of both arms
# together, and the normaliser broadcasts them over the rows. Where the arms mirror each other, one joint about +90° and
# the other about -90°, both moving by a degree, the deviation is 90: normalised, a joint varies by 0.01 in place of 1,
# beside which a policy sees only which arm it is. Nothing is said, and a prediction is scaled back by the same numbers.
# - An episode of a single frame has statistics in the feature's shape, which those of other episodes cannot be joined
#   with: save_episode raises "all input arrays must have the same shape".
#
# What raypipe does: signals whose statistics in meta/stats.json are of another size than their numbers are z-scored by
# what it computes of the frames, number by number, and that is said.
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
import json
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.lerobot_types import TransitionKey
from lerobot.processor.converters import create_transition
from lerobot.processor.normalize_processor import NormalizerProcessorStep

KEY = "observation.state"
MIDDLE = np.array([[90, 45, 30], [-90, -45, -30]], np.float32)


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(name, shape, lengths):
    """Record two arms whose joints move by a degree, and return the dataset and its frames."""
    names = [f"joint{number}" for number in range(6)] if len(shape) == 1 else None
    features = {KEY: {"dtype": "float32", "shape": shape, "names": names}}
    dataset = LeRobotDataset.create(f"local/{name}", fps=10, features=features, root=name, use_videos=False)
    rng = np.random.default_rng(0)
    for length in lengths:
        for _ in range(length):
            joints = MIDDLE + rng.normal(0, 1, (2, 3)).astype(np.float32)
            dataset.add_frame({KEY: joints.reshape(shape), "task": "reach"})
        dataset.save_episode()
    dataset.finalize()
    return LeRobotDataset(f"local/{name}", root=name)


def normalise(dataset):
    """Return all frames as lerobot's own step normalises them for a policy: (n, 6)."""
    frames = torch.stack([dataset[row][KEY] for row in range(len(dataset))])
    feature = {KEY: PolicyFeature(FeatureType.STATE, tuple(frames.shape[1:]))}
    modes = {FeatureType.STATE: NormalizationMode.MEAN_STD}
    step = NormalizerProcessorStep(features=feature, norm_map=modes, stats=dataset.meta.stats)
    done = step(create_transition(observation={KEY: frames}))[TransitionKey.OBSERVATION][KEY]
    return done.numpy().astype(float).reshape(len(frames), 6)


def told(dataset, of):
    stats = json.loads(Path(dataset.root, "meta/stats.json").read_text())[KEY]
    return np.round(stats[of]).tolist()


print("lerobot", importlib.metadata.version("lerobot"))
vector, matrix = record("vector", (6,), [50, 50]), record("matrix", (2, 3), [50, 50])
check("six numbers: mean", told(vector, "mean"), [90.0, 45.0, 30.0, -90.0, -45.0, -30.0])
check("  deviation", told(vector, "std"), [1.0] * 6)
check("  normalised, deviation of each", normalise(vector).std(axis=0).round(2).tolist(), [1.0] * 6)
check("a matrix (2, 3) of the same: shape when read", tuple(matrix[0][KEY].shape), (2, 3))
check("  mean", np.abs(told(matrix, "mean")).tolist(), [0.0, 0.0, 0.0])
check("  deviation", told(matrix, "std"), [90.0, 45.0, 30.0])
check("  normalised, deviation of each", normalise(matrix).std(axis=0).round(2).tolist(), [0.01, 0.02, 0.03] * 2)
check("six numbers, and an episode of one frame", len(record("short_vector", (6,), [50, 1])), 51)
try:
    record("short", (2, 3), [50, 1])
    seen = "recorded"
except ValueError as error:
    seen = str(error)
check("a matrix, and an episode of one frame", seen, "all input arrays must have the same shape")
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
