#!/usr/bin/env bash
# decord 0.6.0: get_batch and reader[i] of valid MP4 and AVI files give other frames than those asked for; no error.
#
# Setting: 1,000 frames, 33 seconds, each with its number as a pattern of light and dark fields, written by FFmpeg's
# command in several ways. PyAV decodes each file from its start, and finds the frames 0 to 999 in order. Then decord is
# asked for single frames, as a training asks: for sixteen evenly spaced ones in one get_batch, for each frame once by
# reader[i] in a random order, and for the 62 clips of sixteen neighbours, in a random order too.
#
# Expected: frame i for the number i. decord is made for random access; its maintainer says that indexing always goes by
# seek_accurate, which guarantees the place (issue 130), and there is no other way to ask for a frame by its number.
#
# What happens:
# - H.264 in AVI, as cameras and FFmpeg write it: each frame comes from the first group of pictures. With a keyframe a
#   second the sixteen frames of 33 seconds are all from the first second, and they jump to and fro in it; 970 of 1,000
#   frames are others. With FFmpeg's own length of groups, 250, it is three quarters of all. Of MPEG-4 with B-frames it
#   is nearly all, without them none. AVI holds no times for display, and decord, which seeks by them, has -3e17 seconds
#   for every frame. (Issue 252 shows such a file; it is open since 2023.)
# - HEVC in MP4, whose groups are open where libx265 is not told otherwise: after a seek the frames about each keyframe
#   are another one, up to 4 later; a fifth of all frames with a keyframe a second. So are those of MPEG-4 with
#   B-frames, a third of all, and of H.264 with open-gop=1, a ninth. get_key_indices shows why: it counts keyframes
#   in the order in which they lie in the file, 27, while frames are counted as they are shown, where this one is 30.
# - No frame is missing, len(reader) is right, and nothing is raised. Read from start to end each file is right, so that
#   a look through it shows nothing.
# - These are right: H.264 in MP4 with closed groups, libx264's own choice; HEVC with open-gop=0; the AVI of H.264
#   without B-frames after `ffmpeg -i NAME.avi -c copy NAME.mp4`, which encodes nothing anew.
#
# Why it matters to raypipe: a trajectory is the path of frames in the order of time. From an AVI it would be a walk in
# its first second, however long the video is, and its embeddings would look like any others. raypipe's decord decoder
# refuses every container but MP4 and Matroska, and open groups of pictures, by the packets' times; PyAV, which comes
# first anyway, decodes them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    decord==0.6.0 av==18.1.0 numpy==2.4.6 imageio-ffmpeg==0.6.0 # The last is FFmpeg's own command.

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import random
import subprocess
import sys

import av
import decord
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

N, RATE, SIDE, FIELD, CLIP = 1000, 30, 128, 32, 16
BITS = 1 << np.arange(16)
ALL = list(range(N))
RIGHT = (0, 0, 0, N - 1)
EVENLY = np.linspace(0, N - 1, CLIP).astype(int).tolist()


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def draw(number):
    """Return a picture of 4 × 4 fields, light or dark: the bits of its number."""
    fields = np.where(number & BITS, 220, 32).astype(np.uint8).reshape(4, 4)
    return np.repeat(fields.repeat(FIELD, 0).repeat(FIELD, 1)[:, :, None], 3, axis=2)


def read(picture):
    """Return the number in a picture."""
    middles = picture[FIELD // 2 :: FIELD, FIELD // 2 :: FIELD].mean(axis=2)
    return int(BITS[middles.ravel() > 126].sum())


def ffmpeg(*arguments, pictures=b""):
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-y", *arguments], check=True, input=pictures, capture_output=True)


def write(name, *options):
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE}x{SIDE}", "-r", str(RATE), "-i", "-"]
    ffmpeg(*raw, "-pix_fmt", "yuv420p", *options, name, pictures=PICTURES)


def judge(name):
    """Return of sixteen, of all frames and of all clips those that are others, and the latest of the sixteen."""
    with av.open(name) as container:
        by_pyav = [read(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    in_order = [read(frame.asnumpy()) for frame in decord.VideoReader(name)]
    check(f"{name}: from start to end both are right", (by_pyav == ALL, in_order == ALL), (True, True))
    evenly = [read(picture) for picture in decord.VideoReader(name).get_batch(EVENLY).asnumpy()]
    print("  asked for", *EVENLY)
    print("  it gave  ", *evenly)
    reader = decord.VideoReader(name)
    singly = sum(read(reader[number].asnumpy()) != number for number in random.Random(0).sample(ALL, N))
    clips = 0
    starts = ALL[: N - CLIP : CLIP]
    for start in random.Random(1).sample(starts, len(starts)):
        numbers = ALL[start : start + CLIP]
        clips += [read(picture) for picture in reader.get_batch(numbers).asnumpy()] != numbers
    sixteen = sum(a != b for a, b in zip(evenly, EVENLY, strict=True))
    print(f"  of 16 frames {sixteen} are others, of {N} in a random order {singly}, of {len(starts)} clips {clips}")
    return sixteen, singly, clips, max(evenly)


def more_than(name, least):
    return judge(name)[1] > least


PICTURES = b"".join(draw(number).tobytes() for number in range(N))
decord.logging.set_level(decord.logging.WARNING)
SECOND = ("-g", str(RATE))  # a keyframe a second
B_FRAMES = ("-bf", "2", "-q:v", "3")

write("h264_second.avi", "-c:v", "libx264", "-bf", "0", *SECOND)
seen = judge("h264_second.avi")
check("H.264 in AVI: of 16, of 1000 and of 62 clips are others", seen[:3], (15, 970, 60))
check("the latest frame among the 16", seen[3], RATE - 1)
times = decord.VideoReader("h264_second.avi").get_frame_timestamp(range(N))[:, 0]
check("how many times decord knows for its frames", len(np.unique(times)), 1)
write("h264.avi", "-c:v", "libx264")
check("H.264 in AVI, groups of 250: seven of ten are others", more_than("h264.avi", 700), True)
write("mpeg4.avi", "-c:v", "mpeg4", *B_FRAMES)
check("MPEG-4 with B-frames in AVI: nine of ten are others", more_than("mpeg4.avi", 900), True)
write("mpeg4_without.avi", "-c:v", "mpeg4", "-q:v", "3")
check("MPEG-4 without B-frames in AVI", judge("mpeg4_without.avi"), RIGHT)
ffmpeg("-i", "h264_second.avi", "-c", "copy", "h264_copied.mp4")
check("the first file, copied to MP4", judge("h264_copied.mp4"), RIGHT)

write("hevc.mp4", "-c:v", "libx265", *SECOND)
check("HEVC in MP4: a seventh at least are others", more_than("hevc.mp4", N // 7), True)
with av.open("hevc.mp4") as container:
    shown = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
counted = [int(number) for number in decord.VideoReader("hevc.mp4").get_key_indices()]
print("its keyframes are shown as", *shown[:5], "and are by decord", *counted[:5])
late = all(one < other for one, other in zip(counted[1:], shown[1:], strict=True))
check("decord takes an earlier number for each but the first", late, True)
write("hevc_rare.mp4", "-c:v", "libx265")
check("HEVC in MP4, FFmpeg's own choices: some are others", more_than("hevc_rare.mp4", 4), True)
write("mpeg4.mp4", "-c:v", "mpeg4", *B_FRAMES)
check("MPEG-4 with B-frames in MP4: three of ten are others", more_than("mpeg4.mp4", 300), True)
write("h264_open.mp4", "-c:v", "libx264", "-x264-params", "open-gop=1", *SECOND)
check("H.264 in MP4, open groups: a twentieth at least are others", more_than("h264_open.mp4", N // 20), True)
write("h264.mp4", "-c:v", "libx264", *SECOND)
check("H.264 in MP4, closed groups", judge("h264.mp4"), RIGHT)
write("hevc_closed.mp4", "-c:v", "libx265", "-x265-params", "open-gop=0", *SECOND)
check("HEVC in MP4, closed groups", judge("hevc_closed.mp4"), RIGHT)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
