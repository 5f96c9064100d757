"""What the verbs of the ``raypipe`` command share: their options, how they become a config, errors and exit codes."""

from __future__ import annotations

import functools
import inspect as introspection
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from raypipe.errors import RaypipeError, UsageError, message_of
from raypipe.storage import shown

if TYPE_CHECKING:
    from raypipe.config import Config
    from raypipe.progress import Progress

DONE, FAILED, USAGE, TOO_MANY_FAILED = 0, 1, 2, 3
FOUND_FAULTS = 3

app = typer.Typer(
    name="raypipe",
    help="What happens in many videos, which of them do the same thing, and which are odd.",
    epilog="Start with: raypipe demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_VIDEOS = (
    "A folder, glob, file or URL of videos; a manifest (.csv, .parquet, .jsonl); a LeRobot dataset, WebDataset shards "
    "(.tar), MSR-VTT"
)
SourceOfVideos = Annotated[str, typer.Argument(metavar="SOURCE", help=f"{_VIDEOS}.")]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help=f"{_VIDEOS}; an output of Cosmos Curate or NeMo Curator; or precomputed trajectories (.json, .npz).",
    ),
]
ExistingRun = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]
Output = Annotated[str, typer.Option("-o", "--output", metavar="RUN", help="The run directory: a folder or a URL.")]

# Options that several verbs share. A name with a dot is the config key that the option sets.
ANY = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}
CONFIG = {
    "config": Annotated[str | None, typer.Option("--config", metavar="FILE.yaml", help="Parameters from a file.")],
    "preset": Annotated[
        str | None,
        typer.Option(
            "--preset", help="A pinned recipe: embedding-analysis, outlier-detection, video-kmeans or video-density."
        ),
    ],
    "set": Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any parameter, such as sample.every_n=10."),
    ],
}
ADDRESS = {
    "ray.address": Annotated[
        str | None, typer.Option("--address", help="A Ray cluster's address; else RAY_ADDRESS, else a local one.")
    ]
}
FIND = {
    "decode.decoder": Annotated[
        str | None, typer.Option("--decoder", help="auto, or the decoders to try in order, such as decord,pyav.")
    ],
    "source.limit": Annotated[int | None, typer.Option("--limit", metavar="N", help="Take the first N videos.")],
    "source.camera": Annotated[
        str | None, typer.Option("--camera", metavar="NAME|all", help="LeRobot: take one camera; else all.")
    ],
}
EMBED = {
    "encode.encoder": Annotated[
        str | None, typer.Option("--encoder", help="clip, cnn, descriptor (needs no weights), or package.module:Name.")
    ],
    "encode.pretrained": Annotated[
        str | None, typer.Option("--pretrained", help="Weights: a tag of open_clip or torchvision, or a file.")
    ],
    **FIND,
    "source.features": Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="NAME[,NAME…]",
            help="LeRobot: take signals, such as observation.state,action, in place of the videos; with video among "
            "them, beside the videos.",
        ),
    ],
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
    **ADDRESS,
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")],
    "max_failed": Annotated[
        float,
        typer.Option(
            "--max-failed", metavar="FRACTION", min=0, max=1, help="Exit with 3 if more than this fraction failed."
        ),
    ],
}
SEED = {"seed": Annotated[int | None, typer.Option("--seed", help="Seed of reduction and clustering.")]}
CLUSTER = {
    "cluster.n_clusters": Annotated[int | None, typer.Option("--n-clusters", "-k", help="Number of clusters.")],
    "cluster.min_cluster_size": Annotated[
        int | None, typer.Option("--min-cluster-size", help="Density: videos that make a cluster at least.")
    ],
    "reduce.n_neighbors": Annotated[int | None, typer.Option("--n-neighbors", help="UMAP: neighbours of a point.")],
    "cluster.assign_all": Annotated[
        bool | None,
        typer.Option("--assign-all/--no-assign-all", help="Density: noise goes to the nearest video's cluster."),
    ],
    **SEED,
}
_DEFAULTS: dict[str, Any] = {"quiet": False, "debug": False, "dry_run": False, "max_failed": 0.05}


def verb(*groups: dict[str, Any], examples: list[str]) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a verb with the options of the groups, which it receives as a dict in its last argument, ``options``.

    Its help page ends with the examples, a line each: typer takes a paragraph for a line.
    """
    shared = {name: annotation for group in (*groups, ANY) for name, annotation in group.items()}

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

            def work() -> int | None:
                _check_lasts(arguments.get("output") or arguments.get("picture") or "")
                return function(**arguments, options=options)

            raise typer.Exit(_run(work, options["debug"]))

        verb.__signature__ = introspection.Signature([*own, *more])  # type: ignore[attr-defined]
        verb.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
        return app.command(epilog="\n\n".join(["Examples:", *examples]))(verb)

    return register


def _run(work: Callable[[], int | None], debug: bool) -> int:
    """Run a verb's work and return the exit code; an error is printed as one line."""
    try:
        return work() or DONE
    except RaypipeError as error:
        if debug:
            raise
        print(f"raypipe: {message_of(error)}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        print("raypipe: interrupted; run the same command again to continue", file=sys.stderr)
        return FAILED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
            return FAILED  # Who read the output, such as `head`, has seen enough.
        if debug:
            raise
        reason = message_of(error)[:500]
        print(f"raypipe: {type(error).__name__}: {reason} (--debug shows the traceback)", file=sys.stderr)
        return FAILED


def _check_lasts(output: str) -> None:
    """Raise `UsageError` if what is written ends with this process."""
    if output.lower().startswith("memory:/"):
        raise UsageError(f"{output} is the memory of this command, and is gone when it ends: name a folder by -o")


def _is_unread(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def print_plan(source: str, config: Config) -> None:
    """Print the config of a run, and what it would take of a source."""
    from raypipe import pipeline
    from raypipe.config import to_yaml

    lines = pipeline.preview(source, config)
    print(to_yaml(config), *lines, sep="\n")


def say_report(run: Any, progress: Progress) -> None:
    """Say where the page of a run lies."""
    from raypipe.runs.contents import REPORT_FILE

    progress.say(f"report: {shown(run.place(REPORT_FILE))}")


def redo(run: str, options: dict[str, Any], step: Callable[..., None] | None = None) -> None:
    """Do a step of a run again, with what the options change, and report; without a step only report."""
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    made = Run.open(run)
    config, progress = prepare(options, base=made)
    if step is not None:
        step(made, config, progress)
    pipeline.report(made, config, progress)
    say_report(made, progress)


def exit_code(run: Any, max_failed: float) -> int:
    """Return the exit code of a run: `TOO_MANY_FAILED`, with a line that says so, if a larger part has failed."""
    from raypipe.runs.contents import VIDEOS_FILE

    counts = run.info()["counts"]
    if counts["failed"] > max_failed * counts["found"]:
        print(
            f"raypipe: {counts['failed']} of {counts['found']} videos failed, more than --max-failed {max_failed:g}: "
            f"see {shown(run.place(VIDEOS_FILE))}",
            file=sys.stderr,
        )
        return TOO_MANY_FAILED
    return DONE


def prepare(
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
        raise UsageError(f"nothing has been embedded in {base}: run raypipe embed SOURCE -o {base}")
    config = make_config(
        embedded=base is not None,
        base={name: section for name, section in (made_with or {}).items() if name != afresh},
        preset=options.get("preset"),
        file=options.get("config"),
        flags=chosen,
        sets=tuple(options.get("set") or ()),
    )
    progress = make_progress(options["quiet"])
    method, before = config.cluster.method, (made_with or {}).get("cluster", {})
    constraint = [
        key
        for key in ("global_constraint", "sakoe_chiba_radius", "itakura_max_slope")
        if (value := getattr(config.cluster, key)) is not None and value != before.get(key)
    ]
    given = {**chosen.get("cluster", {}), **dict.fromkeys(constraint, True)}
    for flag, key, methods in (
        ("--n-clusters", "n_clusters", ("softdtw", "dtw", "euclidean", "kmeans")),
        ("--min-cluster-size", "min_cluster_size", ("density",)),
        ("--assign-all", "assign_all", ("density",)),
        *((f"cluster.{key}", key, ("softdtw", "dtw", "density")) for key in constraint),
    ):
        if method not in methods and given.get(key):
            other = "--min-cluster-size has, and " if key == "n_clusters" else ""
            remedy = f"{other}--set cluster.method={methods[0]} takes it"
            progress.say(f"{flag} has no effect under cluster.method={method}: {remedy}")
            # Nor has it on a later clustering by another method, to which nobody gave it.
            kept = before.get(key, type(config.cluster).model_fields[key].default)
            config = config.model_copy(update={"cluster": config.cluster.model_copy(update={key: kept})})
    return config, progress
