"""A folder a cluster, with a symbolic link to each of its videos."""

from __future__ import annotations

import os
from pathlib import Path

from raypipe.clustering.result import name_cluster
from raypipe.errors import RaypipeError, UsageError
from raypipe.progress import counted
from raypipe.report.exporting.naming import free_name
from raypipe.report.facts import read_facts
from raypipe.runs.directory import Run
from raypipe.runs.lookup import name_of, say_part
from raypipe.storage import local_path, shown


def write_links(run: Run, place: Run, dry_run: bool) -> list[str]:
    """Link the videos of each cluster into a folder ``cluster_0``, ``cluster_1``, … or ``noise``; move nothing.

    Videos of one name get a number behind it. A link to a part of a file, such as an episode, shows the whole file, and
    has the part's seconds in its name. Videos that are not files of this machine cannot be linked, and are counted.

    Raises
    ------
    UsageError
        If the folder is not local, or holds anything else than these links.
    """
    if "://" in place.path() or local_path(place.url) is None:
        raise UsageError(f"links are made in a local folder, and {place} is none: choose one by -o")
    root = Path(place.path())
    links, n_away = _plan_links(run, root)
    if not links:
        raise UsageError(f"none of the {n_away} videos of {run} is a file on this machine: nothing can be linked")
    n_folders = len({link.parent for link in links})
    many = f"{counted(len(links), 'link')} in {counted(n_folders, 'folder')}"
    away = f"; {counted(n_away, 'video is no file', 'videos are not files')} on this machine" if n_away else ""
    there = {Path(folder) / name for folder, _, names in os.walk(root) for name in names}
    there |= {path for path in root.rglob("*") if path.is_symlink()}
    if other := sorted(there - links.keys()):
        raise UsageError(f"{root} holds other files, such as {shown(str(other[0]))}: remove it, or choose another -o")
    for link in sorted(there):
        if not link.is_symlink() or link.readlink() != links[link]:
            raise UsageError(f"{shown(str(link))} is there already, and no link to {shown(str(links[link]))}")
    if dry_run:
        plan = [f"{link.relative_to(root)} -> {target}" for link, target in links.items()]
        return [*plan, f"would make {many} of {root}{away}"]
    for link, target in links.items():
        if link not in there:
            try:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)
            except OSError as error:
                raise RaypipeError(f"cannot link {shown(str(link))}: {error.strerror or error}") from error
    return [f"made {many} of {root}{away}"]


def _plan_links(run: Run, root: Path) -> tuple[dict[Path, Path], int]:
    """Return the target of each link, and how many videos are no files here."""
    links: dict[Path, Path] = {}
    n_away = 0
    for cluster in read_facts(run).clusters_and_noise:
        folder = root / name_cluster(cluster.number, "cluster_")
        taken: set[str] = set()
        for member in cluster.members:
            target = local_path(member.uri)
            if target is None or not Path(target).exists():
                n_away += 1
                continue
            suffix = Path(target).suffix
            file = name_of(member.uri)
            stem, part = Path(target).stem, member.name[len(file) :]
            if not member.name.startswith(file):  # It is the video's own id.
                stem, part = member.name, say_part(member.origin_s, member.span_s)
            name = f"{stem}{part}{suffix}"
            links[folder / free_name(name, taken)] = Path(target)
    return links, n_away
