"""What a step does before it begins: it looks at the place, and removes what followed from its earlier result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.packages import package_versions
from raypipe.runs.contents import KEPT_WITH_EMBEDDINGS, OF_CLUSTERING, OF_EMBEDDING, OF_REPORT, RUN_FILE
from raypipe.runs.directory import Run
from raypipe.schema import EMBEDDING
from raypipe.storage import local_path

_CLUSTERING = ("trajectories", "reduce", "cluster", "picture", "evaluate", "outliers", "duplicates", "describe")
"""The steps of clustering."""
_SHOWN_HALF = ("ftp", "sftp", "ssh", "smb")
"""Protocols by which a file grows where it lies; neither are folders made on the way to it."""
_COPIES = "/runtime_resources/working_dir_files/"
"""In a folder of this name Ray keeps copies of the working directories that were sent along with jobs."""


def check_place(run: Run) -> None:
    """Raise `UsageError` if no run can be at its place: it is a file, or on a server that shows files half written.

    Also if it is a folder of others' files that the run would write over, or a relative path in a job of Ray's that has
    a working directory of its own, where the next job would not find it.
    """
    path = local_path(run.url)
    if path is not None and Path(path).is_file():
        raise UsageError(f"{run} is a file: name a folder by -o")
    if run.url.partition("://")[0].lower() in _SHOWN_HALF:
        raise UsageError(
            f"{run} cannot hold a run, as a file on such a server is seen before it is whole: name a folder or an "
            "object store by -o"
        )
    if path is not None and _COPIES in run.path():
        raise UsageError(
            f"{run} lies in Ray's copy of a job's working directory, and would go with it: name another place by -o"
        )
    info = run.info()
    is_run = isinstance(config := info.get("config"), dict) and "trajectory" in config
    if is_run or (info and info.keys() <= {"seconds", "demo"}):  # It was to be one, and has found no videos as yet.
        return
    for name in (RUN_FILE, *OF_EMBEDDING, *OF_CLUSTERING, *OF_REPORT):
        if run.exists(name):
            raise UsageError(f"{run} is no run, and its {name} would be written over: choose another -o")


def begin_embedding(run: Run, config: Config, encoder_id: dict[str, Any]) -> None:
    """Record what a run's embeddings are made with, and remove what followed from those of before."""
    remove_clusters(run)
    for name in KEPT_WITH_EMBEDDINGS:
        run.remove(name)
    run.sweep()
    run.record(state=EMBEDDING, config=config.model_dump(mode="json"), versions=package_versions(), encoder=encoder_id)


def begin_clusters(run: Run, config: Config) -> None:
    """Remove what an earlier clustering left, and record the config of the one that takes its place."""
    remove_clusters(run, done=("trajectories", "reduce"))
    run.record(config=config.model_dump(mode="json"))


def remove_clusters(run: Run, done: Sequence[str] = ()) -> None:
    """Remove what clustering left, and the report of it: a step that is run again removes what follows from it.

    How long its steps took goes too, unless they are ``done`` again: what is killed now should not tell of before.
    """
    for name in OF_CLUSTERING:
        run.remove(name)
    _remove_seconds(run, [step for step in _CLUSTERING if step not in done])
    remove_report(run)


def remove_report(run: Run) -> None:
    """Remove the report and its tables and pictures."""
    for name in OF_REPORT:
        run.remove(name)
    _remove_seconds(run, ("report",))


def _remove_seconds(run: Run, steps: Sequence[str]) -> None:
    info = run.info()
    kept = {step: seconds for step, seconds in info.get("seconds", {}).items() if step not in steps}
    if kept != info.get("seconds", {}):
        run.write_json(RUN_FILE, {**info, "seconds": kept})
