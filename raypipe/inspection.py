"""What a source holds, before anything is embedded: counts, statistics, and the videos that would fail."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.analysis.wording import count_captions, lay_out_captions
from raypipe.clustering.result import NOISE
from raypipe.config import Config
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import RaypipeError
from raypipe.progress import Progress
from raypipe.report.contact_sheets import decode_filmstrip, draw_samples
from raypipe.report.tables import Member, name_of
from raypipe.schema import Failure, Probe
from raypipe.segments.stages import ProbeVideos
from raypipe.sources import find_videos
from raypipe.sources.videos import Video, Videos
from raypipe.storage import shown


@dataclass(frozen=True)
class Inspection:
    """Videos, and the result of probing each of them: a `Probe` or a `Failure`."""

    videos: Videos
    probes: tuple[Probe | Failure, ...]
    n_ignored: int


def inspect_source(source: str, config: Config, progress: Progress) -> Inspection:
    """Probe every video of a source on this machine, in one child process for each core and without Ray."""
    found = find_videos(source, config.source.camera)
    for note in found.notes:
        progress.say(note)
    videos = found[: config.source.limit]
    uris = videos.table["uri"]
    probes: list[Any] = [None] * len(videos)
    rows: SimpleQueue[int] = SimpleQueue()
    for row in range(len(videos)):
        rows.put(row)
    n_threads = min(os.cpu_count() or 1, len(videos))
    with progress.count("probing", len(videos)) as advance, ThreadPoolExecutor(n_threads) as threads:

        def work() -> None:
            probe = ProbeVideos(config.decode)
            with contextlib.suppress(Empty):
                while True:
                    row = rows.get_nowait()
                    probes[row] = probe(uris[row].as_py())
                    advance(1)
            probe.close()

        for future in [threads.submit(work) for _ in range(n_threads)]:
            future.result()
    return Inspection(videos, tuple(probes), found.n_ignored)


def draw_sample(inspection: Inspection, source: str, config: Config, n: int, seed: int) -> bytes:
    """Draw n videos, chosen at random among those that can be read, with what the source says of them: a PNG.

    Raises
    ------
    RaypipeError
        If no video can be read.
    """
    readable = [row for row, probe in enumerate(inspection.probes) if isinstance(probe, Probe)]
    if not readable:
        raise RaypipeError(f"none of the {len(inspection.videos)} videos of {shown(source)} can be read")
    chosen = np.sort(np.random.default_rng(seed).choice(readable, min(n, len(readable)), replace=False))
    decode = config.decode
    with Sandbox(decode.decoder, decode.deadline_s, decode.deadline_factor) as sandbox:

        def frames_of(uri: str, times_s: Any, image_size: int) -> Any:
            return sandbox.frames(uri, times_s, image_size, "crop", span_s=0.0)

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


def _describe_captions(inspection: Inspection) -> list[str]:
    """Return a table of the captions by group, if there are any."""
    table, extra = inspection.videos.table, inspection.videos.extra
    alone = [[caption] if caption else [] for caption in table["caption"].to_pylist()]
    several = "captions" in extra.column_names and extra.schema.field("captions").type == pa.list_(pa.string())
    captions = [each or [] for each in extra["captions"].to_pylist()] if several else alone
    if not any(captions):
        return []
    durations_s = [probe.duration_s if isinstance(probe, Probe) else float("nan") for probe in inspection.probes]
    found = count_captions(table["group"].to_pylist(), captions, durations_s, table["label"].to_pylist())
    return ["", *lay_out_captions(found)]


def describe(inspection: Inspection) -> str:
    """Lay an inspection out as text: a table of statistics, the codecs and sizes, and the files that would fail."""
    probes = [probe for probe in inspection.probes if isinstance(probe, Probe)]
    found = zip(inspection.videos, inspection.probes, strict=True)
    failed = [(video.uri, probe.error) for video, probe in found if isinstance(probe, Failure)]
    n = len(inspection.videos)
    lines = [f"{n} videos, {len(failed)} of which would fail; {inspection.n_ignored} other files ignored"]
    if probes:
        rows: dict[str, list[float]] = {
            "duration (s)": [probe.duration_s for probe in probes],
            "frames": [probe.n_frames or probe.duration_s * probe.fps for probe in probes],
            "frames/s": [probe.fps for probe in probes],
            "width (px)": [probe.width for probe in probes],
            "height (px)": [probe.height for probe in probes],
        }
        lines += ["", f"{'':14}{'mean':>12}{'std':>12}{'min':>12}{'max':>12}"]
        for name, values in rows.items():
            numbers = (np.mean(values), np.std(values), np.min(values), np.max(values))
            lines.append(f"{name:14}" + "".join(f"{number:12,.2f}" for number in numbers))
        lines += ["", f"total length   {sum(rows['duration (s)']) / 3600:.2f} h"]
        sizes = Counter(f"{probe.width}x{probe.height}" for probe in probes)
        groups = Counter(video.group or "(none)" for video in inspection.videos)
        labels = Counter(video.label for video in inspection.videos if video.label)
        codecs = Counter(p.codec for p in probes)
        for name, counter in (("codecs", codecs), ("sizes", sizes), ("groups", groups), ("labels", labels)):
            if not counter:
                continue
            most = counter.most_common(8)
            more = f", and {len(counter) - len(most)} more" if len(counter) > len(most) else ""
            lines.append(f"{name:15}" + ", ".join(f"{key} ({n})" for key, n in most) + more)
    lines += _describe_captions(inspection)
    if failed:
        lines += [
            "",
            "would fail:",
            *chain.from_iterable((f"  {uri}", f"    {error}") for uri, error in failed),
        ]
    return "\n".join(lines)
