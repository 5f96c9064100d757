"""The verbs, each as the order of its steps. The work itself is in the rooms below."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raypipe.clustering import check_number
from raypipe.config import Config, check_clusterable
from raypipe.decoders import check_decoders
from raypipe.encoders import check_name, make_encoder
from raypipe.errors import UsageError
from raypipe.progress import Progress, counted
from raypipe.ranges import describe_server
from raypipe.runs.accounting import describe_ends, write_accounts
from raypipe.runs.beginnings import begin_embedding, check_place, remove_clusters, remove_report
from raypipe.runs.clip_signals import find_signals, saved_scale, write_signals
from raypipe.runs.comparison import check_cameras, check_comparable, check_embedded, check_facts, check_sections
from raypipe.runs.contents import CLUSTERS_FILE, METRICS_FILE, RUN_FILE, SIGNALS_FOLDER, SWEEP_FILE, SWEEP_PLOT_FILE
from raypipe.runs.dataset_checks import write_dataset_faults
from raypipe.runs.directory import Run
from raypipe.runs.given_paths import take_paths, take_signals
from raypipe.runs.lookup import own_id
from raypipe.runs.plan import find_quarantined, open_plan
from raypipe.schema import ThumbnailRequest
from raypipe.segments.sampling import describe_rate
from raypipe.sources import read_source, read_versions
from raypipe.sources.signals import VIDEO, read_signals, split_features
from raypipe.sources.videos import Videos
from raypipe.storage import shown_place

if TYPE_CHECKING:
    from raypipe.analysis.sweep import Map
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
    from raypipe.engine.transform import RaySteps
    from raypipe.report.posters.poster_layout import PosterForm
    from raypipe.trajectories.steps import LocalSteps

Source = str | Path | Videos

_KNOWN_PLACES = 4_000  # Steps of a run between which new ones are placed on its map: twice what the map is fitted on.


def run_all(source: Source, run: Run, config: Config, progress: Progress) -> None:
    """Embed a source, cluster its trajectories, and write the report."""
    check_clusterable(config)
    config = _from_anywhere(config)
    embed(source, run, config, progress, to_cluster=True)
    cluster(run, config, progress, to_report=True)
    report(run, config, progress)


def embed(
    source: Source, run: Run, config: Config, progress: Progress, like: Run | None = None, to_cluster: bool = False
) -> None:
    """Find, probe, cut, decode and encode: everything up to ``embeddings/`` and ``videos.parquet``.

    With another run in ``like``, the embeddings must be comparable with that run's. With ``to_cluster``, a source of
    fewer videos than the clusters that are asked for is refused before anything is embedded.
    """
    check_place(run)
    features, alone = _read_features(source, config)
    if alone:
        return take_signals(str(source), run, config, progress.say, like)
    if features:  # What is wrong with them is said before anything is embedded.
        find_signals(str(source), features, saved_scale(like))
    with run.step("find"):
        found, paths = read_source(source, config.source.allow_pickle, config.source.camera)
    chosen = found if config.source.limit is None else found[: config.source.limit]  # It keeps its index of ids.
    if paths is not None:
        _check_enough(chosen, config, to_cluster)
        return take_paths(found, paths, run, config, progress.say, like)
    if found.has_duplicate_ids():
        raise UsageError("two of these videos have one id: drop one, or give each its own")
    progress.say(f"found {counted(len(found), 'video')} ({counted(found.n_ignored, 'other file')} ignored)")
    server = describe_server(found[0].uri) if len(found) else []
    for note in (*found.notes, *describe_rate(config.sample), *config.encode.describe_unused(), *server):
        progress.say(note)
    check_decoders(config.decode.decoder)
    config = _from_anywhere(config)
    encoder = make_encoder(**config.encode.model_dump())
    encoder_id = {"name": config.encode.encoder, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    check_comparable(encoder_id, like)
    check_cameras(found.table["group"], config, like)
    _check_enough(chosen, config, to_cluster)
    versions = read_versions(chosen)
    plan = open_plan(run, config, encoder_id, chosen, versions)
    quarantine = find_quarantined(run, config, found)
    begin_embedding(run, config, encoder_id)
    from raypipe.engine.embedding import embed_plan  # Ray is imported only now that nothing is refused any more.

    embed_plan(plan, versions, config, encoder, progress)
    if features:
        with run.step("signals"):
            write_signals(run, str(source), chosen, features, saved_scale(like), progress.say)
    with run.step("check"):
        write_dataset_faults(run, source, chosen, len(chosen) == len(found), progress.say)
    with run.step("account"):
        accounts = plan.account(found, quarantine, encoder.dim, progress.say)
        write_accounts(run, accounts, found.n_ignored, progress.say)
        for line in describe_ends(run, found):
            progress.say(line)


def cluster(run: Run, config: Config, progress: Progress, to_report: bool = False) -> None:
    """Build trajectories, reduce, cluster, evaluate: everything right of ``embeddings/`` but the report.

    With ``to_report``, what draws the report is imported while the pictures' map is fitted.
    """
    from raypipe.runs.appraisal import write_appraisal
    from raypipe.runs.descriptions import check_describable
    from raypipe.runs.results import write_map_network, write_model

    check_embedded(run)
    config = _from_anywhere(config)
    check_facts(run, config)
    check_clusterable(config)
    if not (n_ok := run.info()["counts"]["ok"]):
        raise UsageError(f"no video of {run} has a clip: see the errors in its videos.parquet")
    check_number(n_ok, config.cluster)
    check_describable(run, config)
    run.record()  # Where nothing can be written, that is said before the work.
    with _open_steps(run, config, progress) as steps:
        progress.say("building trajectories")
        with run.step("trajectories"):
            n = steps.build()
        for note in steps.notes:
            progress.say(note)
        progress.say(f"reducing {counted(n, 'trajectory', 'trajectories')}: {config.reduce.method}")
        with run.step("reduce"):
            reducer = steps.reduce()
        density = config.cluster.method == "density"
        into = "by" if density else f"into {config.cluster.n_clusters}{steps.where}:"
        progress.say(f"clustering {into} {config.cluster.method}")
        with run.step("cluster"):
            clustering = steps.fit()
        if steps.notes:
            run.record_stage("trajectories", steps.notes[0], "; ".join(steps.notes[1:]) or None)
        run.record_stage("reduce", reducer.implementation, reducer.reason)
        write_model(run, config, clustering, reducer.arrays())
        if to_report:
            import raypipe.report.figures.plots  # noqa: F401
        with run.step("picture"):
            picture = steps.project(clustering)
        if config.reduce.picture == "autoencoder":
            write_map_network(run, picture.arrays())
        run.record_stage("picture", picture.implementation, picture.reason)
    write_appraisal(run, config, steps.reduced, steps.picture, clustering, steps.centers, progress.say)


def predict(model_run: Run, source: Source, run: Run, config: Config, progress: Progress) -> None:
    """Embed new videos as a run's were, and give them its clusters: ``run`` becomes a run directory of its own."""
    from raypipe.clustering.result import name_cluster
    from raypipe.runs import outlier_table, results
    from raypipe.runs.appraisal import write_judged_clusters
    from raypipe.trajectories.steps import LocalSteps

    if run.path() == model_run.path():
        raise UsageError(f"{run} is the run that predicts: choose another -o for the new videos")
    model = results.read_model(model_run)
    if not len(model.centers):
        raise UsageError(f"{model_run} has no cluster, only noise: cluster it again with a lower --min-cluster-size")
    known = outlier_table.read_known(model_run)
    check_sections(model_run, model.config, config)
    if model_run.exists(SIGNALS_FOLDER) and VIDEO not in split_features(config.source.features or ""):
        raise UsageError(
            f"{model_run} joins signals to its videos: --features "
            f"{','.join([VIDEO, *model_run.info()['signals']['features']])}"
        )
    known_features = model.config.source.features or ""
    if not config.source.features and known_features and VIDEO not in split_features(known_features):
        raise UsageError(f"{model_run} is of signals, without videos: --features {known_features}")
    embed(source, run, config, progress, like=model_run)
    steps = LocalSteps(run, config, results.read_encoder(model_run))
    with run.step("trajectories"):
        n = steps.build()
    progress.say(f"assigning {counted(n, 'trajectory', 'trajectories')} to the clusters of {model_run}")
    with run.step("reduce"):
        reducer = steps.restore(model.reducer)
    run.record_stage("reduce", reducer.implementation)
    with run.step("cluster"):
        clustering = steps.assign(model_run, model)
    results.write_model(run, config, clustering, model.reducer)
    with run.step("picture"):
        network = results.read_map_network(model_run)
        if network is not None:
            steps.place_by(network)
            results.write_map_network(run, network)
        else:
            steps.place(*results.read_known_places(model_run, _KNOWN_PLACES))
    centers = results.read_barycenters(model_run)
    metrics, found = write_judged_clusters(run, config, steps.reduced, steps.picture, clustering, centers, known)
    del metrics["n_empty"]  # Clusters without a new video say nothing of the clustering.
    run.write_json(METRICS_FILE, metrics)
    run.record_stage("cluster", clustering.implementation)
    numbers, sizes = (each.tolist() for each in np.unique(clustering.labels, return_counts=True))
    progress.say(", ".join(f"{name_cluster(k)}: {n}" for k, n in zip(numbers, sizes, strict=True)))
    outlier_table.record_outliers(run, found, progress.say)


def adopt(model: TimeSeriesKMeans, run: Run, config: Config, progress: Progress) -> None:
    """Take the clusters of an estimator that was fitted on the run's trajectories elsewhere."""
    from raypipe.clustering import from_estimator
    from raypipe.runs.appraisal import write_appraisal
    from raypipe.runs.descriptions import check_describable
    from raypipe.trajectories.steps import LocalSteps

    check_embedded(run)
    check_describable(run, config)
    steps = LocalSteps(run, config, progress=progress)
    if (n := steps.build()) != len(model.labels_):
        raise UsageError(f"the model has {len(model.labels_)} labels, and the run {n} trajectories: fit it anew")
    remove_clusters(run)
    with run.step("picture"):
        picture = steps.project()
    run.record_stage("picture", picture.implementation, picture.reason)
    write_appraisal(run, config, steps.paths, steps.picture, from_estimator(model), None, progress.say)


def find_outliers(run: Run, config: Config, progress: Progress) -> None:
    """Judge the videos of a clustered run again, by another measure or quantile, from the run directory alone."""
    from raypipe.runs.outlier_table import judge_run, record_outliers
    from raypipe.runs.results import mark_outliers
    from raypipe.runs.run_version import of_one_clustering

    with run.step("outliers"):
        with of_one_clustering(run):
            found = judge_run(run, config)
        remove_report(run)
        run.record(config=config.model_dump(mode="json"))
        mark_outliers(run, found.scores, found.flags)
        run.write_json(METRICS_FILE, {**run.read_json(METRICS_FILE), "outliers": found.summary()})
    record_outliers(run, found, progress.say)


def report(run: Run, config: Config, progress: Progress) -> None:
    """Write tables, pictures and ``report.html`` anew; until all are written, the page of before stays."""
    from raypipe.decoders.sandbox import open_sandbox
    from raypipe.report import write_report_files
    from raypipe.runs.run_version import of_one_clustering
    from raypipe.sources.precomputed import check_has_video

    if not run.exists(CLUSTERS_FILE):
        raise UsageError(f"{run} is not clustered: run raypipe cluster {run}")
    progress.say("writing the report")
    with run.step("report"), open_sandbox(config.decode) as sandbox:

        def frames_of(uri: str, times_s: Any, image_size: int) -> Any:
            check_has_video(uri)
            whole = ThumbnailRequest(image_size, frozenset(range(len(times_s))))
            return sandbox.frames(uri, times_s, image_size, "crop", 0.0, whole)

        with of_one_clustering(run, f"raypipe report {shlex.quote(str(run))} writes its report"):
            write_report_files(run, frames_of, config.report)


def poster(run: Run, config: Config, output: str | None, form: PosterForm, progress: Progress) -> str:
    """Write a poster of a clustered run; return where it lies, or the page that shows it."""
    from raypipe.decoders.sandbox import open_sandbox
    from raypipe.report.posters.poster import write_poster
    from raypipe.runs.run_version import of_one_clustering

    with open_sandbox(config.decode) as sandbox, of_one_clustering(run):

        def frames_of(uri: str, times_s: Any, image_size: int) -> Any:
            return sandbox.frames(uri, times_s, image_size, "squash", span_s=float(times_s[-1] - times_s[0]))

        return write_poster(run, output, form, frames_of, progress)


def sweep(
    run: Run, config: Config, ks: Sequence[int] | None, gammas: Sequence[float | str], n_seeds: int, progress: Progress
) -> dict[str, Any]:
    """Fit many numbers of clusters to an embedded run, and write ``sweep.json`` and ``plots/sweep.png``.

    Returns
    -------
    What ``sweep.json`` holds: the result of `raypipe.analysis.sweep.sweep_clusters`, and what it was computed from.
    """
    from raypipe.analysis.sweep import MAX_VIDEOS, affordable_sweep, check_sweep, sweep_clusters
    from raypipe.engine.reach import leave_out
    from raypipe.engine.session import ray_session
    from raypipe.engine.transform import map_tasks
    from raypipe.report.figures.sweep_figure import draw_sweep
    from raypipe.trajectories.samples import sample_trajectories

    check_embedded(run)
    run.record()  # Where nothing can be written, that is said before the work.
    with run.step("sweep"):
        progress.say("building trajectories")
        paths, n_videos = sample_trajectories(run, config, MAX_VIDEOS, config.cluster.seed, progress)
        values = affordable_sweep(paths.values, config.cluster.seed)
        check_sweep(values, config.cluster, ks, gammas, n_seeds)  # What is wrong is said before Ray starts.
        if len(values) < n_videos:
            progress.say(f"{len(values)} of {n_videos} videos are compared, chosen at random")

        with ray_session(config.ray):
            leave_out(run, None, progress.say)
            found = sweep_clusters(values, config.cluster, ks, gammas, n_seeds, map=_counted(map_tasks, progress))
    sections = ("trajectory", "learn", "reduce", "cluster")
    parameters = {name: getattr(config, name).model_dump(mode="json") for name in sections}
    found = {**found, "n_videos": n_videos, "n_compared": len(values), "config": parameters}
    run.write_json(SWEEP_FILE, found)
    run.write_bytes(SWEEP_PLOT_FILE, draw_sweep(found))
    return found


def demo(run: Run, config: Config, seed: int, progress: Progress) -> dict[str, float]:
    """Render the labelled sample, run everything on it, and score it beside mean pooling.

    Returns
    -------
    ``trajectories`` and ``mean_pooled``: the adjusted Rand index of each against the behaviours shown, both given the
    number of behaviours.
    """
    from raypipe.demo import BEHAVIOURS, VARIANTS, rendering

    check_place(run)
    goes_on = run.info().get("demo", {}).keys() == {"seed"}  # A demo that was interrupted.
    if run.exists(RUN_FILE) and not goes_on:
        raise UsageError(f"{run} already holds a run: choose another -o, or remove it")
    run.record(demo={"seed": seed})
    folder = Path(run.path("videos"))

    if goes_on:  # Its videos are rendered again.
        config = config.model_copy(update={"source": config.source.model_copy(update={"re_embed": True})})
    k = config.cluster.model_copy(update={"n_clusters": len(BEHAVIOURS)})
    config = config.model_copy(update={"cluster": k})
    with rendering(folder, seed=seed) as videos:
        # While they are rendered, what takes long to import is, and Ray starts.
        from raypipe.analysis.evaluation import score_mean_pooled
        from raypipe.engine.session import ray_session
        from raypipe.runs.results import read_truth
        from raypipe.trajectories import build_trajectories

        with ray_session(config.ray):
            with run.step("render"), progress.count("rendering", len(BEHAVIOURS) * VARIANTS) as advance:
                for _ in videos:
                    advance(1)
            embed(folder, run, config, progress)
    cluster(run, config, progress, to_report=True)
    report(run, config, progress)
    _, truth = read_truth(run)
    pooled = score_mean_pooled(build_trajectories(run, None).values, truth, len(BEHAVIOURS), config.cluster.seed)
    scores = {"trajectories": run.read_json(METRICS_FILE)["ari"], "mean_pooled": pooled}
    run.record(demo={"seed": seed, "ari": scores})
    return scores


def preview(source: Source, config: Config) -> list[str]:
    """Say what a run would take, without probing or starting anything."""
    features, alone = _read_features(source, config)
    if alone:
        found = read_signals(str(source), features, 1).videos
    else:
        if features:
            find_signals(str(source), features)
        found, paths = read_source(source, config.source.allow_pickle, config.source.camera)
        if paths is None:
            check_name(config.encode.encoder)
            check_decoders(config.decode.decoder)
    chosen = found[: config.source.limit]
    others = counted(found.n_ignored, "other file")
    lines = [f"would take {len(chosen)} of {len(found)} videos found ({others} ignored):"]
    lines = [*(() if alone else (*describe_rate(config.sample), *config.encode.describe_unused())), *lines]
    lines = [*found.notes, *lines]
    for video in chosen[:10]:
        own = own_id({**video.extra, "video_id": video.video_id, "group": video.group})  # A file may hold many.
        lines.append(f"  {f'{own}: ' if own else ''}{shown_place(video.uri)}")
    return [*lines, f"  … and {len(chosen) - 10} more"] if len(chosen) > 10 else lines


def _from_anywhere(config: Config) -> Config:
    return config.model_copy(update={"encode": config.encode.from_anywhere()})


def _check_enough(chosen: Videos, config: Config, to_cluster: bool) -> None:
    if to_cluster:
        check_number(len(chosen), config.cluster)


def _read_features(source: Source, config: Config) -> tuple[str, bool]:
    """Return which signals are asked for, and whether they are in place of the videos."""
    features = config.source.features
    if features is None:
        return "", False
    if not isinstance(source, str | os.PathLike):
        raise UsageError("features are a LeRobot dataset's: name its folder or URL as the source, and not its videos")
    alone = VIDEO not in split_features(features)
    if alone and config.source.camera != "all":
        raise UsageError(
            f"camera {config.source.camera} goes with videos, and the signals of an episode are of no camera: leave it "
            f"out, or name {VIDEO} among the features"
        )
    return features, alone


def _counted(map_tasks: Callable[..., Iterator[Any]], progress: Progress) -> Map:
    """Return a map whose results are counted on the display as they come: by fits, where the jobs are some."""

    def map_counted(do: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        jobs = list(jobs)
        are_fits = hasattr(next(iter(jobs), None), "n_fits")
        sizes = [job.n_fits if are_fits else 1 for job in jobs]  # The jobs that come first take several times as long.
        what, unit = ("fitting", "fits") if are_fits else ("scoring", "jobs")
        with progress.count(what, sum(sizes), unit) as advance:
            for size, done in zip(sizes, map_tasks(do, jobs), strict=True):
                yield done
                advance(size)

    return map_counted


@contextmanager
def _open_steps(run: Run, config: Config, progress: Progress) -> Iterator[LocalSteps | RaySteps]:
    """Open the steps of `cluster`: in this process, or on Ray if ``ray.shards`` asks for it."""
    if not config.ray.shards:
        from raypipe.trajectories.steps import LocalSteps

        yield LocalSteps(run, config, progress=progress)
        return
    import pyarrow as pa

    from raypipe.engine.reach import leave_out
    from raypipe.engine.session import ray_session
    from raypipe.engine.transform import RaySteps

    with ray_session(config.ray):
        leave_out(run, pa.chunked_array([[run.place(RUN_FILE)]]), progress.say)
        yield RaySteps(run, config)
