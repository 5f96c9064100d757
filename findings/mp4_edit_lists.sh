#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1): an MP4 edit list with a pause, or with an edit of duration 0, gives other frames than it names.
#
# Setting: the edit list of a track (ISO/IEC 14496-12, 8.6.6) says which pieces of it are shown, and when. A media time of
# -1 is an empty edit: nothing is shown for that long. In the last edit a duration of 0 means the rest of the track, which
# writers use that don't know the length yet.
#
# Expected: FFmpeg's demuxer, which applies edit lists by default, gives the frames of the pieces and no others.
#
# What happens, for a track of 80 frames at 25 a second, all of them keyframes:
# (a) Play frames 0 to 9, pause for a second, play frames 30 to 39: FFmpeg takes the pause for an edit that begins at the
#     start, so frames from the beginning come a second time where nothing should be shown. 20 frames are named, and more
#     than 40 come.
# (b) One edit from the start, of duration 0: every packet is marked to be discarded, and no frame comes at all.
#
# Why it matters to raypipe: clips would show what a player never shows, or a video would fail. raypipe reads the edit
# list itself where it has one of these two shapes, tells FFmpeg to ignore it, and places the frames.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import struct
import sys
from pathlib import Path

import av
import numpy as np

N, RATE = 80, 25


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def write(path):
    """Write 80 gray frames, each three levels brighter than the one before, as Motion JPEG in MP4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(N):
            picture = np.full((48, 64, 3), 3 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def with_edits(data, edits):
    """Return a file, whose moov is its last box, with an edit list: pairs (duration in ms, media time in ticks)."""
    moov = data.index(b"moov") - 4
    trak = data.index(b"trak", moov) - 4
    tkhd = data.index(b"tkhd", trak) - 4
    behind = tkhd + struct.unpack(">I", data[tkhd : tkhd + 4])[0]
    if data[behind + 4 : behind + 8] == b"edts":  # the writer's own
        size = struct.unpack(">I", data[behind : behind + 4])[0]
    else:
        size = 0
    rows = b"".join(struct.pack(">Iihh", duration, media_time, 1, 0) for duration, media_time in edits)
    elst = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    data = bytearray(data[:behind] + edts + data[behind + size :])
    for box in (moov, trak):
        old = struct.unpack(">I", data[box : box + 4])[0]
        data[box : box + 4] = struct.pack(">I", old + len(edts) - size)
    return bytes(data)


def shown(path):
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [round(float(frame.to_ndarray(format="gray").mean()) / 3) for frame in frames]


plain = Path("plain.mp4")
write(plain)
with av.open(str(plain)) as container:
    ticks = int(1 / (container.streams.video[0].time_base * RATE))
check("frames without an edit list of ours", shown(plain), list(range(N)))

paused = Path("paused.mp4")
paused.write_bytes(with_edits(plain.read_bytes(), [(400, 0), (1000, -1), (400, 30 * ticks)]))
numbers = shown(paused)
check("(a) frames named, and more of them come", (20, len(numbers) > 40), (20, True))
check("(a) the first ten are right", numbers[:10], list(range(10)))
check("(a) frame 0 comes again in the pause", 0 in numbers[10:], True)

whole = Path("whole.mp4")
whole.write_bytes(with_edits(plain.read_bytes(), [(0, 0)]))
check("(b) frames of an edit that means the whole track", len(shown(whole)), 0)
print("as recorded")
PYTHON
