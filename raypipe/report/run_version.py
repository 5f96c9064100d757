"""What tells an open page that its run has been clustered or reported again, and its row numbers mean others."""

from __future__ import annotations

from hashlib import sha256

from raypipe.runs.directory import Run
from raypipe.sources.versions import version_of_file

VERSION_HEADER = "raypipe-version"


def version_in(run: Run, name: str) -> str:
    """Return the present version of a file of a run, or "" where it is unknown."""
    return version_of_file(f"{run.url.rstrip('/')}/{name}") or ""


def read_version(run: Run) -> str:
    """Return what changes when a run is clustered or reported again."""
    both = version_in(run, "clusters.parquet"), version_in(run, "report.html")
    return sha256("\n".join(both).encode()).hexdigest()[:16]
