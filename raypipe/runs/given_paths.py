"""Trajectories that somebody else computed, as the embeddings of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raypipe.config import Config
from raypipe.progress import counted
from raypipe.runs.accounting import account, write_accounts
from raypipe.runs.beginnings import begin_embedding
from raypipe.runs.clip_signals import saved_scale
from raypipe.runs.comparison import PRECOMPUTED, check_comparable
from raypipe.runs.contents import EMBEDDINGS_FOLDER, PLAN_FILE
from raypipe.runs.dataset_checks import write_dataset_faults
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger, split_clips
from raypipe.runs.plan import open_plan
from raypipe.segments.planning import plan_precomputed
from raypipe.sources.precomputed import Precomputed
from raypipe.sources.signals import read_signals
from raypipe.sources.videos import Videos


def take_signals(source: str, run: Run, config: Config, say: Callable[[str], None], like: Run | None) -> None:
    """Take signals of a dataset's episodes in place of its videos.

    Parameters
    ----------
    source
        A LeRobot dataset; ``source.features`` of the config names its signals.
    run
        The run, whose embeddings they become.
    config
        Its config.
    say
        Called with what is to be said of it.
    like
        A run that they must be comparable with, and by whose signals they are z-scored; None for none.

    Raises
    ------
    UsageError, SourceError
        As `raypipe.sources.signals.read_signals`; or if the run or ``like`` holds other trajectories.
    """
    with run.step("find"):
        signals = read_signals(source, config.source.features or "", config.source.limit, saved_scale(like))
    say(f"z-scored by {signals.scale.origin}")
    scale = signals.scale.to_json()
    take_paths(signals.videos, signals.trajectories, run, config, say, like, json.dumps(scale))
    run.record(signals=scale)
    with run.step("check"):
        chosen = signals.videos[: config.source.limit]
        write_dataset_faults(run, source, chosen, len(chosen) == len(signals.videos), say)


def take_paths(
    found: Videos,
    paths: Precomputed,
    run: Run,
    config: Config,
    say: Callable[[str], None],
    like: Run | None,
    made_by: str | None = None,
) -> None:
    """Take trajectories in place of videos: write the plan, the embeddings and the accounts of a run.

    Parameters
    ----------
    found, paths
        The videos, and the clips of the first of them.
    run, config, say, like
        As for `take_signals`.
    made_by
        What they were made by, which may make more of them for the run another time; by default their content is all
        that is known of them.

    Raises
    ------
    UsageError
        If the run or ``like`` holds other trajectories.
    """
    untimed = "" if paths.spans_s is not None else ": of no times, so that a clip counts as a second"
    say(f"found {counted(len(found), 'precomputed trajectory', 'precomputed trajectories')}{untimed}")
    for note in found.notes:
        say(note)
    chosen = found[: config.source.limit]
    content, dim = _digest(*paths.clips, *(paths.spans_s or ())), paths.clips[0].shape[1]
    fingerprint = content if made_by is None else _digest(made_by.encode())
    encoder_id = {"name": PRECOMPUTED, "dim": dim, "fingerprint": fingerprint}
    check_comparable(encoder_id, like)
    n, spans_s = len(chosen), paths.spans_s
    rows, clips = plan_precomputed(chosen, paths.clips[:n], content[:16], spans_s and spans_s[:n], paths.reasons)
    # Where the encoder's fingerprint is not that of the content, each path says itself whether it has changed.
    versions = pa.chunked_array([[_digest(path) if made_by else None for path in paths.clips[:n]]], pa.string())
    open_plan(run, config, encoder_id, chosen, versions)
    rows = rows.set_column(rows.column_names.index("version"), "version", versions)
    begin_embedding(run, config, encoder_id)
    run.write_table(PLAN_FILE, rows)
    before = set(run.files(EMBEDDINGS_FOLDER, ".parquet"))
    for number, part in enumerate(split_clips(clips, dim)):
        name = f"{EMBEDDINGS_FOLDER}/{number:05d}.parquet"
        run.write_table(name, part)
        before.discard(name)
    for name in before:  # They hold nothing of these trajectories, and go only now that all of these are there.
        run.remove(name)
    write_accounts(run, [account(found, Ledger(run, rows))], found.n_ignored, say)


def _digest(*parts: np.ndarray | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()
