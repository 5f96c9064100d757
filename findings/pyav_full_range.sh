#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1): encoding the frames of a full-range video as yuv420p crushes its blacks and whites.
#
# Setting: a video as a webcam writes it, MJPEG in AVI, whose pixels use all numbers from 0 to 255 (yuvj420p). Each
# frame shows the 256 shades of grey, a shade a column. It is decoded by PyAV, and each frame is handed as it is to a
# stream with pix_fmt = "yuv420p", the form that every player takes.
#
# Expected: the same shades but for rounding, as with `ffmpeg -i webcam.avi -pix_fmt yuv420p`. PyAV knows the range of
# each frame (frame.color_range is 2), knows that yuvj420p and yuv420p are two formats, converts one to the other on
# its own, and has all that is needed either to squeeze the numbers or to mark the stream as full.
#
# What happens: neither. The conversion keeps the numbers 0 to 255, and the stream is written without the mark; VP9 and
# AV1 come out with the mark of the limited range. FFmpeg's command and PyAV, which agree on every file here, then take
# 16 for black and 235 for white: the 18 darkest columns are all 0 where they were 0 to 16, the 19 lightest all 255, and
# what lies between is stretched apart. Nothing is said.
# - Going by way of reformat(format="rgb24") does not help: the RGB frame remembers the range, and so does the frame of
#   yuv420p that is made of it.
# - codec_context.color_range = 1, which says that the stream is of limited range, converts nothing.
# - These help: codec_context.color_range = 2, which marks the stream as full; reformat(dst_color_range="MPEG"); and a
#   new frame from the RGB array, which knows nothing of the old one.
#
# Why it matters to raypipe: many webcams and phones record the full range, and explore converts what browsers do not
# play, MJPEG for one. Its transcoder encodes new frames made of RGB arrays, and its decoders heed the range of each
# frame, so both show the right shades. What a dataset lost before, when its videos were converted as above, is gone.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    av==18.1.0 numpy==2.4.6 imageio-ffmpeg==0.6.0 # The last is FFmpeg's own command, as the judge.

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import subprocess
import sys

import av
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

WIDTH, HEIGHT = 256, 64
FULL = 2
SHADES = np.arange(256)


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def write(name, codec, pix_fmt, frames, options, color_range=None):
    with av.open(name, "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if color_range is not None:
            stream.codec_context.color_range = color_range
        for frame in frames:
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return name


def webcam():
    """Yield the frames of the recording, as they are decoded."""
    with av.open("webcam.avi") as container:
        for frame in container.decode(video=0):
            frame.pict_type = 0
            yield frame


def ffmpeg(*arguments):
    return subprocess.run([get_ffmpeg_exe(), "-v", "error", *arguments], check=True, capture_output=True).stdout


def see(name):
    """Return the mark in a file, and the shade that FFmpeg's command and PyAV show in each column."""
    raw = ffmpeg("-i", name, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    by_command = np.frombuffer(raw, np.uint8).reshape(HEIGHT, WIDTH, 3)[HEIGHT // 2, :, 0].astype(int)
    with av.open(name) as container:
        frame = next(container.decode(video=0))
    by_pyav = frame.to_ndarray(format="rgb24")[HEIGHT // 2, :, 0].astype(int)
    return int(frame.color_range), by_command, by_pyav


def judge(name):
    """Print some shades; return (mark, whether black and white are crushed, whether all shades are right)."""
    mark, *seen = see(name)
    for shades in seen:
        ends = f"{(shades == 0).sum()} columns are black, {(shades == 255).sum()} white"
        print(f"{name}: 0 8 16 64 128 200 247 255 are", *shades[[0, 8, 16, 64, 128, 200, 247, 255]], f"({ends})")
    crushed = all(min((shades == 0).sum(), (shades == 255).sum()) >= 14 for shades in seen)
    right = all(np.abs(shades - SHADES).max() <= 4 for shades in seen)
    return mark, crushed, right


ramp = np.broadcast_to(SHADES.astype(np.uint8)[None, :, None], (HEIGHT, WIDTH, 3))
full = av.VideoFrame.from_ndarray(ramp, "rgb24").reformat(format="yuvj420p", dst_color_range="JPEG")
write("webcam.avi", "mjpeg", "yuvj420p", [full] * 5, {"qmin": "1", "qmax": "1"})
frame = next(webcam())
check("the recording's frames: format and range", (frame.format.name, int(frame.color_range)), ("yuvj420p", FULL))
check("the recording: (mark, crushed, right)", judge("webcam.avi"), (FULL, False, True))

ffmpeg("-i", "webcam.avi", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-qp", "0", "command.mp4")
check("by FFmpeg's command: (mark, crushed, right)", judge("command.mp4")[1:], (False, True))

exact = {"qp": "0"}
for name, codec, options, mark in (
    ("h264.mp4", "libx264", exact, 0),
    ("mpeg4.mp4", "mpeg4", {"qmin": "1", "qmax": "1"}, 0),
    ("vp9.webm", "libvpx-vp9", {"lossless": "1"}, 1),
    ("av1.mp4", "libsvtav1", {"crf": "5"}, 1),
):
    write(name, codec, "yuv420p", webcam(), options)
    check(f"by PyAV, {codec}: (mark, crushed, right)", judge(name), (mark, True, False))

by_rgb = (each.reformat(format="rgb24").reformat(format="yuv420p") for each in webcam())
write("by_rgb_frame.mp4", "libx264", "yuv420p", by_rgb, exact)
check("by way of an RGB frame: right", judge("by_rgb_frame.mp4")[-1], False)
write("marked_limited.mp4", "libx264", "yuv420p", webcam(), exact, color_range=1)
check("with color_range = 1: right", judge("marked_limited.mp4")[-1], False)

write("marked_full.mp4", "libx264", "yuv420p", webcam(), exact, color_range=FULL)
check("with color_range = 2: right", judge("marked_full.mp4")[-1], True)
squeezed = (each.reformat(format="yuv420p", dst_color_range="MPEG") for each in webcam())
write("squeezed.mp4", "libx264", "yuv420p", squeezed, exact)
check('after reformat(dst_color_range="MPEG"): right', judge("squeezed.mp4")[-1], True)
arrays = (av.VideoFrame.from_ndarray(each.to_ndarray(format="rgb24"), "rgb24") for each in webcam())
write("by_array.mp4", "libx264", "yuv420p", arrays, exact)
check("by way of an array: right", judge("by_array.mp4")[-1], True)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
