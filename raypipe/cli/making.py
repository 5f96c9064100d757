"""The verbs that make a run or a part of one. Each imports what it needs only when it runs."""

from __future__ import annotations

import shlex
from functools import partial
from typing import Annotated, Any

import typer

from raypipe.options import (
    ADDRESS,
    CLUSTER,
    CONFIG,
    DONE,
    EMBED,
    SEED,
    ExistingRun,
    Output,
    Source,
    exit_code,
    prepare,
    print_plan,
    redo,
    say_report,
    verb,
)
from raypipe.storage import shown


@verb(
    CONFIG,
    EMBED,
    CLUSTER,
    examples=[
        "raypipe run videos/ -o runs/first --encoder descriptor -k 6",
        "raypipe run 's3://bucket/**/*.mp4' -o s3://bucket/runs/all --address auto",
        "raypipe run manifest.csv -o runs/m --set sample.n_frames=5",
        "raypipe run videos/ -o runs/d --preset video-density --encoder descriptor --min-cluster-size 4",
        "raypipe run datasets/cloth -o runs/cloth --encoder descriptor -k 2 --camera all",
        "raypipe run datasets/cloth -o runs/signals --features observation.state,action -k 2",
        "raypipe run 'shards/{000..001}.tar' -o runs/w --encoder descriptor -k 4",
        "raypipe run curated/ -o runs/c -k 4",
    ],
)
def run(source: Source, output: Output, options: dict[str, Any]) -> int | None:
    """Embed, cluster and report: videos in, clusters and a report out."""
    config, progress = prepare(options)
    if options["dry_run"]:
        print_plan(source, config)
        return DONE
    from raypipe import pipeline
    from raypipe.analysis.sizes import LEAST_SWEPT
    from raypipe.runs.directory import Run

    made = Run(output)
    pipeline.run_all(source, made, config, progress)
    name = shlex.quote(shown(output))
    can_sweep = config.cluster.method != "density" and made.info()["counts"]["ok"] >= LEAST_SWEPT
    sweep = f", raypipe sweep {name} to find how many clusters there are" if can_sweep else ""
    progress.say(f"next: raypipe explore {name} to look at it{sweep}")
    say_report(made, progress)
    return exit_code(made, options["max_failed"])


@verb(
    CONFIG,
    EMBED,
    examples=[
        "raypipe embed videos/ -o runs/first --encoder clip",
        "raypipe embed videos/ -o runs/first --set sample.thumbnails=16 --set sample.thumbnail_px=96",
    ],
)
def embed(source: Source, output: Output, options: dict[str, Any]) -> int | None:
    """Embed only; running it again resumes where it stopped."""
    config, progress = prepare(options)
    if options["dry_run"]:
        print_plan(source, config)
        return DONE
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    made = Run(output)
    pipeline.embed(source, made, config, progress)
    return exit_code(made, options["max_failed"])


@verb(
    CONFIG,
    CLUSTER,
    examples=[
        "raypipe cluster runs/first -k 8 --set reduce.method=pca",
        "raypipe cluster runs/first --preset video-kmeans -k 4",
        "raypipe cluster runs/first --set cluster.method=density --min-cluster-size 4 --assign-all",
        "raypipe cluster runs/first --set describe.keywords=8",
        "raypipe cluster runs/cloth -k 2 --set trajectory.join=camera",
    ],
)
def cluster(run: ExistingRun, options: dict[str, Any]) -> None:
    """Cluster an embedded run again, with other parameters, and report. What is not given stays as it was last."""
    from raypipe import pipeline

    redo(run, options, partial(pipeline.cluster, to_report=True))


@verb(
    CONFIG,
    SEED,
    ADDRESS,
    examples=[
        "raypipe sweep runs/first",
        "raypipe sweep runs/first --k 2:8 --gamma auto,0.1 --seeds 3",
    ],
)
def sweep(
    run: ExistingRun,
    k: Annotated[
        str | None, typer.Option("--k", metavar="FROM:TO", help="Numbers of clusters, both ends included; else 2:12.")
    ] = None,
    gamma: Annotated[
        str, typer.Option("--gamma", metavar="G[,G…]", help="Values of γ to compare; auto fits it to the data.")
    ] = "auto",
    seeds: Annotated[int, typer.Option("--seeds", help="Fits from so many seeds, and as many splits in halves.")] = 5,
    *,
    options: dict[str, Any],
) -> None:
    """Find out how many clusters an embedded run has: fits of many numbers, their figures, and a recommendation."""
    from raypipe import pipeline
    from raypipe.analysis.recommendation import describe_sweep
    from raypipe.analysis.sweep import read_gammas, read_ks
    from raypipe.runs.contents import SWEEP_PLOT_FILE
    from raypipe.runs.directory import Run

    ks, gammas = k and read_ks(k), read_gammas(gamma)
    made = Run.open(run)
    config, progress = prepare(options, base=made)
    print(describe_sweep(pipeline.sweep(made, config, ks or None, gammas, seeds, progress)))
    progress.say(
        f"next: raypipe cluster {shlex.quote(shown(run))} -k K with the number of your choice, which reports again"
    )
    progress.say(f"picture: {shown(made.place(SWEEP_PLOT_FILE))}")


@verb(CONFIG, EMBED, examples=["raypipe predict runs/first new_videos/ -o runs/new"])
def predict(run: ExistingRun, source: Source, output: Output, options: dict[str, Any]) -> int | None:
    """Give new videos the clusters of a run: embedded as it was, they become a run of their own."""
    from raypipe.runs.directory import Run

    known = Run.open(run)
    config, progress = prepare(options, base=known, afresh="source")
    if options["dry_run"]:
        print_plan(source, config)
        return DONE
    from raypipe import pipeline

    made = Run(output)
    pipeline.predict(known, source, made, config, progress)
    pipeline.report(made, config, progress)
    say_report(made, progress)
    return exit_code(made, options["max_failed"])
