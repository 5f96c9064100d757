#!/usr/bin/env bash
# rerun-sdk 0.41.0 (beside PyAV 18.1.0): of a clip that was cut without encoding, rerun shows other frames than players.
#
# Setting: two seconds of video, and a clip of its last one and a half, cut as `ffmpeg -ss 0.5 -c copy` cuts: the frames
# from the key frame on are copied, and the MP4's edit list says that the clip begins at the cut. The clip is logged
# beside joint angles, whose time 0 is the clip's first frame, by AssetVideo and read_frame_timestamps_nanos ("the
# presentation timestamps of all frames inside the video"), as rerun's example does, or by rerun.experimental.Mp4Reader.
#
# Expected: what players, PyAV and FFmpeg show: 45 frames, of which the first, at time 0, is number 15.
#
# What happens: rerun reads no edit list, and says nothing of it. It has 60 timestamps and 60 frames, and the one at
# time 0 is number 0, which was cut away: the video is half a second behind the joints, and ends half a second later.
# - Mp4Reader's default mode has FFmpeg encode anew what has B-frames, and FFmpeg heeds the list. So of two clips that
#   were cut alike the one with B-frames is right and the one without is late; in mode="asset" both are.
# - The uncut video is right, with B-frames too, for which MP4 files have an edit list as well.
# Such files are met: on MimicGen's project page, square_D1_sawyer.mp4 holds 572 frames, of which players show 489, and
# rerun's times of it are 1.6 s late.
#
# What raypipe does: `decoders/edits.py` reads edit lists; its time 0 is the first frame that is on display.
# Beside it: encode such clips anew. The viewer was not run; what it is given is looked at here.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    rerun-sdk==0.41.0 av==18.1.0 numpy==2.4.6 pyarrow==26.0.1

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import shutil
import sys
from fractions import Fraction

import av
import numpy as np
import rerun as rr
from rerun.experimental import Mp4Reader

N_FRAMES, CUT, FPS = 60, 15, 30


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def paint(number):
    """Return a picture of six bars, which are the bits of a frame's number."""
    picture = np.full((64, 64, 3), 16, np.uint8)
    for bit in range(6):
        picture[:, 10 * bit : 10 * bit + 10] = 235 if number >> bit & 1 else 16
    return picture


def number_of(frame):
    gray = frame.to_ndarray(format="gray")
    return sum(1 << bit for bit in range(6) if gray[:, 10 * bit + 2 : 10 * bit + 8].mean() > 128)


def encode(path, b_frames):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"bf": str(b_frames), "g": "30", "sc_threshold": "0"}
        for number in range(N_FRAMES):
            frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cut(source, target):
    """Copy all packets, and have the clip begin at frame CUT: those before it get times below zero."""
    with av.open(source) as given, av.open(target, "w") as clip:
        stream = given.streams.video[0]
        copied = clip.add_stream_from_template(stream)
        offset = round(Fraction(CUT, FPS) / stream.time_base)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copied
                clip.mux(packet)


def by_pyav(path):
    """Return (number of frames, which frame is at time 0)."""
    with av.open(path) as container:
        shown = {frame.time: number_of(frame) for frame in container.decode(video=0)}
    return len(shown), shown[0.0]


def by_asset(path):
    """Return (number of timestamps, time of the last in seconds)."""
    times = rr.AssetVideo(path=path).read_frame_timestamps_nanos()
    return len(times), round(float(times[-1]) / 1e9, 2)


def by_reader(path):
    """Return (number of frames, which frame is at time 0) of the stream that Mp4Reader makes."""
    shown = {}
    for chunk in Mp4Reader(path, entity_path="/camera").stream():
        batch = chunk.to_record_batch()
        if "VideoStream:sample" in batch.schema.names:
            times = batch["video"].cast("int64").to_pylist()
            samples = [bytes(values[0]) for values in batch["VideoStream:sample"].to_pylist()]
            decoder = av.CodecContext.create("h264", "r")
            packets = [packet for sample in [*samples, b""] for packet in decoder.parse(sample)]
            frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
            shown |= {time: number_of(frame) for time, frame in zip(times, frames, strict=True)}
    return len(shown), shown[0]


print("rerun", rr.__version__, "PyAV", av.__version__)
for b_frames in (0, 2):
    whole, clip = f"whole_{b_frames}.mp4", f"clip_{b_frames}.mp4"
    encode(whole, b_frames)
    cut(whole, clip)
    print("B-frames:", b_frames)
    check("  PyAV, the whole video: (frames, the one at time 0)", by_pyav(whole), (60, 0))
    check("  PyAV, the clip", by_pyav(clip), (45, 15))
    check("  AssetVideo, the whole video: (timestamps, the last)", by_asset(whole), (60, 1.97))
    check("  AssetVideo, the clip", by_asset(clip), (60, 1.97))
    if b_frames and not shutil.which("ffmpeg"):
        print("  Mp4Reader: not run, as there is no ffmpeg, which it asks for B-frames")
        continue
    check("  Mp4Reader, the whole video: (frames, the one at time 0)", by_reader(whole), (60, 0))
    check("  Mp4Reader, the clip", by_reader(clip), (45, 15) if b_frames else (60, 0))
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
