"""What a source holds, before anything is embedded: counts, statistics, and the videos that would fail."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.analysis.caption_statistics import CaptionStatistics, count_captions, lay_out_captions
from raypipe.analysis.dataset_faults import SHOWN, Fault, lay_out_faults
from raypipe.analysis.lerobot_faults import Look, find_faults
from raypipe.clustering.result import NOISE
from raypipe.config import Config, DecodeConfig
from raypipe.decoders.sandbox import Sandbox, open_sandbox
from raypipe.errors import DecodeError, RaypipeError, SourceError
from raypipe.progress import Progress, counted
from raypipe.ranges import open_parts
from raypipe.report.facts import Member
from raypipe.report.figures.contact_sheets import decode_filmstrip, draw_samples
from raypipe.runs.lookup import name_of
from raypipe.schema import Failure, Probe, ThumbnailRequest, finite_or_none
from raypipe.segments.planning import find_failures
from raypipe.sources import find_videos, is_precomputed
from raypipe.sources.curate import find_output
from raypipe.sources.episodes import describe_episodes, find_episodes
from raypipe.sources.lerobot import LeRobotDataset, frames_told, open_lerobot
from raypipe.sources.videos import FOUND, Video, Videos
from raypipe.storage import shown, shown_place

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOOKED_AT_PX = 64  # Frames are compared at this size: noise is seen there, and a picture has 12 kB.

_STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}


@dataclass(frozen=True)
class Inspection:
    """Videos, and a `Probe` of the file of each, or a `Failure` if the video would fail.

    ``faults`` are what is wrong with a dataset, the worst first; None of a source that is not one. Of a dataset without
    cameras there are ``episodes`` in place of videos.
    """

    videos: Videos
    probes: tuple[Probe | Failure, ...]
    n_ignored: int
    faults: tuple[Fault, ...] | None = None
    episodes: Episodes | None = None


class Episodes(NamedTuple):
    """The episodes of a dataset without cameras: the frames of each (-1: not known), its task, and frames a second."""

    lengths: Sequence[int]
    tasks: Sequence[str | None]
    fps: float | None


def inspect_source(source: str, config: Config, progress: Progress) -> Inspection:
    """Probe every video of a source on this machine, in one child process for each core and without Ray.

    Of a LeRobot dataset it is found out too what is wrong with it (`raypipe.analysis.lerobot_faults`).

    Raises
    ------
    SourceError
        If the source cannot be read, or holds no videos.
    """
    dataset = open_lerobot(source)
    if dataset is None:
        _refuse_trajectories(source)
    elif not dataset.cameras and config.source.camera == "all":
        return _inspect_signals(dataset, config, progress)
    # Of a dataset it is a finding, not an error, that two episodes have one number.
    found = find_episodes(dataset, config.source.camera) if dataset else find_videos(source, config.source.camera)
    for note in found.notes:
        progress.say(note)
    videos = found[: config.source.limit]
    uris = videos.table["uri"].to_pylist()
    files = list(dict.fromkeys(uris))  # Many episodes may lie in one.
    with progress.count("probing", len(files), "files") as advance:
        probes = _work_through(files, config.decode, Sandbox.probe, "probe", advance)
    by_file = dict(zip(files, probes, strict=True))
    faults = None
    if dataset is not None:
        faults = tuple(_check(dataset, videos, len(videos) == len(found), by_file, config.decode, progress))
    own = [by_file[uri] for uri in uris]
    results = [failure or probe for failure, probe in zip(find_failures(videos.table, own), own, strict=True)]
    return Inspection(videos, tuple(results), found.n_ignored, faults)


def _inspect_signals(dataset: LeRobotDataset, config: Config, progress: Progress) -> Inspection:
    """Check a dataset without cameras: its tables, and the signals of its episodes."""
    described = describe_episodes(dataset)
    for note in described.notes:
        progress.say(note)
    kept, labels = (each.slice(0, config.source.limit) for each in (described.kept, described.labels))
    without_video = pa.table([pa.nulls(len(kept), kind) for kind in FOUND.types], schema=FOUND)
    chosen = Videos.from_tables([(without_video, kept)], kept.schema)
    faults = tuple(_check(dataset, chosen, len(kept) == len(described.kept), {}, config.decode, progress))
    told = Episodes(frames_told(kept).tolist(), labels.to_pylist(), dataset.fps)
    return Inspection(chosen[:0], (), 0, faults, told)


def _refuse_trajectories(source: str) -> None:
    if is_precomputed(source):
        with open_parts(source):  # It says so if there is no such file.
            pass
    elif find_output(source) is None:
        return
    raise SourceError(
        f"{shown(source)} holds trajectories, and there is no video to inspect: name the videos that they are of"
    )


def _check(
    dataset: LeRobotDataset,
    videos: Videos,
    is_whole: bool,
    probes: dict[str, Probe | Failure],
    decode: DecodeConfig,
    progress: Progress,
) -> list[Fault]:
    def time_file(sandbox: Sandbox, file: str) -> np.ndarray:
        probe = probes[file]
        return sandbox.frame_times(file, probe.duration_s if isinstance(probe, Probe) else 0.0)

    def look(sandbox: Sandbox, what: Look) -> np.ndarray:
        file, times_s, span_s = what
        seen = sandbox.frames(file, times_s, _LOOKED_AT_PX, "squash", span_s)
        if seen.error:
            raise DecodeError(seen.error)
        return seen.pixels

    def time_files(files: list[str]) -> list[np.ndarray | Failure]:
        with progress.count("timing", len(files), "files") as advance:
            return _work_through(files, decode, time_file, "decode", advance)

    def look_at(looks: list[Look]) -> list[np.ndarray | Failure]:
        with progress.count("looking at", len(looks)) as advance:
            return _work_through(looks, decode, look, "decode", advance)

    return find_faults(dataset, videos, is_whole, probes, time_files, look_at)


def _work_through(
    jobs: Sequence[Job],
    decode: DecodeConfig,
    do: Callable[[Sandbox, Job], Result],
    stage: str,
    advance: Callable[[int], None],
) -> list[Result | Failure]:
    """Do jobs with as many sandboxes as this machine has cores, and return the results in their order."""
    results: list[Any] = [None] * len(jobs)
    rows: SimpleQueue[int] = SimpleQueue()
    for row in range(len(jobs)):
        rows.put(row)

    def work() -> None:
        with open_sandbox(decode) as sandbox, contextlib.suppress(Empty):
            while True:
                row = rows.get_nowait()
                try:
                    results[row] = do(sandbox, jobs[row])
                except DecodeError as error:
                    results[row] = Failure.of(stage, error)
                advance(1)

    n_threads = max(min(os.cpu_count() or 1, len(jobs)), 1)
    with ThreadPoolExecutor(n_threads) as threads:
        for future in [threads.submit(work) for _ in range(n_threads)]:
            future.result()
    return results


def draw_sample(inspection: Inspection, source: str, config: Config, n: int, seed: int) -> bytes:
    """Draw n videos, chosen at random among those that can be read, with what the source says of them: a PNG.

    Raises
    ------
    RaypipeError
        If no video can be read.
    """
    readable = [row for row, probe in enumerate(inspection.probes) if isinstance(probe, Probe)]
    if inspection.episodes:
        raise RaypipeError(f"{shown(source)} has no camera, and so no picture to draw")
    if not readable:
        raise RaypipeError(f"none of the {len(inspection.videos)} videos of {shown(source)} can be read")
    chosen = np.sort(np.random.default_rng(seed).choice(readable, min(n, len(readable)), replace=False))
    with open_sandbox(config.decode) as sandbox:

        def frames_of(uri: str, times_s: Any, image_size: int) -> Any:
            whole = ThumbnailRequest(image_size, frozenset(range(len(times_s))))
            return sandbox.frames(uri, times_s, image_size, "crop", 0.0, whole)

        members = [_to_member(inspection.videos[row], inspection.probes[row]) for row in chosen.tolist()]
        strips = [decode_filmstrip(member, frames_of, 1) for member in members]
    title = f"{len(strips)} of {len(inspection.videos):,} videos, chosen at random: {shown(source)}"
    return draw_samples(title, strips)


def _to_member(video: Video, probe: Probe | Failure) -> Member:
    start_s, end_s = video.start_s or 0.0, video.end_s
    if end_s is None and isinstance(probe, Probe):
        end_s = probe.duration_s
    span_s = None if end_s is None else end_s - start_s
    none = float("nan")
    told = (name_of(video.uri), video.group, video.label)
    return Member(
        video.video_id, video.uri, *told, NOISE, none, none, False, none, none, start_s, span_s, video.caption
    )


def _count_captions(inspection: Inspection) -> list[CaptionStatistics]:
    """Return statistics of the captions by group, if there are any."""
    table, extra = inspection.videos.table, inspection.videos.extra
    alone = [[caption] if caption else [] for caption in table["caption"].to_pylist()]
    several = "captions" in extra.column_names and extra.schema.field("captions").type == pa.list_(pa.string())
    captions = [each or [] for each in extra["captions"].to_pylist()] if several else alone
    if not any(captions):
        return []
    durations_s = [
        _length_s(video, probe) if isinstance(probe, Probe) else float("nan")
        for video, probe in zip(inspection.videos, inspection.probes, strict=True)
    ]
    return count_captions(table["group"].to_pylist(), captions, durations_s, table["label"].to_pylist())


def describe(inspection: Inspection) -> str:
    """Lay an inspection out as text: statistics, codecs and sizes, the files that would fail, and what is wrong."""
    failed = _find_failed(inspection)
    if inspection.episodes:
        n = len(inspection.episodes.lengths)
        lines = [f"{counted(n, 'episode')}, and no camera that is read: --features embeds their signals"]
    else:
        n, others = len(inspection.videos), counted(inspection.n_ignored, "other file")
        lines = [f"{counted(n, 'video')}, {len(failed):,} of which would fail; {others} ignored"]
    if measures := _measure(inspection):
        lines += ["", f"{'':14}" + "".join(f"{name:>12}" for name in _STATISTICS)]
        for name, values in measures.items():
            lines.append(f"{name:14}" + "".join(f"{compute(values):12,.2f}" for compute in _STATISTICS.values()))
        durations_s = measures.get("duration (s)")  # A dataset whose frame rate is none has none.
        lines += ["", f"total length   {_say_length(sum(durations_s))}"] if durations_s else [""]
        for name, counter in _count(inspection).items():
            most = counter.most_common(8)
            more = f", and {len(counter) - len(most)} more" if len(counter) > len(most) else ""
            lines.append(f"{name:15}" + ", ".join(f"{key} ({n})" for key, n in most) + more)
    if captions := _count_captions(inspection):
        lines += ["", *lay_out_captions(captions)]
    if failed:
        lines += ["", "would fail:", *_lay_out_failed(failed)]
    if inspection.faults is not None:
        lines += ["", *lay_out_faults(inspection.faults)]
    return "\n".join(lines)


def to_json(inspection: Inspection) -> str:
    """Return an inspection as JSON: the figures of the text, and all that is wrong."""
    measures = {
        name: {each: float(compute(values)) for each, compute in _STATISTICS.items()}
        for name, values in _measure(inspection).items()
    }
    failed = [{"uri": uri, "error": error} for uri, error in _find_failed(inspection)]
    content: dict[str, Any] = {"videos": len(inspection.videos), "ignored": inspection.n_ignored, "would_fail": failed}
    if inspection.episodes:
        content["episodes"] = len(inspection.episodes.lengths)
    content |= {"statistics": measures, **_count(inspection)}
    if captions := _count_captions(inspection):
        content["captions"] = [
            {name: finite_or_none(value) for name, value in asdict(each).items()} for each in captions
        ]
    if inspection.faults is not None:
        content["findings"] = [asdict(fault) for fault in inspection.faults]
    return json.dumps(content, indent=2, ensure_ascii=False)


def _find_failed(inspection: Inspection) -> list[tuple[str, str]]:
    found = zip(inspection.videos, inspection.probes, strict=True)
    return [(video.uri, probe.error) for video, probe in found if isinstance(probe, Failure)]


def _say_length(length_s: float) -> str:
    if length_s < 3600:
        return f"{length_s / 60:.2f} min" if length_s >= 60 else f"{length_s:.2f} s"
    return f"{length_s / 3600:,.2f} h"


def _lay_out_failed(failed: Sequence[tuple[str, str]]) -> list[str]:
    """Return the files that would fail and why, as lines; of a reason that many have, the first."""
    lines: list[str] = []
    n_files: Counter[str] = Counter()
    for (uri, error), n_videos in Counter(failed).items():  # Of a file with many episodes all fail for one reason.
        reason = error.removeprefix(f"{shown(uri)}: ")
        n_files[reason] += 1
        if n_files[reason] <= SHOWN:
            many = f"  ({n_videos:,} videos)" if n_videos > 1 else ""
            lines += [f"  {shown_place(uri)}{many}", f"    {reason}"]
    for reason, n in n_files.most_common():
        if n > SHOWN:
            lines += [f"  … and {counted(n - SHOWN, 'more file')}: --json has all", f"    {reason}"]
    return lines


def _length_s(video: Video, probe: Probe) -> float:
    """Return the length in seconds of a video, which may be a part of its file."""
    end_s = probe.duration_s if video.end_s is None else min(video.end_s, probe.duration_s)
    return end_s - (video.start_s or 0.0)


def _measure(inspection: Inspection) -> dict[str, list[float]]:
    """Return the figures of the videos that can be read: of a part of a file its own length and frames.

    Of episodes without a camera there are the frames, and where the dataset has a frame rate the durations.
    """
    if inspection.episodes:
        lengths, _, fps = inspection.episodes
        known = [float(n) for n in lengths if n >= 0]
        durations = {"duration (s)": [n / fps for n in known]} if fps else {}
        return {**durations, "frames": known} if known else {}
    rows: list[tuple[float, ...]] = []
    for video, probe in zip(inspection.videos, inspection.probes, strict=True):
        if isinstance(probe, Probe):
            length_s = _length_s(video, probe)
            is_part = length_s < probe.duration_s
            n = (0 if is_part else probe.n_frames) or length_s * probe.fps
            rows.append((length_s, n, probe.fps, probe.width, probe.height))
    names = ("duration (s)", "frames", "frames/s", "width (px)", "height (px)")
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)} if rows else {}


def _count(inspection: Inspection) -> dict[str, Counter[str]]:
    probes = [probe for probe in inspection.probes if isinstance(probe, Probe)]
    tasks = inspection.episodes.tasks if inspection.episodes else inspection.videos.table["label"].to_pylist()
    counters = {
        "codecs": Counter(probe.codec for probe in probes),
        "sizes": Counter(f"{probe.width}x{probe.height}" for probe in probes),
        "groups": Counter(video.group or "(none)" for video in inspection.videos),
        "labels": Counter(task for task in tasks if task),
    }
    return {name: counter for name, counter in counters.items() if counter}
