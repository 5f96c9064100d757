"""What a run's videos are like: the nearest to a video, a part of one or a text; the most unlike; near-duplicates."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raypipe.config import Config, make_config
from raypipe.encoders import Encoder, make_encoder
from raypipe.errors import UsageError, check_type
from raypipe.runs import lookup, results
from raypipe.runs.comparison import PRECOMPUTED, check_comparable, why_no_words, without_folder
from raypipe.runs.contents import METRICS_FILE, SIGNALS_FOLDER
from raypipe.runs.directory import Run
from raypipe.schema import EMBEDDED, Trajectories
from raypipe.sources import is_precomputed, read_source
from raypipe.sources.files import VIDEO_SUFFIXES
from raypipe.storage import shown, suffix

if TYPE_CHECKING:
    from raypipe.encoders.clip import ClipText

_SPREAD_BYTES = 1 << 30  # So many bytes of paths are held at most to find the most unlike, or near-duplicates.


def search(
    run: Run,
    like: str | Path,
    *,
    n: int = 9,
    least: bool = False,
    from_s: float | None = None,
    to_s: float | None = None,
) -> list[dict[str, Any]]:
    """Find the videos of a run that are like a video or a text, or where in them the same thing happens as in a part.

    Parameters
    ----------
    run
        A clustered run; for a part or a text an embedded one will do.
    like
        The id, the URI or the path of a video of the run; a new video, which is embedded as the run's were; or, if the
        run was embedded by CLIP, a text.
    n
        How many to find.
    least
        Find the least alike instead.
    from_s, to_s
        A part of the video, in seconds of its file: then pieces of other videos are found.

    Returns
    -------
    A dict for each, in order: ``video_id, uri, group, label, caption, cluster``, ``distance`` and ``start_s, end_s``.
    The distance is the soft-DTW divergence of the trajectories that were clustered; for a part that of the piece from
    it, for each step; for a text 1 less the cosine of the video's nearest clip. The times are those of the piece, or of
    that clip; else None.

    Raises
    ------
    UsageError
        If the run is not clustered, or has no such video; the part is empty; a text is given and the run was not
        embedded by CLIP; or the new video's encoder would be another one.
    SourceError, EncoderError
        If the new video cannot be found, or the encoder cannot be made.
    """
    from raypipe.analysis import search as ranking
    from raypipe.runs.clips import iter_clip_paths

    like = _check(run, like, n)
    part = _check_part(from_s, to_s)
    config = make_config(base=run.info()["config"])
    video_id = lookup.find_id(run, like)
    if video_id is None and _is_text(like):
        if part:
            raise UsageError("a text has no part: leave --from and --to out")
        return search_text(run, like, n=n, least=least)
    elif part:
        with _opened(run, like, video_id, config) as query:
            whole = next(iter_clip_paths(query, video_id and [video_id]))
        matches = ranking.rank_pieces(whole, part, iter_clip_paths(run), n, least=least)
    else:
        column = results.path_column(run)
        path = _read_query(run, like, video_id, config, column)
        pooled = not ranking.is_affordable(results.count_trajectories(run), *path.shape)
        paths = results.iter_trajectories(run, column)
        gamma = gamma_of(run, column)
        matches = ranking.rank_paths(path, paths, gamma, n, least=least, skip=video_id, pooled=pooled)
    return _describe(run, matches)


def search_text(run: Run, text: str, *, n: int = 9, least: bool = False) -> list[dict[str, Any]]:
    """Find the videos of a run that are like a text, which names no video: as `search` does."""
    from raypipe.analysis.search import rank_by_direction
    from raypipe.runs.clips import iter_clip_paths

    _check(run, text, n)
    direction = _encode_text(run, text, make_config(base=run.info()["config"]))
    return _describe(run, rank_by_direction(direction, iter_clip_paths(run), n, least=least))


def find_diverse(run: Run, n: int = 9) -> list[dict[str, Any]]:
    """Find the videos of a run that are most unlike one another, for an overview.

    The first is the most central; each further one is that whose nearest among those before it is farthest, by the
    soft-DTW divergence (farthest-point order). Of a very large run so many videos are looked at, evenly spread, that it
    takes some seconds and 1 GB.

    Parameters
    ----------
    run
        A clustered run.
    n
        How many to find.

    Returns
    -------
    Dicts as those of `search`; ``distance`` is the divergence from the nearest before it.
    """
    from raypipe.analysis.search import BUDGET, Match, spread_out

    _check(run, "", n)
    column = results.path_column(run)
    n = min(n, results.count_trajectories(run))
    paths = _gather(run, column, lambda n_steps, dim: BUDGET / (n * n_steps**2 * (dim + 8)))
    found = spread_out(paths.values, gamma_of(run, column), n)
    return _describe(run, [Match(paths.video_ids[i], distance) for i, distance in found])


def find_duplicates(run: Run) -> list[list[dict[str, Any]]]:
    """Find groups of near-duplicate videos of a run: copies that were encoded again, scaled, or cut a little.

    Parameters
    ----------
    run
        A clustered run.

    Returns
    -------
    The groups, the largest first, each a list of dicts as those of `search`; ``distance`` is that to the nearest of the
    group (`raypipe.analysis.duplicates`).
    """
    from raypipe.analysis.duplicates import group_duplicates
    from raypipe.analysis.search import Match

    _check(run, "", 1)
    paths = _gather(run, results.path_column(run), lambda n_steps, dim: np.inf)
    found = group_duplicates(paths.values)
    return [
        _describe(run, [Match(paths.video_ids[i], float(found.nearest[i])) for i in group]) for group in found.groups
    ]


def _check(run: Run, like: Any, n: int) -> str:
    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    check_type("like", like, (str, os.PathLike), "a video or a text")
    check_type("n", n, int)
    if n < 1:
        raise UsageError(f"n must be 1 or more, not {n}")
    if run.info().get("state") != EMBEDDED:
        raise UsageError(f"{run} is not embedded to its end: run raypipe embed SOURCE -o {run}")
    return os.fspath(like)


def _check_part(from_s: float | None, to_s: float | None) -> tuple[float, float] | None:
    if from_s is None and to_s is None:
        return None
    if from_s is None or to_s is None:
        raise UsageError(f"a part has two ends: --{'to' if to_s is None else 'from'} is missing")
    check_type("from_s", from_s, Real)
    check_type("to_s", to_s, Real)
    if math.isinf(to_s):
        raise UsageError("a part has an end: give --to in seconds")
    if from_s < 0:
        raise UsageError(f"a video begins at 0 s, and the part at {from_s:g} s")
    if not from_s < to_s:
        raise UsageError(f"the part from {from_s:g} s to {to_s:g} s is empty")
    return from_s, to_s


def _is_text(like: str) -> bool:
    if "/" in like or suffix(like) in VIDEO_SUFFIXES or is_precomputed(like):
        return False
    return not os.path.exists(like)  # noqa: PTH110 – Path.exists raises for a name too long, which a text may be


def _make_encoder(run: Run, config: Config) -> Encoder:
    """Make the encoder that a config names; it must be the run's."""
    encoder = make_encoder(**config.encode.model_dump())
    found = {"name": config.encode.encoder, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    check_comparable(found, run)
    return encoder


def _encode_text(run: Run, text: str, config: Config) -> np.ndarray:
    """Return the vector of a text, (dim,), in the space of the run's clips."""
    theirs = run.info()["encoder"]
    if why := why_no_words(theirs):
        raise UsageError(f"{run} has no video {text!r}; nor can it be searched for a text, as {why}")
    if not text.strip():
        raise UsageError("the text to search for is empty")
    tower = _make_tower(config.encode.model, config.encode.pretrained)
    if not without_folder(theirs["fingerprint"]).startswith(f"{without_folder(tower.fingerprint)}/"):
        raise UsageError(f"{run} was embedded by {theirs['fingerprint']}, and this is {tower.fingerprint}")
    return tower([text])[0]


@lru_cache(maxsize=1)
def _make_tower(model: str, pretrained: str) -> ClipText:
    """Load a text tower once: it takes seconds, and a served page is searched for one text after another."""
    from raypipe.encoders.clip import ClipText

    return ClipText(model, pretrained)


@contextmanager
def _opened(run: Run, like: str, video_id: str | None, config: Config) -> Iterator[Run]:
    """Yield a run that holds the query's clips: the run itself, or one of a new video alone."""
    from raypipe.trajectories.queries import embedded_alone, taken_alone

    if video_id is not None:
        yield run
        return
    if run.exists(SIGNALS_FOLDER):
        raise UsageError(f"{run} joins signals to its videos, and {shown(like)} has none: name a video of the run")
    if config.trajectory.join:
        raise UsageError(f"{shown(like)} is no video of {run}, whose paths join the cameras of an episode: name one")
    videos, paths = read_source(like)
    if len(videos) != 1:
        raise UsageError(f"{shown(like)} holds {len(videos)} videos: name one")
    if paths is None:
        with embedded_alone(videos[0], config, _make_encoder(run, config)) as alone:
            yield alone
    else:
        check_comparable({"name": PRECOMPUTED, "dim": paths.clips[0].shape[1], "fingerprint": ""}, run)
        with taken_alone(videos[0], paths.clips[0], paths.spans_s) as alone:
            yield alone


def _read_query(run: Run, like: str, video_id: str | None, config: Config, column: str) -> np.ndarray:
    """Return the query's path, (T, c), in the space of a column of the run's ``trajectories/``."""
    from raypipe.trajectories.steps import LocalSteps

    if video_id is not None:
        return results.read_path(run, video_id, column)
    with _opened(run, like, video_id, config) as alone:
        steps = LocalSteps(alone, config, results.read_encoder(run))
        steps.build()
        if column == "trajectory":
            return steps.paths.values[0]
        steps.restore(results.read_model(run).reducer)
        return steps.reduced.values[0]


def gamma_of(run: Run, column: str) -> float:
    """Return the γ that the clusters were found with, or one that fits the paths."""
    from raypipe.softdtw import auto_gamma

    if column == "reduced" and (gamma := run.read_json(METRICS_FILE).get("gamma")):
        return gamma
    return auto_gamma(next(results.iter_trajectories(run, column)).values)


def _gather(run: Run, column: str, affordable: Any) -> Trajectories:
    """Return so many of a run's paths, evenly spread, as are affordable, and fit a bounded amount of memory."""
    first = next(results.iter_trajectories(run, column)).values
    n_steps, dim = max(len(path) for path in first), first[0].shape[1]
    at_most = int(max(min(affordable(n_steps, dim), _SPREAD_BYTES / (n_steps * dim * first[0].itemsize)), 1))
    taken = slice(None, None, -(-results.count_trajectories(run) // at_most))
    parts = [
        Trajectories(part.video_ids[taken], [np.array(path) for path in part.values[taken]], part.n_clips[taken])
        for part in results.iter_trajectories(run, column)
    ]
    values: Any = [path for part in parts for path in part.values]
    if len({len(path) for path in values}) == 1:
        values = np.stack(values)
    ids = tuple(video_id for part in parts for video_id in part.video_ids)
    return Trajectories(ids, values, np.concatenate([part.n_clips for part in parts]))


def _describe(run: Run, matches: list[Any]) -> list[dict[str, Any]]:
    known = lookup.describe_videos(run, [match.video_id for match in matches])
    return [{**known[match.video_id], **vars(match)} for match in matches]
