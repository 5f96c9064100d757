"""Whether each frame is given, once and at its time, in every container and codec, with the troubles that files have.

    python -m bench.containers [--only WORD …] [--decoders pyav,decord]

Each file is a video whose frames carry numbers (`bench.troubles`). What raypipe's stages make of it, by each decoder,
is compared with exact decoding (`bench.exact`), which itself is compared with what was written. The columns:

frames, given
    How many frames the file shows, and how many clips came at ``every_n=1``.
wrong, missing, doubled
    Clips that show another frame than the one on display when they start, frames of which there is no clip, and clips
    beyond one of a frame.
time, length
    The worst error of a clip's start, and the error of the video's length, in ms.
pieces
    Wrong, missing and doubled again, with the video cut into small segments, so that the decoder has to seek.
2 fps
    Clips given, expected, and wrong at two frames a second (in one segment, then in small ones), and at ``n_frames=5``.

What a decoder says stands at the end of its row. "refused" is a file that decord leaves to others.

A row is right if nothing is wrong, missing or doubled, times and length are right to a millisecond, and a file that was
cut off is said to be where its header promises more.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.exact import Shown, decode_exactly
from bench.machine import keep
from bench.numbered import read_number
from bench.troubles import File, Truth, all_files
from raypipe.config import DecodeConfig, SampleConfig
from raypipe.decoders import describe
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import DecodeError
from raypipe.packages import is_installed
from raypipe.segments.planning import plan_segments
from raypipe.segments.stages import DecodeSegments
from raypipe.sources.videos import Video

DECODERS = ("pyav", "decord")
IMAGE_SIZE = 48
N_PIECES = 7
SAME_S = 1e-3
"""Times this close are one: Matroska, FLV and ASF count in whole milliseconds."""
_EXACT_S = 1e-6
CLOCK_S = {"gif": 0.01}
"""Clocks that are coarser than that."""
PROMISES_LENGTH = {"mp4", "mov", "mkv", "webm", "avi", "flv", "wmv"}
"""Containers whose header says how long the video is, so that one can see that it was cut off."""
_AFTER_A_LOSS = "where a packet does not decode the video ends, and the frames that wait in the decoder are not given"
REASONS: dict[tuple[str, str, str, str], str] = {
    ("pyav", container, "h264", "cut off"): _AFTER_A_LOSS for container in ("mp4", "fragmented", "flv", "nut")
}
"""Why a row is not right, by decoder, container, codec and trouble."""


@dataclass(frozen=True)
class Clips:
    """Clips of one frame each: when they start, (n,), the numbers that they show, (n,), and what was said."""

    starts_s: np.ndarray
    numbers: np.ndarray
    error: str | None


class Table:
    """Measures files with raypipe's stages, a row for each file and decoder."""

    def __init__(self, decoders: Sequence[str] = DECODERS) -> None:
        self._configs = {
            name: DecodeConfig(decoder=name) for name in decoders if name != "decord" or is_installed(name)
        }
        self._sandboxes = {
            name: Sandbox(name, config.deadline_s, config.deadline_factor) for name, config in self._configs.items()
        }

    def close(self) -> None:
        """End the decoders' processes."""
        for sandbox in self._sandboxes.values():
            sandbox.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, file: File, folder: Path) -> list[dict[str, Any]]:
        """Write a file, and return its rows."""
        path, truth = file.write(folder)
        shown = decode_exactly(path)
        check_exact(file, shown, truth)
        last_s, clock_s = truth.end_s - truth.times_s[-1], CLOCK_S.get(file.container)
        end_s = float(shown.times_s[-1]) + (round(last_s / clock_s) * clock_s if clock_s else last_s)
        return [
            {"trouble": file.trouble, "container": file.container, "codec": file.codec, "decoder": name}
            | self._measure(name, path, file, shown, end_s, truth.is_part)
            for name in self._sandboxes
        ]

    def _measure(self, name: str, path: Path, file: File, shown: Shown, end_s: float, is_part: bool) -> dict[str, Any]:
        uri = path.as_uri()
        try:
            probe = self._sandboxes[name].probe(uri)
        except DecodeError as error:
            return {"frames": len(shown.numbers), "given": 0, "error": describe(error, uri), "state": "fails"}

        def clips(segment_s: float, **pattern: Any) -> Clips:
            sample = SampleConfig(segment_s=segment_s, **pattern)
            plan = plan_segments([Video("v", uri)], [probe], sample).to_pylist()
            stage = DecodeSegments(sample, self._configs[name], IMAGE_SIZE, "squash", sandbox=self._sandboxes[name])
            return _decode(plan, stage, path)

        whole_s, piece_s = 3600.0, end_s / N_PIECES
        every, pieces = clips(whole_s, every_n=1), clips(piece_s, every_n=1)
        if every.error and not len(every.numbers):
            state = "refused" if name == "decord" else "fails"
            return {"frames": len(shown.numbers), "given": 0, "error": every.error, "state": state}
        clock_s = max(SAME_S, CLOCK_S.get(file.container, 0.0))
        by_rate = {"fps": 2.0, "clip_s": 0.5}
        five = clips(whole_s, n_frames=5)
        middles_s = (np.arange(5) + 0.5) * end_s / 5
        row = {
            "frames": len(shown.numbers),
            "given": len(every.numbers),
            **compare(shown, every),
            "time_error_ms": round(1000 * time_error(shown, every), 3),
            "length_error_ms": None if is_part else round(1000 * (probe.duration_s - end_s), 3),
            "pieces": compare(shown, pieces),
            "two_fps": [count_clips(shown, clips(s, **by_rate), end_s, clock_s) for s in (whole_s, piece_s)],
            "five_frames": None
            if is_part
            else {
                "given": len(five.numbers),
                "expected": 5,
                "wrong": count_wrong(shown, middles_s[: len(five.numbers)], five.numbers[:5], clock_s),
            },
            "error": every.error,
        }
        silent = is_part and file.trouble == "cut off" and file.container in PROMISES_LENGTH and not every.error
        return row | {"silent": silent, "state": "wrong" if silent or is_wrong(row, clock_s) else "right"}


def _decode(plan: list[dict[str, Any]], stage: DecodeSegments, path: Path) -> Clips:
    """Decode the segments of a plan; what is said does not name the folder, which is there for this run alone."""
    starts, numbers, errors = [], [], [row["error"] for row in plan if row["error"]]
    for row in plan if not errors else []:
        decoded = stage(row)
        errors += [decoded["error"]] if decoded["error"] else []
        for clip, frame in decoded["members"]:
            starts.append(decoded["clip_start_s"][clip])
            numbers.append(read_number(decoded["pixels"][frame]))
    words = (error.replace(f"{path.as_uri()}: ", "").replace(f"{path.parent}/", "") for error in errors)
    said = " | ".join(dict.fromkeys(words)) or None
    return Clips(np.array(starts, np.float64), np.array(numbers, np.int64), said)


def check_exact(file: File, shown: Shown, truth: Truth) -> None:
    """Raise unless exact decoding shows what was written.

    Of a file that was cut, the numbers must ascend; what is left of its times is not known.
    """
    numbers = shown.numbers.tolist()
    if truth.is_part:
        is_same = bool(numbers) and set(numbers) <= set(truth.numbers) and numbers == sorted(numbers)
    else:
        clock_s = max(SAME_S, CLOCK_S.get(file.container, 0.0))
        is_same = numbers == list(truth.numbers) and bool(np.abs(shown.times_s - truth.times_s).max() <= clock_s)
    if not is_same:
        raise AssertionError(f"{file.name}: exact decoding does not show what was written: {shown}")


def on_display(shown: Shown, time_s: float, clock_s: float = SAME_S) -> set[int]:
    """Return the numbers of the frames that are on display at a time, give or take a tick of the clock.

    If the time is a frame's own, the frame before it is none of them.
    """
    at = np.searchsorted(shown.times_s, [time_s - clock_s, time_s + _EXACT_S, time_s + clock_s], side="right") - 1
    first, own, last = np.maximum(at, 0).tolist()
    if abs(shown.times_s[own] - time_s) <= _EXACT_S:
        first = own
    return set(shown.numbers[first : last + 1].tolist())


def count_wrong(shown: Shown, times_s: np.ndarray, numbers: np.ndarray, clock_s: float = SAME_S) -> int:
    """Return how many of some times got the number of a frame that is not on display then."""
    each = zip(times_s.tolist(), numbers.tolist(), strict=True)
    return sum(number not in on_display(shown, time_s, clock_s) for time_s, number in each)


def compare(shown: Shown, clips: Clips) -> dict[str, int]:
    """Compare one clip for each frame with the frames."""
    expected, given = Counter(shown.numbers.tolist()), Counter(clips.numbers.tolist())
    doubled = {number: n - expected[number] for number, n in given.items() if n > expected[number] > 0}
    return {
        "wrong": count_wrong(shown, clips.starts_s, clips.numbers),
        "missing": (expected - given).total(),
        "doubled": sum(doubled.values()),
    }


def time_error(shown: Shown, clips: Clips) -> float:
    """Return the worst error in seconds of the starts of the clips that show a frame of the video."""
    errors = [
        np.abs(shown.times_s[shown.numbers == number] - start_s).min()
        for start_s, number in zip(clips.starts_s, clips.numbers, strict=True)
        if number in shown.numbers
    ]
    return float(max(errors, default=0.0))


def count_clips(shown: Shown, clips: Clips, end_s: float, clock_s: float) -> dict[str, int]:
    """Count clips at two frames a second: given, expected and wrong.

    Where a clip would start at the very end, within a tick of the clock, it may be there or not.
    """
    few, many = (int(np.ceil((end_s + tick_s) * 2 - 1e-9)) for tick_s in (-clock_s, clock_s))
    expected = min(max(len(clips.numbers), few), many)
    wrong = count_wrong(shown, clips.starts_s, clips.numbers, clock_s)
    return {"given": len(clips.numbers), "expected": max(1, expected), "wrong": wrong}


def is_wrong(row: dict[str, Any], clock_s: float) -> bool:
    """Return whether anything in a row is not as it should be."""
    counts = [each[key] for each in (row, row["pieces"]) for key in ("wrong", "missing", "doubled")]
    sampled = [*row["two_fps"], *([row["five_frames"]] if row["five_frames"] else [])]
    counts += [each["wrong"] for each in sampled]
    if row["length_error_ms"] is not None:  # Of a file that was cut off the header may promise more clips.
        counts += [abs(each["given"] - each["expected"]) for each in sampled]
    errors_ms = [row["time_error_ms"], row["length_error_ms"] or 0.0]
    return any(counts) or any(abs(error_ms) > 1000 * clock_s for error_ms in errors_ms)


def measure_files(files: Iterable[File], decoders: Sequence[str] = DECODERS) -> list[dict[str, Any]]:
    """Measure files one after the other, print each row, and return all; what is not right has its reason if known."""
    rows = []
    print(COLUMNS)
    with Table(decoders) as table, tempfile.TemporaryDirectory() as folder:
        for file in files:
            for row in table.measure(file, Path(folder)):
                reason = REASONS.get((row["decoder"], row["container"], row["codec"], row["trouble"]))
                rows.append(row | ({"reason": reason} if reason and row["state"] != "right" else {}))
                print(format_row(rows[-1]), flush=True)
    return rows


COLUMNS = (
    f"{'trouble':30} {'container':12} {'codec':15} {'decoder':7} {'state':8} frames given  wrong missing doubled"
    f"  {'time':>8} {'length':>8}  {'pieces':13}  2 fps"
)


def format_row(row: dict[str, Any]) -> str:
    """Return a row as a line under `COLUMNS`."""
    name = f"{row['trouble']:30} {row['container']:12} {row['codec']:15} {row['decoder']:7} {row['state']:8}"
    words = "it is not said that the file was cut off" if row.get("silent") else row["error"] or ""
    words = f"{words[:160]} ({row['reason']})" if "reason" in row else words[:160]
    if row["state"] in ("fails", "refused"):
        return f"{name} {row['frames']:6} {row['given']:5}  {words}"
    kinds = ("wrong", "missing", "doubled")
    length = "" if row["length_error_ms"] is None else f"{row['length_error_ms']:.1f}"
    sampled = [*row["two_fps"], *([row["five_frames"]] if row["five_frames"] else [])]
    return (
        f"{name} {row['frames']:6} {row['given']:5}  {row['wrong']:5} {row['missing']:7} {row['doubled']:7}"
        f"  {row['time_error_ms']:8.1f} {length:>8}  {'/'.join(str(row['pieces'][kind]) for kind in kinds):13}"
        f"  {'  '.join('/'.join(map(str, each.values())) for each in sampled)}  {words}"
    ).rstrip()


def summarize(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Count the states of the rows for each decoder."""
    decoders = dict.fromkeys(row["decoder"] for row in rows)
    return {name: dict(Counter(row["state"] for row in rows if row["decoder"] == name)) for name in decoders}


def keep_table(rows: list[dict[str, Any]]) -> Path:
    """Write the table to ``bench/results/containers.json``."""
    n_files = len({(row["trouble"], row["container"], row["codec"]) for row in rows})
    table = [COLUMNS, *map(format_row, rows)]
    return keep("containers", {"files": n_files, "states": summarize(rows), "table": table})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="only files whose name contains each of these; nothing is kept then")
    parser.add_argument("--decoders", default=",".join(DECODERS), help="the decoders, separated by commas")
    options = parser.parse_args()
    files = [file for file in all_files() if all(word in file.name for word in options.only or ())]
    rows = measure_files(files, options.decoders.split(","))
    print(summarize(rows))
    if not options.only:
        print(f"written to {keep_table(rows)}")


if __name__ == "__main__":
    main()
