"""What datasets cost where they lie: indexing tars, decoding a member instead of a file, reading a curator's output.

    python -m bench.members

Times are CPU times of one process. The index runs over tars on the disk, whose videos are not opened; how many bytes it
reads is counted in the file that it reads from. A member and the same file are decoded in turns, and the median of
the ratios counts.
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.machine import keep
from bench.throughput import make_videos
from raypipe.decoders.pyav import PyAVDecoder
from raypipe.sources import find_videos, read_source, tars
from raypipe.storage import canonical_uri, local_path

N_TARS, N_SAMPLES = 10, 5_000
N_LARGE, LARGE = 200, 1 << 20
N_DECODED, ROUNDS = 8, 7
N_VIDEOS, N_CLIPS, DIM = 1_000, 100, 512


def cpu_s(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def index_samples(folder: Path) -> float:
    """Return the microseconds that finding a sample of a video, a txt and a json takes."""
    meta = json.dumps({"url": "https://example.org/a", "width": 640, "score": 0.5}).encode()
    texts = (("mp4", b"\0" * 600), ("txt", b"a caption of some words"), ("json", meta))
    for tar in range(N_TARS):
        names = (f"{tar:05d}{i:04d}" for i in range(N_SAMPLES))
        write_tar(folder / f"{tar:05d}.tar", ((f"{name}.{kind}", data) for name in names for kind, data in texts))
    return 1e6 * cpu_s(lambda: find_videos(folder)) / (N_TARS * N_SAMPLES)


def count_read(path: Path) -> float:
    """Return the share of a tar's bytes that its index reads, the texts of all samples among them."""
    kinds = (("mp4", b"\1" * LARGE), ("txt", b"a caption of some words"))
    write_tar(path, ((f"{i:06d}.{kind}", data) for i in range(N_LARGE) for kind, data in kinds))
    n_read = 0

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal n_read
            data = super().read(-1 if size is None else size)
            n_read += len(data)
            return data

    @contextmanager
    def open_counted(_: str, __: int) -> Iterator[Any]:
        with Counted(str(path)) as file:
            yield file

    with mock.patch.object(tars, "open_parts", open_counted):
        assert len(tars.read_tar(canonical_uri(str(path)), lambda name: name.endswith("txt")).members) == 2 * N_LARGE
    return n_read / path.stat().st_size


def compare_decoding(folder: Path) -> list[float]:
    """Return for each round by how much longer it takes to probe and decode members than the same files."""
    files = [local_path(video.uri) or "" for video in make_videos(folder, N_DECODED)]
    write_tar(folder / "0.tar", ((Path(file).name, Path(file).read_bytes()) for file in files))
    members = [video.uri for video in find_videos(folder / "0.tar")]
    decoder = PyAVDecoder()

    def decode(uris: list[str]) -> list[np.ndarray]:
        return [
            decoder.frames(uri, np.arange(0, decoder.probe(uri).duration_s, 0.5), 224, "crop").pixels for uri in uris
        ]

    assert all(np.array_equal(*pair) for pair in zip(decode(files), decode(members), strict=True))
    return [cpu_s(lambda: decode(members)) / cpu_s(lambda: decode(files)) for _ in range(ROUNDS)]


def read_curated(root: Path) -> float:
    """Return how many clips with their metadata, one file of each a video, are read a second."""
    rng = np.random.default_rng(0)
    for name in ("ce1_embd_224p_parquet", "metas_jsonl/v0"):
        (root / name).mkdir(parents=True)
    for video in range(N_VIDEOS):
        ids = [f"{video:08d}-{clip:04d}" for clip in range(N_CLIPS)]
        vectors = pa.array(list(rng.normal(size=(N_CLIPS, DIM)).astype(np.float32)), pa.list_(pa.float64()))
        pq.write_table(pa.table({"id": ids, "embedding": vectors}), root / f"ce1_embd_224p_parquet/{video}_0.parquet")
        records = [
            {
                "span_uuid": each,
                "source_video": f"/in/{video}.mp4",
                "duration_span": [2.0 * i, 2.0 * i + 2],
                "windows": [{"start_frame": 0, "end_frame": 48, "qwen_caption": "a caption of some words"}],
                "valid": True,
            }
            for i, each in enumerate(ids)
        ]
        (root / f"metas_jsonl/v0/{video}_0.jsonl").write_text("\n".join(map(json.dumps, records)))
    return N_VIDEOS * N_CLIPS / cpu_s(lambda: read_source(root))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("tars", "decoded", "curated"):
            (folder / each).mkdir()
        ratios = compare_decoding(folder / "decoded")
        figures = {
            "index_us_a_sample": index_samples(folder / "tars"),
            "index_share_of_bytes": count_read(folder / "large.tar"),
            "member_over_file": {"median": median(ratios), "least": min(ratios), "most": max(ratios)},
            "curated_clips_per_s": read_curated(folder / "curated"),
        }
    print(json.dumps(figures, indent=2))
    print(keep("members", figures))


if __name__ == "__main__":
    main()
