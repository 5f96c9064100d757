"""The verbs that show what is in a run or a source. Each imports what it needs only when it runs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raypipe.errors import UsageError
from raypipe.options import (
    CONFIG,
    DONE,
    FIND,
    FOUND_FAULTS,
    SEED,
    ExistingRun,
    SourceOfVideos,
    prepare,
    redo,
    say_report,
    verb,
)
from raypipe.storage import shown

if TYPE_CHECKING:
    from raypipe.progress import Progress


@verb(
    examples=[
        "raypipe search runs/first --like videos/a.mp4",
        "raypipe search runs/first --like videos/a.mp4 --from 3 --to 6 -n 20",
        "raypipe search runs/clip --like 'a hand opens a drawer'",
        "raypipe search runs/first --diverse 12",
        "raypipe search runs/first --like videos/a.mp4 -n 5 -o alike.png",
        "raypipe search runs/first --duplicates --json",
    ]
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
    picture: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE.png", help="Draw the paths and frames of the query and of what is found."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Find videos of a run: like a video, a part of one or a text; the most unlike one another; near-duplicates."""
    from raypipe.cli.matches import as_text
    from raypipe.runs.directory import Run
    from raypipe.runs.run_version import of_one_clustering
    from raypipe.trajectories import similarity

    asked = Run.open(run)
    if (like is not None) + (diverse is not None) + duplicates != 1:
        raise UsageError("say what to search for: one of --like, --diverse and --duplicates")
    if like is None and (least or from_s is not None or to_s is not None):
        raise UsageError("--least, --from and --to go with --like")
    if picture is not None and (duplicates or not picture.lower().endswith(".png")):
        raise UsageError("-o FILE.png goes with --like and --diverse, and its picture is a PNG")
    with of_one_clustering(asked):
        if duplicates:
            groups = similarity.find_duplicates(asked)
            print(as_text(groups, as_json))
            return
        if like is None:
            found = similarity.find_diverse(asked, diverse)  # type: ignore[arg-type]
        else:
            found = similarity.search(asked, like, n=n, least=least, from_s=from_s, to_s=to_s)
        print(as_text(found, as_json))
        if picture is not None:
            from raypipe.progress import make_progress
            from raypipe.report.figures.fingerprint_figure import draw_found

            _write_picture(picture, draw_found(asked, found, like, least), make_progress(options["quiet"]))


@verb(
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
            float | None,
            typer.Option("--quantile", help="Videos beyond this quantile of it, between 0 and 1, are outliers."),
        ],
    },
    examples=["raypipe outliers runs/first --by distance --quantile 0.9"],
)
def outliers(run: ExistingRun, options: dict[str, Any]) -> None:
    """Find the odd videos of a clustered run again: which, why, and where in them; and report."""
    from raypipe import pipeline

    redo(run, options, pipeline.find_outliers)


@verb(CONFIG, examples=["raypipe report runs/first --set report.sheet_videos=10"])
def report(run: ExistingRun, options: dict[str, Any]) -> None:
    """Write the report of a clustered run again."""
    redo(run, options)


@verb(
    {"decode.decoder": FIND["decode.decoder"]},
    examples=[
        "raypipe poster runs/first",
        "raypipe poster runs/first -o wall.png --width 8000 --from originals",
        "raypipe poster runs/first -o zoom.dzi --width 16000 --tiles 80x60 --from originals",
        "raypipe poster runs/first -o corner.jpg --center 3.5,-2 --span 4 --tiles 400",
    ],
)
def poster(
    run: ExistingRun,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="A .png or .jpg; or .dzi, for tiles to zoom into and an HTML page that shows them; else "
            "RUN/poster.png.",
        ),
    ] = None,
    width: Annotated[int, typer.Option("--width", metavar="PX", help="Of the poster.")] = 4000,
    tiles: Annotated[
        str | None,
        typer.Option(
            "--tiles",
            metavar="N|COLUMNSxROWS",
            help="How many frames; else as many as there are, in tiles of 160 px or more.",
        ),
    ] = None,
    center: Annotated[
        str | None, typer.Option("--center", metavar="X,Y", help="The middle of the window on the map.")
    ] = None,
    span: Annotated[
        float | None, typer.Option("--span", metavar="WIDTH", help="The window's width on the map; else the whole map.")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="frames|originals",
            help="The run's small pictures, for a preview; or the videos, decoded at the size of the tiles, for print.",
        ),
    ] = "frames",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice among frames at one place.")] = 0,
    *,
    options: dict[str, Any],
) -> None:
    """Lay frames of a clustered run on a grid by their place on the map: a poster, or tiles to zoom into."""
    from raypipe import pipeline
    from raypipe.report.posters.poster_layout import PosterForm, read_center, read_tiles
    from raypipe.runs.directory import Run

    if source not in ("frames", "originals"):
        raise UsageError(f"--from is frames or originals, not {source!r}")
    form = PosterForm(
        width,
        None if tiles is None else read_tiles(tiles),
        None if center is None else read_center(center),
        span,
        source == "originals",
        seed,
    )
    made = Run.open(run)
    config, progress = prepare(options, base=made)
    written = pipeline.poster(made, config, output, form, progress)
    progress.say(f"poster: {shown(written)}")


@verb(
    examples=[
        "raypipe explore runs/first",
        "raypipe explore runs/first --no-browser --port 8600",
        "raypipe explore s3://bucket/runs/kitchen",
    ]
)
def explore(
    run: ExistingRun,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", min=1, max=65535, help="The port; else a free one.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="HOST", help="The address to serve at; other machines reach it beyond loopback."
        ),
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    *,
    options: dict[str, Any],
) -> None:
    """Serve the page of a clustered run with its videos playing, one or several side by side, until Ctrl-C."""
    from raypipe.report.serving.server import serve_run
    from raypipe.runs.directory import Run

    serve_run(Run.open(run), host, port, browser)


@verb(
    CONFIG,
    SEED,
    examples=[
        "raypipe demo",
        "raypipe demo -o /tmp/demo --seed 7",
    ],
)
def demo(
    output: Annotated[str, typer.Option("-o", "--output", metavar="RUN", help="The run directory.")] = "raypipe-demo",
    *,
    options: dict[str, Any],
) -> None:
    """Render a labelled sample of videos, run the whole pipeline on it, and compare with mean pooling."""
    from raypipe import pipeline
    from raypipe.runs.directory import Run

    config, progress = prepare(options, encoder="descriptor")
    made = Run(output)
    scores = pipeline.demo(made, config, options["seed"] or 0, progress)
    print(f"ARI of trajectory clustering   {scores['trajectories']:.3f}")
    print(f"ARI of mean-pooled k-means     {scores['mean_pooled']:.3f}")
    progress.say(f"next: raypipe explore {shlex.quote(shown(output))} to look at it")
    say_report(made, progress)


@verb(
    CONFIG,
    FIND,
    examples=[
        "raypipe inspect videos/",
        "raypipe inspect datasets/cloth",
        "raypipe inspect datasets/cloth --json",
        "raypipe inspect MSRVTT/ -o sample.png -n 12",
    ],
)
def inspect(
    source: SourceOfVideos,
    picture: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE.png", help="Draw videos with their captions, chosen at random."),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", metavar="N", min=1, help="How many of them; else 9.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of that choice; else 0.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    options: dict[str, Any],
) -> int | None:
    """Show statistics of a source, which videos would fail, and what is wrong with a dataset (exit code 3 then)."""
    from raypipe.inspection import describe, draw_sample, inspect_source, to_json

    if picture is not None and not picture.lower().endswith(".png"):
        raise UsageError(f"{shown(picture)}: the picture is a PNG, so give it a name with .png")
    if picture is None and (n is not None or seed is not None):
        raise UsageError("-n and --seed go with -o FILE.png")
    config, progress = prepare(options)
    found = inspect_source(source, config, progress)
    print(to_json(found) if as_json else describe(found))
    if picture is not None:
        _write_picture(picture, draw_sample(found, source, config, n or 9, seed or 0), progress)
    return FOUND_FAULTS if found.faults else DONE


@verb(
    examples=[
        "raypipe export runs/first --to links --dry-run",
        "raypipe export runs/first --to csv -o tables/",
        "raypipe export runs/first --to npz",
        "raypipe export runs/episodes --to lerobot",
        "raypipe export runs/episodes --to lerobot --keep 2",
    ]
)
def export(
    run: ExistingRun,
    to: Annotated[str, typer.Option("--to", metavar="FORM", help="lerobot, fiftyone, npz, csv or links.")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PLACE",
            help="The folder or URL to write to, else RUN/exports/FORM; with fiftyone the dataset's name.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="CLUSTER", help="With lerobot: keep this cluster, not all but the outliers."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With links: print what would be linked.")] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Write the results for other tools: the edit that LeRobot takes, FiftyOne samples, arrays, a table, or links."""
    from raypipe.report.exporting.exports import export as write
    from raypipe.runs.directory import Run

    print("\n".join(write(Run.open(run), to, output, keep=keep, dry_run=dry_run)))


@verb(examples=["raypipe status s3://bucket/runs/kitchen"])
def status(run: ExistingRun, options: dict[str, Any]) -> None:
    """Show how far a run is, while it runs or after: done, failed, remaining, speed, time left."""
    from raypipe.runs.directory import Run
    from raypipe.runs.status import describe_status

    print(describe_status(Run.open(run)))


@verb(examples=["raypipe doctor"])
def doctor(options: dict[str, Any]) -> None:
    """Show what this machine can run, and what is missing."""
    from raypipe.doctor import examine

    for line in examine():
        print(line)


def _write_picture(picture: str, drawn: bytes, progress: Progress) -> None:
    """Write a picture to a path or a URL."""
    from raypipe.runs.directory import Run

    folder, slash, name = picture.rpartition("/")
    Run(folder or slash or ".").write_bytes(name, drawn)
    progress.say(f"picture: {shown(picture)}")
