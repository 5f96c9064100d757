"""The verbs of the command line as functions, for a notebook or a script."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from raypipe.config import Config, make_config
from raypipe.errors import UsageError, check_type
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.sources.videos import Videos

if TYPE_CHECKING:
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans


def embed_videos(
    source: Videos | str | Path,
    run: str | Path | Run,
    *,
    encoder: str | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Run:
    """Embed videos on Ray; a second call resumes where the first one stopped.

    Parameters
    ----------
    source
        The result of `find_videos`, or a source that `find_videos` takes.
    run
        The run directory, a folder or URL.
    encoder
        "clip", "descriptor" or "package.module:Name"; it overrides the config's.
    config
        All other parameters; see `make_config`.
    progress
        Where progress is shown; by default nowhere.

    Returns
    -------
    The run. Its ``embeddings/`` are complete, and ``videos.parquet`` accounts for every video.

    Raises
    ------
    SourceError, EncoderError, UsageError, RaypipeError
        If the source cannot be read, the encoder cannot be made, the run directory holds something else or an argument
        is wrong, or no video at all could be embedded.
    """
    from raypipe import pipeline

    check_type("run", run, (str, os.PathLike, Run))
    check_type("encoder", encoder, (str, type(None)), "its name, or package.module:Name")
    check_type("config", config, (Config, type(None)), "what make_config returns")
    check_type("progress", progress, (Progress, type(None)))
    if not (isinstance(run, Run) or os.fspath(run)):
        raise UsageError("run must name a folder or a URL")
    config = config or make_config()
    if encoder is not None:
        config = config.model_copy(update={"encode": config.encode.model_copy(update={"encoder": encoder})})
    run = run if isinstance(run, Run) else Run(os.fspath(run))
    pipeline.embed(source, run, config, progress or Progress())
    return run


def predict(
    run: Run,
    source: Videos | str | Path,
    output: str | Path | Run,
    *,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Run:
    """Embed new videos as a run's were, and give each the nearest of the run's clusters.

    Parameters
    ----------
    run
        A clustered run. Its encoder, sampling, reduction and centers are taken; nothing of it is changed.
    source
        The new videos, as `embed_videos` takes them, or precomputed trajectories if the run was made of such.
    output
        The new videos' run directory. A second call resumes there.
    config
        Parameters of decoding and of Ray, and of the encoder's device; the rest must be as in the run.
    progress
        Where progress is shown; by default nowhere.

    Returns
    -------
    The new videos' run, clustered: its ``clusters.parquet`` has each one's cluster, its distance to the center, its
    outlier score, which is the fraction of the run's own videos that are nearer to their centers, and its place on the
    run's map. `write_report` writes its report.

    Raises
    ------
    SourceError, EncoderError, UsageError, RaypipeError
        As `embed_videos`; or if the run is not clustered, or the encoder is not the one that it was embedded by.
    """
    from raypipe import pipeline

    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    check_type("output", output, (str, os.PathLike, Run))
    check_type("config", config, (Config, type(None)), "what make_config returns")
    check_type("progress", progress, (Progress, type(None)))
    if not (isinstance(output, Run) or os.fspath(output)):
        raise UsageError("output must name a folder or a URL")
    output = output if isinstance(output, Run) else Run(os.fspath(output))
    Run.open(run.url)
    config = config or make_config(base={**run.info().get("config", {}), "source": {}})
    pipeline.predict(run, source, output, config, progress or Progress())
    return output


def write_report(run: Run, model: TimeSeriesKMeans | None = None, *, progress: Progress | None = None) -> None:
    """Write the report of a run: tables, pictures and ``report.html``.

    Parameters
    ----------
    run
        An embedded run.
    model
        An estimator fitted on all of the run's trajectories in their order, reduced or not. Its clusters replace the
        run's. With None the report shows the run's own clusters, which are computed first if there are none yet.
    progress
        Where progress is shown; by default nowhere.

    Raises
    ------
    UsageError
        If there is no such run, or ``model`` is not fitted, or was fitted on another number of trajectories.
    """
    from raypipe import pipeline

    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    check_type("progress", progress, (Progress, type(None)))
    if model is not None:
        _check_fitted(model)
    Run.open(run.url)
    config = make_config(base=run.info()["config"])
    progress = progress or Progress()
    if model is not None:
        pipeline.adopt(model, run, config, progress)
    elif not run.exists("clusters.parquet"):
        pipeline.cluster(run, config, progress)
    pipeline.report(run, config, progress)


def _check_fitted(model: TimeSeriesKMeans) -> None:
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans

    check_type("model", model, TimeSeriesKMeans)
    if not hasattr(model, "labels_"):
        raise UsageError("the model is not fitted: call fit with the run's trajectories first")
