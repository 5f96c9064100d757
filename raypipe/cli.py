"""The ``raypipe`` command: its verbs and the only argument parser.

A verb imports what it needs only when it runs, so that ``raypipe --help`` stays quick.
"""

from __future__ import annotations

import functools
import inspect as introspection
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raypipe.errors import RaypipeError, UsageError

if TYPE_CHECKING:
    from raypipe.config import Config
    from raypipe.progress import Progress

DONE, FAILED, USAGE, TOO_MANY_FAILED = 0, 1, 2, 3

app = typer.Typer(
    name="raypipe",
    help="What happens in many videos, which of them do the same thing, and which are odd.",
    epilog="Start with: raypipe demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder, glob, file or URL of videos; a manifest (.csv, .parquet, .jsonl); or precomputed trajectories "
        "(.json, .npz).",
    ),
]
ExistingRun = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]
Output = Annotated[str, typer.Option("-o", "--output", metavar="RUN", help="The run directory: a folder or a URL.")]

# Options that several verbs share. A name with a dot is the config key that the option sets.
_ANY = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}
_CONFIG = {
    "config": Annotated[str | None, typer.Option("--config", metavar="FILE.yaml", help="Parameters from a file.")],
    "preset": Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="A pinned recipe: embedding-analysis, outlier-detection, video-kmeans or video-density.",
        ),
    ],
    "set": Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any parameter, such as sample.every_n=10."),
    ],
}
_ADDRESS = {
    "ray.address": Annotated[
        str | None,
        typer.Option("--address", help="A Ray cluster's address; else RAY_ADDRESS, else a local one."),
    ],
}
_EMBED = {
    "encode.encoder": Annotated[
        str | None, typer.Option("--encoder", help="clip, descriptor (needs no weights), or package.module:Name.")
    ],
    "encode.pretrained": Annotated[
        str | None, typer.Option("--pretrained", help="CLIP weights: an open_clip tag or a checkpoint file.")
    ],
    "decode.decoder": Annotated[
        str | None, typer.Option("--decoder", help="auto, or the decoders to try in order, such as decord,pyav.")
    ],
    "source.limit": Annotated[int | None, typer.Option("--limit", metavar="N", help="Take the first N videos.")],
    "source.allow_pickle": Annotated[
        bool | None, typer.Option("--allow-pickle", help="Read .pkl sources, which can run code.")
    ],
    "source.retry_failed": Annotated[
        bool | None, typer.Option("--retry-failed", help="Try videos again that failed in an earlier run.")
    ],
    "source.re_embed": Annotated[
        bool | None,
        typer.Option(
            "--re-embed",
            help="Embed videos again whose embeddings come from another encoder or sampling, or whose files changed.",
        ),
    ],
    **_ADDRESS,
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")],
    "max_failed": Annotated[
        float,
        typer.Option("--max-failed", metavar="FRACTION", help="Exit with 3 if more than this fraction failed."),
    ],
}
_SEED = {"seed": Annotated[int | None, typer.Option("--seed", help="Seed of reduction and clustering.")]}
_CLUSTER = {
    "cluster.n_clusters": Annotated[int | None, typer.Option("--n-clusters", "-k", help="Number of clusters.")],
    "cluster.min_cluster_size": Annotated[
        int | None, typer.Option("--min-cluster-size", help="Density: videos that make a cluster at least.")
    ],
    "reduce.n_neighbors": Annotated[int | None, typer.Option("--n-neighbors", help="UMAP: neighbours of a point.")],
    "cluster.assign_all": Annotated[
        bool | None, typer.Option("--assign-all", help="Density: noise goes to the nearest video's cluster.")
    ],
    **_SEED,
}
_DEFAULTS: dict[str, Any] = {"quiet": False, "debug": False, "dry_run": False, "max_failed": 0.05}


def _verb(*groups: dict[str, Any], epilog: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a verb with the options of the groups, which it receives as a dict in its last argument, ``options``."""
    shared = {name: annotation for group in (*groups, _ANY) for name, annotation in group.items()}

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        own = list(introspection.signature(function, eval_str=True).parameters.values())[:-1]
        more = [
            introspection.Parameter(
                name.replace(".", "__"),
                introspection.Parameter.KEYWORD_ONLY,
                default=_DEFAULTS.get(name),
                annotation=kind,
            )
            for name, kind in shared.items()
        ]

        @functools.wraps(function)
        def verb(**arguments: Any) -> None:
            options = {name: arguments.pop(name.replace(".", "__")) for name in shared}
            raise typer.Exit(_run(lambda: function(**arguments, options=options), options["debug"]))

        verb.__signature__ = introspection.Signature([*own, *more])  # type: ignore[attr-defined]
        verb.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
        return app.command(epilog=epilog)(verb)

    return register


def _run(work: Callable[[], int | None], debug: bool) -> int:
    """Run a verb's work and return the exit code; an error is printed as one line."""
    try:
        return work() or DONE
    except RaypipeError as error:
        if debug:
            raise
        print(f"raypipe: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        print("raypipe: interrupted; run the same command again to continue", file=sys.stderr)
        return FAILED
    except Exception as error:
        if debug:
            raise
        reason = " ".join(str(error).split())[:500]
        print(f"raypipe: {type(error).__name__}: {reason} (--debug shows the traceback)", file=sys.stderr)
        return FAILED


@_verb(
    _CONFIG,
    _EMBED,
    _CLUSTER,
    epilog="Examples:  raypipe run videos/ -o runs/first --encoder descriptor -k 6  |  "
    "raypipe run 's3://bucket/**/*.mp4' -o s3://bucket/runs/all --address auto  |  "
    "raypipe run manifest.csv -o runs/m --set sample.n_frames=5  |  "
    "raypipe run videos/ -o runs/d --preset video-density --encoder descriptor --min-cluster-size 4",
)
def run(source: Source, output: Output, options: dict[str, Any]) -> int | None:
    """Embed, cluster and report: videos in, clusters and a report out."""
    config, progress = _prepare(options)
    if options["dry_run"]:
        _dry_run(source, config)
        return DONE
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    made = Run(output)
    pipeline.run_all(source, made, config, progress)
    progress.say(f"report: {made.path('report.html')}")
    return _exit_code(made, options["max_failed"])


@_verb(
    _CONFIG,
    _EMBED,
    epilog="Examples:  raypipe embed videos/ -o runs/first --encoder clip  |  "
    "raypipe embed videos/ -o runs/first --set sample.thumbnails=16 --set sample.thumbnail_px=96",
)
def embed(source: Source, output: Output, options: dict[str, Any]) -> int | None:
    """Embed only; running it again resumes where it stopped."""
    config, progress = _prepare(options)
    if options["dry_run"]:
        _dry_run(source, config)
        return DONE
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    made = Run(output)
    pipeline.embed(source, made, config, progress)
    return _exit_code(made, options["max_failed"])


@_verb(
    _CONFIG,
    _CLUSTER,
    epilog="Examples:  raypipe cluster runs/first -k 8 --set reduce.method=pca  |  "
    "raypipe cluster runs/first --preset video-kmeans -k 4  |  "
    "raypipe cluster runs/first --set cluster.method=density --min-cluster-size 4 --assign-all  |  "
    "raypipe cluster runs/first --set describe.keywords=8",
)
def cluster(run: ExistingRun, options: dict[str, Any]) -> None:
    """Cluster an embedded run again, with other parameters, and report."""
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    made = Run.open(run)
    config, progress = _prepare(options, base=made)
    pipeline.cluster(made, config, progress)
    pipeline.report(made, config, progress)
    progress.say(f"report: {made.path('report.html')}")


@_verb(
    _CONFIG,
    _SEED,
    _ADDRESS,
    epilog="Examples:  raypipe sweep runs/first  |  raypipe sweep runs/first --k 2:8 --gamma auto,0.1 --seeds 3",
)
def sweep(
    run: ExistingRun,
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="FROM:TO", help="Numbers of clusters, both ends included; else 2:12."),
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
    from raypipe.analysis.sweep import read_gammas, read_range
    from raypipe.runs.directory import Run

    ks, gammas = k and read_range(k), read_gammas(gamma)
    made = Run.open(run)
    config, progress = _prepare(options, base=made)
    print(describe_sweep(pipeline.sweep(made, config, ks or None, gammas, seeds, progress)))
    progress.say(f"picture: {made.path('plots/sweep.png')}")


@_verb(
    _CONFIG,
    _EMBED,
    epilog="Example:  raypipe predict runs/first new_videos/ -o runs/new",
)
def predict(run: ExistingRun, source: Source, output: Output, options: dict[str, Any]) -> int | None:
    """Give new videos the clusters of a run: embedded as it was, they become a run of their own."""
    from raypipe.runs.directory import Run

    known = Run.open(run)
    config, progress = _prepare(options, base=known, afresh="source")
    if options["dry_run"]:
        _dry_run(source, config)
        return DONE
    from raypipe import pipeline

    made = Run(output)
    pipeline.predict(known, source, made, config, progress)
    pipeline.report(made, config, progress)
    progress.say(f"report: {made.path('report.html')}")
    return _exit_code(made, options["max_failed"])


@_verb(
    epilog="Examples:  raypipe search runs/first --like videos/a.mp4  |  "
    "raypipe search runs/first --like videos/a.mp4 --from 3 --to 6 -n 20  |  "
    "raypipe search runs/clip --like 'a hand opens a drawer'  |  "
    "raypipe search runs/first --diverse 12  |  raypipe search runs/first --duplicates --json",
)
def search(
    run: ExistingRun,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="URI|ID|TEXT", help="A video of the run, a new one, or words (encoder clip)."),
    ] = None,
    least: Annotated[bool, typer.Option("--least", help="The least alike instead.")] = False,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many to find.")] = 9,
    from_s: Annotated[
        float | None, typer.Option("--from", metavar="SECONDS", help="With --to: find where this part happens.")
    ] = None,
    to_s: Annotated[float | None, typer.Option("--to", metavar="SECONDS", help="Where the part ends.")] = None,
    diverse: Annotated[
        int | None, typer.Option("--diverse", metavar="N", min=1, help="The N videos most unlike one another instead.")
    ] = None,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Groups of near-duplicate videos instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Find videos of a run: like a video, a part of one or a text; the most unlike one another; near-duplicates."""
    from raypipe import similarity
    from raypipe.runs.directory import Run

    asked = Run.open(run)
    if (like is not None) + (diverse is not None) + duplicates != 1:
        raise UsageError("say what to search for: one of --like, --diverse and --duplicates")
    if like is None and (least or from_s is not None or to_s is not None):
        raise UsageError("--least, --from and --to go with --like")
    if duplicates:
        groups = similarity.find_duplicates(asked)
        print(similarity.as_text(groups, as_json))
    elif diverse is not None:
        print(similarity.as_text(similarity.find_diverse(asked, diverse), as_json))
    else:
        found = similarity.search(asked, like, n=n, least=least, from_s=from_s, to_s=to_s)  # type: ignore[arg-type]
        print(similarity.as_text(found, as_json))


@_verb(
    {
        "cluster.outlier_by": Annotated[
            str | None,
            typer.Option(
                "--by",
                help="score: the divergence from the nearest center that other videos support; distance: to the own "
                "center.",
            ),
        ],
        "cluster.outlier_quantile": Annotated[
            float | None, typer.Option("--quantile", help="Videos beyond this quantile of it are outliers.")
        ],
    },
    epilog="Example:  raypipe outliers runs/first --by distance --quantile 0.9",
)
def outliers(run: ExistingRun, options: dict[str, Any]) -> None:
    """Find the odd videos of a clustered run again: which, why, and where in them; and report."""
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    made = Run.open(run)
    config, progress = _prepare(options, base=made)
    pipeline.find_outliers(made, config, progress)
    pipeline.report(made, config, progress)
    progress.say(f"report: {made.path('report.html')}")


@_verb(_CONFIG, epilog="Example:  raypipe report runs/first --set report.sheet_videos=10")
def report(run: ExistingRun, options: dict[str, Any]) -> None:
    """Write the report of a clustered run again."""
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    made = Run.open(run)
    config, progress = _prepare(options, base=made)
    pipeline.report(made, config, progress)
    progress.say(f"report: {made.path('report.html')}")


@_verb(_CONFIG, _SEED, epilog="Examples:  raypipe demo  |  raypipe demo -o /tmp/demo --seed 7")
def demo(
    output: Annotated[str, typer.Option("-o", "--output", metavar="RUN", help="The run directory.")] = "raypipe-demo",
    *,
    options: dict[str, Any],
) -> None:
    """Render a labelled sample of videos, run the whole pipeline on it, and compare with mean pooling."""
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    config, progress = _prepare(options, encoder="descriptor")
    made = Run(output)
    scores = pipeline.demo(made, config, options["seed"] or 0, progress)
    print(f"ARI of trajectory clustering   {scores['trajectories']:.3f}")
    print(f"ARI of mean-pooled k-means     {scores['mean_pooled']:.3f}")
    progress.say(f"report: {made.path('report.html')}")


@_verb(_CONFIG, _EMBED, epilog="Example:  raypipe inspect videos/")
def inspect(source: Source, options: dict[str, Any]) -> None:
    """Show statistics of a source: counts, durations, sizes, codecs, and which videos would fail."""
    from raypipe.inspection import describe, inspect_source

    config, progress = _prepare(options)
    print(describe(inspect_source(source, config, progress)))


@_verb(epilog="Example:  raypipe status s3://bucket/runs/kitchen")
def status(run: ExistingRun, options: dict[str, Any]) -> None:
    """Show how far a run is, while it runs or after: done, failed, remaining, speed, time left."""
    from raypipe.runs.directory import Run
    from raypipe.runs.status import describe_status

    print(describe_status(Run.open(run)))


@_verb(epilog="Example:  raypipe doctor")
def doctor(options: dict[str, Any]) -> None:
    """Show what this machine can run, and what is missing."""
    from raypipe.doctor import examine

    for line in examine():
        print(line)


def _dry_run(source: str, config: Config) -> None:
    from raypipe import pipeline
    from raypipe.config import to_yaml

    print(to_yaml(config))
    print("\n".join(pipeline.preview(source, config)))


def _exit_code(run: Any, max_failed: float) -> int:
    counts = run.info()["counts"]
    if counts["failed"] > max_failed * counts["found"]:
        print(
            f"raypipe: {counts['failed']} of {counts['found']} videos failed, more than --max-failed {max_failed:g}: "
            f"see {run.path('videos.parquet')}",
            file=sys.stderr,
        )
        return TOO_MANY_FAILED
    return DONE


def _prepare(
    options: dict[str, Any], base: Any = None, encoder: str | None = None, afresh: str | None = None
) -> tuple[Config, Progress]:
    """Resolve the options to a config and a progress display.

    The options override the config of the run ``base``, of which the section ``afresh`` is left out.
    """
    from raypipe.config import make_config
    from raypipe.progress import make_progress

    chosen: dict[str, Any] = {}
    for name, value in options.items():
        section, dot, key = name.partition(".")
        if dot and value is not None:
            chosen.setdefault(section, {})[key] = value
    if options.get("seed") is not None:
        for section in ("reduce", "cluster"):
            chosen.setdefault(section, {})["seed"] = options["seed"]
    made_with = {"encode": {"encoder": encoder}} if encoder else None
    if base is not None and (made_with := base.info().get("config")) is None:
        raise UsageError(f"nothing has been embedded in {base.url}: run raypipe embed SOURCE -o {base.url}")
    config = make_config(
        embedded=base is not None,
        base={name: section for name, section in (made_with or {}).items() if name != afresh},
        preset=options.get("preset"),
        file=options.get("config"),
        flags=chosen,
        sets=tuple(options.get("set") or ()),
    )
    return config, make_progress(options["quiet"])


def main() -> None:
    """Run the command line."""
    try:
        app()
    except SystemExit as end:
        if "ray" in sys.modules:
            # All work is done and every file is closed. While the interpreter unloads Ray's core, one of Ray's threads
            # may lock a mutex that is destroyed already, which aborts the process (seen on a busy machine). That must
            # not become the exit code.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else FAILED if end.code else DONE)
        raise
