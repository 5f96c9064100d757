#!/usr/bin/env bash
# torchcodec 0.17.0 (FFmpeg 8.1): seek_mode="exact" returns other frames than it was asked for, from MPEG-TS with
# B-frames and from H.264 with intra refresh.
#
# Setting: 500 frames of H.264 at 25 a second, as x264 makes them, each of which shows its number: in MP4; in MPEG-TS,
# as broadcasts, HLS and many recorders have it; and in MP4 with intra refresh, in which a column of intra blocks
# wanders through the picture instead of keyframes: cameras and drones that stream with little delay do so.
#
# Expected: decoder[i] is frame i. "Exact guarantees that requesting frame i will always return frame i", says the
# docstring; it is the default, and scans the whole file first. That FFmpeg seeks badly in MPEG-TS is known, and a
# decoder that has scanned the file could see it: the time of each frame is at hand.
#
# What happens: the file is scanned, all 500 frames are counted with their right times, and the frame that comes first
# after a seek is taken for the one that was asked for, though its time is another.
# - MPEG-TS: all are wrong. Frame 0 is frame 50, and 160 is 200: up to two seconds late, by the distance of keyframes.
#   Read one after the other, the first two seconds never come, the rest comes 50 frames late, and the last 50 frames
#   raise an error. Without B-frames all are right.
# - Intra refresh: a frame between a recovery point and the end of its refresh comes as the first frame after it: 160 is
#   168. Read one after the other all are right, so what one gets depends on what was read before.
# - get_frame_at, get_frames_at and get_frame_played_at do the same, and their pts_seconds are those of the frames that
#   were returned. MP4 with keyframes is right throughout, and PyAV from beginning to end right for all four files.
#
# What raypipe does: its torchcodec decoder refuses MPEG-TS, and compares the time of each frame that it gets with the
# one that it wanted; what is refused is decoded by PyAV. decord 0.6 is off in both kinds too, and refused for both.
#
# FFmpeg's libraries are those in PyAV's wheel. With FFmpeg 5.1 and torchcodec 0.11.1 it is the same.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchcodec==0.17.0 torch==2.14.1 av==18.1.0 numpy==2.4.6

cd "$work"
code=0
cat > numbers_.py <<'PYTHON'
import numpy as np

N, RATE, BITS, WIDTH, HEIGHT = 500, 25, 10, 320, 192
GROUND = np.random.default_rng(0).integers(0, 80, (HEIGHT // 8, WIDTH // 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)


def draw(number):
    """Return a grey picture of ground that passes by, under ten bars, bright or dark: the bits of its number."""
    picture = np.roll(GROUND, number, axis=1)
    picture[:64, : 16 * BITS] = np.where((number >> np.arange(BITS)) & 1, 220, 40).repeat(16)
    return picture


def read(picture):
    bars = picture[:64, : 16 * BITS].reshape(64, BITS, 16).mean(axis=(0, 2))
    return int(sum(1 << bit for bit in range(BITS) if bars[bit] > 130))
PYTHON

"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
from fractions import Fraction

import av
from numbers_ import N, RATE, WIDTH, HEIGHT, draw, read

USUAL = {"g": "50", "crf": "35", "preset": "veryfast"}
for name, options in {
    "usual.mp4": USUAL,
    "usual.ts": USUAL,
    "no_b_frames.ts": USUAL | {"bf": "0"},
    "refresh.mp4": USUAL | {"intra-refresh": "1", "tune": "zerolatency"},
}.items():
    with av.open(name, "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = WIDTH, HEIGHT, "yuv420p", 1
        for number in range(N):
            frame = av.VideoFrame.from_ndarray(draw(number), format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with av.open(name) as container:
        shown = [read(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    assert shown == list(range(N)), f"PyAV reads {name} otherwise than it was written"
PYTHON
if [ "$code" != 0 ]; then
    tail -n 20 "$work/stderr"
    exit "$code"
fi

mkdir libraries
packages=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for library in "$packages"/av.libs/lib{av,sw}*.so.*; do # libavcodec-5e6b81c2.so.62.28.102 is libavcodec.so.62
    ln -s "$library" "libraries/$(basename "$library" | sed -E 's/-[0-9a-f]+(\.so\.[0-9]+).*/\1/')"
done
LD_LIBRARY_PATH="$work/libraries:$packages/av.libs" "$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys

import torchcodec
from numbers_ import N, RATE, read
from torchcodec._core import get_ffmpeg_library_versions
from torchcodec.decoders import VideoDecoder

ASKED = 160


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def get(name, index):
    """Return the number in the frame that a new decoder gives for an index, or None if it raises an error."""
    try:
        return read(VideoDecoder(name)[index][0].numpy())
    except RuntimeError as error:
        assert "no more frames left to decode" in str(error), error
        return None


def ask(name):
    """Return how many of every tenth frame are right, wrong and lacking, and how late the latest is."""
    found = {index: get(name, index) for index in range(0, N, 10)}
    late = [number - index for index, number in found.items() if number is not None]
    return late.count(0), sum(map(bool, late)), N // 10 - len(late), max(late)


print("torchcodec", torchcodec.__version__, "FFmpeg", get_ffmpeg_library_versions()["ffmpeg_version"])
for name in ("usual.mp4", "usual.ts", "no_b_frames.ts", "refresh.mp4"):
    check(f"{name}: frames counted", len(VideoDecoder(name)), N)
check("usual.mp4: of 50 (right, wrong, lacking, most frames late)", ask("usual.mp4"), (50, 0, 0, 0))
check("no_b_frames.ts: the same", ask("no_b_frames.ts"), (50, 0, 0, 0))
right, wrong, lacking, late = ask("usual.ts")
print("usual.ts: the same", (right, wrong, lacking, late))
check("usual.ts: right; off by more than a second; lacking", (right, late > RATE, lacking > 0), (0, True, True))
right, wrong, lacking, late = ask("refresh.mp4")
print("refresh.mp4: the same", (right, wrong, lacking, late))
check("refresh.mp4: many are wrong; by more than half a second", (wrong > 10, late > RATE / 2), (True, True))

for name in ("usual.ts", "refresh.mp4"):
    frame = VideoDecoder(name).get_frame_at(ASKED)
    number = read(frame.data[0].numpy())
    print(f"{name}: frame {ASKED} at once is frame {number}, at {frame.pts_seconds:.2f} s")
    batch = VideoDecoder(name).get_frames_at([ASKED]).data
    begin_s = VideoDecoder(name).metadata.begin_stream_seconds
    timed = VideoDecoder(name).get_frame_played_at(begin_s + (ASKED + 0.5) / RATE)
    others = {read(picture[0].numpy()) for picture in (batch[0], timed.data)}
    check("  another one, and get_frames_at and get_frame_played_at have it too", others == {number} != {ASKED}, True)

decoder = VideoDecoder("refresh.mp4")
check("refresh.mp4: right, one after the other", sum(read(decoder[i][0].numpy()) == i for i in range(N)), N)
decoder, seen = VideoDecoder("usual.ts"), []
try:
    seen.extend(read(decoder[i][0].numpy()) for i in range(N))
except RuntimeError as error:
    print(error)
print(f"usual.ts, one after the other: {len(seen)} frames, from {seen[0]} to {seen[-1]}")
check("usual.ts: right, one after the other", sum(number == i for i, number in enumerate(seen)), 0)
check("usual.ts: more than a second is never shown", seen[0] > RATE, True)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
