"""Output folders as Cosmos Curate 1.4 and NeMo Curator 1.3 write them: embeddings, and metadata of clips."""

import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Clip = tuple[float, float, np.ndarray | None, str]
"""Start and end in seconds, the embedding (None: the clip was filtered out), and the caption of its window."""


def clip_id(source: str, start_s: float, end_s: float) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source}_{start_s}_{end_s}"))


def write_curated(
    root: Path,
    videos: dict[str, list[Clip]],
    embeddings: str = "ce1_embd_224p_parquet",
    metas: str = "json",
    cds: bool = False,
    summary: bool = True,
) -> Path:
    """Write an output folder; ``metas`` is "json" (a file a clip), "jsonl" (a file a video) or "none"."""
    for source, clips in videos.items():
        video_uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, source))
        rows = [(clip_id(source, *clip[:2]), clip) for clip in reversed(clips)]  # in no order of time
        kept = [(each, clip) for each, clip in rows if clip[2] is not None]
        vectors = pa.array([np.float32(clip[2]).tolist() for _, clip in kept], pa.list_(pa.float64()))
        table = pa.table({"id": pa.array([each for each, _ in kept], pa.string()), "embedding": vectors})
        _write_table(root / embeddings / f"{video_uuid}_0.parquet", table)
        records = [_describe(root, source, each, clip) for each, clip in rows]
        if metas == "json":
            for record in records:
                _write(root / "metas" / "v0" / f"{record['span_uuid']}.json", json.dumps(record, indent=4))
        elif metas == "jsonl":
            lines = [json.dumps(record) for record in records if record["valid"]]
            _write(root / "metas_jsonl" / "v0" / f"{video_uuid}_0.jsonl", "\n".join(lines) + "\n")
        if cds:
            told = [
                json.dumps(
                    {
                        "clip_location": str(root / "clips" / f"{each}.mp4"),
                        "model_name": "cosmos-embed1-224p",
                        "model_version": "1",
                        "source_video_location": source,
                        "caption": clip[3],
                    }
                )
                for each, clip in reversed(kept)
            ]
            of_cds = table.take(list(reversed(range(len(kept))))).append_column("$meta", [told])
            _write_table(root / "cds_parquet" / f"{video_uuid}_0.parquet", of_cds)
        for each, clip in rows:
            folder = "clips" if clip[2] is not None else "filtered_clips"
            _write(root / folder / f"{each}.mp4", "no video")
            if clip[2] is not None:
                _write(root / embeddings.removesuffix("_parquet") / f"{each}.pickle", "cos\nsystem\n(S'exit 1'\ntR.")
    if summary:
        _write(root / "summary.json", json.dumps({"num_input_videos": len(videos)}))
    return root


def _describe(root: Path, source: str, each: str, clip: Clip) -> dict:
    start_s, end_s, vector, caption = clip
    is_valid = vector is not None
    window = {"start_frame": 0, "end_frame": 48, "qwen_caption": caption, "qwen_prompt_tokens": 7}
    return {
        "span_uuid": each,
        "source_video": source,
        "duration_span": [start_s, end_s],
        "width_source": 640,
        "height_source": 480,
        "framerate_source": 24.0,
        "clip_location": str(root / ("clips" if is_valid else "filtered_clips") / f"{each}.mp4"),
        "windows": [window] if is_valid and caption else [],
        "filtered_windows": [],
        "valid": is_valid,
        "has_caption": bool(caption),
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
