#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1): in MPEG-PS most times of frames are made up, and for half a second they are two frames wrong.
#
# Setting: 1,500 frames of MPEG-2 at 30 a second with two B-frames between the others, written by FFmpeg's own muxer into
# a program stream (.mpg, .vob). Each picture carries its number. All is decoded from the start.
#
# Expected: a frame's pts is 1/30 s after that of the frame before it, as in every other container.
#
# What happens: the frames come out in the right order and each has a pts, but the pts go back on the way.
# - A packet of MPEG-PS holds many frames and one time in its header, that of the first frame that begins in it. FFmpeg
#   computes the others from it, and gives it also to the frame that ends in the packet.
# - If that frame is no B-frame, all that follow until the next header are two frames early: two times come twice, and at
#   the next header two are left out.
#
# Why it matters to raypipe: which frame is on display at a time was looked up by these times. Where packets have a
# position in the file (pos), their times stand in headers; raypipe, and bench/exact.py, by which it is judged, believe
# these alone, and of two packets in a row with one time the second. They then have the times that were written, without
# error.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from fractions import Fraction

import av
import numpy as np

N, BITS, TICKS = 1500, 11, 3000


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def draw(number):
    bars = np.where((number >> np.arange(BITS)) & 1, 220, 40).astype(np.uint8)
    return np.tile(bars.repeat(16), (64, 1))


def read(frame):
    bars = frame.to_ndarray(format="gray").reshape(64, BITS, 16).mean(axis=(0, 2))
    return int(sum(1 << bit for bit in range(BITS) if bars[bit] > 130))


with av.open("numbers.mpg", "w") as out:
    stream = out.add_stream("mpeg2video", rate=30, options={"bf": "2", "g": "12"})
    stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = 16 * BITS, 64, "yuv420p", 1
    for number in range(N):
        frame = av.VideoFrame.from_ndarray(draw(number), format="gray").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, 30)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())

with av.open("numbers.mpg") as container:
    frames = [(read(frame), frame.pts) for frame in container.decode(video=0)]
check("frames come out in order", [number for number, _ in frames] == list(range(N)), True)
check("each has a time", all(pts is not None for _, pts in frames), True)
late = [(pts - frames[0][1]) / TICKS - number for number, pts in frames]
check("times that are wrong, in frames", sorted({*late} - {0.0}), [-2.0])
first = next(number for number in range(N) if late[number])
print(f"{sum(map(bool, late))} of {N} frames, from frame {first} on:", [round(n + late[n]) for n in range(first - 3, first + 4)])
check("so times go back", any(a[1] > b[1] for a, b in zip(frames, frames[1:])), True)
print("as recorded")
PYTHON
