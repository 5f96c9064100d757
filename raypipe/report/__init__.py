"""The report of a run, for people: tables, plots, contact sheets and a page."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from raypipe.config import ReportConfig
from raypipe.runs.contents import MAPPING_FILE, PLOTS_FOLDER, REPORT_FILE, SUMMARY_FILE, THUMBNAILS_FOLDER
from raypipe.runs.directory import Run
from raypipe.runs.frames import read_frames
from raypipe.schema import Frames

if TYPE_CHECKING:
    from raypipe.report.facts import Cluster, Facts, Member
    from raypipe.report.figures.contact_sheets import FramesOf
    from raypipe.report.figures.plots import VideoMap
    from raypipe.report.page.document import Card

SHOWN_OUTLIERS = 24


def write_report_files(
    run: Run,
    frames_of: Callable[[str, np.ndarray, int], Frames],
    report_config: ReportConfig,
    written: datetime | None = None,
) -> None:
    """Write a run's files for people: ``summary.json``, the CSV, ``plots/``, ``thumbnails/`` and ``report.html``.

    They are written over those of an earlier report, of which nothing is removed until the new page is there.

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
    from raypipe.report.facts import read_centers, read_facts, read_paths
    from raypipe.report.page import document, explorer
    from raypipe.report.summary import mapping_rows, summarise

    facts = read_facts(run)
    run.write_json(SUMMARY_FILE, summarise(facts))
    run.write_csv(MAPPING_FILE, mapping_rows(facts))

    paths = read_paths(run)
    # Scaling and encoding pictures lets other threads work, matplotlib hardly does.
    with ThreadPoolExecutor(1, "raypipe-sheets") as beside:
        sheets = beside.submit(_write_sheets, run, facts, frames_of, report_config)
        centers = read_centers(run, paths, facts.clusters)
        drawn, video_map = _write_plots(run, facts, paths, centers, report_config.seed)
        data = explorer.write_data(run, facts, paths, centers)
        cards, outliers, pictures = sheets.result()
    html = document.render_page(facts, drawn, cards, outliers, written or datetime.now(UTC), video_map, data)
    run.write_bytes(REPORT_FILE, html.encode())
    wanted = {*pictures, *(f"{PLOTS_FOLDER}/{name}.png" for name in drawn)}
    there = [*run.files(PLOTS_FOLDER), *run.files(THUMBNAILS_FOLDER)]
    run.for_each([name for name in there if name not in wanted], run.remove)


def _write_plots(
    run: Run, facts: Facts, paths: dict[str, np.ndarray], centers: dict[int, np.ndarray], seed: int
) -> tuple[dict[str, bytes], VideoMap]:
    """Draw the plots, and return them as PNG, and where the map shows which video."""
    from raypipe.report.facts import read_paths
    from raypipe.report.figures import histogram, learning_figures, plots
    from raypipe.report.figures.fingerprint_figure import draw_unlike
    from raypipe.report.figures.sweep_figure import draw_sweep

    video_map = plots.draw_points(facts, centers if facts.is_pooled else None)
    drawn = {"points": video_map.png}
    if not facts.is_pooled:  # A vector has no path.
        drawn["trajectories"] = plots.draw_trajectories(facts, paths, centers)
        if fingerprints := draw_unlike(run, facts.members, seed):
            drawn["fingerprints"] = fingerprints
    drawn["sizes"] = plots.draw_sizes(facts)
    if facts.clusters:  # Without any there is nothing that a video could lie far from.
        drawn["outliers"] = histogram.draw_histogram(facts)
    if facts.learned:
        drawn["learning"] = learning_figures.draw_learning(facts.learned)
    if facts.is_learned:
        drawn["states"] = learning_figures.draw_states(facts, read_paths(run, "decoded"))
    if facts.sweep:
        drawn["sweep"] = draw_sweep(facts.sweep)
    for name, png in drawn.items():
        run.write_bytes(f"{PLOTS_FOLDER}/{name}.png", png)
    return drawn, video_map


def _write_sheets(
    run: Run, facts: Facts, frames_of: FramesOf, report_config: ReportConfig
) -> tuple[list[Card], list[tuple[Member, bytes | None]], list[str]]:
    """Write contact sheets and thumbnails.

    Returns
    -------
    The page's cards, the outliers with a picture of what is odd, and the names of the files.
    """
    from raypipe.report.figures import contact_sheets
    from raypipe.report.page import document

    n_videos, n_frames = report_config.sheet_videos, report_config.sheet_frames
    groups = facts.clusters_and_noise
    n_rows, tile = document.layout(len(groups), n_videos, n_frames)
    odd = {member.video_id: member for member in facts.outliers[:SHOWN_OUTLIERS]}
    on_sheets = [_choose(cluster, report_config) for cluster in groups]
    wanted = {video_id: (member, 1) for video_id, member in odd.items()}
    wanted |= {m.video_id: (m, n_frames) for central, farthest in on_sheets for m in (*central, farthest) if m}
    asked = {video_id: contact_sheets.middles_of(*how) for video_id, how in wanted.items()}
    of_span = {video_id: contact_sheets.times_in_span(member) for video_id, member in odd.items()}
    none = np.empty(0)
    kept = read_frames(run, {i: np.concatenate([times_s, of_span.get(i, none)]) for i, times_s in asked.items()})

    def take_filmstrip(member: Member, n: int) -> contact_sheets.Filmstrip:
        found = kept.get(member.video_id)
        strip = contact_sheets.join_kept(member, found.nearest_to(asked[member.video_id])) if found else None
        if strip and len(strip.pictures) >= n:
            return strip
        # A video of fewer clips is short, so it costs little to decode, and its few pictures would not tell it.
        decoded = contact_sheets.decode_filmstrip(member, frames_of, n)
        return replace(strip, note=decoded.note) if strip and decoded.poster is None else decoded

    thumbnails: dict[str, bytes | None] = {}
    cards = []
    names: list[str] = []
    for cluster, (central, farthest) in zip(groups, on_sheets, strict=True):
        strips = [take_filmstrip(member, n_frames) for member in central]
        last = take_filmstrip(farthest, n_frames) if farthest else None
        every = [*strips, *([last] if last else [])]
        if any(strip.member.has_video for strip in every):  # Of trajectories alone there is nothing to look at.
            if report_config.sheet_choice == "random":
                sheet = contact_sheets.draw_grid(facts, cluster, strips)
            else:
                sheet = contact_sheets.draw_sheet(facts, cluster, strips, last)
            names.append(f"{PLOTS_FOLDER}/cluster_{cluster.short_name}.png")
            run.write_bytes(names[-1], sheet)
        shown = [document.show(strip, tile, n_frames) for strip in strips[:n_rows]]
        cards.append(document.Card(cluster, shown, document.show(last, tile, n_frames) if last else None))
        thumbnails.update((strip.member.video_id, strip.thumbnail) for strip in every)
    for video_id in odd.keys() - thumbnails.keys():
        thumbnails[video_id] = take_filmstrip(odd[video_id], 1).thumbnail
    for video_id, jpeg in thumbnails.items():
        if jpeg is not None:
            names.append(f"{THUMBNAILS_FOLDER}/{video_id}.jpg")
            run.write_bytes(names[-1], jpeg)
    shows = {video_id: contact_sheets.show_span(kept.get(video_id), of_span[video_id]) for video_id in odd}
    outliers = [(member, shows[video_id] or thumbnails[video_id]) for video_id, member in odd.items()]
    return cards, outliers, names


def _choose(cluster: Cluster, config: ReportConfig) -> tuple[tuple[Member, ...], Member | None]:
    """Return the videos of a cluster that its sheet shows, and the farthest unless it is among them."""
    n = config.sheet_videos
    if config.sheet_choice == "random" or cluster.is_noise:  # Noise has no center.
        return cluster.sample(n, config.seed), None
    return cluster.members[:n], cluster.members[-1] if len(cluster) > n else None
