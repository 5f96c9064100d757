"""The report of a run, for people: tables, plots, contact sheets and a page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from raypipe.config import ReportConfig
from raypipe.runs.directory import Run
from raypipe.schema import Frames

SHOWN_OUTLIERS = 24


def write_report_files(
    run: Run,
    frames_of: Callable[[str, np.ndarray, int], Frames],
    report_config: ReportConfig,
    written: datetime | None = None,
) -> None:
    """Write a run's files for people: ``summary.json``, the CSV, ``plots/``, ``thumbnails/`` and ``report.html``.

    Parameters
    ----------
    run
        A run that has been clustered and evaluated.
    frames_of
        A function ``(uri, times_s (n,) float64, image_size) -> Frames``. If it raises a `RaypipeError`, the report has
        no pictures of that video. Only the videos that are shown are decoded, each once.
    report_config
        The number of videos and frames on a contact sheet.
    written
        The time, in UTC, in the page's head; default now. Everything else depends only on the run.

    Raises
    ------
    RaypipeError
        If the run has not been clustered.
    """
    # These modules import matplotlib, which `import raypipe` must not do.
    from raypipe.report import contact_sheets, page, plots, tables

    facts = tables.read_facts(run)
    for stale in ("plots", "thumbnails"):
        run.remove(stale)
    run.write_json("summary.json", tables.summarise(facts))
    run.write_bytes("video_cluster_mapping.csv", tables.mapping_csv(facts))

    paths = tables.read_paths(run)
    centers = plots.average_paths(paths, facts.clusters)
    drawn = {
        "points": plots.draw_points(facts),
        "trajectories": plots.draw_trajectories(facts, paths, centers),
        "sizes": plots.draw_sizes(facts),
    }
    for name, png in drawn.items():
        run.write_bytes(f"plots/{name}.png", png)

    n_videos, n_frames = report_config.sheet_videos, report_config.sheet_frames
    n_rows, tile = page.layout(len(facts.clusters), n_videos, n_frames)
    odd = {member.video_id: member for member in facts.outliers[:SHOWN_OUTLIERS]}
    thumbnails: dict[str, bytes | None] = {}
    cards = []
    for cluster in facts.clusters:
        central, farthest = cluster.central_and_farthest(n_videos)
        strips = [contact_sheets.take_filmstrip(member, frames_of, n_frames) for member in central]
        last = contact_sheets.take_filmstrip(farthest, frames_of, n_frames) if farthest else None
        run.write_bytes(f"plots/cluster_{cluster.number}.png", contact_sheets.draw_sheet(facts, cluster, strips, last))
        shown = [page.show(strip, tile) for strip in strips[:n_rows]]
        cards.append(page.Card(cluster, shown, page.show(last, tile) if last else None))
        thumbnails.update((s.member.video_id, s.thumbnail) for s in [*strips, *([last] if last else [])])
    for video_id in odd.keys() - thumbnails.keys():
        thumbnails[video_id] = contact_sheets.take_filmstrip(odd[video_id], frames_of, 1).thumbnail
    for video_id, jpeg in thumbnails.items():
        if jpeg is not None:
            run.write_bytes(f"thumbnails/{video_id}.jpg", jpeg)

    outliers = [(member, thumbnails[video_id]) for video_id, member in odd.items()]
    html = page.render_page(facts, drawn, cards, outliers, written or datetime.now(UTC))
    run.write_bytes("report.html", html.encode())
