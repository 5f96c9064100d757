"""Which planted faults are found among the demo's videos, and where: against the distance to the own center.

    python -m bench.outliers [--seeds 20] [--clusters 3 5 8]

Each seed is a run of its own: videos of two behaviours of the demo, and one video of each fault, made by altering
pictures before they are encoded. As many videos are flagged as faults were planted, by ``outlier_score`` and by the
distance to the own center, so that precision and recall of each are equal; the verdict in ``outliers.csv`` is free to
name fewer. The baseline's span is where the video lies farther from its own center, along their alignment, than it does
on average: the stretch with the largest sum of that. A video that is not flagged has no span, so its intersection over
union is 0. What a truncated video lacks is not in the file, so it has no span either, and counts for the video only.
"""

import argparse
import csv
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.machine import keep
from raypipe import pipeline
from raypipe.analysis.examination import edges_of, spread_of
from raypipe.analysis.outliers import find_threshold, score_outliers
from raypipe.config import make_config
from raypipe.demo import FPS, draw_pace, film, follow_loop, write_pictures
from raypipe.demo.scene import draw_look
from raypipe.engine.session import ray_session
from raypipe.engine.transform import map_tasks
from raypipe.progress import Progress
from raypipe.runs.clips import iter_clip_paths
from raypipe.runs.directory import Run
from raypipe.runs.outlier_table import judge_videos
from raypipe.runs.results import ROWS_PER_FILE, read_trajectories
from raypipe.schema import Trajectories, embeddings_schema
from raypipe.softdtw import auto_gamma
from raypipe.softdtw.alignment import align_pairs

# A task looks much the same backwards, so the demo's six behaviours are all the orders of its three tasks, and a video
# that is reversed, or does two tasks in the other order, is like those of another behaviour. Among these two it is not.
SHOWN = ["pick_scan_place", "scan_place_pick"]
LEGS_PER_TASK = 5
EVERY = 5  # Of the demo's ten pictures a second these videos have two, as many as are sampled.
RATE = FPS // EVERY
Pictures = list[np.ndarray]
Span = tuple[int, int]


def kill_camera(pictures: Pictures, positions: np.ndarray, rng: np.random.Generator) -> tuple[Pictures, Span]:
    """Show black for 30 to 50 % of the video."""
    n = len(pictures)
    length = int(n * rng.uniform(0.3, 0.5))
    start = int(rng.integers(n // 5, n - length + 1))
    dark = [np.zeros_like(pictures[0])] * length
    return pictures[:start] + dark + pictures[start + length :], (start, start + length)


def reverse(pictures: Pictures, positions: np.ndarray, rng: np.random.Generator) -> tuple[Pictures, Span]:
    """Show the pictures in the other order."""
    return pictures[::-1], (0, len(pictures))


def freeze_half(pictures: Pictures, positions: np.ndarray, rng: np.random.Generator) -> tuple[Pictures, Span]:
    """Show one picture for the first or the second half."""
    n = len(pictures)
    start = int(rng.integers(2)) * (n // 2)
    frozen = [pictures[start]] * (n // 2)
    return pictures[:start] + frozen + pictures[start + n // 2 :], (start, start + n // 2)


def swap_steps(pictures: Pictures, positions: np.ndarray, rng: np.random.Generator) -> tuple[Pictures, Span]:
    """Show two neighbouring tasks of the three in the other order: those whose exchange explains nothing else."""
    gone = np.abs(positions - positions[0])
    edges = [0, *np.searchsorted(gone, [LEGS_PER_TASK, 2 * LEGS_PER_TASK]).tolist(), len(pictures)]
    first = 1 if np.isclose(positions[0] % (3 * LEGS_PER_TASK), 0) else 0
    low, middle, high = edges[first : first + 3]
    return pictures[:low] + pictures[middle:high] + pictures[low:middle] + pictures[high:], (low, high)


def cut_off(pictures: Pictures, positions: np.ndarray, rng: np.random.Generator) -> tuple[Pictures, None]:
    """Keep the first 40 to 65 %: what is wrong is not in the file."""
    return pictures[: int(len(pictures) * rng.uniform(0.4, 0.65))], None


FAULTS: dict[str, Callable[..., tuple[Pictures, Span | None]]] = {
    "dead camera": kill_camera,
    "reversed": reverse,
    "frozen half": freeze_half,
    "swapped step": swap_steps,
    "truncated": cut_off,
}


def plant(job: tuple[Path, str, tuple[int, ...], str | None]) -> tuple[float, float] | None:
    """Write a video, with a fault if one is named; return the fault's span in seconds."""
    path, behaviour, seed, fault = job
    pictures = list(film(behaviour, seed, EVERY))
    span: Span | None = None
    if fault:
        rng = np.random.default_rng(seed)
        draw_look(rng)
        positions = follow_loop(behaviour, *draw_pace(rng))[::EVERY]
        pictures, span = FAULTS[fault](pictures, positions, np.random.default_rng((*seed, 1)))
    write_pictures(path, pictures, RATE)
    return None if span is None else (span[0] / RATE, span[1] / RATE)


def list_jobs(folder: Path, seed: int, n_variants: int) -> list[tuple[Path, str, tuple[int, ...], str | None]]:
    """Return what `plant` shall write: the behaviours' videos, and one video of each fault."""
    good = [
        (folder / f"{name}_{variant:02d}.mp4", name, (seed, index, variant), None)
        for index, name in enumerate(SHOWN)
        for variant in range(n_variants)
    ]
    rng = np.random.default_rng(seed)
    odd = []
    for number, fault in enumerate(FAULTS):
        index = int(rng.integers(len(SHOWN)))
        path = folder / f"fault_{fault.replace(' ', '_')}.mp4"
        odd.append((path, SHOWN[index], (seed, index, n_variants + number), fault))
    return [*good, *odd]


def read_outliers(run: Run) -> dict[str, dict[str, str]]:
    """Return the rows of ``outliers.csv`` by the file's name."""
    rows = csv.DictReader(io.StringIO(run.read_bytes("outliers.csv").decode()))
    return {row["uri"].rpartition("/")[2]: row for row in rows}


def overlap(one: Any, other: Any) -> float:
    """Return the intersection over union of two spans in seconds; 0 if one is None."""
    if one is None or other is None:
        return 0.0
    common = min(one[1], other[1]) - max(one[0], other[0])
    return max(common, 0.0) / (max(one[1], other[1]) - min(one[0], other[0]))


def best_run(gains: np.ndarray) -> tuple[int, int]:
    """Return the run with the largest sum, ``start ≤ step < end`` (Bentley, CACM 1984)."""
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    end = int((sums[1:] - np.minimum.accumulate(sums)[:-1]).argmax()) + 1
    return int(sums[:end].argmin()), end


def judge_by_distance(run: Run, quantile: float) -> dict[str, tuple[float, float]]:
    """Flag by the distance to the own center; return the span of each flagged video, by the file's name."""
    clusters = run.read_table("clusters.parquet", ["video_id", "uri", "cluster", "distance"]).to_pylist()
    distances = np.array([row["distance"] for row in clusters])
    paths = read_trajectories(run, "reduced")
    centers = np.load(io.BytesIO(run.read_bytes("model/centers.npy")))
    gamma = run.read_json("metrics.json")["gamma"]
    flagged = np.flatnonzero(distances > find_threshold(distances, quantile)).tolist()
    clips = {each.video_id: each for each in iter_clip_paths(run, [paths.video_ids[row] for row in flagged])}
    found = {}
    for row in flagged:
        path = np.asarray(paths.values[row], np.float64)
        far = spread_of(path, centers[clusters[row]["cluster"]], gamma)[0]
        start, end = best_run(far - far.mean())
        edges = edges_of(clips[paths.video_ids[row]], len(path), "time")
        assert edges is not None
        found[clusters[row]["uri"].rpartition("/")[2]] = (float(edges[start]), float(edges[end]))
    return found


def measure(run: Run, planted: dict[str, tuple[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each video that is flagged or has a fault; ``planted`` is fault and span by the file's name."""
    rows = read_outliers(run)
    by_distance = judge_by_distance(run, 1 - len(planted) / len(rows))
    found = []
    for name, row in rows.items():
        fault, span = planted.get(name, (None, None))
        if fault is None and row["outlier"] == "false" and name not in by_distance:
            continue
        ours = (float(row["start_s"]), float(row["end_s"])) if row["start_s"] else None
        found.append(
            {
                "fault": fault,
                "score": row["outlier"] == "true",
                "verdict": row["verdict"] == "drop",
                "distance": name in by_distance,
                "reason": row["reason"],
                "span": span,
                "found": ours,
                "iou": None if span is None else overlap(span, ours),
                "iou_distance": None if span is None else overlap(span, by_distance.get(name)),
            }
        )
    return found


def embed_seeds(folder: Path, seeds: Sequence[int], n_variants: int) -> list[tuple[Run, dict[str, tuple[str, Any]]]]:
    """Write the videos of all seeds and embed them at once; return a run a seed, and what was planted in it."""
    jobs = [list_jobs(folder / "videos" / str(seed), seed, n_variants) for seed in seeds]
    spans = iter(list(map_tasks(plant, [job for of_seed in jobs for job in of_seed])))
    whole = Run(str(folder / "whole"))
    config = make_config(flags={"encode": {"encoder": "descriptor"}})
    pipeline.embed(folder / "videos", whole, config, Progress())
    found = []
    for seed, of_seed in zip(seeds, jobs, strict=True):
        run = Run(str(folder / f"run-{seed}"))
        take_part(whole, run, f"/videos/{seed}/")
        pairs = [(path.name, fault, next(spans)) for path, _, _, fault in of_seed]
        planted = {name: (fault, span) for name, fault, span in pairs if fault}
        found.append((run, planted))
    return found


def take_runs(folder: Path, seeds: Sequence[int], n_variants: int) -> list[tuple[Run, dict[str, tuple[str, Any]]]]:
    """Return what `embed_seeds` does; if the folder holds it already, nothing is embedded again."""
    known = folder / "planted.json"
    if not known.exists():
        with ray_session(make_config().ray):
            found = embed_seeds(folder, seeds, n_variants)
        known.write_text(json.dumps([planted for _, planted in found]))
    planted = json.loads(known.read_text())
    return [(Run(str(folder / f"run-{seed}")), each) for seed, each in zip(seeds, planted, strict=True)]


def take_part(whole: Run, part: Run, folder: str) -> None:
    """Make a run of the videos in a folder out of the run of all."""
    videos = whole.read_table("videos.parquet")
    videos = videos.filter(pc.match_substring(videos["uri"], folder))
    part.write_table("videos.parquet", videos)
    for name, target in (("plan.parquet", "plan.parquet"), ("embeddings", "embeddings/0.parquet")):
        table = whole.read_table(name)
        part.write_table(
            target, table.filter(pc.is_in(table["video_id"], value_set=videos["video_id"].combine_chunks()))
        )
    part.write_json("run.json", whole.info())


def run_seed(run: Run, planted: dict[str, tuple[str, Any]], n_clusters: int) -> list[dict[str, Any]]:
    """Cluster the videos of a seed, and measure what was found."""
    n = run.read_table("videos.parquet", ["video_id"]).num_rows
    cluster = {"n_clusters": n_clusters, "outlier_quantile": 1 - len(planted) / n}
    config = make_config(flags={"encode": {"encoder": "descriptor"}, "cluster": cluster})
    pipeline.cluster(run, config, Progress())
    return measure(run, planted)


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return precision and recall of the video, and the mean intersection over union of the span, by method."""
    odd = [row for row in rows if row["fault"]]

    def rates(key: str) -> dict[str, float]:
        named = [row for row in rows if row[key]]
        hits = sum(row["fault"] is not None for row in named)
        return {"precision": hits / max(len(named), 1), "recall": hits / len(odd)}

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    def spans(chosen: list[dict[str, Any]], key: str) -> float | None:
        return mean([row[key] for row in chosen if row["span"] is not None])

    return {
        "score": {**rates("score"), "iou": spans(odd, "iou")},
        "verdict": rates("verdict"),
        "distance": {**rates("distance"), "iou": spans(odd, "iou_distance")},
        "faults": {
            fault: {
                "recall": mean([row["score"] for row in chosen]),
                "recall_distance": mean([row["distance"] for row in chosen]),
                "iou": spans(chosen, "iou"),
                "iou_distance": spans(chosen, "iou_distance"),
                "reasons": dict(Counter(" ".join(row["reason"].split()[:2]) or "not found" for row in chosen)),
            }
            for fault in FAULTS
            if (chosen := [row for row in odd if row["fault"] == fault])
        },
    }


def measure_time(folder: Path, n: int, n_clips: int = 12, dim: int = 512, k: int = 20) -> dict[str, float]:
    """Return the CPU seconds that judging n made-up videos takes, and of these scoring all and reading the clips."""
    rng = np.random.default_rng(0)
    run = Run(str(folder / "large"))
    ids = [f"{i:08d}" for i in range(n)]
    plan = {"video_id": ids, "segment": np.zeros(n, np.int32), "uri": ids, "fingerprint": ["f"] * n}
    run.write_table("plan.parquet", pa.table({**plan, "error": pa.nulls(n, pa.string())}))
    for start in range(0, n, ROWS_PER_FILE):
        some = ids[start : start + ROWS_PER_FILE]
        m = len(some) * n_clips
        seconds = np.tile(np.arange(n_clips, dtype=float), len(some))
        columns = {
            "video_id": np.repeat(some, n_clips),
            "segment": np.zeros(m, np.int32),
            "clip_index": seconds.astype(np.int32),
            "start_s": seconds,
            "end_s": seconds + 1,
            "embedding": pa.FixedSizeListArray.from_arrays(rng.normal(size=m * dim).astype(np.float32), dim),
            "fingerprint": ["f"] * m,
            **{name: pa.nulls(m, pa.string()) for name in ("decoder", "error_stage", "error")},
        }
        run.write_table(f"embeddings/{start:08d}.parquet", pa.table(columns, schema=embeddings_schema(dim)))
    centers = rng.normal(size=(k, 16, 5)).cumsum(axis=1)
    labels = rng.integers(k, size=n)
    values = (centers[labels] + rng.normal(scale=rng.gamma(2, 0.2, (n, 1, 1)), size=(n, 16, 5))).astype(np.float32)
    paths = Trajectories(tuple(ids), values, np.full(n, n_clips))
    config = make_config()
    seconds_of: dict[str, float] = {"videos": n, "clips": n_clips, "dim": dim, "clusters": k}
    gamma = auto_gamma(values)
    # This compiles what is not yet compiled.
    score_outliers(values[:100], labels[:100], centers, gamma, np.zeros(100))
    align_pairs(values[:1], centers[:1], gamma)
    started = time.process_time()
    score_outliers(values, labels, centers, gamma, np.zeros(n))
    seconds_of["score"] = time.process_time() - started
    started = time.process_time()
    found = judge_videos(run, paths, labels, np.zeros(n), centers, gamma, config)
    seconds_of["judge"] = time.process_time() - started
    started = time.process_time()
    list(iter_clip_paths(run, [ids[row] for row in found.findings]))
    seconds_of["read"] = time.process_time() - started
    return {**seconds_of, "examined": len(found.findings)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--variants", type=int, default=12, help="videos of each behaviour")
    parser.add_argument("--clusters", type=int, nargs="+", default=[3, 5, 8], help="numbers of clusters to try")
    parser.add_argument("--first", type=int, default=100, help="the first seed; the rules were made on seeds below 100")
    parser.add_argument("--folder", help="keep the embedded runs here, or take those that are here")
    parser.add_argument("--large", type=int, default=100_000, help="made-up videos to measure the time on")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {
        "first": arguments.first,
        "seeds": arguments.seeds,
        "variants": arguments.variants,
        "clusters": {},
    }
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    with tempfile.TemporaryDirectory() as new:
        runs = take_runs(Path(arguments.folder or new), seeds, arguments.variants)
        for k in arguments.clusters:
            figures["clusters"][k] = summarise([row for run, planted in runs for row in run_seed(run, planted, k)])
            print(f"{k} clusters")
            print_figures(figures["clusters"][k])
    with tempfile.TemporaryDirectory() as folder:
        figures["time"] = measure_time(Path(folder), arguments.large)
        print(figures["time"])
    print(f"kept in {keep('outliers', figures)}")


def print_figures(figures: dict[str, Any]) -> None:
    for method in ("score", "verdict", "distance"):
        print(f"  {method:9}", {key: round(value, 3) for key, value in figures[method].items()}, flush=True)
    for fault, found in figures["faults"].items():
        print(f"    {fault}: {found}")


if __name__ == "__main__":
    main()
