#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1): VideoFrame.from_numpy_buffer takes a yuv420p or nv12 array for a picture that is two lines
# lower, unless its height is a multiple of four, and shows false colours.
#
# Setting: from_numpy_buffer is from_ndarray without a copy, for cameras and encoders that are in a hurry. Both take the
# array that to_ndarray makes of a yuv420p frame, whose rows are one and a half times the height.
#
# Expected: the same frame by both. The array fits, or a ValueError says that it does not: from_numpy_buffer raises one
# for an odd width, and for a number of rows that is no multiple of three.
#
# What happens: the height is taken for rows // 6 * 4, not rows * 2 // 3. That is right for 1080, 720, 480 and 360, and
# two too few for all even heights between the multiples of four: 270 (480×270), 450 (800×450), 486 (NTSC). The colours
# are then looked for two lines too early, where brightness still is: of a picture of bars a quarter of the pixels, or
# an eighth in nv12, are off by more than 32 of 255. Nothing is raised.
# - An encoder for 480×270 takes the frame of 268 lines, stretches it, and writes a video of the right size.
# - from_ndarray is right for all of these.
#
# What raypipe does: it makes frames by from_ndarray, of RGB.
# With PyAV 19.0.2 (Python 3.13) it is as recorded here.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys

import av
import numpy as np


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def draw(width, height):
    """Return a picture of coloured bars, (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    red, green = np.where((y // 45) % 2, 220, 30), np.where((x // 40) % 2, 200, 40)
    return np.stack([red, green, y * 255 // height], axis=2).astype(np.uint8)


def differ(one, other):
    """Return the share of the pixels of both pictures that differ by more than 32 in a colour."""
    lines = min(len(one), len(other))
    return round(float((np.abs(one[:lines].astype(int) - other[:lines]).max(axis=2) > 32).mean()), 2)


def encode(make, planes):
    """Return the first picture of a video that was made of these planes by `make`."""
    with av.open("video.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=480, height=270, pix_fmt="yuv420p")
        stream.codec_context.bit_rate = 20_000_000
        for i in range(5):
            frame = make(planes.copy(), format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open("video.mp4") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


print("PyAV", av.__version__, "FFmpeg", av.ffmpeg_version_info)
for kind, share in (("yuv420p", 0.25), ("nv12", 0.12)):
    for width, height in ((640, 360), (720, 480), (480, 270), (800, 450), (720, 486)):
        planes = av.VideoFrame.from_ndarray(draw(width, height), "rgb24").reformat(format=kind).to_ndarray()
        copied = av.VideoFrame.from_ndarray(planes, format=kind)
        wrapped = av.VideoFrame.from_numpy_buffer(planes, format=kind)
        one, other = copied.to_ndarray(format="rgb24"), wrapped.to_ndarray(format="rgb24")
        wrong = differ(one, other)
        print(f"{kind} {width}x{height}: by from_numpy_buffer {wrapped.width}x{wrapped.height}, ", end="")
        print(f"share of the pixels with other colours: {wrong}")
        is_right = height % 4 == 0
        check("  from_ndarray has the planes", np.array_equal(copied.to_ndarray(), planes), True)
        check("  lines that from_numpy_buffer lacks", height - wrapped.height, 0 if is_right else 2)
        check("  about the recorded share", abs(wrong - (0 if is_right else share)) <= 0.02, True)

planes = av.VideoFrame.from_ndarray(draw(480, 270), "rgb24").reformat(format="yuv420p").to_ndarray()
copied, wrapped = encode(av.VideoFrame.from_ndarray, planes), encode(av.VideoFrame.from_numpy_buffer, planes)
check("sizes of the videos", (copied.shape, wrapped.shape), ((270, 480, 3), (270, 480, 3)))
shares = differ(copied, draw(480, 270)), differ(wrapped, draw(480, 270))
print("share of the pixels of the videos that are not the picture's:", shares)
check("the copy is near the picture, the other is not", (shares[0] < 0.1, shares[1] > 0.2), (True, True))
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
