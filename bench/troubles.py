"""Numbered videos with the troubles that real files have, and the truth: which numbers each of them shows, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.numbered import CONTAINERS, draw_number, write_numbered
from bench.surgery import cut_off, cut_ps, cut_ts, delay_fragments, hide_vp8, set_edits

N, RATE = 105, 30  # So the middle of each fifth, where n_frames=5 looks, is the middle of a frame.
NTSC = Fraction(30_000, 1001)
_PART_TWO = 1000  # The first number of a second part, and of a second track.


@dataclass(frozen=True)
class Truth:
    """What was written into a file.

    Attributes
    ----------
    numbers, times_s
        The numbers of the frames that are shown, in order of display, and when each is, from the first.
    end_s
        When the last of them ends.
    is_part
        The file was cut, and what decodes of it is a part of this.
    """

    numbers: tuple[int, ...]
    times_s: tuple[float, ...]
    end_s: float
    is_part: bool = False


@dataclass(frozen=True)
class File:
    """One file of the table: a container, a codec, and a trouble."""

    container: str
    codec: str
    trouble: str

    @property
    def name(self) -> str:
        """A name for the file, unique within the table."""
        words = f"{self.trouble} {self.codec} {self.container}"
        return "".join(c if c.isalnum() else "_" for c in words) + CONTAINERS[self.container].suffix

    def write(self, folder: Path) -> tuple[Path, Truth]:
        """Write the file, and return its path and the truth about it."""
        path = folder / self.name
        return path, TROUBLES[self.trouble](path, self.container, self.codec)


def _regular(numbers: Sequence[int], rate: Fraction | int = RATE, **others: Any) -> Truth:
    times = tuple(float(i / Fraction(rate)) for i in range(len(numbers)))
    return Truth(tuple(numbers), times, float(len(numbers) / Fraction(rate)), **others)


def _plain(path: Path, container: str, codec: str, n: int = N, rate: Fraction | int = RATE, **options: Any) -> Truth:
    write_numbered(path, container, codec, range(n), rate=rate, **options)
    return _regular(range(n), rate)


def _variable_rate(path: Path, container: str, codec: str) -> Truth:
    steps = np.random.default_rng(0).choice([1, 1, 1, 2, 3], N - 1)
    ticks = [0, *np.cumsum(steps).tolist()]
    write_numbered(path, container, codec, range(N), ticks=ticks)
    return Truth(tuple(range(N)), tuple(tick / RATE for tick in ticks), (ticks[-1] + 1) / RATE)


def _long_pauses(path: Path, container: str, codec: str) -> Truth:
    steps = [75 if n % 10 == 9 else 1 for n in range(59)]
    ticks = [0, *np.cumsum(steps).tolist()]
    write_numbered(path, container, codec, range(60), ticks=ticks)
    return Truth(tuple(range(60)), tuple(tick / RATE for tick in ticks), (ticks[-1] + 1) / RATE)


def _edited(
    path: Path,
    container: str,
    codec: str,
    edits: list[tuple[float, float | None]],
    shown: list[range],
    hidden_s: float = 0.0,
) -> Truth:
    """Write a file with an edit list, of which each edit with a start shows a range of frames.

    ``hidden_s`` is how much of the first edit is over before the first frame that begins within it.
    """
    write_numbered(path, container, codec, range(N))
    path.write_bytes(set_edits(path.read_bytes(), edits))
    times: list[float] = []
    at_s, ranges = 0.0, iter(shown)
    for duration_s, start_s in edits:
        if start_s is not None:
            frames = next(ranges)
            times += [at_s + i / RATE for i in range(len(frames))]
            duration_s = duration_s or len(frames) / RATE
        at_s += duration_s
    first_s = times[0]  # An empty edit at the start delays the first frame, and times count from it.
    numbers = tuple(number for frames in shown for number in frames)
    return Truth(numbers, tuple(time - first_s for time in times), at_s - first_s - hidden_s)


def _first_fragment_late(path: Path, container: str, codec: str) -> Truth:
    truth = _plain(path, container, codec)
    path.write_bytes(delay_fragments(path.read_bytes(), 20.0))
    return truth


def _cut_off(path: Path, container: str, codec: str) -> Truth:
    options = {"movflags": "faststart"} if container in ("mp4", "mov") else {}
    truth = _plain(path, container, codec, options=options)
    path.write_bytes(cut_off(path.read_bytes()))
    return replace(truth, is_part=True)


def _cut_out(path: Path, container: str, codec: str) -> Truth:
    truth = _plain(path, container, codec)
    data = path.read_bytes()
    path.write_bytes(cut_ts(data, 30) if container == "ts" else cut_ps(data))
    return replace(truth, is_part=True)


def _joined(path: Path, container: str, codec: str) -> Truth:
    numbers = [*range(N), *range(_PART_TWO, _PART_TWO + N)]
    parts = []
    for part in (numbers[:N], numbers[N:]):
        write_numbered(path, container, codec, part)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    return _regular(numbers)


def _hidden_frames(path: Path, container: str, codec: str) -> Truth:
    hidden = {n for n in range(N) if n % 24 in (5, 17)}
    write_numbered(path, container, codec, range(N), edit=lambda n, data: hide_vp8(data) if n in hidden else data)
    truth = _regular(range(N))
    shown = [n for n in truth.numbers if n not in hidden]
    return replace(truth, numbers=tuple(shown), times_s=tuple(truth.times_s[n] for n in shown))


def _draw_turned(number: int, width: int, height: int) -> np.ndarray:
    return np.rot90(draw_number(number, height, width), -1)


def _draw_mirrored(number: int, width: int, height: int) -> np.ndarray:
    return draw_number(number, width, height)[:, ::-1].copy()


_WRAP_S = 2**33 / 90_000
TROUBLES: dict[str, Callable[[Path, str, str], Truth]] = {
    "none": _plain,
    "twenty seconds": partial(_plain, n=605, audio_s=(0.0, 605 / RATE)),  # Long enough for jumps within a segment.
    "long pauses": _long_pauses,
    "no rate in the file": partial(_plain, rate=25),  # FFmpeg's default for a bare stream.
    "audio longer": partial(_plain, audio_s=(0.0, 9.0)),
    "audio earlier": partial(_plain, start_s=4.0, audio_s=(0.0, 8.0)),
    "clock starts at 20 s": partial(_plain, start_s=20.0),
    "variable rate": _variable_rate,
    "no length in the header": partial(_plain, audio_s=(0.0, 9.0), options={"live": "1"}),
    "no length in the header (flv)": partial(_plain, options={"flvflags": "no_duration_filesize"}),
    "empty edit": partial(_edited, edits=[(4.0, None), (N / RATE, 0.0)], shown=[range(N)]),
    "edit skips the start": partial(_edited, edits=[(N / RATE - 1, 1.0)], shown=[range(30, N)]),
    "edit begins within a frame": partial(
        _edited, edits=[((N - 30.5) / RATE, 30.5 / RATE)], shown=[range(31, N)], hidden_s=0.5 / RATE
    ),
    "edit leaves out the end": partial(_edited, edits=[(1.5, 0.0)], shown=[range(45)]),
    "play, gap, play": partial(
        _edited, edits=[(11 / RATE, 0.0), (1.0, None), (1 / 3, 0.8)], shown=[range(11), range(24, 34)]
    ),
    "play, gap, no keyframe": partial(
        _edited, edits=[(11 / RATE, 0.0), (1.0, None), (1 / 3, 1.0)], shown=[range(11), range(30, 40)]
    ),
    "edit of duration 0": partial(_edited, edits=[(0.0, 0.0)], shown=[range(N)]),
    "first fragment at 20 s": _first_fragment_late,
    "no edit list": partial(_plain, options={"use_editlist": "0"}),
    "negative composition offsets": partial(_plain, options={"movflags": "negative_cts_offsets"}),
    "index in front": partial(_plain, options={"movflags": "faststart"}),
    "cut off": _cut_off,
    "cut out": _cut_out,
    "joined": _joined,
    "clock wraps": partial(_plain, start_s=_WRAP_S - 3.0),
    "hidden frames": _hidden_frames,
    "one frame": partial(_plain, n=1),
    "two frames": partial(_plain, n=2),
    "1200 frames a second": partial(_plain, n=245, rate=1200),
    "29.97 frames a second": partial(_plain, rate=NTSC),
    "one frame a second": partial(_plain, n=13, rate=1),
    "cover picture": partial(_plain, cover=4095),
    "second track": partial(_plain, second_track=range(_PART_TWO, _PART_TWO + N)),
    "turned by 90°": partial(_plain, orientation={"degrees": 90}, draw=_draw_turned),
    "mirrored": partial(_plain, orientation={"degrees": 0, "hflip": True}, draw=_draw_mirrored),
}

FILES = {
    "none": {
        "mp4": "h264 h264-ip h264-open h264-interlaced h264-ycgco hevc hevc-open hevc-10bit mpeg4 mjpeg vp9 av1",
        "fragmented": "h264 hevc",
        "mov": "h264 prores mjpeg qtrle png dnxhr",
        "3gp": "h263 h264",
        "mkv": "h264 h264-open hevc vp8 vp9 av1 ffv1 mpeg2 mpeg4 mjpeg raw prores",
        "webm": "vp8 vp9 av1",
        "ts": "h264 h264-ip h264-open h264-interlaced h264-ycgco hevc hevc-open mpeg2 mpeg4",
        "m2ts": "h264",
        "mpg": "mpeg1 mpeg2 mpeg2-ip hevc",
        "vob": "mpeg2 h264 h264-ip",
        "avi": "h264 h264-ip mpeg4 mpeg4-ip mjpeg raw-rgb huffyuv ffv1 vp8 msmpeg4",
        "flv": "h264 flv1 hevc",
        "ogv": "vp8",
        "wmv": "wmv2 msmpeg4 h264",
        "nut": "h264 mpeg4 raw",
        "mxf": "mpeg2 h264 dnxhr prores",
        "ivf": "vp8 vp9 av1",
        "gif": "gif",
        "y4m": "raw-frames",
        "m1v": "mpeg1",
        "m2v": "mpeg2",
        "m4v stream": "mpeg4",
        "h264 stream": "h264 h264-ip",
        "hevc stream": "hevc",
    },
    "twenty seconds": {
        "mp4": "h264 h264-open hevc-open vp9",
        "fragmented": "h264",
        "mkv": "h264 hevc-open mpeg2 av1",
        "webm": "vp9 vp8",
        "ts": "h264-open hevc-open mpeg2",
        "mpg": "mpeg2",
        "vob": "h264",
        "avi": "h264 mpeg4 mpeg4-ip",
        "flv": "h264",
        "ogv": "vp8",
        "wmv": "wmv2 h264",
        "nut": "h264",
        "mxf": "mpeg2",
    },
    "long pauses": {"mp4": "h264", "mkv": "h264", "webm": "vp8", "ts": "h264", "flv": "flv1", "avi": "mpeg4-ip"},
    "no rate in the file": {"mjpeg stream": "mjpeg"},
    "audio longer": {
        "mp4": "h264",
        "mkv": "h264",
        "webm": "vp8",
        "ts": "h264",
        "mpg": "mpeg2",
        "avi": "mpeg4-ip",
        "flv": "h264",
        "ogv": "vp8",
        "wmv": "wmv2",
        "nut": "h264",
        "fragmented": "h264",
    },
    "audio earlier": {
        "mp4": "h264",
        "mkv": "h264",
        "webm": "vp8",
        "ts": "h264",
        "mpg": "mpeg2",
        "flv": "h264",
        "nut": "h264",
        "wmv": "wmv2",
    },
    "clock starts at 20 s": {"mp4": "h264", "mkv": "h264", "webm": "vp9", "ts": "h264", "nut": "mpeg4", "wmv": "wmv2"},
    "variable rate": {
        "mp4": "h264",
        "mkv": "h264",
        "webm": "vp9",
        "ts": "h264",
        "avi": "mpeg4-ip",
        "flv": "h264",
        "nut": "h264",
        "wmv": "wmv2",
        "gif": "gif",
    },
    "no length in the header": {"mkv": "h264", "webm": "vp8"},
    "no length in the header (flv)": {"flv": "h264"},
    "empty edit": {"mp4": "h264", "mov": "prores"},
    "edit skips the start": {"mp4": "h264 h264-ip hevc"},
    "edit begins within a frame": {"mp4": "h264 h264-ip"},
    "edit leaves out the end": {"mp4": "h264"},
    "play, gap, play": {"mp4": "h264 h264-ip", "mov": "mjpeg"},
    "play, gap, no keyframe": {"mp4": "h264 h264-ip"},
    "edit of duration 0": {"mp4": "h264 h264-ip"},
    "first fragment at 20 s": {"fragmented": "h264 hevc"},
    "no edit list": {"mp4": "h264"},
    "negative composition offsets": {"mp4": "h264"},
    "index in front": {"mp4": "h264"},
    "cut off": {
        "mp4": "h264",
        "fragmented": "h264",
        "mkv": "h264",
        "webm": "vp8",
        "ts": "h264 mpeg2",
        "mpg": "mpeg2",
        "avi": "mpeg4-ip",
        "flv": "h264",
        "ogv": "vp8",
        "wmv": "wmv2",
        "nut": "h264",
    },
    "cut out": {"ts": "h264 h264-ip h264-open hevc hevc-open mpeg2", "mpg": "mpeg2"},
    "joined": {"ts": "h264 mpeg2 hevc", "mpg": "mpeg2 mpeg1"},
    "clock wraps": {"ts": "h264 mpeg2", "mpg": "mpeg2"},
    "hidden frames": {"webm": "vp8", "mkv": "vp8", "avi": "vp8", "ivf": "vp8"},
    "one frame": {
        "mp4": "h264",
        "mov": "mjpeg",
        "mkv": "h264",
        "webm": "vp8",
        "ts": "h264",
        "mpg": "mpeg2",
        "avi": "mpeg4-ip mjpeg",
        "flv": "h264",
        "gif": "gif",
        "nut": "h264",
        "wmv": "wmv2",
        "ogv": "vp8",
    },
    "two frames": {"mp4": "h264", "mkv": "h264", "avi": "h264", "webm": "vp9"},
    "1200 frames a second": {"mkv": "h264-ip h264", "mp4": "h264", "webm": "vp8", "nut": "h264"},
    "29.97 frames a second": {"mp4": "h264", "mkv": "h264", "avi": "h264", "ts": "mpeg2", "webm": "vp9"},
    "one frame a second": {"mp4": "h264", "mkv": "h264", "avi": "mpeg4-ip", "ts": "h264"},
    "cover picture": {"mp4": "h264"},
    "second track": {"mp4": "h264", "mkv": "h264"},
    "turned by 90°": {"mp4": "h264", "mov": "prores"},
    "mirrored": {"mp4": "h264"},
}


def all_files() -> Iterator[File]:
    """Yield every file of the table."""
    for trouble, containers in FILES.items():
        for container, codecs in containers.items():
            for codec in codecs.split():
                yield File(container, codec, trouble)
