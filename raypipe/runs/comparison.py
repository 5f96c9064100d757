"""Whether a run's embeddings may be held against another's, and against what is asked of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from raypipe.config import Config
from raypipe.encoders import DEFAULT_WEIGHTS
from raypipe.encoders.weights import file_at, hash_files
from raypipe.errors import UsageError
from raypipe.runs.contents import VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.schema import EMBEDDING

PRECOMPUTED = "precomputed"
"""The encoder's name of a run that took trajectories in place of videos; their fingerprint is that of their content, or
of how signals were z-scored."""


def check_comparable(encoder_id: dict[str, Any], like: Run | None) -> None:
    """Raise `UsageError` if embeddings by that encoder cannot be compared with those of the run ``like``.

    Parameters
    ----------
    encoder_id
        The encoder's name, dim and fingerprint, as ``run.json`` has them.
    like
        An embedded run; None, and anything will do.
    """
    if like is None:
        return
    theirs = like.info().get("encoder", {})
    both = encoder_id["name"] == PRECOMPUTED == theirs.get("name")
    if encoder_id["dim"] == theirs.get("dim") and (both or is_same_encoder(encoder_id, theirs)):
        return
    raise UsageError(
        f"{like} was embedded by {_describe(theirs)}, and these videos would be by {_describe(encoder_id)}: "
        "the two cannot be compared"
    )


def is_same_encoder(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two encoders, as ``run.json`` has them, give the same vectors, wherever their weights lie."""
    first, second = ({**each, "fingerprint": without_folder(each.get("fingerprint", ""))} for each in (one, other))
    return first == second


def without_folder(fingerprint: str) -> str:
    """Return an encoder's fingerprint without the folder of its weights, whose content it names as well."""
    return re.sub(r"/local-dir:.*(?=/sha256-)", "/local-dir", fingerprint)


def check_cameras(groups: pa.ChunkedArray, config: Config, like: Run | None) -> None:
    """Raise `UsageError` if the run ``like`` joins cameras, and these videos' are others or in another order."""
    if like is None or not config.trajectory.join:
        return
    theirs = like.read_table(VIDEOS_FILE, ["group"])["group"].unique().to_pylist()
    ours = groups.unique().to_pylist()
    if theirs != ours:
        raise UsageError(
            f"{like} joins the cameras {', '.join(map(str, theirs))}, and these videos are of "
            f"{', '.join(map(str, ours))}: the two cannot be compared"
        )


def check_sections(run: Run, model: Config, config: Config) -> None:
    """Raise `UsageError` unless ``config`` samples, builds and groups trajectories as a run's model does."""
    if config.sample.pattern() != model.sample.pattern():
        raise UsageError(f"config sample: must be as in {run}, whose clusters are wanted")
    judged = {"outlier_by", "outlier_quantile"}  # `raypipe outliers` changes them, and the clusters stay.
    for name in ("trajectory", "learn", "reduce", "cluster"):
        if getattr(config, name).model_dump(exclude=judged) != getattr(model, name).model_dump(exclude=judged):
            raise UsageError(f"config {name}: must be as in {run}, whose clusters are wanted")


def check_embedded(run: Run) -> None:
    """Raise `UsageError` unless a run is embedded to its end."""
    if run.info().get("state") == EMBEDDING:
        raise UsageError(f"{run} is not embedded to its end: run the same raypipe embed again to continue")


def check_facts(run: Run, config: Config) -> None:
    """Raise `UsageError` unless a run's videos were embedded as a config says that shall be recorded as the run's."""
    if run.info().get("encoder", {}).get("name", PRECOMPUTED) == PRECOMPUTED:
        return
    facts = run.info()["config"]
    encode = {"encoder", "normalize", "model", "pretrained"}
    asked = {"sample": config.sample.pattern(), "encode": config.encode.model_dump(include=encode)}
    for section, keys in asked.items():
        for key, value in keys.items():
            fact = facts[section].get(key, value)
            if fact != value and not (key in ("model", "pretrained") and _may_be_weights(run, value)):
                raise UsageError(
                    f"{run} was embedded with {section}.{key}={_as_yaml(fact)}, not {_as_yaml(value)}: "
                    "raypipe embed --re-embed embeds it anew"
                )


def _may_be_weights(run: Run, name: str) -> bool:
    """Return whether an architecture, a tag or a file may be of the weights that a run was embedded by.

    They may have moved, or go by several names. Of an encoder without weights this has nothing to say.
    """
    encoder_id = run.info()["encoder"]
    if encoder_id["name"] not in DEFAULT_WEIGHTS:
        return True
    file = file_at(name)
    names = [hash_files(file)] if file.is_file() else [name, name.replace("/", "-"), name.lower().replace("-", "_")]
    made_with = without_folder(encoder_id["fingerprint"])
    return any(f"/{re.sub('^local-dir:.*', 'local-dir', each)}/" in made_with for each in names)


def why_no_words(encoder_id: Mapping[str, Any]) -> str | None:
    """Return why a run that was embedded by this encoder cannot be searched for words; None if it can."""
    if encoder_id.get("name") == "clip":
        return None
    by = "no encoder of raypipe's" if encoder_id.get("name") == PRECOMPUTED else encoder_id.get("name")
    return f"only the encoder clip reads texts, and this run is by {by}"


def _describe(encoder_id: dict[str, Any]) -> str:
    if encoder_id.get("name") == PRECOMPUTED:
        return f"other software ({encoder_id['dim']} numbers a clip)"
    return f"the encoder {encoder_id.get('name')} ({encoder_id.get('fingerprint')})"


def _as_yaml(value: Any) -> str:
    return "null" if value is None else str(value)
