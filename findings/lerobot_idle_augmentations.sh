#!/usr/bin/env bash
# lerobot 0.6.1: eight of its nine own image transforms do nothing in a training on videos, and nothing is said.
#
# Setting: one episode of a camera, recorded twice by LeRobotDataset, as a video and as pictures. A training's settings
# (TrainPipelineConfig) turn image_transforms on with one transform, which is then applied to each frame;
# make_train_eval_datasets makes of them the dataset that lerobot-train reads. Of one frame, as it goes to the policy,
# the mean change of a pixel is measured, in parts of 255. Each of LeRobot's own transforms is tried, with strong
# settings, and two of torchvision's.
#
# Expected: the frame is changed, as lerobot-imgtransform-viz shows it for the same settings and the same videos.
#
# What happens: of videos lerobot-train has its frames as uint8, and they become floats only after the transforms. These
# eight return what is not of floats as it came: GaussianNoise, MotionBlur, JPEGCompression, GaussianPatchBrightness,
# RandomShadow, CoarseDropout, GammaCorrection and PlanckianJitter. Each changes the frame by 0.0; no error, no warning.
# - The ninth, SharpnessJitter, and the two of torchvision take uint8. So the transforms of the default list work, and
#   beside them the others are not missed: of three that are drawn for a frame, those of the eight are blanks.
# - The same transforms work on the same videos in a LeRobotDataset of one's own, which gives floats, in
#   lerobot-imgtransform-viz, which looks at one of these, and in a training on pictures (use_videos=False).
# - dataset.return_uint8=false, the setting by this name, which is what it is by default, changes nothing: the
#   training passes True.
#
# Why it matters to raypipe: its groups and its outliers can tell of light, blur and noise, and the cure that they
# suggest for a LeRobot dataset is one of these transforms. A training with it is one without: the policy fails in the
# dark as before, and the blame falls on the dataset or on the cure. raypipe itself changes no frames before it embeds
# them, but for their size.
# Beside it: torchvision's GaussianNoise, GaussianBlur and JPEG, which take uint8; or, in a script of one's own,
# v2.ToDtype(torch.float32, scale=True) before the transforms, as below.
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

import numpy as np
import torch
from lerobot.configs import RGBEncoderConfig
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.factory import make_train_eval_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.transforms import ImageTransformConfig, ImageTransforms, ImageTransformsConfig
from torchvision.transforms import v2

CAMERA, STATE, ACTION = "observation.images.top", "observation.state", "action"
FPS, N_FRAMES, SIDE, BLOCK = 10, 20, 96, 8
IDLE = {
    "GaussianNoise": {"std": (20.0, 25.0)},
    "MotionBlur": {"kernel_size": (9, 11)},
    "JPEGCompression": {"quality": (15, 20)},
    "GaussianPatchBrightness": {"num_patches": (4, 6), "factor_range": (0.3, 0.5)},
    "RandomShadow": {"opacity": (0.5, 0.6)},
    "CoarseDropout": {"max_holes": 20, "max_height_frac": 0.5, "max_width_frac": 0.5},
    "GammaCorrection": {"gamma": (1.8, 2.0)},
    "PlanckianJitter": {"temperature": (3000, 4000)},
}
AT_WORK = {
    "SharpnessJitter": {"sharpness": (1.8, 2.0)},
    "ColorJitter": {"brightness": (0.5, 0.6)},
    "RandomAffine": {"degrees": (4.0, 5.0)},
}


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(name, dtype):
    """Record an episode of one camera, as a video or as pictures."""
    vector = {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}
    camera = {"dtype": dtype, "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]}
    how = {"use_videos": dtype == "video", "rgb_encoder": RGBEncoderConfig(vcodec="h264", crf=10)}
    features = {CAMERA: camera, STATE: vector, ACTION: vector}
    dataset = LeRobotDataset.create(f"local/{name}", fps=FPS, features=features, root=name, **how)
    fields = np.random.default_rng(0).integers(60, 200, (SIDE // BLOCK, SIDE // BLOCK, 3), np.uint8)
    ground = fields.repeat(BLOCK, 0).repeat(BLOCK, 1)
    for number in range(N_FRAMES):
        values = np.array([number, -number], np.float32)
        picture = np.roll(ground, number, axis=1)
        dataset.add_frame({CAMERA: picture, STATE: values, ACTION: values, "task": "reach"})
    dataset.save_episode()
    dataset.finalize()


def settings_of(kind):
    """Return the settings of image_transforms with one transform, always applied."""
    only = ImageTransformConfig(type=kind, kwargs=(IDLE | AT_WORK)[kind])
    return ImageTransformsConfig(enable=True, max_num_transforms=1, tfs={"only": only})


def in_training(name, transforms, **further):
    """Return the dataset that lerobot-train reads with these settings."""
    dataset = DatasetConfig(repo_id=f"local/{name}", root=name, image_transforms=transforms, **further)
    return make_train_eval_datasets(TrainPipelineConfig(dataset=dataset, policy=ACTConfig(push_to_hub=False)))[0]


def frame_of(dataset):
    """Return a frame as the policy gets it: uint8 becomes floats from 0 to 1 behind the dataset."""
    torch.manual_seed(0)
    frame = dataset[5][CAMERA]
    return frame.to(torch.float32) / 255.0 if frame.dtype == torch.uint8 else frame


def change(dataset):
    return round(255 * float((frame_of(dataset) - plain).abs().mean()), 1)


print("lerobot", importlib.metadata.version("lerobot"))
for name, dtype in (("pictures", "image"), ("videos", "video")):
    record(name, dtype)
    without = in_training(name, ImageTransformsConfig())
    plain = frame_of(without)
    print(f"{name}: a training's frames are of", without[5][CAMERA].dtype)
    trained, by_hand, set_to_float = {}, {}, {}
    for kind in IDLE | AT_WORK:
        settings = settings_of(kind)
        trained[kind] = change(in_training(name, settings))
        set_to_float[kind] = change(in_training(name, settings, return_uint8=False))
        by_hand[kind] = change(LeRobotDataset(f"local/{name}", root=name, image_transforms=ImageTransforms(settings)))
        print(f"  {kind}: in a training {trained[kind]}, in a LeRobotDataset {by_hand[kind]}")
    check(f"{name}: of {len(trained)}, in a LeRobotDataset idle", [k for k, v in by_hand.items() if v < 0.5], [])
    recorded = list(IDLE) if name == "videos" else []
    check("  in a training idle", [k for k, v in trained.items() if v == 0], recorded)
    check("  with return_uint8=False idle", [k for k, v in set_to_float.items() if v == 0], recorded)

dataset = in_training("videos", ImageTransformsConfig())
floats_first = v2.Compose([v2.ToDtype(torch.float32, scale=True), ImageTransforms(settings_of("MotionBlur"))])
dataset.set_image_transforms(floats_first)
check("videos, made floats first: MotionBlur is at work", change(dataset) > 0.5, True)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
