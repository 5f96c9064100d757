#!/usr/bin/env bash
# rerun-sdk 0.41.0: seconds in a numpy array are cut off, and in a list rounded, so that a video and its signals miss
# each other by a nanosecond.
#
# Setting: a clip of 90 frames, 30 a second, and the joint angles of each frame. The frames' times come from the video
# itself, by read_frame_timestamps_nanos as in rerun's documentation, and those of the joints are np.arange(90) / 30,
# both on one timeline: TimeColumn("t", duration=…). The recording is read as a table: dataset.reader(index="t").
#
# Expected: frame i and its joints have the same time, so that the table has 90 rows with both.
#
# What happens: it has 120 rows. TimeColumn multiplies an array by 1e9 and cuts the rest off; all else (a list of the
# same numbers, set_time, the video's own times) is rounded. The joints of each third frame are 1 ns before it.
# - Of the rows with a frame and joints, a third is missing: 60 are left for whoever drops nulls.
# - fill_latest_at=True fills them wrongly: at the time of a third of the joints the frame before is the latest.
# - It is so at 15, 24, 30 and 60 frames a second; at 10, 25, 50 and 100 there are 2 to 3 in a hundred.
# - float32 seconds, as a LeRobot dataset's column `timestamp` has them, are multiplied in float32 as well, and miss by
#   up to 0.2 µs in these three seconds: 29 rows of 151 have both.
# - There is no error and no warning, and in the viewer nothing can be seen of it.
#
# What raypipe does: it writes no recordings for rerun.
# Beside it: TimeColumn("t", duration=list(seconds)), or whole nanoseconds as np.timedelta64.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    'rerun-sdk[catalog]==0.41.0' av==18.1.0 numpy==2.4.6 pyarrow==26.0.1

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys

import av
import numpy as np
import rerun as rr
from rerun.server import Server

N_FRAMES, FPS = 90, 30
FRAME, JOINTS = "/camera:VideoFrameReference:timestamp", "/joints:Scalars:scalars"


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(name, seconds):
    """Write a recording of the video and of joints at these times."""
    with rr.RecordingStream("arm", recording_id=name) as recording:
        recording.save(f"{name}.rrd")
        video = rr.AssetVideo(path="clip.mp4")
        recording.log("camera", video, static=True)
        times_ns = video.read_frame_timestamps_nanos()
        column = rr.TimeColumn("t", duration=1e-9 * times_ns)
        recording.send_columns("camera", [column], rr.VideoFrameReference.columns_nanos(times_ns))
        column = rr.TimeColumn("t", duration=seconds)
        recording.send_columns("joints", [column], rr.Scalars.columns(scalars=np.arange(N_FRAMES)))


def read(name):
    """Return how many rows the table has, how many have both, and of how many joints another frame is the latest."""
    with Server(datasets={"arm": [f"{name}.rrd"]}) as server:
        dataset = server.client().get_dataset("arm")
        table = dataset.reader(index="t").to_arrow_table().to_pylist()
        filled = dataset.reader(index="t", fill_latest_at=True).to_arrow_table().to_pylist()
    both = sum(row[FRAME] is not None and row[JOINTS] is not None for row in table)
    times = {row["t"] for row in table if row[JOINTS] is not None}
    at_joints = [row for row in filled if row["t"] in times]
    other = sum(round(row[FRAME][0] * FPS / 1e9) != row[JOINTS][0] for row in at_joints)
    return len(table), both, other


def nanoseconds(seconds):
    return np.array(rr.TimeColumn("t", duration=seconds).times).astype(np.int64)


print("rerun-sdk", rr.__version__)
with av.open("clip.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=FPS)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for number in range(N_FRAMES):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8))))
    container.mux(stream.encode(None))

seconds = np.arange(N_FRAMES) / FPS
both_ways = [int(nanoseconds(times)[0]) for times in (np.array([1 / 15]), [1 / 15])]
check("1/15 s in an array and in a list, ns", both_ways, [66666666, 66666667])
whole = np.round(seconds * 1e9).astype("timedelta64[ns]")
for name, times, recorded in (
    ("array", seconds, (120, 60, 30)),
    ("list", list(seconds), (90, 90, 0)),
    ("timedeltas", whole, (90, 90, 0)),
    ("float32", seconds.astype(np.float32), (151, 29, 28)),
):
    record(name, times)
    check(f"{name}: rows, rows with both, joints with another frame", read(name), recorded)

for rate, recorded in {10: 2, 15: 34, 24: 33, 25: 3, 30: 34, 50: 3, 60: 34, 100: 3}.items():
    seconds = np.arange(1000) / rate
    percent = round(100 * float((nanoseconds(seconds) != nanoseconds(list(seconds))).mean()))
    check(f"{rate} a second, % of 1000 times that differ", percent, recorded)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
