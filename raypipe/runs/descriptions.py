"""``descriptions.json``: what each cluster of a run is about, in words."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raypipe.analysis.description import Keywords, describe_captions, describe_vectors
from raypipe.config import Config, DescribeConfig
from raypipe.errors import EncoderError, UsageError
from raypipe.packages import is_installed, require
from raypipe.runs.clip_signals import saved_scale
from raypipe.runs.comparison import without_folder
from raypipe.runs.contents import DESCRIPTIONS_FILE, SIGNALS_FOLDER, TRAJECTORIES_FOLDER, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.results import from_table, read_clustered
from raypipe.schema import OK

N_CENTRAL = 5  # So many of the most central videos of each cluster are named, with their captions.

_PROMPT = "a video of {}"  # CLIP knows captions of pictures rather than single words (Radford et al. 2021, §3.1.4).


def check_describable(run: Run, config: Config) -> None:
    """Raise unless the clusters of an embedded run can be described as the config asks.

    Raises
    ------
    UsageError
        If there are no captions and the method needs some, if tags are asked for and the embeddings are not CLIP's, or
        if the vocabulary cannot be read or is empty.
    RaypipeError
        If the method needs packages that are not installed.
    """
    method, _ = _choose(run, config)
    if method in ("captions", "keybert") and not any(_read_captions(run)):
        raise UsageError(
            f"describe.method={method} needs captions, and no video of {run} has one: give the manifest a caption "
            "column, or take tags or none"
        )
    if method == "tags":
        if not _is_clip(run):
            name = run.info().get("encoder", {}).get("name")
            raise UsageError(
                f"describe.method=tags needs embeddings of CLIP, and those of {run} come from {name}: embed with "
                "--encoder clip, or give the manifest captions"
            )
        _read_vocabulary(config.describe.vocabulary)
    if method == "keybert":
        for package in ("keybert", "transformers"):
            if not is_installed(package):
                require(package)


def write_descriptions(run: Run, config: Config, labels: np.ndarray, distances: np.ndarray) -> tuple[str, str | None]:
    """Describe the clusters of a run, and write ``descriptions.json``.

    Its ``clusters`` are a list with, for each cluster, its number and size, its ``keywords`` with their scores, and its
    most central videos with their captions, the nearest to the center first; ``keywords`` has the terms alone, by
    cluster. Noise (cluster −1) has nothing in common and is not described.

    Parameters
    ----------
    run
        A run whose ``trajectories/`` have been written.
    config
        How to describe.
    labels, distances
        (n,) each, the cluster of each ok video and its distance to the center.

    Returns
    -------
    What computed the keywords, "none" if nothing did; and why that is not what would have, or None.
    """
    method, reason = _choose(run, config)
    clustered = read_clustered(run, ["video_id", "caption"])
    captions, ids = _clean(clustered["caption"].to_pylist()), clustered["video_id"].to_pylist()
    numbers = [int(n) for n in np.unique(labels) if n >= 0]
    nearest = np.argsort(distances, kind="stable")  # What is not a number comes last.
    members = {n: nearest[labels[nearest] == n] for n in numbers}
    how = config.describe
    found: Keywords = {}
    implementation, fallback = "none", None
    try:
        if method == "captions":
            found = describe_captions(captions, labels, how.keywords, how.min_score)
            implementation = f"c-TF-IDF, scikit-learn {require('sklearn').__version__}"
        elif method == "keybert":
            found = _describe_by_keybert(how, {n: [captions[i] for i in rows] for n, rows in members.items()})
            implementation = f"KeyBERT {require('keybert').__version__}"
        elif method == "tags":
            found = _describe_by_clip(run, config, labels, numbers)
            implementation = f"CLIP {config.encode.model}"
    except (EncoderError, UsageError) as error:
        if how.method != "auto":
            raise
        reason = fallback = str(error)  # Nobody asked for this way: the clusters are worth having without.
    clusters = [
        {
            "cluster": n,
            "size": len(members[n]),
            "keywords": [{"keyword": term, "score": score} for term, score in found.get(n, [])],
            "central": [{"video_id": ids[i], "caption": captions[i] or None} for i in members[n][:N_CENTRAL]],
        }
        for n in numbers
    ]
    content = {
        "method": "none" if fallback else method,
        "implementation": implementation,
        "reason": reason,
        "clusters": clusters,
        "keywords": {str(n): [term for term, _ in found.get(n, [])] for n in numbers},
    }
    run.write_json(DESCRIPTIONS_FILE, content)
    return implementation, fallback


def _choose(run: Run, config: Config) -> tuple[str, str | None]:
    """Return the method that describes the run's clusters, and why it is none."""
    if config.describe.method != "auto":
        return config.describe.method, None
    if any(_read_captions(run)):
        return "captions", None
    if _is_clip(run):
        return "tags", None
    return "none", "the videos have no captions, and the encoder is not clip"


def _is_clip(run: Run) -> bool:
    return run.info().get("encoder", {}).get("name") == "clip"


def _read_captions(run: Run) -> list[str]:
    """Return the caption of each ok video, "" if it has none; the run need not be clustered."""
    videos = run.read_table(VIDEOS_FILE, ["status", "caption"])
    return _clean(videos.filter(pc.equal(videos["status"], OK))["caption"].to_pylist())


def _clean(captions: list[str | None]) -> list[str]:
    return [(caption or "").strip() for caption in captions]


def _describe_by_keybert(how: DescribeConfig, captions: dict[int, list[str]]) -> Keywords:
    from raypipe.analysis.summaries import describe_summaries

    return describe_summaries(captions, how.keywords, how.min_score, model=how.model, summarizer=how.summarizer)


def _describe_by_clip(run: Run, config: Config, labels: np.ndarray, numbers: list[int]) -> Keywords:
    from raypipe.encoders.clip import ClipText

    tower = ClipText(config.encode.model, config.encode.pretrained)
    made_with = run.info()["encoder"]["fingerprint"]
    if not without_folder(made_with).startswith(f"{without_folder(tower.fingerprint)}/"):
        raise EncoderError(
            f"the embeddings of {run} were made with {made_with}, and the text tower is {tower.fingerprint}: "
            "leave encode.model and encode.pretrained as they were"
        )
    terms = _read_vocabulary(config.describe.vocabulary)
    term_vectors = tower([_PROMPT.format(term) for term in terms])
    vectors = _average_embeddings(run, config, labels, numbers)
    return describe_vectors(vectors, numbers, terms, term_vectors, config.describe.keywords, config.describe.min_score)


def _average_embeddings(run: Run, config: Config, labels: np.ndarray, numbers: list[int]) -> np.ndarray:
    """Return the mean embedding of each cluster's videos, (k, dim) float64; a file is in memory at a time.

    Where cameras are joined, a step has the vectors of all of them, and their mean is taken. Signals that stand behind
    an embedding are left out.
    """
    from raypipe.clustering.vectors import pool_steps  # The report reads descriptions, and needs no scikit-learn.

    dim = run.info()["encoder"]["dim"]
    signals = saved_scale(run) if run.exists(SIGNALS_FOLDER) and config.trajectory.signal_weight else None
    width = dim + (len(signals.mean) if signals else 0)
    sums: Any = 0
    start = 0
    for table in run.iter_tables(TRAJECTORIES_FOLDER, ["video_id", "n_clips", "trajectory"]):
        means = pool_steps(from_table(table).values).astype(np.float64)
        means = means.reshape(len(means), -1, width)[:, :, :dim].mean(axis=1)
        belongs = labels[start : start + len(means)] == np.array(numbers)[:, None]
        sums = sums + belongs.astype(np.float64) @ means
        start += len(means)
    return sums / np.bincount(np.searchsorted(numbers, labels[labels >= 0]))[:, None]


def _read_vocabulary(name: str | None) -> list[str]:
    """Return the terms of a file, one a line, or of raypipe's own list; each once, in their order."""
    if name is None:
        text = resources.files("raypipe.analysis").joinpath("vocabulary.txt").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot read the vocabulary {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"the vocabulary {name} is not text in UTF-8: {error}") from error
    terms = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not terms:
        raise UsageError(f"the vocabulary {name} is empty: write a term a line")
    return terms
