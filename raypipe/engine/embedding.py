"""A plan to ``embeddings/`` and ``frames/``: the streaming chain on Ray Data, from segments to committer."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy
from threadpoolctl import threadpool_limits

from raypipe.config import Config
from raypipe.decoders import split_nvdec
from raypipe.encoders import Encoder
from raypipe.engine.attempts import Attempts
from raypipe.engine.pools import HEAVY_FRAME_S, Pools, plan_pools
from raypipe.engine.probing import probe_videos
from raypipe.engine.reach import find_readable, leave_out
from raypipe.engine.session import ray_session, tell_busy, tell_full_disk
from raypipe.engine.streaming import Log, bound_blocks, in_tasks, once, progressing, stream
from raypipe.engine.workers import DecoderActor, EncoderActor, GpuActor
from raypipe.packages import is_installed, one_torch_thread
from raypipe.progress import Progress
from raypipe.runs.committer import Committer
from raypipe.runs.directory import Run
from raypipe.runs.plan import Plan, portion_size
from raypipe.schema import unpack_table
from raypipe.segments.planning import mean_frames

QUEUED_BATCHES = 4
"""So many batches are in work or wait for each actor."""

_NAME = "raypipe_embed"
_GPU = "cuda"
_MOST_REASONS = 20
_LATE_S = 1.0  # A result takes no longer to the driver; a larger difference is one of two machines' clocks.
TASK = ["video_id", "segment", "uri", "start_s", "end_s", "origin_s", "span_s", "fingerprint"]


def embed_plan(plan: Plan, versions: pa.ChunkedArray, config: Config, encoder: Encoder, progress: Progress) -> None:
    """Probe the videos that a plan lacks, and embed the segments that are left of it, all on Ray.

    Parameters
    ----------
    plan, versions
        The plan of a run, and the version of each of its videos.
    config, encoder
        What to do, and the config's encoder, made here so that its faults are reported before any actor starts.
    progress
        What is to be said goes there, and how far it is.
    """
    run = plan.run
    with ray_session(config.ray) as resources:
        for trouble in filter(None, (tell_full_disk(), tell_busy())):
            progress.say(trouble)
        plan.portion_size = portion_size(resources.get("CPU", 1))
        if n_lacking := len(plan.lacking()):
            leave_out(run, plan.videos.table["uri"], progress.say)
            pools = plan_pools(resources, config.ray, n_lacking)
            made_with = f"{encoder.fingerprint} {json.dumps(config.sample.pattern(), separators=(',', ':'))}"
            with run.step("plan"), progress.count("probing", n_lacking) as advance:
                probe_videos(plan, versions, made_with, config, pools, advance)
        plan.settle()
        plan.find_remaining(config.source.retry_failed)
        if plan.n_segments:
            leave_out(run, plan.videos.table["uri"], progress.say)
            pools = plan_pools(resources, config.ray, plan.n_segments, time_frame(encoder))
            unused = explain_unused_nvdec(config.decode.decoder, pools)
            progress.say("; ".join(filter(None, (pools.where, unused))))
            run.record_stage("embed", pools.where, unused)
            with run.step("embed"), progress.count("embedding", plan.n_videos) as advance:
                embed_segments(run, plan.remaining(), config, encoder, pools, advance, plan.n_segments)


@dataclass
class Stages:
    """What the stages have done so far, and how long they were busy, all actors together."""

    done: int = 0
    frames: int = 0
    decode_s: float = 0.0
    encode_s: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    """Segments that NVDEC left to the CPU, by reason."""

    def add(self, results: pa.Table) -> np.ndarray:
        """Count the results of a batch; return the numbers of the plan's rows that are done."""
        for reason in results["refused"].drop_null().to_pylist():
            known = reason in self.refused or len(self.refused) < _MOST_REASONS
            reason = reason if known else "other reasons"
            # The dict is replaced, not changed, because another thread may be reading it.
            self.refused = {**self.refused, reason: self.refused.get(reason, 0) + 1}
        results = _done(results)
        self.done += results.num_rows
        self.frames += sum(results["n_frames"].to_pylist())
        self.decode_s += sum(results["decode_s"].to_pylist())
        self.encode_s += sum(results["encode_s"].to_pylist())
        return results["row"].to_numpy()


def explain_unused_nvdec(decoder: str, pools: Pools) -> str | None:
    """Return why the CPU decodes all videos although torchcodec is named among the decoders; None if that is not so."""
    if "torchcodec" not in [name.strip() for name in decoder.split(",")]:
        return None
    if not pools.gpus_per_encoder:
        why = "it decodes on GPUs, and the Ray cluster has none"
    elif not is_installed("torchcodec"):
        why = "it is not installed: pip install 'raypipe[gpu]'"
    else:
        return None
    return f"torchcodec is not used, as {why}: {split_nvdec(decoder)[1]} decodes instead"


def embed_segments(
    run: Run,
    plans: Iterable[pa.Table],
    config: Config,
    encoder: Encoder,
    pools: Pools,
    progress: Callable[[float], None],
    n_segments: int,
) -> None:
    """Decode and encode segments and commit their clips to ``embeddings/``, with pictures of some in ``frames/``.

    What is lost with a worker (killed, crashed, out of memory, on a node that went away) is tried again. A segment that
    takes its worker with it every time is committed as failed. After each commit the run records how far it is.

    Parameters
    ----------
    run
        The run that the clips are committed to.
    plans
        The segments to embed: `schema.PLAN` tables without errors, one in memory at a time.
    config, pools
        What to do, and by how many actors of which kind.
    encoder
        The config's encoder. Actors make their own.
    progress
        Called with the number of videos done since the last call; a segment counts as its share of its video.
    n_segments
        How many segments there are in all, for the record.

    Raises
    ------
    RaypipeError
        If the clips cannot be written, or if Ray fails and nothing comes through.
    """
    stages = Stages()
    started = time.time()

    def record() -> None:
        so_far = {"started": started, "updated": time.time(), "segments": n_segments}
        run.record(embedding={**so_far, **asdict(stages), **asdict(pools)})
        run.log("commit", done=stages.done, frames=stages.frames)

    record()
    for plan in plans:
        share = _share_of_video(plan)
        results = _results(plan, config, encoder, pools, run.log)
        with Committer(run, lambda n_rows: record(), config.ray.commit_s) as committer, closing(results):
            for batch in results:
                rows = stages.add(batch)
                clips, frames = _unpack(batch["clips"]), _unpack(batch["frames"])
                if clips:
                    pictures = pa.concat_tables(frames) if frames else None
                    committer.add(pa.concat_tables(clips), _age(batch), pictures)
                progress(float(share[rows].sum()))
    if stages.refused:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in stages.refused.items())
        run.record(fallbacks={"decode": f"NVDEC left segments to the CPU: {reasons}"})


def _results(
    plan: pa.Table, config: Config, encoder: Encoder, pools: Pools, log: Log
) -> Generator[pa.Table, None, None]:
    """Stream segments through the chains, again and again, until each has come out of one."""
    plan = plan.append_column("row", pa.array(np.arange(plan.num_rows)))
    left = np.ones(plan.num_rows, bool)
    on_gpu, decoder = split_nvdec(config.decode.decoder)
    if on_gpu and pools.gpus_per_encoder and is_installed("torchcodec"):
        untried = left.copy()
        while untried.any():
            with progressing(lambda: int(untried.sum()), log) as losses:
                todo = plan.filter(pa.array(untried))
                for batch in once(_gpu_chain(todo, config, encoder, pools, losses), untried):
                    left[_done(batch)["row"].to_numpy()] = False
                    yield batch
    decode = config.decode.model_copy(update={"decoder": decoder})
    config = config.model_copy(update={"decode": decode})
    while left.any():
        with progressing(lambda: int(left.sum()), log) as losses:
            todo = plan.filter(pa.array(left))
            yield from once(_chain(todo, config, encoder, pools.for_tasks(todo.num_rows), losses), left)
        if left.any():
            pools = _plan_again(pools, config, int(left.sum()), encoder)


def _plan_again(pools: Pools, config: Config, n_tasks: int, encoder: Encoder) -> Pools:
    """Return the same pools, or others if the Ray cluster has lost the room for them."""
    there = ray.cluster_resources()
    return pools if pools.fit(there) else plan_pools(there, config.ray, n_tasks, time_frame(encoder))


def _unpack(packed: pa.ChunkedArray) -> list[pa.Table]:
    """Return the tables that actors have packed; null is none."""
    return [unpack_table(each.as_buffer()) for each in packed.drop_null()]


def _done(results: pa.Table) -> pa.Table:
    """Return the results that NVDEC did not leave to the CPU."""
    return results.filter(results["refused"].is_null())


def _age(results: pa.Table) -> float:
    """Return how many seconds of an actor's work would be lost with these results if the driver died now."""
    took_s = pc.max(results["took_s"]).as_py()
    on_the_way_s = min(max(time.time() - pc.min(results["ended"]).as_py(), 0.0), _LATE_S)
    return took_s + on_the_way_s + took_s  # The actor is working on its next batch already.


def _share_of_video(plan: pa.Table) -> np.ndarray:
    """Return which share of its video each segment is: (n,), 1 for a video of one segment."""
    video = plan["video_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    return 1 / np.bincount(video)[video]


def _chain(plan: pa.Table, config: Config, encoder: Encoder, pools: Pools, losses: Counter[str]) -> Iterator[pa.Table]:
    """Stream segments through both pools: all of them, or the first that fit into one dataset."""
    frames = mean_frames(plan, config.sample)
    # An encoder batch holds about encode.batch_size frames, of one long segment or of many short ones. Decoded frames
    # travel to the encoders in blocks of that size.
    per_batch = max(1, min(64, round(config.encode.batch_size / frames)))
    batch_bytes = per_batch * frames * encoder.image_size**2 * 3
    row_s = frames * HEAVY_FRAME_S
    todo = plan.select([*TASK, "row"])
    tasks = in_tasks(todo, row_s, pools.decoders, _NAME, pools.encoders)
    # Each actor has one batch in work and one waiting, and there is some room.
    bound_blocks(tasks, batch_bytes, QUEUED_BATCHES * (pools.decoders + pools.encoders))
    with Attempts() as attempts:
        dataset = tasks.map_batches(
            DecoderActor,
            fn_constructor_args=(
                *(config.sample, config.decode, encoder.image_size, encoder.resize_mode, attempts),
                find_readable(plan["uri"]),
            ),
            compute=ActorPoolStrategy(size=pools.decoders),
            num_cpus=pools.cpus,
            batch_size=None,
            batch_format="pyarrow",
        ).map_batches(
            EncoderActor,
            fn_constructor_args=(config.sample, config.encode, encoder.fingerprint, str(Path.cwd()), attempts),
            compute=ActorPoolStrategy(size=pools.encoders),
            num_cpus=pools.cpus,
            num_gpus=pools.gpus_per_encoder or None,
            batch_size=per_batch,
            batch_format="pyarrow",
        )
        yield from stream(dataset, losses)


def _gpu_chain(
    plan: pa.Table, config: Config, encoder: Encoder, pools: Pools, losses: Counter[str]
) -> Iterator[pa.Table]:
    """Stream segments through actors that decode and encode on their GPUs; NVDEC's refusals are among the results."""
    row_s = mean_frames(plan, config.sample) * HEAVY_FRAME_S
    made = encoder.fingerprint, encoder.dim, encoder.image_size, encoder.resize_mode
    form = config.sample, config.decode, config.encode, *made, _GPU
    with Attempts() as attempts:
        todo = plan.select([*TASK, "row"])
        dataset = in_tasks(todo, row_s, pools.encoders, _NAME).map_batches(
            GpuActor,
            fn_constructor_args=(form, str(Path.cwd()), attempts, find_readable(plan["uri"])),
            compute=ActorPoolStrategy(size=pools.encoders),
            num_cpus=pools.cpus,
            num_gpus=pools.gpus_per_encoder,
            batch_size=1,  # With GPUs Ray refuses None; the actor takes one segment after the other in any case.
            batch_format="pyarrow",
        )
        yield from stream(dataset, losses)


def time_frame(encoder: Encoder) -> float:
    """Measure how many seconds an encoder takes for a frame on one core of this machine."""
    with one_torch_thread(), threadpool_limits(1):
        frames = np.full((8, encoder.image_size, encoder.image_size, 3), 127, np.uint8)
        encoder(frames[:1])
        started = time.process_time()  # CPU time, because the machine may be busy with other things.
        encoder(frames)
        return (time.process_time() - started) / len(frames)
