#!/usr/bin/env bash
# pyvips 3.2.0 (libvips 8.18.7): Ctrl-C is lost while a picture is written, and so is a deadline set by signal.alarm.
#
# Setting: a program writes a large picture by libvips, which takes seconds to minutes. Its user presses Ctrl-C, or it
# has a deadline: a handler of SIGALRM that raises an error.
#
# Expected: Python runs a signal's handler when the call into C returns, so the error is raised late, but it is raised.
#
# What happens: when a picture is done, libvips logs "threadpool completed with 2 workers", and pyvips passes every such
# line on to Python's logging, by a callback. That is the first Python code after the signal, so the handler runs within
# it; cffi prints what is raised in a callback ("Exception ignored from cffi callback") and goes on. write_to_file
# returns as if nothing had been, the picture is whole, and the program goes on. It is so for PNG, JPEG and dzsave.
#
# What raypipe does: `report/posters/canvas.py` writes a poster in another thread, in which no handler of a signal runs, and has
# libvips stop by `Image.set_kill(True)` when the main thread is interrupted.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pyvips==3.2.0 pyvips-binary==8.18.7 cffi==2.1.1

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyvips


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def raise_error(*_):
    raise TimeoutError("the deadline has passed")


def outcome(work, number=signal.SIGINT):
    """Send a signal to this process while it works; return the error that it has seen, or that there was none."""
    began = time.monotonic()
    sender = threading.Timer(0.1, os.kill, (os.getpid(), number))
    sender.start()
    try:
        work()
        assert time.monotonic() - began > 0.1, "the work was done before the signal came"
        return "done as if nothing had been"
    except (KeyboardInterrupt, TimeoutError) as error:
        return type(error).__name__
    finally:
        sender.join()


def write_in_a_thread():
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(noise.write_to_file, "killed.png")
        try:
            written.result()
        except KeyboardInterrupt:
            noise.set_kill(True)
            raise


signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, raise_error)
check("a loop of Python's", outcome(lambda: sum(i for i in range(10**8))), "KeyboardInterrupt")
pyvips.Image.gaussnoise(8000, 8000, mean=128, sigma=60, seed=1).cast("uchar").write_to_file("noise.v")
noise = pyvips.Image.new_from_file("noise.v")
check("Ctrl-C in a PNG", outcome(lambda: noise.write_to_file("noise.png")), "done as if nothing had been")
check("Ctrl-C in a JPEG", outcome(lambda: noise.write_to_file("noise.jpg")), "done as if nothing had been")
check("Ctrl-C in a pyramid", outcome(lambda: noise.dzsave("noise")), "done as if nothing had been")
late = outcome(lambda: noise.write_to_file("late.png"), signal.SIGALRM)
check("a deadline in a PNG", late, "done as if nothing had been")
same = pyvips.Image.new_from_file("noise.png") - pyvips.Image.new_from_file("late.png")
check("the largest difference between the two PNGs", same.abs().max(), 0.0)
check("Ctrl-C where another thread writes", outcome(write_in_a_thread), "KeyboardInterrupt")
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
