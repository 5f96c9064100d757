#!/usr/bin/env bash
# Ray Data 2.60.0 with lerobot 0.6.1: read_lerobot gives a depth camera's frames as grey pictures of eight bits, not as
# distances.
#
# Setting: ten frames of a depth camera, distances of 400 to 3,000 millimetres from left to right, recorded as a video
# and, in a second dataset, as pictures. LeRobotDataset gives them back in millimetres, to within 1 mm.
#
# Expected: read_lerobot, which decodes with lerobot's own functions, gives the same numbers, or refuses the camera.
#
# What happens: each frame comes as (height, width, 3) uint8 of three equal channels, without an error or a warning.
# - Of a video the twelve-bit codes of the distances are read as the brightness of a picture and cut to eight bits: 20
#   for 400 mm, 117 for 3,000 mm. Their scale, which is logarithmic, is not undone. Distances that differ by up to
#   32 mm have one value.
# - Of pictures (PNG of 16 bits) everything from 255 mm on is 255: the frames are white.
# - With delta_timestamps it is the same. The statistics in the column `stats` are of millimetres.
#
# What raypipe does: depth cameras are left out, and that is said.
# Beside it: read depth with LeRobotDataset.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'lerobot[dataset]==0.6.1' 'ray[data]==2.60.0'

cd "$work"
export HF_LEROBOT_HOME="$work/home" HF_HOME="$work/hf" HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
cat >depth.py <<'PYTHON'
import importlib.metadata
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import ray
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERA, FRAMES = "observation.images.depth", 10
DEPTH = np.tile(np.linspace(400, 3000, 640), (32, 1)).astype(np.uint16)


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(name, kind):
    form = {"shape": (*DEPTH.shape, 1), "names": ["height", "width", "channels"], "info": {"is_depth_map": True}}
    features = {CAMERA: {"dtype": kind, **form}}
    features["observation.state"] = {"dtype": "float32", "shape": (1,), "names": ["arm"]}
    dataset = LeRobotDataset.create(f"lab/{name}", 10, features, root=name, use_videos=kind == "video")
    for number in range(FRAMES):
        state = np.array([number], np.float32)
        dataset.add_frame({CAMERA: DEPTH[..., None], "observation.state": state, "task": "reach"})
    dataset.save_episode()
    dataset.finalize()


def read(name, **options):
    """Return a frame as Ray gives it, and the warnings that tell of depth."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = ray.data.read_lerobot(str(Path(name).resolve()), **options).take_all()
    check("  frames", len(frames), FRAMES)
    check("  warnings that tell of depth", [str(w.message) for w in caught if "depth" in str(w.message).lower()], [])
    return frames[3][CAMERA]


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "lerobot", "torchcodec")))
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
ray.data.DataContext.get_current().enable_progress_bars = False
for name, kind in (("filmed", "video"), ("pictures", "image")):
    print(f"{name}:")
    record(name, kind)
    right = LeRobotDataset(f"lab/{name}", root=name)[3][CAMERA].numpy()[0]
    check("  lerobot's own are right to 1 mm", bool(np.abs(right - DEPTH).max() <= 1), True)
    frame = read(name)
    check("  Ray's", (frame.shape, str(frame.dtype)), ((*DEPTH.shape, 3), "uint8"))
    check("  the channels are equal", bool((frame == frame[..., :1]).all()), True)
    grey = frame[..., 0]
    ends, apart = ((20, 117), 32) if kind == "video" else ((255, 255), 2600)
    check("  of 400 and 3,000 mm", (int(grey.min()), int(grey.max())), ends)
    ranges = [int(np.ptp(DEPTH[grey == value])) for value in np.unique(grey)]
    check("  millimetres between distances of one value", max(ranges), apart)
    window = read(name, delta_timestamps={CAMERA: [-0.1, 0.0]})
    check("  with delta_timestamps", (window.shape, bool((window[1] == frame).all())), ((2, *frame.shape), True))
PYTHON
code=0
{ "$work/venv/bin/python" depth.py && echo "as recorded"; } 2>"$work/stderr" || code=$?
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
