"""Numbered videos in many containers: each frame is given, once and at its time, and the bench would see if not."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bench.containers import Clips, Table, compare, count_clips, format_row, time_error
from bench.exact import Shown, decode_exactly
from bench.numbered import draw_number, own_scheduling, read_number
from bench.troubles import File, all_files
from raypipe.packages import is_installed

# The rest of the table is measured by the campaign.
QUICK = [
    File("mp4", "h264-open", "none"),
    File("avi", "h264", "none"),
    File("avi", "mpeg4", "none"),
    File("m1v", "mpeg1", "none"),
    File("m2v", "mpeg2", "none"),
    File("m4v stream", "mpeg4", "none"),
    File("h264 stream", "h264", "none"),
    File("hevc stream", "hevc", "none"),
    File("mjpeg stream", "mjpeg", "no rate in the file"),
    File("vob", "h264-ip", "none"),
    File("mpg", "mpeg2", "twenty seconds"),
    File("mpg", "mpeg2", "cut out"),
    File("mpg", "mpeg1", "joined"),
    File("mxf", "h264", "none"),
    File("mkv", "h264", "audio longer"),
    File("webm", "vp8", "audio earlier"),
    File("flv", "h264", "clock starts at 20 s"),
    File("fragmented", "h264", "first fragment at 20 s"),
    File("mp4", "h264", "play, gap, play"),
    File("mp4", "h264-ip", "edit of duration 0"),
    File("mkv", "h264", "cut off"),
    File("ts", "h264-open", "cut out"),
    File("ts", "mpeg2", "joined"),
    File("avi", "vp8", "hidden frames"),
    File("avi", "mjpeg", "one frame"),
    File("wmv", "wmv2", "one frame"),
    File("mp4", "h264", "variable rate"),
    File("gif", "gif", "variable rate"),
    File("mkv", "h264-ip", "1200 frames a second"),
]
NO_COMMAND_LINE = {"cut_h264_open.ts"}  # It holds no parameter sets, without which nothing decodes it.
TEN = Shown(np.arange(10), np.arange(10) / 10)


@pytest.fixture(scope="module")
def table():
    with Table(("pyav",)) as table:
        yield table


@pytest.mark.parametrize("file", QUICK, ids=lambda file: file.name)
def test_each_frame_is_given_once_and_at_its_time(table, tmp_path, file):
    (row,) = table.measure(file, tmp_path)
    assert row["state"] == "right", format_row(row)


@pytest.mark.skipif(not is_installed("decord"), reason="decord has no wheel for this platform")
def test_decord_refuses_a_file_of_two_tracks(tmp_path):
    with Table(("decord",)) as table:
        (row,) = table.measure(File("mp4", "h264", "second track"), tmp_path)
    assert row["state"] == "refused" and "2 video tracks" in row["error"]


def test_the_table_has_a_name_for_each_file():
    files = list(all_files())
    assert len({file.name for file in files}) == len(files) >= 200
    assert set(QUICK) - {File("flv", "h264", "clock starts at 20 s")} <= set(files)


def test_numbers_are_read_from_pictures_of_any_size():
    for number in (0, 1, 5, 0b101010101010, 4095):
        for width, height in ((96, 64), (176, 144), (64, 96)):
            assert read_number(draw_number(number, width, height)) == number
    small = draw_number(1234, 480, 320)[::10, ::15]
    assert read_number(np.repeat(small[..., None], 3, axis=2)) == 1234


def test_exact_decoding_is_that_of_the_command_line(data_dir):
    """The right values were made by FFmpeg's command line; it lets a second clock begin at 0 again."""
    folder = data_dir / "cases/video"
    right = json.loads((folder / "right.json").read_text())
    for name, values in right.items():
        if name in NO_COMMAND_LINE or not any(values["codes"]):  # Of the mirrored ones there is a picture.
            continue
        shown = decode_exactly(folder / name)
        assert shown.numbers.tolist() == values["codes"], name
        times = np.array([np.nan if time is None else time for time in values["times_s"]])
        for first in np.flatnonzero(np.diff(times) < -1) + 1:
            times[first:] += times[first - 1] + times[1] - times[0]
        times[:-1][np.diff(times) == 0] = np.nan  # Two frames cannot be shown at once: the first has no time.
        assert np.nanmax(np.abs(times - times[0] - shown.times_s)) < 1e-3, name


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], (0, 0, 0)),
        ([0, 0, 0, 3, 4, 5, 6, 7, 8, 9], (2, 2, 2)),  # a frozen picture
        ([0, 2, 1, 3, 4, 5, 6, 7, 8, 9], (2, 0, 0)),  # order of decoding
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 9], (9, 1, 1)),  # a frame too late
        ([0, 0, 1, 2, 3, 4, 5, 6, 7, 8], (9, 1, 1)),  # a frame too early
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 77], (1, 1, 0)),
    ],
)
def test_faults_are_counted(numbers, found):
    clips = Clips(TEN.times_s, np.array(numbers), None)
    assert tuple(compare(TEN, clips).values()) == found


def test_frames_that_are_lost_are_missing_and_late_ones_have_an_error():
    clips = Clips(TEN.times_s[:7] + 0.04, np.arange(7), None)
    assert compare(TEN, clips) == {"wrong": 0, "missing": 3, "doubled": 0}
    assert time_error(TEN, clips) == pytest.approx(0.04)
    by_rate = Clips(np.array([0.0, 0.5, 1.0]), np.array([0, 5, 9]), None)
    assert count_clips(TEN, by_rate, 1.0, 0.001) == {"given": 3, "expected": 3, "wrong": 0}  # at the very end
    assert count_clips(TEN, by_rate, 0.9, 0.001) == {"given": 3, "expected": 2, "wrong": 0}


WRITE_AV1 = """
import os, sys
from pathlib import Path
from bench.numbered import write_numbered

before = os.sched_getscheduler(0), os.sched_getparam(0)
write_numbered(Path(sys.argv[1]), "mp4", "av1", [0, 1, 2])
print((os.sched_getscheduler(0), os.sched_getparam(0)) == before)
"""


needs_scheduling = pytest.mark.skipif(
    not hasattr(os, "sched_getscheduler"), reason="this system does not tell how a thread is scheduled"
)


@needs_scheduling
def test_a_thread_that_is_made_another_is_as_before_afterwards():
    """Of the ways in which a thread may be scheduled SCHED_BATCH is open to every user."""
    before = os.sched_getscheduler(0)
    with own_scheduling():
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    after = os.sched_getscheduler(0)
    os.sched_setscheduler(0, before, os.sched_param(0))
    assert after == before


@needs_scheduling
def test_who_writes_av1_is_no_real_time_process_afterwards(tmp_path):
    """As root, where it may, the encoder would make it one: hence in another process."""
    command = [sys.executable, "-c", WRITE_AV1, str(tmp_path / "av1.mp4")]
    written = subprocess.run(command, capture_output=True, text=True, check=True)
    assert written.stdout == "True\n"
