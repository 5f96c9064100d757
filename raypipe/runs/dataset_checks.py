"""What is wrong with a run's dataset, as far as can be told from what the run reads anyway; which videos are copies."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from raypipe.analysis.dataset_faults import Fault
from raypipe.errors import SourceError
from raypipe.progress import counted
from raypipe.runs.contents import DATASET_FAULTS_FILE, DUPLICATES_FILE, PLAN_FILE
from raypipe.runs.directory import Run
from raypipe.schema import Failure, Probe, Trajectories
from raypipe.sources.lerobot import EPISODE, open_lerobot
from raypipe.sources.videos import Videos

MAX_COMPARED = 20_000
"""Among so many videos copies are looked for, in a second or two; the time grows with their number and faster."""
MAX_NUMBERS = 50_000_000
"""Their paths have at most so many numbers together: 400 MB in float64."""
_PROBED = ("duration_s", "width", "height", "fps", "n_frames", "codec", "decoder")


def write_dataset_faults(run: Run, source: Any, videos: Videos, is_whole: bool, say: Callable[[str], None]) -> None:
    """Write ``dataset_faults.json`` if the source is a LeRobot dataset: what its tables and probing tell, no more.

    It holds the dataset's name, and its faults, the worst first, each with the ids of the videos that it is of.

    Nothing is read but the dataset's metadata, which are small, and nothing is decoded; `raypipe inspect` does both,
    and finds more. What hinders the check is said, and the run goes on.

    Parameters
    ----------
    run
        A run whose plan is settled.
    source
        What the run embeds.
    videos, is_whole
        Those of the source that are embedded, and whether they are all.
    say
        Called with how many faults there are.
    """
    from raypipe.analysis.lerobot_faults import find_table_faults

    if not isinstance(source, str | os.PathLike):
        return
    try:
        dataset = open_lerobot(os.fspath(source))
        if dataset is None:
            return
        faults = find_table_faults(dataset, videos, is_whole, _read_probes(run, videos))
    except SourceError as error:
        say(f"the dataset is not checked: {error}")
        return
    found = [{**asdict(fault), "videos": _find_videos(fault, videos)} for fault in faults]
    run.write_json(DATASET_FAULTS_FILE, {"dataset": dataset.name, "faults": found})
    if faults:
        n = counted(len(faults), "finding")
        say(f"{n} on the dataset, see {DATASET_FAULTS_FILE}; raypipe inspect {dataset.name} looks closer")


def write_duplicates(run: Run, paths: Trajectories) -> None:
    """Write ``duplicates.json``: the groups of near-duplicates among the videos of these paths, as lists of ids.

    Its ``groups`` are null where there are more than `MAX_COMPARED` videos, or `MAX_NUMBERS` in their paths.
    """
    from raypipe.analysis.duplicates import group_duplicates  # The report reads the file, and loads no scikit-learn.

    groups = None
    if len(paths) <= MAX_COMPARED and sum(path.size for path in paths.values) <= MAX_NUMBERS:
        groups = [[paths.video_ids[i] for i in group] for group in group_duplicates(paths.values).groups]
    run.write_json(DUPLICATES_FILE, {"compared": len(paths) if groups is not None else 0, "groups": groups})


def _find_videos(fault: Fault, videos: Videos) -> list[str]:
    """Return the ids of the videos that a fault is of: of an episode's only camera that is concerned, or of all."""
    if fault.episode is None:
        return []
    is_of = pc.equal(videos.extra[EPISODE], fault.episode)
    if fault.camera is not None:
        is_of = pc.and_(is_of, pc.equal(videos.table["group"], fault.camera))
    found: list[str] = videos.table["video_id"].filter(is_of).to_pylist()
    return found


def _read_probes(run: Run, videos: Videos) -> dict[str, Probe | Failure]:
    """Return what the plan holds of each file: what probing found, or why it failed."""
    found: dict[str, Probe | Failure] = {}
    columns = ["uri", *_PROBED, "error_stage", "error"]
    for group in range(run.n_groups(PLAN_FILE)):
        for row in run.read_table(PLAN_FILE, columns, group).to_pylist():
            if row["duration_s"] is not None:
                found[row["uri"]] = Probe(**{name: row[name] for name in _PROBED})
            elif row["uri"] not in found:
                found[row["uri"]] = Failure(row["error_stage"] or "probe", row["error"] or "no reason was recorded")
    lacking = Failure("probe", "it has not been probed")
    return {uri: found.get(uri, lacking) for uri in videos.table["uri"].to_pylist()}
