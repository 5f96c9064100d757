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

from raypipe.config import Config
from raypipe.progress import Progress
from raypipe.schema import Failure, Probe
from raypipe.segments.stages import ProbeVideos
from raypipe.sources import find_videos
from raypipe.sources.videos import Videos


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
        for name, counter in (("codecs", Counter(p.codec for p in probes)), ("sizes", sizes), ("groups", groups)):
            most = counter.most_common(8)
            more = f", and {len(counter) - len(most)} more" if len(counter) > len(most) else ""
            lines.append(f"{name:15}" + ", ".join(f"{key} ({n})" for key, n in most) + more)
    if failed:
        lines += [
            "",
            "would fail:",
            *chain.from_iterable((f"  {uri}", f"    {error}") for uri, error in failed),
        ]
    return "\n".join(lines)
