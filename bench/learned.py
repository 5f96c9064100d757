"""Learned trajectories: skeleton actions seen from another view, clusters of three data sets, and spans of long videos.

    python -m bench.learned [--only skeletons choice clusters spans] [--skeletons FILE] [--gallery 1] [--query 2]
        [--variants "as chosen" bidirectional]

``skeletons``: NW-UCLA (``skeletons/nw_ucla_views12.npz`` below RAYPIPE_TEST_DATA). The network learns from the
sequences of the gallery's views, and each sequence of the query's view gets the action of the nearest of the gallery,
by the cosine of the states; mean and standard deviation of five seeds, beside the same networks as they were drawn,
and soft-DTW between the very same sequences. Each is prepared by `in_body_frame`, the same for all that are compared,
and resampled to 20 steps; "camera" is without it. ``choice``: how the defaults were chosen, on view 1 alone: each
sequence gets the action of the nearest one by another subject. ``clusters``: the adjusted Rand index against the
classes of k-means of learned states, of soft-DTW k-means of the paths, and of k-means of mean vectors. ``spans``:
videos of ``raypipe demo`` joined end to end, embedded at 5 frames a second and clustered by the command; a change
counts as found within half a second of a join.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import RESULTS, keep
from raypipe import pipeline
from raypipe.analysis.evaluation import score_agreement, score_mean_pooled
from raypipe.clustering import fit_clusters
from raypipe.config import ClusterConfig, ReduceConfig, make_config
from raypipe.demo import BEHAVIOURS, film, render_demo, write_pictures
from raypipe.progress import Progress
from raypipe.reduction import reduce_trajectories
from raypipe.runs.directory import Run
from raypipe.schema import Trajectories
from raypipe.softdtw import auto_gamma, cdist_soft_dtw
from raypipe.trajectories import build_trajectories, interpolate
from raypipe.trajectories.learned import Seq2SeqEmbedder

DATA = Path(os.environ.get("RAYPIPE_TEST_DATA", Path(__file__).resolve().parents[1] / "../shared/data")).resolve()
N_SEEDS = 5
N_STEPS = 20
TOLERANCE_S = 0.5
ROOT, SPINE_TOP = 0, 2  # Joints of the Kinect: the middle of the hips, and of the shoulders.
ACROSS = ((16, 12), (8, 4))  # From the left hip to the right one, and from shoulder to shoulder.
VARIANTS: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "bidirectional": {"bidirectional": True},
    "decoder fixed_state": {"decoder": "fixed_state"},
    "decoder fixed_weights": {"decoder": "fixed_weights"},
    "target predict, decoder fixed_state": {"target": "predict", "decoder": "fixed_state"},
    "lstm": {"cell": "lstm"},
    "hidden_size 128": {"hidden_size": 128},
    "hidden_size 512": {"hidden_size": 512},
}


def in_body_frame(sequence: np.ndarray) -> np.ndarray:
    """Return a skeleton sequence, (T, 60) of 20 joints, as seen from its own body.

    The middle of the hips is the origin of every frame. All frames are turned about the vertical by one angle, after
    which the lines across hips and shoulders (the median over time of each joint) lie along x together, and are divided
    by one length, the median of that from the hips to the shoulders' middle.
    """
    joints = sequence.reshape(len(sequence), 20, 3).astype(np.float64)
    centered = joints - joints[:, ROOT, None]
    usual = np.median(centered, axis=0)
    across = sum(usual[right] - usual[left] for right, left in ACROSS)
    up = np.array([0.0, 1.0, 0.0])
    across = across - up * (across @ up)
    across /= np.linalg.norm(across) or 1.0
    axes = np.stack([across, up, np.cross(across, up)])
    length = float(np.median(np.linalg.norm(centered[:, SPINE_TOP], axis=1))) or 1.0
    return (centered @ axes.T / length).reshape(len(sequence), 60)


def read_skeletons(path: Path, prepare: Any = in_body_frame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return sequences, (n, N_STEPS, 60) float32, and the action, view and subject of each."""
    with np.load(path, allow_pickle=False) as file:
        parts = np.split(file["values"], np.cumsum(file["lengths"])[:-1])
        names, actions = file["names"], file["labels"]
    values = [interpolate(prepare(part), np.arange(len(part)), N_STEPS) for part in parts]
    of = {
        "action": actions,
        "view": np.array([int(n[-1]) for n in names]),
        "subject": np.array([n[4:7] for n in names]),
    }
    return np.stack(values).astype(np.float32), of


def nearest(gallery: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosine distance of each of the query's vectors to each of the gallery's."""
    gallery, query = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (gallery, query))
    return 1 - query @ gallery.T


def accuracy(distances: np.ndarray, gallery: np.ndarray, query: np.ndarray) -> float:
    return float(np.mean(gallery[distances.argmin(axis=1)] == query))


def compare_views(path: Path, gallery: list[int], query: list[int], variants: list[str]) -> dict[str, Any]:
    """Return the accuracies of 1-NN from view to view."""
    values, of = read_skeletons(path)
    camera, _ = read_skeletons(path, lambda part: part)
    train, test = np.flatnonzero(np.isin(of["view"], gallery)), np.flatnonzero(np.isin(of["view"], query))
    actions = of["action"][train], of["action"][test]
    found: dict[str, Any] = {"sequences": {"gallery": len(train), "query": len(test)}}
    for name in variants:
        scores: dict[str, list[float]] = {"learned": [], "untrained": [], "epochs": [], "cpu_s": []}
        for seed in range(N_SEEDS):
            started = time.process_time()
            learned = Seq2SeqEmbedder(**VARIANTS[name], random_state=seed, device="cpu").fit(values[train])
            scores["cpu_s"].append(time.process_time() - started)
            scores["epochs"].append(len(learned.history_) - 1)
            drawn = Seq2SeqEmbedder(**VARIANTS[name], epochs=0, random_state=seed, device="cpu").fit(values[train])
            for key, model in (("learned", learned), ("untrained", drawn)):
                distances = nearest(model.transform(values[train]), model.transform(values[test]))
                scores[key].append(accuracy(distances, *actions))
            print(f"  {name}, seed {seed}: " + "  ".join(f"{k} {v[-1]:.3f}" for k, v in scores.items()), flush=True)
        found[name] = {key: {"mean": np.mean(each), "sd": np.std(each, ddof=1)} for key, each in scores.items()}

    for name, own in (("body frame", values), ("camera", camera)):
        gamma = auto_gamma(own[train])
        distances = cdist_soft_dtw(own[test], own[train], gamma=gamma)
        found[f"soft-DTW, {name}"] = accuracy(distances, *actions)
    return found


def choose(path: Path) -> dict[str, Any]:
    """Return what parameters are worth on view 1 alone: 1-NN among the sequences of other subjects."""
    values, of = read_skeletons(path)
    rows = np.flatnonzero(of["view"] == 1)
    same = of["subject"][rows][:, None] == of["subject"][rows][None]
    found = {}
    for name, parameters in VARIANTS.items():
        scores = []
        for seed in range(2):
            states = Seq2SeqEmbedder(**parameters, random_state=seed, device="cpu").fit_transform(values[rows])
            distances = np.where(same, np.inf, nearest(states, states))
            scores.append(accuracy(distances, of["action"][rows], of["action"][rows]))
        found[name] = float(np.mean(scores))
        print(f"  {name}: {found[name]:.3f}", flush=True)
    return found


def compare_clusters(run: Run, n_steps: int | None) -> dict[str, Any]:
    """Return the adjusted Rand indices of three ways to cluster a run's videos."""
    paths, whole = build_trajectories(run, n_steps), build_trajectories(run, None)
    videos = run.read_table("videos.parquet", ["video_id", "label", "group"]).to_pylist()
    class_of = {video["video_id"]: video["label"] or video["group"] for video in videos}
    truth = [class_of[video_id] for video_id in paths.video_ids]
    k = len(set(truth))
    assert k > 1, "the classes are known"
    found: dict[str, list[float]] = {"learned state": [], "soft-DTW k-means": [], "mean pooling": []}
    states_of = [Seq2SeqEmbedder(random_state=seed, device="cpu").fit_transform(paths) for seed in range(N_SEEDS)]
    for seed, states in enumerate(states_of):
        vectors = Trajectories(paths.video_ids, states[:, None], paths.n_clips)
        for name, given, method in (("learned state", vectors, "kmeans"), ("soft-DTW k-means", paths, "softdtw")):
            reduced, _ = reduce_trajectories(given, ReduceConfig(seed=seed))
            labels = fit_clusters(reduced.values, ClusterConfig(n_clusters=k, method=method, seed=seed)).labels
            found[name].append(score_agreement(labels, truth)["ari"] or 0.0)
        found["mean pooling"].append(score_mean_pooled(whole.values, truth, k, seed) or 0.0)
    return {name: {"mean": float(np.mean(each)), "sd": float(np.std(each, ddof=1))} for name, each in found.items()}


def embed(source: Path, folder: Path, flags: dict[str, Any]) -> Run:
    run = Run(str(folder))
    pipeline.embed(source, run, make_config(flags={"encode": {"encoder": "descriptor"}, **flags}), Progress())
    return run


def write_vowels(path: Path) -> Path:
    """Write JapaneseVowels as a source of trajectories whose labels are the speakers."""
    with np.load(DATA / "timeseries/JapaneseVowels.npz", allow_pickle=False) as file:
        parts = np.split(file["values"], np.cumsum(file["lengths"])[:-1])
        labels = file["labels"]
    content = {"trajectories": [part.tolist() for part in parts], "labels": [str(label) for label in labels]}
    path.write_text(json.dumps(content))
    return path


def join_videos(folder: Path, n_joined: int, n_each: int, seed: int) -> dict[str, list[float]]:
    """Write long videos of demo videos in a random order; return the seconds of the joins of each by its name."""
    rng = np.random.default_rng(seed)
    jobs = [(name, (seed, index, variant)) for index, name in enumerate(BEHAVIOURS) for variant in range(8)]
    order = rng.permutation(len(jobs))[: n_joined * n_each].reshape(n_joined, n_each)
    joins = {}
    for number, chosen in enumerate(order):
        parts = [list(film(*jobs[i])) for i in chosen]
        write_pictures(folder / f"long_{number}.mp4", [picture for part in parts for picture in part])
        joins[f"long_{number}.mp4"] = (np.cumsum([len(part) for part in parts])[:-1] / 10).tolist()
    return joins


def score_changes(found: list[float], true: list[float]) -> tuple[int, int, int]:
    """Return how many changes are right, how many were found, and how many there are; each counts once."""
    left, hits = sorted(found), 0
    for at in true:
        near = min(left, key=lambda other: abs(other - at), default=np.inf)
        if abs(near - at) <= TOLERANCE_S:
            hits += 1
            left.remove(near)
    return hits, len(found), len(true)


def part_videos(folder: Path, seed: int) -> dict[str, Any]:
    """Return how well the spans of joined demo videos are found."""
    joins = join_videos(folder / "videos", 3, 10, seed)
    run = embed(folder / "videos", folder / "run", {"sample": {"every_n": 2}})
    flags: dict[str, Any] = {
        "trajectory": {"method": "seq2seq"},
        "learn": {"window_s": 2.0, "epochs": 20, "seed": seed},
    }
    config = make_config(base=run.info()["config"], flags={**flags, "cluster": {"n_clusters": 2, "seed": seed}})
    started = time.process_time()
    pipeline.cluster(run, config, Progress())
    cpu_s = time.process_time() - started
    starts: dict[str, list[float]] = {name: [] for name in joins}
    labels = set()
    for before, row in pairwise(csv.DictReader(run.read_bytes("spans.csv").decode().splitlines())):
        labels |= {before["label"], row["label"]}
        if before["video_id"] == row["video_id"]:
            starts[row["uri"].rpartition("/")[2]].append(float(row["start_s"]))
    hits, found, true = np.sum([score_changes(starts[name], joins[name]) for name in joins], axis=0).tolist()
    return {
        "f1": 2 * hits / (found + true),
        "right": hits,
        "found": found,
        "joins": true,
        "kinds": len(labels),
        "cpu_s": cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["skeletons", "choice", "clusters", "spans"])
    parser.add_argument("--skeletons", type=Path, default=DATA / "skeletons/nw_ucla_views12.npz")
    parser.add_argument("--gallery", type=int, nargs="+", default=[1])
    parser.add_argument("--query", type=int, nargs="+", default=[2])
    collections = ["demo", "robot_tasks", "JapaneseVowels"]
    parser.add_argument("--data", nargs="+", default=collections, choices=collections, help="of clusters")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of spans")
    parser.add_argument("--variants", nargs="+", default=["as chosen", "bidirectional"], choices=VARIANTS)
    arguments = parser.parse_args()
    kept = RESULTS / "learned.json"
    figures = json.loads(kept.read_text())["figures"] if kept.exists() else {}
    if "skeletons" in arguments.only:
        views = f"views {arguments.gallery} to {arguments.query}"
        found = compare_views(arguments.skeletons, arguments.gallery, arguments.query, arguments.variants)
        figures.setdefault("skeletons", {}).setdefault(views, {}).update(found)
        print(json.dumps(found, indent=1), flush=True)
        keep("learned", figures)
    if "choice" in arguments.only:
        figures["choice"] = choose(arguments.skeletons)
        keep("learned", figures)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "clusters" in arguments.only:
            if "demo" in arguments.data:
                render_demo(folder / "demo")
            sources = {
                "demo": (folder / "demo", 16),
                "robot_tasks": (DATA / "videos/robot_tasks", 16),
                "JapaneseVowels": (write_vowels(folder / "vowels.json"), None),
            }
            for data in arguments.data:
                source, n_steps = sources[data]
                figures.setdefault("clusters", {})[data] = compare_clusters(
                    embed(source, folder / f"run_{data}", {}), n_steps
                )
                print(data, json.dumps(figures["clusters"][data]), flush=True)
                keep("learned", figures)
        if "spans" in arguments.only:
            for seed in arguments.seeds:
                figures.setdefault("spans", {})
                figures["spans"][f"seed {seed}"] = part_videos(folder / f"spans_{seed}", seed)
                print("spans", seed, json.dumps(figures["spans"][f"seed {seed}"]), flush=True)
            keep("learned", figures)
    print(f"kept in {kept}")


if __name__ == "__main__":
    main()
