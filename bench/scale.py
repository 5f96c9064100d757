"""The driver's cost of a million segments: to plan, to resume a run that has half of them or all, and to stream.

    python -m bench.scale [--sizes 10000 100000 1000000]

All but the last is `raypipe embed` itself; only its actors do nothing: the videos are rows of a manifest that are not
there, each is taken to last a few seconds, and the embeddings are small and random. Each measurement is a process of
its own, the driver, whose anonymous memory is sampled for its peak. ``large`` is ``done`` in portions of 500,000.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.machine import keep
from raypipe.config import make_config
from raypipe.runs.directory import Run
from raypipe.schema import memory_mapped

CLIPS = 4  # in each segment
ROWS_A_FILE = 50_000  # a usual size after some commits
DIM = 16


class Tiny:
    """An encoder that is called only once, when it is made and tried."""

    dim, image_size, resize_mode, fingerprint = DIM, 16, "squash", "tiny"

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Return ones."""
        return np.ones((len(frames), DIM), np.float32)


CONFIG = make_config(flags={"encode": {"encoder": "bench.scale:Tiny"}})
Measured = dict[str, float]


def write_manifest(folder: Path, n: int) -> Path:
    path = folder / "videos.parquet"
    uris = [f"s3://bucket/episodes/site-{i % 97:02d}/episode-{i:08d}/front.mp4" for i in range(n)]
    pq.write_table(pa.table({"uri": uris, "label": [f"task {i % 31}" for i in range(n)]}), path)
    return path


def etags(n: int) -> pa.ChunkedArray:
    parts = (np.arange(start, min(start + 10_000, n)) for start in range(0, n, 10_000))
    tables = (pa.table({"version": [f"{i}-etag" for i in part]}) for part in parts)
    return memory_mapped(tables, pa.schema([("version", pa.string())]))["version"]


def pretend(most: int) -> dict[str, float]:
    """Make `raypipe embed` read no video, start no actor, and commit at most this many segments.

    Returns
    -------
    What will be known when the embedding begins: ``begun``, the time, and ``left``, the segments there are to do.
    """
    from raypipe import pipeline
    from raypipe.engine import embedding, probing
    from raypipe.schema import Probe

    known: dict[str, float] = {}
    probe = Probe(float(CLIPS), 640, 480, 30.0, 30 * CLIPS, "h264", "pyav")

    def embed_segments(run: Run, plans: Iterable[pa.Table], *_: Any) -> None:
        known.update(begun=time.monotonic(), left=0)
        done = 0
        for plan in plans:
            known["left"] += plan.num_rows
            some = plan.slice(0, most - done)
            done += some.num_rows
            for start in range(0, some.num_rows, ROWS_A_FILE // CLIPS):
                run.write_table(run.next_name("embeddings"), clips_of(some.slice(start, ROWS_A_FILE // CLIPS)))

    pipeline.read_versions = lambda videos: etags(len(videos))
    probing.probe_uris = lambda uris, *_: ((number, probe) for number in range(len(uris)))
    setattr(embedding, "embed_segments", embed_segments)  # noqa: B010 – with fewer parameters
    return known


def as_on_a_large_cluster() -> None:
    """Make portions as large as they are where there are hundreds of CPUs."""
    from raypipe.runs import plan

    plan.PORTION_A_CPU = plan.LARGEST_PORTION


def clips_of(plan: pa.Table) -> pa.Table:
    """Make the clips of some segments."""
    from raypipe.schema import embeddings_schema

    schema, n = embeddings_schema(DIM), CLIPS * plan.num_rows
    rows = plan.select(["video_id", "segment", "fingerprint"]).take(
        pa.array(np.repeat(np.arange(plan.num_rows), CLIPS))
    )
    values = pa.array(np.random.default_rng(0).random(n * DIM, np.float32))
    clip = np.tile(np.arange(CLIPS, dtype=np.int32), plan.num_rows)
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {"clip_index": clip, "start_s": clip.astype(float), "end_s": clip + 1.0}
    columns |= {"embedding": pa.FixedSizeListArray.from_arrays(values, DIM), "decoder": ["pyav"] * n}
    columns |= {name: pa.nulls(n, pa.string()) for name in ("error_stage", "error")}
    return pa.table(columns).select(schema.names).cast(schema)


def embed(manifest: str, folder: str, most: int) -> Measured:
    """Embed, or resume embedding, at most this many segments."""
    from raypipe import pipeline
    from raypipe.progress import Progress
    from raypipe.sources import find_videos

    known = pretend(most)
    started = time.monotonic()
    found = find_videos(manifest)
    found_s = time.monotonic() - started
    started = time.monotonic()
    pipeline.embed(found, Run(folder), CONFIG, Progress())
    ended = time.monotonic()
    begun = known.get("begun", ended)
    return {
        "left": known.get("left", 0),
        "find_s": found_s,
        "until_embedding_s": begun - started,
        "then_s": ended - begun,
    }


class Echo:
    """An actor that only passes segments on, one at a time as decoders do."""

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows."""
        for row in range(batch.num_rows):
            yield batch.slice(row, 1).select(["segment"])


def stream(folder: str) -> Measured:
    """Send all segments through two pools of actors that do nothing, which leaves the cost of Ray and the driver."""
    import ray
    from ray.data import ActorPoolStrategy

    from raypipe.engine.embedding import TASK
    from raypipe.engine.session import ray_session
    from raypipe.engine.streaming import in_tasks
    from raypipe.engine.streaming import stream as blocks_of

    run = Run(folder)
    with ray_session(CONFIG.ray):
        started = time.monotonic()
        for group in range(run.n_groups("plan.parquet")):
            plan, done = run.read_table("plan.parquet", TASK, group), 0
            while done < plan.num_rows:
                dataset: ray.data.Dataset = in_tasks(plan.slice(done), row_s=0.3, n_actors=2)
                for n_actors in (2, 1):
                    dataset = dataset.map_batches(
                        Echo,
                        compute=ActorPoolStrategy(size=n_actors),
                        num_cpus=0.3,
                        batch_size=None,
                        batch_format="pyarrow",
                    )
                done += sum(block.num_rows for block in blocks_of(dataset, Counter()))
    return {"stream_s": time.monotonic() - started}


class PeakMemory:
    """Samples how much anonymous memory this process has, and keeps the most.

    Pages of memory-mapped files are left out, which the system can drop at any time. The kernel keeps a peak of its own
    (VmHWM) only for both together.
    """

    def __init__(self) -> None:
        self.mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            self._look()

    def _look(self) -> None:
        status = Path("/proc/self/status").read_text()
        self.mb = max(self.mb, int(status.split("RssAnon:")[1].split()[0]) / 1024)

    def end(self) -> float:
        """Stop sampling; return the most in MB."""
        self._ended.set()
        self._thread.join()
        self._look()
        return self.mb


def measure(name: str, manifest: Path, folder: Path, *, most: int = 0) -> Measured:
    """Run one measurement in a process of its own; return its seconds and its peak memory."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "bench.scale",
        "--child",
        name,
        str(manifest),
        str(folder),
        str(most),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, manifest, folder, most = options.child
        if name == "large":
            as_on_a_large_cluster()
        memory = PeakMemory()
        figures = stream(folder) if name == "stream" else embed(manifest, folder, int(most))
        print(json.dumps({**figures, "peak_mb": memory.end()}))
        return
    rounds = []
    for n in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            manifest, run = write_manifest(Path(folder), n), Path(folder) / "run"
            told: dict[str, Any] = {"segments": n}
            for name, most in {"plan": n // 2, "resume": n, "done": 0, "stream": 0, "large": 0}.items():
                told[name] = measure(name, manifest, run, most=most)
            rounds.append(told)
            print(json.dumps(told), flush=True)
    print(f"kept in {keep('scale', rounds)}")


if __name__ == "__main__":
    main()
