"""The verbs of the command line as functions, for a notebook or a script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raypipe.config import Config, EncodeConfig, make_config, validate
from raypipe.errors import UsageError, check_type
from raypipe.progress import Progress
from raypipe.runs.contents import CLUSTERS_FILE
from raypipe.runs.directory import Run
from raypipe.sources.videos import Videos

if TYPE_CHECKING:
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
    from raypipe.runs.outlier_table import Outlier


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
        "clip", "cnn", "descriptor" or "package.module:Name"; it overrides the config's.
    config
        All other parameters; see `make_config`.
    progress
        Where progress is shown, such as `raypipe.progress.PlainProgress()`, which prints lines; by default nowhere.

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
        named = config.encode.model_dump(exclude_unset=True)  # What is not named takes this encoder's defaults.
        encode = validate(EncodeConfig, {**named, "encoder": encoder}, "config encode.")
        config = config.model_copy(update={"encode": encode})
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
    outlier score, by which it is flagged beyond the threshold of the run's own videos, and its place on the run's
    map. `write_report` writes its report.

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


def find_outliers(
    run: Run, *, by: Literal["score", "distance"] | None = None, quantile: float | None = None
) -> list[Outlier]:
    """Find the odd videos of a clustered run: which, why, and where in them. Nothing is written.

    Parameters
    ----------
    run
        A clustered run. Its directory alone is read.
    by
        "score", the soft-DTW divergence from the nearest center that other videos support, so that a lone odd video
        does not hide in a cluster of its own; or "distance", that to the own center. None for the run's config.
    quantile
        Videos beyond this quantile are outliers, 0 < quantile < 1. None for the run's config.

    Returns
    -------
    Every clustered video, the farthest first, with ``score``, ``distance``, ``outlier``, ``verdict`` ("keep" or
    "drop"), ``reason``, and ``start_s`` and ``end_s`` in seconds of the file; see `raypipe.runs.outlier_table.Outlier`.

    Raises
    ------
    UsageError
        If the run has no clusters of its own, or an argument is out of range.
    """
    from raypipe.runs.outlier_table import judge_run, list_outliers
    from raypipe.runs.run_version import of_one_clustering

    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    Run.open(run.url)
    given = {"outlier_by": by, "outlier_quantile": quantile}
    flags = {"cluster": {name: value for name, value in given.items() if value is not None}}
    config = make_config(base=run.info()["config"], flags=flags)
    with of_one_clustering(run):
        return list_outliers(run, judge_run(run, config))


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
    elif not run.exists(CLUSTERS_FILE):
        pipeline.cluster(run, config, progress, to_report=True)
    pipeline.report(run, config, progress)


def write_poster(
    run: Run,
    output: str | Path | None = None,
    *,
    width: int = 4000,
    tiles: int | tuple[int, int] | None = None,
    center: tuple[float, float] | None = None,
    span: float | None = None,
    originals: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> str:
    """Lay frames of a run on a grid by their place on the map, and write that as a picture.

    Parameters
    ----------
    run
        A clustered run that has ``frames/``.
    output
        A file or URL that ends with ``.png``, ``.jpg`` or ``.dzi``; by default ``poster.png`` in the run directory.
    width
        Pixels.
    tiles
        How many at most, or (columns, rows); by default as many as there are frames, of 160 pixels or more.
    center, span
        The window on the map: its middle (x, y) and its width; by default the whole map.
    originals
        Whether to decode the videos again at the size of the tiles, for print.
    seed
        Of the choice among frames at one place.
    progress
        Where progress is shown; by default nowhere.

    Returns
    -------
    Where the poster lies; of a deep-zoom pyramid the page that shows it.

    Raises
    ------
    UsageError
        If the run has no map or no ``frames/``, no frame lies in the window, or an argument is out of range.
    """
    from raypipe import pipeline
    from raypipe.report.posters.poster_layout import PosterForm

    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    check_type("output", output, (str, os.PathLike, type(None)))
    check_type("progress", progress, (Progress, type(None)))
    form = PosterForm(width, tiles, center, span, originals, seed)
    Run.open(run.url)
    config = make_config(base=run.info()["config"])
    return pipeline.poster(run, config, None if output is None else os.fspath(output), form, progress or Progress())


def sweep(
    run: Run,
    ks: Sequence[int] | None = None,
    gammas: Sequence[float | str] = ("auto",),
    *,
    seeds: int = 5,
    config: Config | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find out how many clusters an embedded run has, on Ray; ``sweep.json`` and a picture are written.

    Parameters
    ----------
    run
        An embedded run, clustered or not.
    ks
        Numbers of clusters; by default 2 to 12, and half of the videos at most.
    gammas
        Values of γ to compare, "auto" among them perhaps.
    seeds
        Fits from so many seeds, and as many splits in halves.
    config
        How trajectories are built, reduced and clustered; by default as the run's own config says.
    progress
        Where progress is shown; by default nowhere.

    Returns
    -------
    What `raypipe.analysis.sweep.sweep_clusters` returns: the figures of each fit, the recommendation and its reason.

    Raises
    ------
    UsageError
        If there is no such run, or a number of clusters, γ or the number of seeds is out of range.
    """
    from raypipe import pipeline

    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    check_type("config", config, (Config, type(None)), "what make_config returns")
    Run.open(run.url)
    config = config or make_config(base=run.info()["config"])
    return pipeline.sweep(run, config, ks, gammas, seeds, progress or Progress())


def _check_fitted(model: TimeSeriesKMeans) -> None:
    from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans

    check_type("model", model, TimeSeriesKMeans)
    if not hasattr(model, "labels_"):
        raise UsageError("the model is not fitted: call fit with the run's trajectories first")
