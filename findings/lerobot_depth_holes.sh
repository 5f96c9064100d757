#!/usr/bin/env bash
# lerobot 0.6.1: where a depth camera saw nothing, its recorded video says that there is something at one centimetre.
#
# Setting: a depth camera (a RealSense, say) gives millimetres as uint16, and 0 where it found no depth: behind edges,
# on what shines, closer than it can measure. Its frames are recorded as video, which lerobot encodes without loss
# ("hevc", lossless=1, 12 bits), or as pictures that lerobot-edit-dataset converts to video.
#
# Expected: depths are rounded to what 12 bits can tell, and 0, the least number of all, is 0 as before, so that the
# usual mask `depth > 0` keeps what was measured.
#
# What happens: 12 bits stand for 0.01 to 10 metres, none of them for "nothing", and what lies outside is clipped: 0
# comes back as 10 mm. The mask keeps every pixel, and a tenth, which nobody measured, is a wall in front of the lens,
# in clouds of points and for a policy that learns from depth. Nothing is said, and meta/stats.json, which is made of
# the frames before they are encoded, still tells of a minimum of 0, so that whoever looks there finds the holes in
# place.
# - NaN, by which a camera with metres as floats (a ZED, say) says the same, is 10 mm as well; numpy alone warns, once.
# - What is farther than 10 m is at 10 m.
# - The same frames as pictures (use_videos=False) keep 0 and NaN. Converted to video by lerobot-edit-dataset they lose
#   them, and with the pictures what would tell.
# - All other depths are right to 1 mm up to three metres.
#
# What raypipe does: it leaves cameras for depth alone, and says so.
# Beside it: DepthEncoderConfig(depth_min=0), or --dataset.depth_encoder.depth_min=0, keeps 0, since it is the least
# depth then; NaN becomes 0.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'lerobot[dataset]==0.6.1'

cd "$work"
export HF_LEROBOT_HOME="$work/home" HF_HOME="$work/hf" HF_HUB_OFFLINE=1
cat > depths.py <<'PYTHON'
"""The frames of a depth camera, with holes: (64, 96, 1), millimetres as uint16 or metres as float32."""
import numpy as np

CAMERA = "observation.images.depth"
HOLE = (slice(20, 40), slice(30, 60))
FAR = (slice(0, 5), slice(None))


def frame(is_float):
    depth = np.tile(np.linspace(400, 3000, 96), (64, 1))
    depth[HOLE], depth[FAR] = 0, 15000
    if not is_float:
        return depth.astype(np.uint16)[..., None]
    depth[HOLE] = np.nan
    return (depth / 1000).astype(np.float32)[..., None]
PYTHON

cat > record.py <<'PYTHON'
"""Record an episode of ten frames: record.py NAME video|image [float] [depth_min=0]."""
import sys

import numpy as np
from depths import CAMERA, frame
from lerobot.configs import DepthEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

name, kind, options = sys.argv[1], sys.argv[2], sys.argv[3:]
shape = {"shape": (64, 96, 1), "names": ["height", "width", "channels"]}
features = {CAMERA: {"dtype": kind, **shape, "info": {"is_depth_map": True}}}
features["observation.state"] = {"dtype": "float32", "shape": (1,), "names": ["a"]}
how = {"depth_encoder": DepthEncoderConfig(depth_min=0.0)} if "depth_min=0" in options else {}
is_video = kind == "video"
dataset = LeRobotDataset.create(f"local/{name}", fps=10, features=features, root=name, use_videos=is_video, **how)
for number in range(10):
    state = np.array([number], np.float32)
    dataset.add_frame({CAMERA: frame("float" in options), "observation.state": state, "task": "reach"})
dataset.save_episode()
dataset.finalize()
PYTHON

run() {
    "$@" > "$work/said" 2>&1 || { cat "$work/said"; exit 1; }
}
run "$work/venv/bin/python" record.py video video
run "$work/venv/bin/python" record.py pictures image
run "$work/venv/bin/python" record.py floats video float
run "$work/venv/bin/python" record.py float_pictures image float
run "$work/venv/bin/python" record.py from_zero video depth_min=0
run "$work/venv/bin/python" record.py floats_from_zero video float depth_min=0
run "$work/venv/bin/lerobot-edit-dataset" --repo_id local/pictures --root "$work/pictures" \
    --new_repo_id local/converted --new_root "$work/converted" --operation.type convert_image_to_video \
    --operation.output_dir "$work/converted"

code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
from depths import CAMERA, FAR, HOLE, frame
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def read(name):
    """Return a frame of a dataset in millimetres, (64, 96)."""
    return LeRobotDataset(f"local/{name}", root=name)[3][CAMERA].numpy()[0]


def millimetres(depth, where):
    return sorted(set(depth[where].ravel().tolist()), key=str)


def kept(depth):
    """Return the share of pixels that the usual mask keeps."""
    return round(float((np.nan_to_num(depth) > 0).mean()), 2)


print("lerobot", importlib.metadata.version("lerobot"))
video, raw = read("video"), frame(is_float=False)[..., 0]
check("raw: 0 mm where nothing was measured, and kept by depth > 0", (millimetres(raw, HOLE), kept(raw)), ([0], 0.9))
check("as video", (millimetres(video, HOLE), kept(video)), ([10.0], 1.0))
measured = (raw > 0) & (raw <= 3000)
check("  error of what was measured, mm", float(np.abs(video[measured] - raw[measured]).max()), 1.0)
check("  15 m", millimetres(video, FAR), [10000.0])
stats = json.loads(Path("video/meta/stats.json").read_text())[CAMERA]
check("  minimum in stats.json", np.ravel(stats["min"]).tolist(), [0.0])
pictures, converted = read("pictures"), read("converted")
check("as pictures", (millimetres(pictures, HOLE), kept(pictures)), ([0.0], 0.9))
check("  converted to video", (millimetres(converted, HOLE), kept(converted)), ([10.0], 1.0))
floats, float_pictures = read("floats"), read("float_pictures")
check("NaN as video", (millimetres(floats, HOLE), kept(floats)), ([10.0], 1.0))
check("  as pictures, is NaN", bool(np.isnan(float_pictures[HOLE]).all()), True)
from_zero = read("from_zero")
check("with depth_min=0", (millimetres(from_zero, HOLE), kept(from_zero)), ([0.0], 0.9))
check("  NaN", millimetres(read("floats_from_zero"), HOLE), [0.0])
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
