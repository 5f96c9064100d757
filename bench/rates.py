"""The rate, on one core, of each step whose cost grows with the videos, for the README's page on ten million.

    python -m bench.rates

Probing reads real files from the disk. Trajectories are built and reduced from random walks of 512 dimensions, the
number that CLIP has. Decoding and encoding are measured in bench.throughput, the driver's own work in bench.scale, and
clustering in bench.shards.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep
from bench.throughput import make_videos
from raypipe.config import DecodeConfig, ReduceConfig, TrajectoryConfig
from raypipe.reduction import Reducer, choose_points, make_reducer
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.segments.planning import plan_precomputed
from raypipe.segments.stages import ProbeVideos
from raypipe.sources.videos import Video
from raypipe.trajectories.interpolation import gather_paths

N_PROBED, N_BUILT, N_CLIPS, DIM = 400, 10_000, 10, 512
FIT_POINTS, N_MAPPED = 100_000, 20_000


def per_second(n: int, work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return n / (time.monotonic() - started)


def probe_files() -> float:
    """Return how many files one child process probes a second."""
    with tempfile.TemporaryDirectory() as folder:
        uris = [video.uri for video in make_videos(Path(folder), N_PROBED)]
        probe = ProbeVideos(DecodeConfig())
        probe(uris[0])
        try:
            return per_second(N_PROBED, lambda: [probe(uri) for uri in uris])
        finally:
            probe.close()


def build(paths: np.ndarray) -> dict[str, float]:
    """Return how many clips a second are committed, and how many videos a second are read and made trajectories."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder)
        plan, clips = plan_precomputed([Video(f"v{i}", f"file:///v{i}") for i in range(len(paths))], list(paths), "x")
        return {
            "committed_clips_per_s": per_second(clips.num_rows, lambda: run.write_table("embeddings/0.parquet", clips)),
            "built_videos_per_s": per_second(len(paths), lambda: gather_paths(Ledger(run, plan), TrajectoryConfig())),
        }


def reduce(points: np.ndarray, config: ReduceConfig) -> dict[str, float]:
    """Return the seconds to fit a reducer on the default number of points, and how many points a second it maps."""
    reducer: Reducer = make_reducer(config)
    started = time.monotonic()
    reducer.fit(points[choose_points(FIT_POINTS, config)])
    fit_s = time.monotonic() - started
    return {"fit_s": fit_s, "mapped_per_s": per_second(N_MAPPED, lambda: reducer.transform(points[-N_MAPPED:]))}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    steps = np.random.default_rng(0).normal(size=((FIT_POINTS + N_MAPPED) // N_CLIPS, N_CLIPS, DIM))
    paths = steps.cumsum(axis=1).astype(np.float32)
    points = paths.reshape(-1, DIM)
    figures: dict[str, Any] = {"probed_files_per_s": probe_files(), **build(paths[:N_BUILT])}
    configs = {"pca": ReduceConfig(), "umap": ReduceConfig(method="umap", n_components=2)}
    for name, config in {**configs, "picture": ReduceConfig().for_picture()}.items():
        figures[name] = reduce(points, config)
    print(figures)
    print(f"kept in {keep('rates', figures)}")


if __name__ == "__main__":
    main()
