"""Runs that are embedded, made without Ray from clips that a test has."""

import numpy as np

import raypipe as rp
from raypipe.runs.accounting import account
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.segments.planning import plan_precomputed
from raypipe.sources.videos import Video


def make_embedded(folder, clips: list[np.ndarray], videos: list[Video], **sets) -> Run:
    """Write a run whose videos have these clips, (n_clips, dim) each."""
    run = Run(str(folder))
    plan, table = plan_precomputed(videos, clips, "source")
    run.write_table("plan.parquet", plan)
    run.write_table("embeddings/0.parquet", table)
    run.write_table("videos.parquet", account(rp.Videos(tuple(videos)), Ledger(run, plan)))
    n = len(videos)
    run.record(config=rp.make_config(**sets).model_dump(mode="json"))
    run.record(counts={"found": n, "ok": n, "failed": 0, "skipped": 0, "ignored": 0})
    return run
