"""A verb's steps in order; the work itself is in the rooms below."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raypipe.accounting import CLIP_COLUMNS, account, count
from raypipe.config import Config
from raypipe.decoders import resolve_chain
from raypipe.errors import RaypipeError, UsageError
from raypipe.progress import Progress
from raypipe.runs import Run
from raypipe.schema import OK, PLAN, Trajectories, Videos
from raypipe.sources import find_videos
from raypipe.sources.precomputed import is_precomputed, read_precomputed
from raypipe.versions import package_versions

if TYPE_CHECKING:
    from raypipe.clustering import Clustering
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans

Source = str | Path | Videos

FOLLOWING = {  # a step's rerun removes what follows from it
    "embed": ("videos.parquet", "trajectories", "clusters.parquet", "model", "metrics.json"),
    "cluster": ("trajectories", "clusters.parquet", "model", "metrics.json"),
}
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
    from raypipe.engine.embedding import embed_segments, encoder_of, probe_uris, remaining, time_frame
    from raypipe.engine.session import plan_pools, ray_session
    from raypipe.segments import in_order_of, plan_segments, without_plan

    with _step(run, "find"):
        found = source if isinstance(source, Videos) else find_videos(source)
    chosen = found.videos[: config.source.limit]
    progress.say(f"found {len(found)} videos ({found.n_ignored} other files ignored)")
    resolve_chain(config.decode.decoder, "file:///any")  # a wrong name should be said now, not once a video
    encoder = encoder_of(config.encode)
    _start(run, config, {"name": config.encode.encoder, "dim": encoder.dim, "fingerprint": encoder.fingerprint})
    with ray_session(config.ray) as resources:
        known = run.read_table("plan.parquet") if run.exists("plan.parquet") else PLAN.empty_table()
        new = without_plan(chosen, known)
        if new:
            with _step(run, "plan"), progress.count("probing", len(new)) as advance:
                pools = plan_pools(resources, config.ray, len(new))
                probes = probe_uris([video.uri for video in new], config.decode, pools, advance)
                known = pa.concat_tables([known, plan_segments(new, probes, config.sample)])
        run.write_table("plan.parquet", in_order_of(chosen, known))
        plan = remaining(run.read_table("plan.parquet"), run)
        if plan.num_rows:
            pools = plan_pools(resources, config.ray, plan.num_rows, time_frame(encoder))
            progress.say(pools.where)
            run.record(implementations={"embed": pools.where})
            with _step(run, "embed"), progress.count("embedding", len(plan["video_id"].unique())) as advance:
                embed_segments(run, plan, config, encoder, pools, advance)
    _account(run, found, progress)


def cluster(run: Run, config: Config, progress: Progress) -> None:
    """Build trajectories, reduce, cluster, evaluate: everything right of ``embeddings/`` but the report."""
    from raypipe.clustering import fit_clusters
    from raypipe.reduction import reduce_trajectories
    from raypipe.results import write_model
    from raypipe.trajectories import build_trajectories

    _forget(run, FOLLOWING["cluster"])
    run.record(config=config.model_dump(mode="json"))
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
    write_model(run, config, clustering, reducer)
    _keep(run, config, paths, reduced, clustering)


def adopt(model: TimeSeriesKMeans, run: Run, config: Config, progress: Progress) -> None:
    """Take the clusters of an estimator that was fitted on the run's trajectories elsewhere."""
    from raypipe.clustering import from_estimator
    from raypipe.trajectories import build_trajectories

    paths = build_trajectories(run, config.trajectory.n_steps, config.trajectory.time_axis)
    if len(model.labels_) != len(paths):
        raise UsageError(
            f"the model has {len(model.labels_)} labels, and the run {len(paths)} trajectories: fit it anew"
        )
    _forget(run, FOLLOWING["cluster"])
    _keep(run, config, paths, None, from_estimator(model))


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
    from raypipe.results import read_truth
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
    chosen = found.videos[: config.source.limit]
    lines = [f"would take {len(chosen)} of {len(found)} videos found ({found.n_ignored} other files ignored):"]
    lines += [f"  {video.uri}" for video in chosen[:10]]
    return [*lines, f"  … and {len(chosen) - 10} more"] if len(chosen) > 10 else lines


def _embed_precomputed(source: str | Path, run: Run, config: Config, progress: Progress) -> None:
    """Take trajectories that somebody else computed in place of embeddings."""
    from raypipe.segments import plan_precomputed

    with _step(run, "find"):
        found, paths = read_precomputed(source, config.source.allow_pickle)
    progress.say(f"found {len(found)} precomputed trajectories")
    chosen = found.videos[: config.source.limit]
    plan, clips = plan_precomputed(chosen, paths[: len(chosen)])
    fingerprint = hashlib.sha256(b"".join(path.tobytes() for path in paths)).hexdigest()
    _start(run, config, {"name": "precomputed", "dim": paths[0].shape[1], "fingerprint": fingerprint})
    run.write_table("plan.parquet", plan)
    run.write_table("embeddings/precomputed.parquet", clips)
    _account(run, found, progress)


def _start(run: Run, config: Config, encoder: dict[str, Any]) -> None:
    """Record what this run is made with; refuse to mix embeddings of two kinds in one run directory."""
    sample = config.sample.model_dump(mode="json")
    before = run.info()
    if run.exists("plan.parquet") and before:
        same = before["encoder"]["fingerprint"] == encoder["fingerprint"] and before["config"]["sample"] == sample
        if not same:
            raise UsageError(f"{run.url} holds embeddings made with another encoder or sampling: choose another -o")
    _forget(run, FOLLOWING["embed"])
    run.record(config=config.model_dump(mode="json"), versions=package_versions(), encoder=encoder)


def _account(run: Run, found: Videos, progress: Progress) -> None:
    videos = account(found, run.read_table("plan.parquet"), run.iter_tables("embeddings", CLIP_COLUMNS))
    run.write_table("videos.parquet", videos)
    counts = count(videos, found.n_ignored)
    used = Counter(row["decoder"] for row in videos.to_pylist() if row["status"] == OK and row["decoder"])
    by = ", ".join(f"{name} ({n})" for name, n in used.most_common())
    run.record(counts=counts, **({"implementations": {"decode": by}} if by else {}))
    progress.say("{found} found = {ok} ok + {failed} failed + {skipped} skipped".format(**counts))
    if counts[OK] == 0:
        errors = [error for error in videos.column("error").to_pylist() if error]
        raise RaypipeError(f"none of {counts['found']} videos could be embedded; the first says: {errors[0]}")


def _keep(run: Run, config: Config, paths: Trajectories, reduced: Trajectories | None, clustering: Clustering) -> None:
    """Score and evaluate a clustering, and write all that is told of it."""
    from raypipe.analysis.evaluation import evaluate
    from raypipe.analysis.outliers import score_outliers
    from raypipe.reduction import reduce_trajectories
    from raypipe.results import read_truth, write_clusters, write_trajectories

    with _step(run, "picture"):
        flat = config.reduce.for_picture()
        picture = reduced if reduced and flat == config.reduce else reduce_trajectories(paths, flat)[0]
    with _step(run, "evaluate"):
        name, truth = read_truth(run)
        values = (reduced or paths).values
        metrics = evaluate(values, clustering.labels, gamma=clustering.gamma, inertia=clustering.inertia, truth=truth)
        scores, flags = score_outliers(clustering.distances, config.cluster.outlier_quantile)
    write_trajectories(run, paths, {"reduced": reduced, "picture": picture})
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
    """Record how long a step took."""
    started = time.monotonic()
    yield
    run.record(seconds={name: round(time.monotonic() - started, 3)})
