"""The report of a run, for people: tables, plots, contact sheets and a page."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from raypipe.config import ReportConfig
from raypipe.runs.directory import Run
from raypipe.runs.frames import read_frames
from raypipe.schema import Frames

if TYPE_CHECKING:
    from raypipe.report.contact_sheets import FramesOf
    from raypipe.report.page import Card
    from raypipe.report.tables import Facts, Member

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
        A function ``(uri, times_s (n,) float64, image_size) -> Frames``, which is called in a thread of the report's
        own, one call after another. If it raises a `RaypipeError`, the report has no pictures of that video. Only
        videos that are shown and have fewer pictures in ``frames/`` than a sheet shows are decoded, each once.
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
    from raypipe.report import page, tables

    facts = tables.read_facts(run)
    for stale in ("plots", "thumbnails"):
        run.remove(stale)
    run.write_json("summary.json", tables.summarise(facts))
    run.write_bytes("video_cluster_mapping.csv", tables.mapping_csv(facts))

    paths = tables.read_paths(run)
    # Scaling and encoding pictures lets other threads work, matplotlib hardly does.
    with ThreadPoolExecutor(1, "raypipe-sheets") as beside:
        sheets = beside.submit(_write_sheets, run, facts, frames_of, report_config)
        drawn = _write_plots(run, facts, paths, tables.read_centers(run, paths, facts.clusters))
        cards, outliers = sheets.result()
    html = page.render_page(facts, drawn, cards, outliers, written or datetime.now(UTC))
    run.write_bytes("report.html", html.encode())


def _write_plots(
    run: Run, facts: Facts, paths: dict[str, np.ndarray], centers: dict[int, np.ndarray]
) -> dict[str, bytes]:
    """Draw the plots, and return them as PNG."""
    from raypipe.report import plots
    from raypipe.report.sweep_figure import draw_sweep

    drawn = {
        "points": plots.draw_points(facts),
        "trajectories": plots.draw_trajectories(facts, paths, centers),
        "sizes": plots.draw_sizes(facts),
    }
    if facts.sweep:
        drawn["sweep"] = draw_sweep(facts.sweep)
    for name, png in drawn.items():
        run.write_bytes(f"plots/{name}.png", png)
    return drawn


def _write_sheets(
    run: Run, facts: Facts, frames_of: FramesOf, report_config: ReportConfig
) -> tuple[list[Card], list[tuple[Member, bytes | None]]]:
    """Write contact sheets and thumbnails; return the page's cards, and the outliers with their thumbnails."""
    from raypipe.report import contact_sheets, page

    n_videos, n_frames = report_config.sheet_videos, report_config.sheet_frames
    n_rows, tile = page.layout(len(facts.clusters), n_videos, n_frames)
    odd = {member.video_id: member for member in facts.outliers[:SHOWN_OUTLIERS]}
    on_sheets = [cluster.central_and_farthest(n_videos) for cluster in facts.clusters]
    asked = {video_id: contact_sheets.middles_of(member, 1) for video_id, member in odd.items()}
    for central, farthest in on_sheets:
        asked |= {m.video_id: contact_sheets.middles_of(m, n_frames) for m in (*central, farthest) if m}
    kept = read_frames(run, asked)

    def take_filmstrip(member: Member, n: int) -> contact_sheets.Filmstrip:
        strip = contact_sheets.join_kept(member, kept[member.video_id]) if member.video_id in kept else None
        if strip and len(strip.pictures) >= n:
            return strip
        # A video of fewer clips is short, so it costs little to decode, and its few pictures would not tell it.
        decoded = contact_sheets.decode_filmstrip(member, frames_of, n)
        return replace(strip, note=decoded.note) if strip and decoded.poster is None else decoded

    thumbnails: dict[str, bytes | None] = {}
    cards = []
    for cluster, (central, farthest) in zip(facts.clusters, on_sheets, strict=True):
        strips = [take_filmstrip(member, n_frames) for member in central]
        last = take_filmstrip(farthest, n_frames) if farthest else None
        run.write_bytes(f"plots/cluster_{cluster.number}.png", contact_sheets.draw_sheet(facts, cluster, strips, last))
        shown = [page.show(strip, tile, n_frames) for strip in strips[:n_rows]]
        cards.append(page.Card(cluster, shown, page.show(last, tile, n_frames) if last else None))
        thumbnails.update((s.member.video_id, s.thumbnail) for s in [*strips, *([last] if last else [])])
    for video_id in odd.keys() - thumbnails.keys():
        thumbnails[video_id] = take_filmstrip(odd[video_id], 1).thumbnail
    for video_id, jpeg in thumbnails.items():
        if jpeg is not None:
            run.write_bytes(f"thumbnails/{video_id}.jpg", jpeg)
    return cards, [(member, thumbnails[video_id]) for video_id, member in odd.items()]
