"""A verb's steps in order; the work itself is in the rooms below."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raypipe.config import Config
from raypipe.decoders import resolve_chain
from raypipe.encoders import make_encoder
from raypipe.errors import RaypipeError, UsageError, one_line
from raypipe.packages import package_versions
from raypipe.progress import Progress
from raypipe.runs.accounting import Tally, account
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.plan import Portions, known_plan, quarantined
from raypipe.schema import EMBEDDED, EMBEDDING, OK, Trajectories
from raypipe.segments.planning import plan_precomputed
from raypipe.sources import find_videos, read_versions
from raypipe.sources.precomputed import is_precomputed, read_precomputed
from raypipe.sources.spool import Spool
from raypipe.sources.videos import Videos

if TYPE_CHECKING:
    from raypipe.clustering import Clustering
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
    from raypipe.engine.embedding import Stages
    from raypipe.engine.session import Pools

Source = str | Path | Videos

PORTION_A_CPU = 5_000  # videos of a portion, for each of the cluster's CPUs: each portion starts the actors anew
MOST_A_PORTION = 500_000  # however many CPUs: a portion's plan and ledger are in the driver's memory

CLUSTERS = ("trajectories", "clusters.parquet", "model", "metrics.json")  # a rerun removes what follows from it
REPORT = ("summary.json", "video_cluster_mapping.csv", "plots", "thumbnails", "report.html")


def run_all(source: Source, run: Run, config: Config, progress: Progress) -> None:
    """Embed a source, cluster its trajectories, and write the report."""
    embed(source, run, config, progress)
    cluster(run, config, progress)
    report(run, config, progress)


def embed(source: Source, run: Run, config: Config, progress: Progress) -> None:
    """Find, probe, cut, decode and encode: everything up to ``embeddings/`` and ``videos.parquet``."""
    if not isinstance(source, Videos) and is_precomputed(source):
        return _embed_precomputed(source, run, config, progress)
    from raypipe.engine.embedding import embed_segments, time_frame
    from raypipe.engine.probing import plan_videos
    from raypipe.engine.session import plan_pools, ray_session

    with _step(run, "find"):
        found = source if isinstance(source, Videos) else find_videos(source)
    if found.has_twins():
        raise UsageError("two of these videos have one id: drop one, or give each its own")
    chosen = found if config.source.limit is None else found[: config.source.limit]
    progress.say(f"found {len(found)} videos ({found.n_ignored} other files ignored)")
    resolve_chain(config.decode.decoder, "file:///any")  # a wrong name should be said now, not once a video
    encoder = make_encoder(**config.encode.model_dump())
    kind = {"name": config.encode.encoder, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    versions = read_versions(chosen)
    plan = known_plan(run, config, kind, chosen, versions)
    quarantine = quarantined(run, config, found)
    _start(run, config, kind)
    with ray_session(config.ray) as resources:
        size = min(PORTION_A_CPU * max(int(resources.get("CPU", 1)), 1), MOST_A_PORTION)
        made_with = f"{encoder.fingerprint} {config.sample.model_dump_json()}"
        new = plan.lacking()
        if len(new):
            pools = plan_pools(resources, config.ray, len(new))
            with _step(run, "plan"), progress.count("probing", len(new)) as advance:
                for start in range(0, len(new), size):
                    some = new[start : start + size]
                    videos, theirs = chosen.take(some), versions.take(some)["version"]
                    plan_videos(run, videos, theirs, made_with, config, pools.for_tasks(len(some)), advance)
        portions = Portions(run, chosen, size)
        todo = portions.remaining(config.source.retry_failed)
        if todo.n_segments:
            pools = plan_pools(resources, config.ray, todo.n_segments, time_frame(encoder))
            progress.say(pools.where)
            run.record(implementations={"embed": pools.where})
            with _step(run, "embed"), progress.count("embedding", todo.n_videos) as advance:
                tell = _teller(run, todo.n_segments, pools)
                stages = embed_segments(run, todo.tables(), config, encoder, pools, advance, tell)
                if stages.refused:
                    reasons = "; ".join(f"{reason} ({n})" for reason, n in stages.refused.items())
                    run.record(fallbacks={"decode": f"NVDEC left segments to the CPU: {reasons}"})
    with _step(run, "account"):
        _account(run, portions.account(found, quarantine, encoder.dim, progress.say), found.n_ignored, progress)


def cluster(run: Run, config: Config, progress: Progress) -> None:
    """Build trajectories, reduce, cluster, evaluate: everything right of ``embeddings/`` but the report."""
    from raypipe.clustering import fit_clusters
    from raypipe.reduction import reduce_trajectories
    from raypipe.runs.results import write_model
    from raypipe.trajectories import build_trajectories

    _check_embedded(run)
    _forget(run, CLUSTERS)
    run.record(config=config.model_dump(mode="json"))
    if config.ray.shards:
        return _cluster_sharded(run, config, config.ray.shards, progress)
    progress.say("building trajectories")
    with _step(run, "trajectories"):
        paths = build_trajectories(run, config.trajectory.n_steps, config.trajectory.time_axis)
    progress.say(f"reducing {len(paths)} trajectories: {config.reduce.method}")
    with _step(run, "reduce"):
        reduced, reducer = reduce_trajectories(paths, config.reduce)
    _record_stage(run, "reduce", reducer.implementation, reducer.reason)
    progress.say(f"clustering into {config.cluster.n_clusters}: {config.cluster.method}")
    with _step(run, "cluster"):
        clustering = fit_clusters(reduced.values, config.cluster)
    write_model(run, config, clustering, reducer.arrays())
    _keep(run, config, reduced, _draw(run, config, paths, reduced), clustering)


def _cluster_sharded(run: Run, config: Config, n_shards: int, progress: Progress) -> None:
    """Do the same on a Ray cluster, where no machine holds all trajectories."""
    from raypipe.clustering import check_shardable
    from raypipe.engine.session import ray_session
    from raypipe.engine.transform import build_files, fit_shards, reduce_files
    from raypipe.runs.results import read_trajectories, write_model

    check_shardable(config.cluster)
    with ray_session(config.ray):
        progress.say("building trajectories")
        with _step(run, "trajectories"):
            n = build_files(run, config.trajectory)
        progress.say(f"reducing {n} trajectories: {config.reduce.method}")
        with _step(run, "reduce"):
            reducer = reduce_files(run, config.reduce)
        _record_stage(run, "reduce", reducer.implementation, reducer.reason)
        progress.say(f"clustering into {config.cluster.n_clusters} over {n_shards} shards: {config.cluster.method}")
        with _step(run, "cluster"):
            clustering = fit_shards(run, config.cluster, n_shards)
        with _step(run, "picture"):
            reduce_files(run, config.reduce.for_picture(), "picture")
    write_model(run, config, clustering, reducer.arrays())
    _keep(run, config, read_trajectories(run, "reduced"), read_trajectories(run, "picture"), clustering)


def adopt(model: TimeSeriesKMeans, run: Run, config: Config, progress: Progress) -> None:
    """Take the clusters of an estimator that was fitted on the run's trajectories elsewhere."""
    from raypipe.clustering import from_estimator
    from raypipe.trajectories import build_trajectories

    _check_embedded(run)
    paths = build_trajectories(run, config.trajectory.n_steps, config.trajectory.time_axis)
    if len(model.labels_) != len(paths):
        raise UsageError(
            f"the model has {len(model.labels_)} labels, and the run {len(paths)} trajectories: fit it anew"
        )
    _forget(run, CLUSTERS)
    _keep(run, config, paths, _draw(run, config, paths, None), from_estimator(model))


def report(run: Run, config: Config, progress: Progress) -> None:
    """Write tables, pictures and ``report.html`` anew."""
    from raypipe.decoders.sandbox import Sandbox
    from raypipe.report import write_report_files

    _forget(run, ())
    progress.say("writing the report")
    decode = config.decode
    with _step(run, "report"), Sandbox(decode.decoder, decode.deadline_s, decode.deadline_factor) as sandbox:

        def frames_of(uri: str, times_s: Any, image_size: int) -> Any:
            return sandbox.frames(uri, times_s, image_size, "crop", span_s=0.0)

        write_report_files(run, frames_of, config.report)


def demo(run: Run, config: Config, seed: int, progress: Progress) -> dict[str, float]:
    """Render the labelled sample, run everything on it, and score it beside mean pooling.

    Returns
    -------
    ``trajectories`` and ``mean_pooled``: the adjusted Rand index of each against the behaviours shown, both told how
    many there are.
    """
    from raypipe.analysis.evaluation import score_mean_pooled
    from raypipe.demo import BEHAVIOURS, render_demo
    from raypipe.runs.results import read_truth
    from raypipe.trajectories import build_trajectories

    if run.exists("run.json"):
        raise UsageError(f"{run.url} already holds a run: choose another -o, or remove it")
    folder = Path(run.path("videos"))

    def map_counted(render: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        jobs = list(jobs)
        with progress.count("rendering", len(jobs)) as advance:
            for job in jobs:
                yield render(job)
                advance(1)

    with _step(run, "render"):
        render_demo(folder, seed=seed, map=map_counted)
    k = config.cluster.model_copy(update={"n_clusters": len(BEHAVIOURS)})
    run_all(folder, run, config.model_copy(update={"cluster": k}), progress)
    _, truth = read_truth(run)
    pooled = score_mean_pooled(build_trajectories(run, None).values, truth, len(BEHAVIOURS), config.cluster.seed)
    scores = {"trajectories": run.read_json("metrics.json")["ari"], "mean_pooled": pooled}
    run.record(demo={"seed": seed, "ari": scores})
    return scores


def preview(source: Source, config: Config) -> list[str]:
    """Say what a run would take, without probing or starting anything."""
    if not isinstance(source, Videos) and is_precomputed(source):
        found, _ = read_precomputed(source, config.source.allow_pickle)
    else:
        found = source if isinstance(source, Videos) else find_videos(source)
    chosen = found[: config.source.limit]
    lines = [f"would take {len(chosen)} of {len(found)} videos found ({found.n_ignored} other files ignored):"]
    lines += [f"  {video.uri}" for video in chosen[:10]]
    return [*lines, f"  … and {len(chosen) - 10} more"] if len(chosen) > 10 else lines


def _embed_precomputed(source: str | Path, run: Run, config: Config, progress: Progress) -> None:
    """Take trajectories that somebody else computed in place of embeddings."""
    with _step(run, "find"):
        found, paths = read_precomputed(source, config.source.allow_pickle)
    progress.say(f"found {len(found)} precomputed trajectories")
    chosen = found[: config.source.limit]
    fingerprint = hashlib.sha256(b"".join(path.tobytes() for path in paths)).hexdigest()
    plan, clips = plan_precomputed(chosen, paths[: len(chosen)], fingerprint[:16])
    kind = {"name": "precomputed", "dim": paths[0].shape[1], "fingerprint": fingerprint}
    known_plan(run, config, kind, Videos(), Spool())
    _start(run, config, kind)
    run.write_table("plan.parquet", plan)
    run.write_table("embeddings/precomputed.parquet", clips)
    _account(run, [account(found, Ledger(run, plan))], found.n_ignored, progress)


def _start(run: Run, config: Config, kind: dict[str, Any]) -> None:
    """Record what this run is made with, and forget what follows from the embeddings there were."""
    _forget(run, CLUSTERS)
    run.sweep()
    run.record(state=EMBEDDING, config=config.model_dump(mode="json"), versions=package_versions(), encoder=kind)


def _check_embedded(run: Run) -> None:
    if run.info().get("state") == EMBEDDING:
        raise UsageError(f"{run.url} is not embedded to its end: run the same raypipe embed again, it goes on")


def _teller(run: Run, n_segments: int, pools: Pools) -> Callable[[Stages], None]:
    """Return what writes down, after each commit, how far the embedding is: `raypipe status` reads it."""
    started = time.time()

    def tell(stages: Stages) -> None:
        told = {"started": started, "updated": time.time(), "segments": n_segments, **asdict(stages), **asdict(pools)}
        run.record(embedding=told)
        run.log("commit", done=stages.done, frames=stages.frames)

    return tell


def _account(run: Run, videos: Iterable[pa.Table], n_ignored: int, progress: Progress) -> None:
    """Write ``videos.parquet`` and say what came of the videos; raise if there is nothing to go on with."""
    tally = Tally()
    run.write_tables("videos.parquet", tally.over(videos))
    counts = tally.counts(n_ignored)
    by = ", ".join(f"{name} ({n})" for name, n in tally.decoders.most_common())
    run.record(state=EMBEDDED, counts=counts, **({"implementations": {"decode": by}} if by else {}))
    progress.say("{found} found = {ok} ok + {failed} failed + {skipped} skipped".format(**counts))
    if counts[OK] == 0:
        raise RaypipeError(f"none of {counts['found']} videos could be embedded; the first says: {tally.first_error}")


def _draw(run: Run, config: Config, paths: Trajectories, reduced: Trajectories | None) -> Trajectories:
    """Bring trajectories to the picture's two dimensions, and write them all to ``trajectories/``."""
    from raypipe.reduction import reduce_trajectories
    from raypipe.runs.results import write_trajectories

    with _step(run, "picture"):
        flat = config.reduce.for_picture()
        picture = reduced if reduced and flat == config.reduce else reduce_trajectories(paths, flat)[0]
    write_trajectories(run, paths, {"reduced": reduced, "picture": picture})
    return picture


def _keep(run: Run, config: Config, paths: Trajectories, picture: Trajectories, clustering: Clustering) -> None:
    """Score and evaluate a clustering of paths, and write all that is told of it."""
    from raypipe.analysis.evaluation import evaluate
    from raypipe.analysis.outliers import score_outliers
    from raypipe.runs.results import read_truth, write_clusters

    with _step(run, "evaluate"):
        name, truth = read_truth(run)
        gamma, inertia = clustering.gamma, clustering.inertia
        metrics = evaluate(paths.values, clustering.labels, gamma=gamma, inertia=inertia, truth=truth)
        scores, flags = score_outliers(clustering.distances, config.cluster.outlier_quantile)
    write_clusters(run, clustering, scores, flags, picture)
    run.write_json("metrics.json", {**metrics, "gamma": clustering.gamma, "truth": name})
    _record_stage(run, "cluster", clustering.implementation, None)


def _forget(run: Run, names: tuple[str, ...]) -> None:
    for name in (*names, *REPORT):
        run.remove(name)


def _record_stage(run: Run, stage: str, implementation: str, reason: str | None) -> None:
    run.record(implementations={stage: implementation}, **({"fallbacks": {stage: reason}} if reason else {}))


@contextmanager
def _step(run: Run, name: str) -> Iterator[None]:
    """Record how long a step took, and log that it ended, or why it broke off."""
    started = time.monotonic()
    try:
        yield
    except BaseException as error:
        run.log("broke off", step=name, seconds=round(time.monotonic() - started, 3), error=one_line(error))
        raise
    seconds = round(time.monotonic() - started, 3)
    run.record(seconds={name: seconds})
    run.log("done", step=name, seconds=seconds)
