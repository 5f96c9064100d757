"""What tells a page, or a command, that its run has been clustered again, and that its row numbers mean others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from raypipe.errors import RaypipeError
from raypipe.runs.contents import CLUSTERS_FILE, REPORT_FILE
from raypipe.runs.directory import Run
from raypipe.sources.versions import version_of_file

VERSION_HEADER = "raypipe-version"


def version_in(run: Run, name: str) -> str:
    """Return the present version of a file of a run, or "" where it is unknown."""
    return version_of_file(f"{run.url.rstrip('/')}/{name}") or ""


def read_version(run: Run) -> str:
    """Return what changes when a run is clustered or reported again."""
    both = version_in(run, CLUSTERS_FILE), version_in(run, REPORT_FILE)
    return sha256("\n".join(both).encode()).hexdigest()[:16]


@contextmanager
def of_one_clustering(run: Run, remedy: str = "try again") -> Iterator[None]:
    """Raise `RaypipeError` if another command clusters the run while this block reads it, whatever else that causes."""
    before, problem = version_in(run, CLUSTERS_FILE), None
    try:
        yield
    except Exception as error:
        problem = error
    if version_in(run, CLUSTERS_FILE) != before:
        raise RaypipeError(f"{run} has been clustered again meanwhile: {remedy}") from problem
    if problem is not None:
        raise problem
