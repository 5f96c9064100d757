"""What a million segments cost the driver: to plan, to go on with a run that has half of them or all, to stream.

    python -m bench.scale [--sizes 10000 100000 1000000]

The videos are rows of a manifest that are not there; plan and embeddings are made as `raypipe embed` would have made
them, with a small vector a clip. Each measurement is a process of its own, whose peak memory is the driver's.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.machine import keep
from raypipe.config import Config, make_config
from raypipe.runs import Run

CLIPS = 4  # a segment
ROWS_A_FILE = 200_000  # as after compaction
DIM = 16


class Tiny:
    """An encoder that is never called but for being tried."""

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
    return pa.chunked_array([pc.binary_join_element_wise(pa.array(np.arange(n)).cast(pa.string()), "etag", "-")])


def plan(manifest: str, folder: str) -> Measured:
    """Find and plan all videos, the probes given."""
    from raypipe.engine.embedding import encoder_of
    from raypipe.planning import plan_segments
    from raypipe.schema import Probe
    from raypipe.sources import find_videos

    started = time.monotonic()
    found = find_videos(manifest)
    found_s = time.monotonic() - started
    started = time.monotonic()
    probe = Probe(float(CLIPS), 640, 480, 30.0, 30 * CLIPS, "h264", "pyav")
    made_with = f"{encoder_of(CONFIG.encode).fingerprint} {CONFIG.sample.model_dump_json()}"
    versions = (f"{i}-etag" for i in range(len(found)))
    table = plan_segments(found, (probe for _ in found), CONFIG.sample, versions, made_with)
    run = Run(folder)
    run.write_table("plan.parquet", table)
    return {"find_s": found_s, "plan_s": time.monotonic() - started}


def write_embeddings(run: Run, share: float) -> None:
    """Commit so large a share of the planned segments."""
    from raypipe.schema import embeddings_schema

    planned = run.read_table("plan.parquet", ["video_id", "segment", "fingerprint"])
    planned = planned.slice(0, int(share * planned.num_rows))
    per_file = ROWS_A_FILE // CLIPS
    random = np.random.default_rng(0)
    for number, start in enumerate(range(0, planned.num_rows, per_file)):
        some = planned.slice(start, per_file)
        rows = some.take(pa.array(np.repeat(np.arange(some.num_rows), CLIPS)))
        n = rows.num_rows
        values = pa.array(random.random(n * DIM, np.float32))
        clip = np.tile(np.arange(CLIPS, dtype=np.int32), some.num_rows)
        columns = {name: rows[name] for name in rows.column_names}
        columns |= {"clip_index": clip, "start_s": clip.astype(float), "end_s": clip + 1.0}
        columns |= {"embedding": pa.FixedSizeListArray.from_arrays(values, DIM), "decoder": ["pyav"] * n}
        columns |= {name: pa.nulls(n, pa.string()) for name in ("error_stage", "error")}
        table = pa.table(columns).select(embeddings_schema(DIM).names).cast(embeddings_schema(DIM))
        run.write_table(f"embeddings/{number:08d}-scale.parquet", table)


def resume(manifest: str, folder: str) -> Measured:
    """Find out what is left of a run, as `raypipe embed` does it."""
    from raypipe.embeddings import Ledger
    from raypipe.engine.embedding import encoder_of
    from raypipe.resume import known_plan
    from raypipe.sources import find_videos

    run = Run(folder)
    found = find_videos(manifest)
    encoder = encoder_of(CONFIG.encode)
    kind = {"name": CONFIG.encode.encoder, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    started = time.monotonic()
    known = known_plan(run, CONFIG, kind, found, etags(len(found)))
    left = Ledger(run, known).remaining().num_rows
    return {"resume_s": time.monotonic() - started, "left": left}


def embed(manifest: str, folder: str) -> Measured:
    """Run the whole of `embed` where nothing is left to do: the driver's path, with Ray, from finding to accounting."""
    from raypipe import pipeline
    from raypipe.progress import Progress
    from raypipe.sources import find_videos

    found = find_videos(manifest)
    pipeline.read_versions = lambda uris: etags(len(uris))
    started = time.monotonic()
    pipeline.embed(found, Run(folder), CONFIG, Progress())
    return {"embed_s": time.monotonic() - started}


class Echo:
    """An actor that has nothing to do with a segment but to hand it on, one at a time as decoders do."""

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows."""
        for row in range(batch.num_rows):
            yield batch.slice(row, 1).select(["segment"])


def stream(manifest: str, folder: str) -> Measured:
    """Send all segments through two pools of actors that do nothing: what is left is Ray's cost and the driver's."""
    import ray
    from ray.data import ActorPoolStrategy

    from raypipe.engine.embedding import TASK
    from raypipe.engine.session import ray_session
    from raypipe.engine.streaming import in_tasks
    from raypipe.engine.streaming import stream as blocks_of

    with ray_session(CONFIG.ray):
        plan = Run(folder).read_table("plan.parquet").select(TASK)
        started, done = time.monotonic(), 0
        while done < plan.num_rows:
            dataset: ray.data.Dataset = in_tasks(plan.slice(done), row_s=0.3, n_actors=2)
            for n_actors in (2, 1):
                pool = ActorPoolStrategy(size=n_actors)
                dataset = dataset.map_batches(Echo, compute=pool, num_cpus=0.3, batch_size=None, batch_format="pyarrow")
            done += sum(block.num_rows for block in blocks_of(dataset))
    return {"stream_s": time.monotonic() - started}


def measure(name: str, manifest: Path, folder: Path) -> Measured:
    """Run one of these in a process of its own; return its seconds and its peak memory."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.scale", "--child", name, str(manifest), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def record(run: Run, config: Config) -> None:
    """Make a run look as if it had been begun with this config."""
    from raypipe.engine.embedding import encoder_of

    encoder = encoder_of(config.encode)
    kind = {"name": config.encode.encoder, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    run.record(config=config.model_dump(mode="json"), encoder=kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, manifest, folder = options.child
        figures = {"plan": plan, "resume": resume, "embed": embed, "stream": stream}[name](manifest, folder)
        print(json.dumps({**figures, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    rounds = []
    for n in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            manifest, run = write_manifest(Path(folder), n), Run(f"{folder}/run")
            told: dict[str, Any] = {"segments": n, "plan": measure("plan", manifest, Path(run.url))}
            record(run, CONFIG)
            write_embeddings(run, 0.5)
            told["resume"] = measure("resume", manifest, Path(run.url))
            run.remove("embeddings")
            write_embeddings(run, 1.0)
            told["embed"] = measure("embed", manifest, Path(run.url))
            told["stream"] = measure("stream", manifest, Path(run.url))
            rounds.append(told)
            print(json.dumps(told), flush=True)
    print(f"kept in {keep('scale', rounds)}")


if __name__ == "__main__":
    main()
