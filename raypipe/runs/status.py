"""How far a run is, read from its directory alone, on any machine and while it runs."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np

from raypipe.errors import RaypipeError
from raypipe.progress import clock, counted, rounded
from raypipe.runs.contents import PLAN_FILE, PLAN_FOLDER
from raypipe.runs.directory import Run
from raypipe.runs.plan import read_ledger
from raypipe.schema import EMBEDDED, EMBEDDING

_REASONS = 3  # So many reasons of failures are told, the most frequent first.
SILENT_S = 120.0
"""A run that has recorded nothing for so many seconds may have ended."""


def describe_status(run: Run, now: float | None = None) -> str:
    """Describe a run in lines: what is done, what failed, what remains, how fast it goes, and the time left.

    Parameters
    ----------
    run
        A run that exists.
    now
        Seconds since 1970; the clock's by default.
    """
    info = run.info()
    lines = [f"{run}: {info.get('state', 'just begun')}"]
    if probed := _count_probed(run):
        lines.append(f"probing    {counted(probed, 'segment')} in what has been probed by now")
    if run.exists(PLAN_FILE):
        lines += _describe_segments(run)
    if "embedding" in info:
        lines += _describe_stages(info["embedding"], info.get("state"), time.time() if now is None else now)
    if info.get("state") == EMBEDDED:
        lines.append(
            "videos     {found} found = {ok} ok + {failed} failed + {skipped} skipped".format(**info["counts"])
        )
    if info.get("seconds"):
        lines.append("seconds    " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in info["seconds"].items()))
    return "\n".join(lines)


def _stage_figures(recorded: dict[str, Any]) -> dict[str, float]:
    """Return throughput and utilisation from what a run records of its embedding.

    Returns
    -------
    ``seconds`` so far; ``segments_per_s`` and ``frames_per_s``; ``decode_busy`` and ``encode_busy``, the share of the
    actors' time in which they worked.
    """
    seconds = max(recorded["updated"] - recorded["started"], 1e-9)
    return {
        "seconds": seconds,
        "segments_per_s": recorded["done"] / seconds,
        "frames_per_s": recorded["frames"] / seconds,
        "decode_busy": recorded["decode_s"] / seconds / recorded["decoders"],
        "encode_busy": recorded["encode_s"] / seconds / recorded["encoders"],
    }


def _count_probed(run: Run) -> int:
    names = run.files(PLAN_FOLDER, ".parquet")
    try:
        return sum(run.read_table(name, ["segment"]).num_rows for name in names)
    except RaypipeError:
        if run.files(PLAN_FOLDER, ".parquet") == names:
            raise
        return 0  # The files have just become part of plan.parquet.


def _describe_segments(run: Run) -> list[str]:
    ledger = read_ledger(run)
    plan = ledger.plan
    unreadable = ~plan["error"].is_null().to_numpy()
    failed = unreadable | ledger.is_failed()
    n, n_left = plan.num_rows, ledger.remaining().num_rows
    n_done = int((ledger.n_clips >= 0).sum() - ledger.is_failed().sum())
    n_failed = n - n_left - n_done  # Segments whose server was away count as remaining.
    lines = [
        f"segments   {n_done:,} done, {n_failed:,} failed, {n_left:,} remaining of {n:,}; "
        f"{counted(np.maximum(ledger.n_clips, 0).sum(), 'clip')}"
    ]
    if failed.any():
        reasons = np.where(unreadable, plan["error"].to_pylist(), ledger.outcome["error"].to_pylist())[failed]
        often = Counter(str(reason).rpartition(": ")[2][:80] for reason in reasons)
        lines += [f"failures   {counted(times, 'time')}: {what}" for what, times in often.most_common(_REASONS)]
        if len(often) > _REASONS:
            lines.append(f"failures   for {counted(len(often) - _REASONS, 'more reason')}")
    return lines


def _describe_stages(recorded: dict[str, Any], state: str | None, now: float) -> list[str]:
    figures = _stage_figures(recorded)
    segments, frames = rounded(figures["segments_per_s"]), rounded(figures["frames_per_s"])
    lines = [
        f"speed      {segments} segments and {frames} frames a second",
        f"decoding   {counted(recorded['decoders'], 'actor')}, {figures['decode_busy']:.0%} busy",
        f"encoding   {counted(recorded['encoders'], 'actor')}, {figures['encode_busy']:.0%} busy",
    ]
    if state == EMBEDDING:
        rate = figures["segments_per_s"]
        left = f"{clock((recorded['segments'] - recorded['done']) / rate)} left" if rate else "time left: unknown"
        silent_s = now - recorded["updated"]
        silent = "; is it still running? Run the same command again to continue" if silent_s > SILENT_S else ""
        lines.append(f"time       {clock(figures['seconds'])} so far, {left}; last sign {clock(silent_s)} ago{silent}")
    return lines
