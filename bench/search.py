"""How well and how fast videos are found: whole, by part, among many, and copies of them.

    python -m bench.search [--demo-seeds 101 102 103] [--n 100000 1000000] [--videos 40] [--seeds 5]
                           [--only whole copies parts scale] [--folder FOLDER]

Whole: for each video of the demo and of the robot videos below RAYPIPE_TEST_DATA, embedded by the descriptor, the
fraction of the seven nearest others that have its label (of the robots: as many as there are others of its task), for
several reductions. By part: a path of three seconds is planted at a random place of each sequence of clips, slower or
faster, and looked for from one of them. Among many: synthetic trajectories in a run directory; recall is that of the
ten nearest, against comparing all in full. Copies: the demo's videos encoded again, smaller, darker, and cut short.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa

from bench.machine import RESULTS, keep
from bench.quality import embed
from raypipe.analysis.duplicates import group_duplicates
from raypipe.analysis.search import divergences, is_affordable, rank_paths, rank_pieces
from raypipe.config import ReduceConfig
from raypipe.demo import render_demo
from raypipe.reduction import reduce_trajectories
from raypipe.runs.directory import Run
from raypipe.runs.results import ROWS_PER_FILE, to_table
from raypipe.schema import EMBEDDED, OK, VIDEOS, ClipPath, Trajectories
from raypipe.softdtw import auto_gamma
from raypipe.sources import find_videos
from raypipe.trajectories.similarity import search

REDUCTIONS: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "pca-3": {"method": "pca", "n_components": 3},
    "pca-5": {"method": "pca", "n_components": 5},
    "pca-16": {"method": "pca", "n_components": 16},
    "umap-5": {"method": "umap", "n_components": 5},
}


def measure_precision(paths: Trajectories, labels: list[str | None], at_most: int | None = 7) -> dict[str, float]:
    """Return the fraction of the nearest that share the query's label, by reduction: the mean over all queries."""
    of = dict(zip(paths.video_ids, labels, strict=True))
    figures = {}
    for name, how in REDUCTIONS.items():
        reduced, _ = reduce_trajectories(paths, ReduceConfig(**how))
        gamma = auto_gamma(reduced.values)
        shares = []
        for video_id, path in zip(reduced.video_ids, reduced.values, strict=True):
            n = min(labels.count(of[video_id]) - 1, at_most or len(labels))
            if n:
                found = rank_paths(path, [reduced], gamma, n, skip=video_id)
                shares.append(np.mean([of[match.video_id] == of[video_id] for match in found]))
        figures[name] = float(np.mean(shares))
    return figures


class Planted:
    """Sequences of clips, each of a path of its own, in which one path of three seconds is planted.

    A path is a sum of sines of random directions, whose speed is that of the planted one. A clip is the mean of one
    second of it, and noise; a clip begins every ``stride_s``. So where the planted part begins and ends, clips are of
    both. The query's own lasts from 3 s to 6 s; the others' are played ``speed`` times as fast.
    """

    def __init__(
        self, rng: np.random.Generator, n_videos: int, stride_s: float, noise: float, speeds: tuple[float, float]
    ):
        self.videos, self.truth = [], {}
        planted = self._make_path(rng)
        for number in range(n_videos):
            speed = 1.0 if number == 0 else rng.uniform(*speeds)
            length_s = 3.0 / speed
            start_s = 3.0 if number == 0 else rng.uniform(1.0, 25.0)
            own = self._make_path(rng)
            starts_s = np.arange(0, 30.0, stride_s)
            moments = starts_s[:, None] + np.arange(0.05, 1.0, 0.1)
            inside = (moments >= start_s) & (moments < start_s + length_s)
            values = np.where(inside[..., None], planted((moments - start_s) * speed), own(moments)).mean(axis=1)
            values += rng.normal(0, noise, values.shape)
            self.videos.append(ClipPath(str(number), values.astype(np.float32), starts_s, starts_s + 1.0))
            self.truth[str(number)] = (start_s, start_s + length_s)

    def _make_path(self, rng: np.random.Generator, dim: int = 64, n_waves: int = 6) -> Any:
        directions, phases = rng.normal(size=(n_waves, dim)), rng.uniform(0, 2 * np.pi, n_waves)
        rates = rng.uniform(0.5, 3.0, n_waves)
        return lambda times: np.sin(times[..., None] * rates + phases) @ directions / np.sqrt(n_waves)

    def measure(self) -> dict[str, Any]:
        """Return the fraction of the other videos that are found, at both ends within half a second."""
        found = rank_pieces(self.videos[0], (3.0, 6.0), self.videos, len(self.videos) - 1)
        best = {match.video_id: np.array([match.start_s, match.end_s], float) for match in reversed(found)}
        nowhere = np.full(2, np.inf)
        offs = [np.abs(best.get(one, nowhere) - truth).max() for one, truth in list(self.truth.items())[1:]]
        return {
            "found": float(np.mean(np.array(offs) <= 0.5)),
            "median off (s)": float(np.median(offs)),
        }


def measure_parts(n_videos: int, n_seeds: int) -> dict[str, Any]:
    """Return the figures of planted parts, by the stride of the clips, the noise and the speeds."""
    figures = {}
    for stride_s in (0.25, 0.5, 1.0):
        for noise in (0.05, 0.2):
            for speeds in ((1.0, 1.0), (0.75, 1.33), (0.6, 1.6)):
                each = [
                    Planted(np.random.default_rng(seed), n_videos, stride_s, noise, speeds).measure()
                    for seed in range(n_seeds)
                ]
                name = f"stride {stride_s} s, noise {noise}, speed {speeds[0]} to {speeds[1]}"
                figures[name] = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
    return figures


COPIES: dict[str, dict[str, Any]] = {
    "encoded again": {},
    "half the size": {"scale": 0.5},
    "darker": {"gain": 0.8},
    "half a second cut off": {"skip_s": 0.5},
}


def copy_video(source: Path, target: Path, scale: float = 1.0, gain: float = 1.0, skip_s: float = 0.0) -> None:
    """Encode a video again, and change it on the way."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        video = read.streams.video[0]
        stream = written.add_stream("libx264", rate=video.average_rate, options={"crf": "23"})
        stream.width, stream.height = (2 * round(scale * side / 2) for side in (video.width, video.height))
        stream.pix_fmt = "yuv420p"
        for frame in read.decode(video):
            if frame.time >= skip_s - 1e-6:
                pixels = frame.to_ndarray(format="rgb24", width=stream.width, height=stream.height)
                written.mux(stream.encode(av.VideoFrame.from_ndarray((pixels * gain).astype(np.uint8), format="rgb24")))
        written.mux(stream.encode())


def measure_copies(videos: Path, folder: Path) -> dict[str, Any]:
    """Return how many of the copies of a collection's videos are grouped with what they are copies of, and no other."""
    for name in ("all", "run-copies"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "all").mkdir()
    originals = sorted(videos.rglob("*.mp4"))
    kinds = {}
    for number, source in enumerate(originals):
        shutil.copy(source, folder / "all" / source.name)
        if number % 4 == 0:
            kind = list(COPIES)[number // 4 % len(COPIES)]
            kinds[f"copy-{source.name}"] = kind
            copy_video(source, folder / "all" / f"copy-{source.name}", **COPIES[kind])
    paths, _ = embed(folder / "all", folder / "run-copies")
    names = [video.uri.rpartition("/")[2] for video in find_videos(folder / "all")]
    reduced, _ = reduce_trajectories(paths, ReduceConfig())
    found = group_duplicates(reduced.values)
    groups = [{names[i] for i in group} for group in found.groups]
    figures: dict[str, Any] = {"videos": len(names), "copies": len(kinds), "threshold": found.threshold}
    figures["found"] = {
        kind: sum({name, name.removeprefix("copy-")} in groups for name in kinds if kinds[name] == kind)
        for kind in COPIES
    }
    figures["wrong groups"] = sum(not any(name in kinds for name in group) or len(group) > 2 for group in groups)
    copies = np.array([name in kinds or f"copy-{name}" in kinds for name in names])
    figures["distance to the nearest, copies"] = np.quantile(found.nearest[copies], [0, 0.5, 1]).tolist()
    figures["distance to the nearest, others"] = np.quantile(found.nearest[~copies], [0, 0.5, 1]).tolist()
    return figures


def make_paths(rng: np.random.Generator, n: int, n_steps: int, dim: int, n_kinds: int = 200) -> np.ndarray:
    """Return n paths of some kinds, each warped in time, shifted a little by a path of its own, and noisy."""
    at = np.linspace(0, 1, n_steps)
    waves = rng.normal(size=(n_kinds, 4, dim)) / np.arange(1, 5)[:, None]
    phases = rng.uniform(0, 2 * np.pi, (n_kinds, 4))
    kind = rng.integers(n_kinds, size=n)
    power = np.exp(rng.normal(0, 0.4, (n, 1)))
    times = at**power + 0.05 * np.sin(2 * np.pi * at) * rng.normal(size=(n, 1))
    bases = np.sin(2 * np.pi * times[:, :, None] * np.arange(1, 5) + phases[kind][:, None])
    paths = np.einsum("ntw,nwd->ntd", bases, waves[kind] + rng.normal(0, 0.15, (n, 4, dim)))
    return (paths + rng.normal(0, 0.05, paths.shape)).astype(np.float32)


def write_run(folder: Path, paths: np.ndarray, gamma: float) -> Run:
    """Write a run directory of some paths, in as many files as clustering would."""
    run = Run(str(folder))
    ids = tuple(f"v{i:08d}" for i in range(len(paths)))
    kept = Trajectories(ids, paths, np.full(len(paths), paths.shape[1]))
    for number, start in enumerate(range(0, len(paths), ROWS_PER_FILE)):
        table = to_table(kept, slice(start, start + ROWS_PER_FILE), {})
        names = ["reduced" if name == "trajectory" else name for name in table.column_names]
        metadata = {key.replace(b"trajectory", b"reduced"): value for key, value in table.schema.metadata.items()}
        run.write_table(
            f"trajectories/{number:05d}.parquet", table.rename_columns(names).replace_schema_metadata(metadata)
        )
    columns = {"video_id": ids, "uri": [f"file:///{one}.mp4" for one in ids], "status": [OK] * len(ids)}
    rows = pa.table({**columns, **{name: [None] * len(ids) for name in VIDEOS.names if name not in columns}})
    run.write_table("videos.parquet", rows.select(VIDEOS.names).cast(VIDEOS))
    run.write_json("metrics.json", {"gamma": gamma})
    run.record(state=EMBEDDED, config={}, encoder={"name": "none", "dim": paths.shape[2], "fingerprint": ""})
    return run


def measure_scale(n: int, n_steps: int, dim: int, n_queries: int, folder: Path) -> dict[str, Any]:
    """Return seconds a query and the recall of sifting among n synthetic trajectories."""
    rng = np.random.default_rng(0)
    paths = np.concatenate([make_paths(rng, min(10_000, n - i), n_steps, dim) for i in range(0, n, 10_000)])
    gamma = auto_gamma(paths[:10_000])
    ids = tuple(f"v{i:08d}" for i in range(n))
    parts = [
        Trajectories(ids[i : i + ROWS_PER_FILE], paths[i : i + ROWS_PER_FILE], np.empty(0))
        for i in range(0, n, ROWS_PER_FILE)
    ]
    seconds: dict[str, list[float]] = {"exact": [], "sifted": []}
    recalls = []
    divergences(paths[0], paths[:100], gamma)  # compile
    for row in rng.choice(n, n_queries, replace=False):
        found = {}
        for name in seconds:
            started = time.perf_counter()
            matches = rank_paths(paths[row], parts, gamma, 10, skip=ids[row], pooled=name == "sifted")
            seconds[name].append(time.perf_counter() - started)
            found[name] = {match.video_id for match in matches}
        recalls.append(len(found["exact"] & found["sifted"]) / 10)
    run = write_run(folder / f"run-{n}-{n_steps}-{dim}", paths, gamma)
    started = time.perf_counter()
    search(run, ids[0], n=10)
    return {
        "trajectories": n,
        "steps": n_steps,
        "dimensions": dim,
        **{f"seconds a query, {name}": float(np.median(each)) for name, each in seconds.items()},
        "recall at 10, sifted": float(np.mean(recalls)),
        "seconds of a search, files read": time.perf_counter() - started,
        "sifted there": not is_affordable(n, n_steps, dim),
    }


def _demo(folder: Path, seed: int) -> Path:
    """Return the demo's videos, rendered unless they are there."""
    videos = folder / f"videos-{seed}"
    if not videos.exists():
        render_demo(videos, seed=seed)
    return videos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo-seeds", type=int, nargs="*", default=[101, 102, 103])
    parser.add_argument("--n", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where videos and runs are kept, to go on from")
    parser.add_argument("--only", nargs="*", default=["whole", "copies", "parts", "scale"])
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        if "whole" in arguments.only:
            for seed in arguments.demo_seeds:
                paths, labels = embed(_demo(folder, seed), folder / f"run-{seed}")
                figures[f"precision, demo, seed {seed}"] = measure_precision(paths, labels)
            robots = Path(os.environ.get("RAYPIPE_TEST_DATA", "../shared/data")) / "videos" / "robot_tasks"
            if robots.is_dir():
                figures["precision, robot_tasks"] = measure_precision(*embed(robots, folder / "run-robots"), None)
        if "copies" in arguments.only:
            figures["copies"] = measure_copies(_demo(folder, arguments.demo_seeds[0]), folder)
        if "parts" in arguments.only:
            figures["parts"] = measure_parts(arguments.videos, arguments.seeds)
        if "scale" in arguments.only:
            sizes = [(n, *shape) for n in arguments.n for shape in ((16, 5), (64, 16)) if n * shape[0] * shape[1] < 2e8]
            figures["scale"] = [measure_scale(*size, 10, folder) for size in sizes]
    for title, content in figures.items():
        print(title, content, flush=True)
    kept = RESULTS / "search.json"
    before = json.loads(kept.read_text())["figures"] if kept.exists() else {}
    print(f"kept in {keep('search', {**before, **figures})}")


if __name__ == "__main__":
    main()
