"""The verbs, each as the order of its steps. The work itself is in the rooms below."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raypipe.config import Config
from raypipe.decoders import resolve_chain
from raypipe.encoders import make_encoder
from raypipe.errors import UsageError
from raypipe.packages import package_versions
from raypipe.progress import Progress
from raypipe.runs.accounting import account, write_accounts
from raypipe.runs.comparison import PRECOMPUTED, check_comparable, check_sections
from raypipe.runs.directory import Run
from raypipe.runs.ledger import FOLDER, Ledger, split_clips
from raypipe.runs.plan import PLAN_FILE, find_quarantined, open_plan, portion_size
from raypipe.runs.results import remove_clusters, remove_report
from raypipe.schema import EMBEDDING, Trajectories
from raypipe.segments.planning import plan_precomputed
from raypipe.sources import read_source, read_versions
from raypipe.sources.videos import Videos

if TYPE_CHECKING:
    from raypipe.clustering import Clustering
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
    from raypipe.engine.transform import RaySteps
    from raypipe.trajectories.steps import LocalSteps

Source = str | Path | Videos
_KNOWN_PLACES = 4_000  # Steps of a run between which new ones are placed on its map: twice what the map is fitted on.


def run_all(source: Source, run: Run, config: Config, progress: Progress) -> None:
    """Embed a source, cluster its trajectories, and write the report."""
    embed(source, run, config, progress)
    cluster(run, config, progress)
    report(run, config, progress)


def embed(source: Source, run: Run, config: Config, progress: Progress, like: Run | None = None) -> None:
    """Find, probe, cut, decode and encode: everything up to ``embeddings/`` and ``videos.parquet``.

    With another run in ``like``, the embeddings must be comparable with that run's.
    """
    with run.step("find"):
        found, paths = read_source(source, config.source.allow_pickle)
    if paths is not None:
        return _take_precomputed(found, paths, run, config, progress, like)
    from raypipe.engine.embedding import embed_segments, time_frame
    from raypipe.engine.probing import probe_videos
    from raypipe.engine.session import plan_pools, ray_session

    if found.has_duplicate_ids():
        raise UsageError("two of these videos have one id: drop one, or give each its own")
    progress.say(f"found {len(found)} videos ({found.n_ignored} other files ignored)")
    resolve_chain(config.decode.decoder, "file:///any")  # raises once for a wrong name, instead of for every video
    encoder = make_encoder(**config.encode.model_dump())
    encoder_id = {"name": config.encode.encoder, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    check_comparable(encoder_id, like)
    chosen = found if config.source.limit is None else found[: config.source.limit]  # an index of ids is kept
    versions = read_versions(chosen)
    plan = open_plan(run, config, encoder_id, chosen, versions)
    quarantine = find_quarantined(run, config, found)
    _begin(run, config, encoder_id)

    with ray_session(config.ray) as resources:
        plan.portion_size = portion_size(resources.get("CPU", 1))
        if n_lacking := len(plan.lacking()):
            pools = plan_pools(resources, config.ray, n_lacking)
            made_with = f"{encoder.fingerprint} {json.dumps(config.sample.pattern(), separators=(',', ':'))}"
            with run.step("plan"), progress.count("probing", n_lacking) as advance:
                probe_videos(plan, versions, made_with, config, pools, advance)
        plan.settle()
        plan.find_remaining(config.source.retry_failed)
        if plan.n_segments:
            pools = plan_pools(resources, config.ray, plan.n_segments, time_frame(encoder))
            progress.say(pools.where)
            run.record_stage("embed", pools.where)
            with run.step("embed"), progress.count("embedding", plan.n_videos) as advance:
                embed_segments(run, plan.remaining(), config, encoder, pools, advance, plan.n_segments)
    with run.step("account"):
        accounts = plan.account(found, quarantine, encoder.dim, progress.say)
        write_accounts(run, accounts, found.n_ignored, progress.say)


def cluster(run: Run, config: Config, progress: Progress) -> None:
    """Build trajectories, reduce, cluster, evaluate: everything right of ``embeddings/`` but the report."""
    from raypipe.runs.results import write_model

    _check_embedded(run)
    remove_clusters(run)
    run.record(config=config.model_dump(mode="json"))
    with _open_steps(run, config) as steps:
        progress.say("building trajectories")
        with run.step("trajectories"):
            n = steps.build()
        progress.say(f"reducing {n} trajectories: {config.reduce.method}")
        with run.step("reduce"):
            reducer = steps.reduce()
        run.record_stage("reduce", reducer.implementation, reducer.reason)
        progress.say(f"clustering into {config.cluster.n_clusters}{steps.where}: {config.cluster.method}")
        with run.step("cluster"):
            clustering = steps.fit()
        write_model(run, config, clustering, reducer.arrays())
        with run.step("picture"):
            picture = steps.project()
        run.record_stage("picture", picture.implementation, picture.reason)
    _evaluate(run, config, progress, steps.reduced, steps.picture, clustering)


def predict(model_run: Run, source: Source, run: Run, config: Config, progress: Progress) -> None:
    """Embed new videos as a run's were, and give them its clusters: ``run`` becomes a run directory of its own."""
    from raypipe.analysis.evaluation import evaluate
    from raypipe.analysis.prediction import score_against
    from raypipe.clustering import Clustering
    from raypipe.clustering.assignment import assign_to_centers
    from raypipe.runs import results
    from raypipe.trajectories.steps import LocalSteps

    if run.path() == model_run.path():
        raise UsageError(f"{run.url} is the run that predicts: choose another -o for the new videos")
    model = results.read_model(model_run)
    known = results.read_distances(model_run)
    check_sections(model_run, model.config, config)
    embed(source, run, config, progress, like=model_run)
    steps = LocalSteps(run, config)
    with run.step("trajectories"):
        n = steps.build()
    progress.say(f"assigning {n} trajectories to the clusters of {model_run.url}")
    with run.step("reduce"):
        reducer = steps.restore(model.reducer)
    run.record_stage("reduce", reducer.implementation)
    with run.step("cluster"):
        labels, distances = assign_to_centers(steps.reduced.values, model.centers, config.cluster, model.gamma)
        scores, flags = score_against(distances, known, config.cluster.outlier_quantile)
        made_by = f"the clusters of {model_run.url}"
        clustering = Clustering(labels, distances, model.centers, float(distances.mean()), 0, model.gamma, made_by)
    results.write_model(run, config, clustering, model.reducer)
    with run.step("picture"):
        steps.place(*results.read_known_places(model_run, _KNOWN_PLACES))
    with run.step("evaluate"):
        name, truth = results.read_truth(run)
        metrics = evaluate(steps.reduced.values, labels, gamma=model.gamma, truth=truth)
    del metrics["n_empty"]  # Clusters without a new video say nothing of the clustering.
    results.write_clusters(run, clustering, scores, flags, steps.picture)
    results.write_barycenters(run, results.read_barycenters(model_run))
    run.write_json("metrics.json", {**metrics, "gamma": model.gamma, "truth": name})
    run.record_stage("cluster", made_by)
    counts = ", ".join(f"cluster {k}: {(labels == k).sum()}" for k in np.unique(labels))
    progress.say(f"{counts}; {flags.sum()} farther from their center than {config.cluster.outlier_quantile:.0%} there")


def adopt(model: TimeSeriesKMeans, run: Run, config: Config, progress: Progress) -> None:
    """Take the clusters of an estimator that was fitted on the run's trajectories elsewhere."""
    from raypipe.clustering import from_estimator
    from raypipe.trajectories.steps import LocalSteps

    _check_embedded(run)
    steps = LocalSteps(run, config)
    if (n := steps.build()) != len(model.labels_):
        raise UsageError(f"the model has {len(model.labels_)} labels, and the run {n} trajectories: fit it anew")
    remove_clusters(run)
    with run.step("picture"):
        picture = steps.project()
    run.record_stage("picture", picture.implementation, picture.reason)
    _evaluate(run, config, progress, steps.paths, steps.picture, from_estimator(model))


def report(run: Run, config: Config, progress: Progress) -> None:
    """Write tables, pictures and ``report.html`` anew."""
    from raypipe.decoders.sandbox import Sandbox
    from raypipe.report import write_report_files

    remove_report(run)
    progress.say("writing the report")
    decode = config.decode
    with run.step("report"), Sandbox(decode.decoder, decode.deadline_s, decode.deadline_factor) as sandbox:

        def frames_of(uri: str, times_s: Any, image_size: int) -> Any:
            return sandbox.frames(uri, times_s, image_size, "crop", span_s=0.0)

        write_report_files(run, frames_of, config.report)


def demo(run: Run, config: Config, seed: int, progress: Progress) -> dict[str, float]:
    """Render the labelled sample, run everything on it, and score it beside mean pooling.

    Returns
    -------
    ``trajectories`` and ``mean_pooled``: the adjusted Rand index of each against the behaviours shown, both given the
    number of behaviours.
    """
    from raypipe.analysis.evaluation import score_mean_pooled
    from raypipe.demo import BEHAVIOURS, render_demo
    from raypipe.engine.session import ray_session
    from raypipe.engine.transform import map_tasks
    from raypipe.runs.results import read_truth
    from raypipe.trajectories import build_trajectories

    if run.exists("run.json"):
        raise UsageError(f"{run.url} already holds a run: choose another -o, or remove it")
    folder = Path(run.path("videos"))

    def map_counted(render: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        jobs = list(jobs)
        with progress.count("rendering", len(jobs)) as advance:
            for path in map_tasks(render, jobs):
                yield path
                advance(1)

    k = config.cluster.model_copy(update={"n_clusters": len(BEHAVIOURS)})
    config = config.model_copy(update={"cluster": k})
    with ray_session(config.ray):
        with run.step("render"):
            render_demo(folder, seed=seed, map=map_counted)
        embed(folder, run, config, progress)
    cluster(run, config, progress)
    report(run, config, progress)
    _, truth = read_truth(run)
    pooled = score_mean_pooled(build_trajectories(run, None).values, truth, len(BEHAVIOURS), config.cluster.seed)
    scores = {"trajectories": run.read_json("metrics.json")["ari"], "mean_pooled": pooled}
    run.record(demo={"seed": seed, "ari": scores})
    return scores


def preview(source: Source, config: Config) -> list[str]:
    """Say what a run would take, without probing or starting anything."""
    found, _ = read_source(source, config.source.allow_pickle)
    chosen = found[: config.source.limit]
    lines = [f"would take {len(chosen)} of {len(found)} videos found ({found.n_ignored} other files ignored):"]
    lines += [f"  {video.uri}" for video in chosen[:10]]
    return [*lines, f"  … and {len(chosen) - 10} more"] if len(chosen) > 10 else lines


def _take_precomputed(
    found: Videos, paths: Sequence[np.ndarray], run: Run, config: Config, progress: Progress, like: Run | None
) -> None:
    """Take trajectories that somebody else computed in place of embeddings."""
    progress.say(f"found {len(found)} precomputed trajectories")
    chosen = found[: config.source.limit]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.tobytes())
    fingerprint, dim = digest.hexdigest(), paths[0].shape[1]
    encoder_id = {"name": PRECOMPUTED, "dim": dim, "fingerprint": fingerprint}
    check_comparable(encoder_id, like)
    rows, clips = plan_precomputed(chosen, paths[: len(chosen)], fingerprint[:16])
    open_plan(run, config, encoder_id, Videos(), read_versions(Videos()))
    _begin(run, config, encoder_id)
    run.write_table(PLAN_FILE, rows)
    before = set(run.files(FOLDER, ".parquet"))
    for number, part in enumerate(split_clips(clips, dim)):
        name = f"{FOLDER}/{number:05d}.parquet"
        run.write_table(name, part)
        before.discard(name)
    for name in before:  # They hold nothing of these trajectories, and go only now that all of these are there.
        run.remove(name)
    write_accounts(run, [account(found, Ledger(run, rows))], found.n_ignored, progress.say)


def _begin(run: Run, config: Config, encoder_id: dict[str, Any]) -> None:
    """Record what the embeddings are made with, and remove what followed from those of before."""
    remove_clusters(run)
    run.sweep()
    run.record(state=EMBEDDING, config=config.model_dump(mode="json"), versions=package_versions(), encoder=encoder_id)


def _check_embedded(run: Run) -> None:
    if run.info().get("state") == EMBEDDING:
        raise UsageError(f"{run.url} is not embedded to its end: run the same raypipe embed again to continue")


@contextmanager
def _open_steps(run: Run, config: Config) -> Iterator[LocalSteps | RaySteps]:
    """Open the steps of `cluster`: in this process, or on Ray if ``ray.shards`` asks for it."""
    if not config.ray.shards:
        from raypipe.trajectories.steps import LocalSteps

        yield LocalSteps(run, config)
        return
    from raypipe.engine.session import ray_session
    from raypipe.engine.transform import RaySteps

    steps = RaySteps(run, config)
    with ray_session(config.ray):
        yield steps


def _evaluate(
    run: Run,
    config: Config,
    progress: Progress,
    paths: Trajectories,
    picture: Trajectories,
    clustering: Clustering,
) -> None:
    """Evaluate a clustering of trajectories, and write the clusters and the metrics."""
    from raypipe.analysis.averages import average_paths
    from raypipe.analysis.evaluation import evaluate
    from raypipe.analysis.outliers import score_outliers
    from raypipe.analysis.sizes import describe_empty
    from raypipe.runs.results import read_truth, write_barycenters, write_clusters

    with run.step("evaluate"):
        name, truth = read_truth(run)
        metrics = evaluate(
            paths.values,
            clustering.labels,
            gamma=clustering.gamma,
            inertia=clustering.inertia,
            n_clusters=clustering.n_clusters,
            truth=truth,
        )
        scores, flags = score_outliers(clustering.distances, config.cluster.outlier_quantile)
        near = np.argsort(clustering.distances, kind="stable")  # not a number comes last
        members = {int(k): near[clustering.labels[near] == k] for k in np.unique(clustering.labels)}
        centers = average_paths({k: [picture.values[i] for i in rows] for k, rows in members.items()})
    write_clusters(run, clustering, scores, flags, picture)
    write_barycenters(run, centers)
    run.write_json("metrics.json", {**metrics, "gamma": clustering.gamma, "truth": name})
    if empty := describe_empty(metrics):
        progress.say(empty)
    run.record_stage("cluster", clustering.implementation)
