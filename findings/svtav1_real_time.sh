#!/usr/bin/env bash
# PyAV 18.1.0 (SVT-AV1 4.1.0): as root, encoding one AV1 video leaves the thread a real-time one of the highest priority.
#
# Setting: a process of root's, as on a rented GPU machine or in a container that may set priorities, writes ten frames
# of 128 x 96 as AV1 with PyAV ("libsvtav1"), which is what LeRobot records with, closes the file, and goes on.
#
# Expected: that nothing of it stays. An encoder has threads of its own, which end with it; nothing was asked for a
# priority.
#
# What happens: the thread that encoded is scheduled by SCHED_FIFO at 99 from then on, above all that is not of the
# kernel, and so are all threads and processes that it starts: data loaders, browsers, a Ray. Nothing is said.
# - Beside such a busy process, one that was started before it gets next to nothing of the same core: Linux keeps a
#   twentieth of a second of each for it.
# - "svtav1-params": "lp=1" and codec_context.thread_count = 1 change nothing about it.
# - os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)) sets the thread back; the next video makes it real-time
#   again. When a video is written in a thread of its own, which ends, the others stay as they are.
# - A user who is not root sees nothing of it, nor does who writes H.264 (libx264).
#
# Why it matters to raypipe: it writes no AV1, but its tests do, in two processes on two cores. After such a video one of
# them stood still beside the other's browsers: tests ran into deadlines that had nothing to do with them, now and then,
# by who came first. `bench.numbered.own_scheduling` sets it back. Who records with LeRobot as root
# and finds that other processes of the machine stall has `chrt -p PID` to look with.
set -euo pipefail

if [[ $(id -u) -ne 0 ]] || ! python3 -c 'import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))' 2> /dev/null; then
    echo "This can be seen only as root, where it may set priorities."
    exit 3
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6

cat > "$work/encode.py" <<'PYTHON'
"""Print how the main thread is scheduled after what the arguments name."""
import os
import subprocess
import sys
import tempfile
import threading

import av
import numpy as np

codec, *ways = sys.argv[1:]
NAMES = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo"}


def tell():
    return f"{NAMES[os.sched_getscheduler(0)]} {os.sched_getparam(0).sched_priority}"


def write():
    path = tempfile.mktemp(suffix=".mp4")
    with av.open(path, "w") as container:
        options = {"svtav1-params": "lp=1"} if "one" in ways else {}
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        if "one" in ways:
            stream.codec_context.thread_count = 1
        for i in range(10):
            picture = np.full((96, 128, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    os.unlink(path)


if "user" in ways:
    os.setgid(65534)
    os.setuid(65534)
before = tell()
if "thread" in ways:
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
else:
    write()
told = [before, tell()]
if "back" in ways:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    write()
    told.append(tell())
if "child" in ways:
    code = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"
    policy, priority = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    told.append(f"{NAMES[int(policy)]} {priority}")
print(" -> ".join(told))
PYTHON

cat > "$work/share.py" <<'PYTHON'
"""Print which share of a core a process gets beside a busy one that was started after an AV1 video."""
import os
import subprocess
import sys
import time

codec = sys.argv[1]
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
COUNT = """
import time
end, began = float(input()), time.process_time()
while time.monotonic() < end:
    pass
print(time.process_time() - began)
"""
ordinary = subprocess.Popen([sys.executable, "-c", COUNT], stdin=-1, stdout=-1, text=True)
sys.argv = ["encode.py", codec]
exec(open(os.path.join(os.path.dirname(__file__), "encode.py")).read())
beside = subprocess.Popen([sys.executable, "-c", COUNT], stdin=-1, stdout=-1, text=True)
time.sleep(1)
end = time.monotonic() + 4
for process in (ordinary, beside):
    process.stdin.write(f"{end}\n")
    process.stdin.flush()
times = [float(process.communicate()[0]) for process in (ordinary, beside)]
print(f"share {times[0] / sum(times):.3f}")
PYTHON

run() { SVT_LOG=1 "$work/venv/bin/python" "$work/$1.py" "${@:2}" 2> /dev/null; }
check() {
    echo "$1: $2"
    if [[ "$2" != "$3" ]]; then
        echo "CHANGED: $1: recorded $3, seen $2"
        exit 2
    fi
}

cd "$work"
check "AV1 by SVT, before -> after" "$(run encode libsvtav1)" "other 0 -> fifo 99"
check "the same, and a process that it starts" "$(run encode libsvtav1 child)" "other 0 -> fifo 99 -> fifo 99"
check "with one thread" "$(run encode libsvtav1 one)" "other 0 -> fifo 99"
check "set back, and a second video" "$(run encode libsvtav1 back)" "other 0 -> fifo 99 -> fifo 99"
check "in a thread that ends" "$(run encode libsvtav1 thread)" "other 0 -> other 0"
check "not root" "$(run encode libsvtav1 user)" "other 0 -> other 0"
check "H.264" "$(run encode libx264)" "other 0 -> other 0"

for codec in libx264 libsvtav1; do
    share=$(run share "$codec" | sed -n 's/^share //p')
    echo "a core's share of a process beside a busy one that came after $codec: $share"
    if ! awk -v share="$share" -v codec="$codec" \
        'BEGIN { exit !(codec == "libsvtav1" ? share < 0.15 : share > 0.3 && share < 0.7) }'; then
        echo "CHANGED: recorded about 0.5 after H.264 and 0.05 after AV1"
        exit 2
    fi
done
echo "as recorded"
