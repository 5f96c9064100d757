"""Noisy paths of three shapes, and runs of them."""

from pathlib import Path

import numpy as np

from raypipe import pipeline
from raypipe.config import Config
from raypipe.progress import Progress
from raypipe.runs.directory import Run

SHAPES = 3


def make_waves(n: int, seed: int) -> dict[str, np.ndarray]:
    """Return paths of 14 steps by id; the shape is the id's number modulo three."""
    rng = np.random.default_rng(seed)
    steps = np.linspace(0, 1, 14)[:, None]
    waves = [np.sin(2 * np.pi * (i % SHAPES + 1) * steps + np.arange(8) / 3) for i in range(n)]
    return {f"{seed}-{i:02d}": (w + rng.normal(0, 0.1, w.shape)).astype(np.float32) for i, w in enumerate(waves)}


def embed_waves(folder: Path, n: int, config: Config) -> Run:
    """Write the first ``n`` of the paths of seed 0 as ``known.npz``, and an embedded run of them beside it."""
    np.savez(folder / "known.npz", **make_waves(n, 0))
    run = Run(str(folder / "run"))
    pipeline.embed(folder / "known.npz", run, config, Progress())
    return run
