"""What a run has embedded, and what it should have."""

import json

import numpy as np

from raypipe.segments.sampling import Span, cut


def cut_one(origin_s, length_s, sample, fps) -> list[Span]:
    """Cut one video into its pieces."""
    _, starts_s, ends_s = cut(np.array([origin_s]), np.array([length_s]), sample, np.array([float(fps)]))
    return [Span(origin_s, length_s, *edges) for edges in zip(starts_s.tolist(), ends_s.tolist(), strict=True)]


def embed_without_ray(source, config) -> dict[tuple, np.ndarray]:
    """Embed videos one after another in this process: what any run over them should find, as `read_clips` has it."""
    from raypipe.encoders import make_encoder
    from raypipe.segments.planning import plan_segments
    from raypipe.segments.stages import DecodeSegments, EncodeSegments, ProbeVideos
    from raypipe.sources import find_videos

    found, probe = find_videos(source), ProbeVideos(config.decode)
    encoder = make_encoder(**config.encode.model_dump())
    decode = DecodeSegments(config.sample, config.decode, encoder.image_size, encoder.resize_mode)
    encode = EncodeSegments(encoder, config.sample, config.encode.normalize)
    plan = plan_segments(found, [probe(video.uri) for video in found], config.sample)
    plan = plan.filter(plan["error"].is_null())
    rows = [row for segment in plan.to_pylist() for row in encode([decode(segment)])[0].to_pylist()]
    probe.close()
    decode.close()
    return _by_clip(rows, {video.video_id: video.uri for video in found})


def read_clips(run) -> dict[tuple, np.ndarray]:
    """All clips of a run by file name, segment and number; no two rows may be of one."""
    videos = run.read_table("videos.parquet", ["video_id", "uri"]).to_pylist()
    return _by_clip(run.read_table("embeddings").to_pylist(), {row["video_id"]: row["uri"] for row in videos})


def n_done(run) -> int:
    """How many segments the last embedding of a run did."""
    lines = [json.loads(line) for line in run.read_bytes("log.jsonl").splitlines()]
    begun = max(i for i, line in enumerate(lines) if line.get("step") == "find")
    return max((line["done"] for line in lines[begun:] if line["event"] == "commit"), default=0)


def statuses(run) -> dict[str, tuple[str, str | None]]:
    """Return the status and the error of each of a run's videos, by file name."""
    rows = run.read_table("videos.parquet").to_pylist()
    return {row["uri"].rpartition("/")[2]: (row["status"], row["error"]) for row in rows}


def _by_clip(rows: list[dict], uris: dict[str, str]) -> dict[tuple, np.ndarray]:
    rows = [row for row in rows if row["embedding"]]
    made = {
        (uris[row["video_id"]].rpartition("/")[2], row["segment"], row["clip_index"]): np.float32(row["embedding"])
        for row in rows
    }
    assert len(made) == len(rows), "a clip was written twice"
    return made


def assert_same_clips(first: dict[tuple, np.ndarray], second: dict[tuple, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_allclose(value, second[key], atol=1e-6)
