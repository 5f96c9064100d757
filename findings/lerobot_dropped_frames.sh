#!/usr/bin/env bash
# lerobot 0.6.1: a frame that the streaming encoder drops moves all later ones of its episode, and its last rows show
# the next episode.
#
# Setting: a dataset is recorded with streaming_encoding=True, as lerobot proposes at each start and some of its
# recording modes force. The computer is too slow at times, here for a few frames that are hard to encode by a slow
# preset, and a frame that finds the encoder's queue full is dropped, with a warning: "Encoder queue full …, dropped 1
# frame(s)".
#
# Expected: the dropped frame is missing. Its row is left out, or shows the frame before, and all others show their own,
# since rows and frames have times; or the reader, which compares times, complains.
#
# What happens: the row stays, and the encoder numbers the frames that it gets. Each later frame of the episode is as
# many frames early as were dropped. Its video is shorter than its rows by as much, and as the videos of all episodes
# are one file, the last rows show the beginning of the next episode. The reader compares the time that it wants with
# that of the frame which it took by number, so that they always agree. There is no error, and no warning after the
# recording, but for rows beyond the last frame of the file, which are an IndexError.
# - The frames of the next episodes are where they should be, until one of theirs is dropped: from_timestamp and
#   to_timestamp in the table of episodes are those of the video as it is, and `length` is the number of rows.
#
# What raypipe does: it reads an episode from from_timestamp to to_timestamp, so that no other is in it; `raypipe
# inspect` says that the span shows fewer frames than the episode has. Beside its signals the pictures are early.
# Beside it: compare (to_timestamp − from_timestamp) · fps with length before a training.
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
import time

import numpy as np
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERA, FPS = "observation.images.top", 30
N_EPISODES, N_FRAMES = 2, 120
HARD = range(20, 32)
HEIGHT, WIDTH, BAR = 720, 1280, 64


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def paint(episode, number):
    """Return a picture, gray or hard to encode, with bars on top that are the bits of the frame's number."""
    picture = np.roll(noise, 3 * number, axis=1) if number in HARD else np.full_like(noise, 90)
    for bit in range(8):
        picture[:BAR, BAR * bit : BAR * (bit + 1)] = 255 * ((episode * 128 + number) >> bit & 1)
    return picture


def number_of(picture):
    """Return the episode and the number of a picture, (3, height, width) from 0 to 1."""
    bars = [picture[:, 16 : BAR - 16, BAR * bit + 16 : BAR * (bit + 1) - 16].mean() > 0.5 for bit in range(8)]
    return divmod(sum(int(bar) << bit for bit, bar in enumerate(bars)), 128)


features = {
    CAMERA: {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": (1,), "names": ["a"]},
}
slow = RGBEncoderConfig(vcodec="h264", preset="placebo", crf=10, extra_options={"rc-lookahead": 0})
how = {"streaming_encoding": True, "encoder_queue_maxsize": 2, "encoder_threads": 1, "rgb_encoder": slow}
dataset = LeRobotDataset.create("local/arm", fps=FPS, features=features, root="arm", use_videos=True, **how)
for episode in range(N_EPISODES):
    for number in range(N_FRAMES):
        picture = paint(episode, number)
        begun = time.monotonic()
        state = np.array([number], np.float32)
        dataset.add_frame({CAMERA: picture, "observation.state": state, "task": "reach"})
        time.sleep(max(0, 1 / FPS - (time.monotonic() - begun)))
    dataset.save_episode()
dataset.finalize()

print("lerobot", importlib.metadata.version("lerobot"))
dataset = LeRobotDataset("local/arm", root="arm")
spans = [(row[f"videos/{CAMERA}/from_timestamp"], row[f"videos/{CAMERA}/to_timestamp"]) for row in dataset.meta.episodes]
n_kept = [round((end - start) * FPS) for start, end in spans]
check("rows of the episodes", [row["length"] for row in dataset.meta.episodes], [N_FRAMES] * N_EPISODES)
print(f"frames of the episodes, as the spans in their table say: {n_kept}")
check("  frames were dropped", n_kept[0] < N_FRAMES, True)

seen = {}
for row in range(len(dataset)):
    try:
        seen[divmod(row, N_FRAMES)] = number_of(dataset[row][CAMERA].numpy())
    except IndexError:
        seen[divmod(row, N_FRAMES)] = None
of_first = {number: seen[0, number] for number in range(N_FRAMES)}
right = sum(shown == (0, number) for number, shown in of_first.items())
early = sum(shown is not None and shown[0] == 0 and shown[1] > number for number, shown in of_first.items())
others = sum(shown is not None and shown[0] > 0 for shown in of_first.values())
print(f"rows of the first episode with their own frame: {right}, a later one: {early}, one of another episode: {others}")
check("  any that is early", early > 0, True)
check("  as many of its own as were kept", right + early, n_kept[0])
check("  any of another episode", others > 0, True)
check("first row of the second episode", seen[1, 0], (1, 0))
check("last row of the last episode, IndexError", seen[N_EPISODES - 1, N_FRAMES - 1], None)
print("as recorded")
PYTHON
if grep -q "dropped" "$work/stderr"; then
    grep "dropped" "$work/stderr" | head -n 1
fi
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
