"""Runs as they are when their report is due, without having been computed."""

from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pyarrow as pa

from raypipe.clustering.result import Clustering
from raypipe.config import Config
from raypipe.decoders.thumbnails import encode_jpeg
from raypipe.runs.directory import Run
from raypipe.runs.frames import write_frames
from raypipe.runs.results import write_model
from raypipe.schema import CLUSTERS, FRAMES, VIDEOS, Frames

WRITTEN = datetime(2025, 1, 31, 12, 30, tzinfo=UTC)
HOSTILE = "<script>alert('x')</script>\"&$\\frac{'.mp4"
NAMES = (HOSTILE, '"><img src=x onerror=alert(1)>.mp4', "ملف فيديو.mp4", "=SUM(A1).mp4")
K, N, STEPS = 4, 40, 16
LABELS = ("pick then place", "place then pick", "stack", "wipe", "open drawer", "pour")


def make_run(folder, names, labels=None, groups=None, k=4, n_steps=16, failed=(), seed=0, scale=1.0) -> Run:
    """Write what lies in a run when its report is due: blobs of curved paths, one a cluster."""
    rng = np.random.default_rng(seed)
    n = len(names)
    clusters = np.arange(n) % k
    uris = [name if "://" in name else f"file:///data/robots/{name}" for name in names]
    ids = [f"00000000-0000-5000-8000-{i:012d}" for i in range(n)]
    lengths = [n_steps] * n if n_steps else rng.integers(1, 90, n).tolist()
    paths = [_path(rng, cluster, k, length) * scale for cluster, length in zip(clusters, lengths, strict=True)]
    middles = np.array([path.mean(axis=0) for path in paths])
    distances = rng.gamma(3, 0.4, n)
    odd = distances > np.quantile(distances, 0.92) if n > 3 else np.zeros(n, dtype=bool)
    videos = [
        {"video_id": i, "uri": uri, "group": g, "label": label, "duration_s": 4.0, "status": "ok"}
        for i, uri, g, label in zip(ids, uris, groups or [None] * n, labels or [None] * n, strict=True)
    ]
    broken = [
        {"video_id": f"bad-{name}", "uri": f"file:///data/{name}", "status": "failed", "error_stage": "decode"}
        | {"error": f"file:///data/{name}: decord: <b>{name}</b> spins; pyav: no frame decodes"}
        for name in failed
    ]
    run = Run(str(folder))
    run.write_table("videos.parquet", pa.Table.from_pylist(videos + broken, schema=VIDEOS))
    columns = {name: [video.get(name) for video in videos] for name in ("video_id", "uri", "group", "label")}
    columns |= {"cluster": clusters, "distance": distances, "outlier_score": distances / 2, "outlier": odd}
    run.write_table("clusters.parquet", pa.table({**columns, "x": middles[:, 0], "y": middles[:, 1]}).cast(CLUSTERS))
    picture = pa.array([path.ravel().tolist() for path in paths], pa.list_(pa.float32()))
    n_clips = pa.array([len(path) for path in paths], pa.int64())
    columns = {"video_id": ids, "n_clips": n_clips, "picture": picture}
    run.write_table("trajectories/00000.parquet", pa.table(columns))
    metrics = {"silhouette": 0.6654, "davies_bouldin": 0.4251, "silhouette_softdtw": -0.0312, "inertia": 12.5}
    metrics |= {"sizes": np.bincount(clusters).tolist(), "ari": 0.97 if labels else None, "gamma": 0.0123}
    run.write_json("metrics.json", metrics | {"truth": "label" if labels else None})
    run.record(
        config=Config().model_dump(mode="json"),
        versions={"raypipe": "0.1.0", "ray": "2.60.0", "numpy": "2.4.6"},
        implementations={"reduce": "umap-learn", "cluster": "tslearn"},
        fallbacks={"reduce": "no GPU here: umap-learn"},
        counts={"found": n + len(broken), "ok": n, "failed": len(broken), "skipped": 0, "ignored": 2},
        seconds={"plan": 1.25, "embed": 64.0, "reduce": 9.5, "cluster": 3.25},
        encoder={"name": "descriptor", "dim": 512, "fingerprint": "abc"},
    )
    return run


def _path(rng, cluster, k, n_steps):
    turn = 2 * np.pi * cluster / k
    t = np.linspace(0, 1, n_steps) ** rng.uniform(0.6, 1.6)
    curve = np.column_stack([3 * t, np.sin(2 * np.pi * t) * (1 if cluster % 2 else -1)])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (
        curve @ rotation
        + 4 * rotation[:, 0] * (cluster % 3)
        + rng.normal(0, 0.25, 2)
        + rng.normal(0, 0.06, (n_steps, 2))
    )


def frames_of(uri, times_s, image_size):
    """A ball that crosses a coloured ground."""
    hue = sum(uri.encode()) % 7
    pictures = [_draw_ball(hue, float(time_s), image_size) for time_s in times_s]
    return Frames(np.stack(pictures), np.asarray(times_s) + 0.01, np.arange(len(times_s)), "fake")


@lru_cache(256)
def _draw_ball(hue, time_s, image_size) -> np.ndarray:
    y, x = np.mgrid[0:image_size, 0:image_size] / image_size
    ball = np.hypot(x - 0.1 - 0.2 * time_s, y - 0.5 - 0.3 * np.sin(time_s + hue)) < 0.12
    ground = np.stack([0.3 + 0.4 * x, 0.35 + 0.3 * y, 0.4 + 0.05 * hue + 0 * x], axis=2)
    return (np.where(ball[..., None], (0.95, 0.45, 0.2), ground) * 255).astype(np.uint8)


def keep_pictures(run, n_clips, frames=frames_of) -> None:
    """Write what an embedding keeps of the run's videos: ``n_clips`` pictures each, a second apart."""
    rows = run.read_table("videos.parquet", ["video_id", "uri"]).to_pylist()
    segment = {"fingerprint": "f", "origin_s": 0.0, "span_s": float(n_clips)}
    run.write_table("plan.parquet", pa.Table.from_pylist([{"video_id": row["video_id"], **segment} for row in rows]))
    run.write_table("embeddings/0.parquet", pa.table({"n": [0]}))
    kept = []
    for row in rows:
        keys = {"video_id": row["video_id"], "fingerprint": "f"}
        for i, picture in enumerate(frames(row["uri"], np.arange(n_clips), 200).pixels):
            jpeg = picture if isinstance(picture, bytes) else encode_jpeg(picture[20:180])  # wider than high
            kept.append({**keys, "clip_index": i, "time_s": float(i), "frame": jpeg})
    write_frames(run, "embeddings/0.parquet", pa.Table.from_pylist(kept, schema=FRAMES))


def make_explored_run(folder, n=N, k=K, frames=frames_of) -> Run:
    """Write a run of n videos, the first of hostile names, as if soft-DTW had clustered the very paths of the map."""
    names = [*NAMES, *(f"episode_{i:03d}.mp4" for i in range(len(NAMES), n))]
    labels = [LABELS[i % k % len(LABELS)] for i in range(n)]
    run = make_run(folder, names, labels, [f"robot {i % 3}" for i in range(n)], k=k, n_steps=STEPS)
    table = run.read_table("trajectories/00000.parquet")
    table = table.set_column(1, "n_clips", pa.array([9] * n)).append_column("reduced", table["picture"])
    metadata = {"reduced.dim": "2", "reduced.n_steps": str(STEPS)}
    run.write_table("trajectories/00000.parquet", table.replace_schema_metadata(metadata))
    paths = np.array(table["reduced"].to_pylist()).reshape(n, STEPS, 2)
    centers = np.array([paths[i::k].mean(axis=0) for i in range(k)])
    write_model(run, Config(), Clustering(np.arange(n) % k, np.zeros(n), centers, 1.0, 3, 0.0123, "here", None), {})
    keep_pictures(run, 9, frames)
    return run
