"""The config of a run: its sections, the presets, and how it is resolved from its layers and kept as YAML."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from raypipe.config.presets import PRESETS
from raypipe.config.sections import (
    PATTERN,
    ClusterConfig,
    Config,
    DecodeConfig,
    DescribeConfig,
    EncodeConfig,
    LearnConfig,
    RayConfig,
    ReduceConfig,
    ReportConfig,
    SampleConfig,
    SourceConfig,
    TrajectoryConfig,
)
from raypipe.errors import UsageError, check_type

__all__ = [
    "PRESETS",
    "ClusterConfig",
    "Config",
    "DecodeConfig",
    "DescribeConfig",
    "EncodeConfig",
    "LearnConfig",
    "RayConfig",
    "ReduceConfig",
    "ReportConfig",
    "SampleConfig",
    "SourceConfig",
    "TrajectoryConfig",
    "check_clusterable",
    "from_yaml",
    "make_config",
    "to_yaml",
    "validate",
]

Model = TypeVar("Model", bound=BaseModel)

_CLUSTERED = ("trajectory", "learn", "reduce", "cluster", "report")  # The sections for what follows from embeddings.


def make_config(
    *,
    base: dict[str, Any] | None = None,
    embedded: bool = False,
    preset: str | None = None,
    file: str | Path | None = None,
    flags: dict[str, dict[str, Any]] | None = None,
    sets: tuple[str, ...] = (),
) -> Config:
    """Resolve a config from its layers, of which each overrides those before it.

    Parameters
    ----------
    base
        A config as a dict, such as an earlier run's. It overrides the defaults.
    embedded
        Whether the run of ``base`` is embedded. How it was sampled and encoded is then a fact that no preset changes;
        of what follows from the embeddings a preset replaces all, that of an earlier preset too.
    preset
        A name in `PRESETS`.
    file
        A YAML file with a mapping for each section.
    flags
        Values by section and key.
    sets
        Strings ``section.key=value``, the value in YAML.

    Raises
    ------
    UsageError
        If a preset, section, key or value is unknown or out of range; the message names it.
    """
    check_type("preset", preset, (str, type(None)))
    check_type("file", file, (str, os.PathLike, type(None)))
    check_type("sets", sets, (list, tuple), "a string section.key=value each")
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; choose one of: {', '.join(PRESETS)}")
    merged: dict[str, Any] = {}
    pinned = PRESETS[preset] if preset else {}
    if preset and embedded:
        base = {name: keys for name, keys in (base or {}).items() if name not in _CLUSTERED}
        pinned = {name: keys for name, keys in pinned.items() if name in _CLUSTERED}
    given: dict[str, Any] = {}
    for section, keys in map(_parse_assignment, sets):
        given.setdefault(section, {}).update(keys)
    for layer in (base or {}, pinned, _read_yaml(Path(file)) if file else {}, flags or {}, given):
        check_type("a layer of the config", layer, dict, "a dict for each section")
        _merge(merged, layer, may_resample=not embedded)
    return validate(Config, merged, "config ")


def check_clusterable(config: Config) -> None:
    """Raise `UsageError` if parameters of the clustering exclude each other, before hours of embedding.

    Other verbs may be given such a config: embedding needs none of it, and a sweep shares no work among shards.
    """
    if config.describe.method == "tags" and config.encode.encoder != "clip":
        raise UsageError(f"describe.method=tags needs embeddings of CLIP, and encode.encoder={config.encode.encoder}")
    if config.ray.shards and (what := config.one_process()):
        raise UsageError(f"{what} works in one process only: leave ray.shards out")


def validate(kind: type[Model], values: dict[str, Any], what: str = "") -> Model:
    """Make parameters of values.

    Raises
    ------
    UsageError
        If a value is unknown or out of range; the message names the first, behind ``what``.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where, why = _explain(kind, error)
        place = (what + where).rstrip(" .")
        raise UsageError(f"{place}: {why}" if place else why) from error


def _explain(kind: type[BaseModel], error: ValidationError) -> tuple[str, str]:
    """Return the section and key that a wrong value has, and what is wrong, where it is the first of several."""
    first = error.errors()[0]
    place: list[str] = []
    inner: Any = None
    for part in first["loc"]:  # What follows behind a key is the name of a type among several.
        names = list(kind.model_fields)
        place.append(str(part))
        inner = kind.model_fields[part].annotation if part in names else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        kind = inner
    if first["type"] == "extra_forbidden":
        near = get_close_matches(place[-1], names, 1)
        section, _, key = place[-1].partition(".")
        if key and section in names:  # --set and messages join them by a dot, and YAML does not.
            return place[-1], f"in a file {key} stands in the section {section}, as '{section}: {{{key}: …}}'"
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        return ".".join(place), f"unknown; {hint}"
    if first["type"] == "model_type":
        return ".".join(place), f"it is a section, with the keys {', '.join(kind.model_fields)}"
    same = [each["msg"] for each in error.errors() if list(map(str, each["loc"][: len(place)])) == place]
    said = " or: ".join(dict.fromkeys(each.removeprefix("Value error, ") for each in same))
    return ".".join(place), f"{said}, or null" if type(None) in get_args(inner) else said


def to_yaml(config: Config) -> str:
    """Return the config as YAML that `make_config` reads back to an equal one."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def from_yaml(text: str) -> Config:
    """Return the config that `to_yaml` wrote."""
    import yaml

    return make_config(base=yaml.safe_load(text))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that comes twice, of which YAML's own loader keeps the last without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            for i, name in enumerate(names):
                if name in names[:i]:
                    mark = node.value[i][0].start_mark
                    raise yaml.constructor.ConstructorError(problem=f"{name} comes twice", problem_mark=mark)
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(), Loader)
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"config {path} is not text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"config {path} must be a mapping of sections, such as 'cluster: {{n_clusters: 5}}'")
    return {section: {} if keys is None else keys for section, keys in content.items()}


def _parse_assignment(assignment: str) -> tuple[str, dict[str, Any]]:
    import yaml

    check_type("a setting", assignment, str, "section.key=value")
    name, equals, value = assignment.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UsageError(f"--set takes section.key=value, such as cluster.n_clusters=8; got {assignment!r}")
    try:
        return section, {key: yaml.safe_load(value)}
    except yaml.YAMLError as error:
        raise UsageError(f"--set {name}: {value!r} is not a YAML value") from error


def _merge(into: dict[str, Any], layer: dict[str, Any], may_resample: bool) -> None:
    for section, values in layer.items():
        below = into.get(section, {})
        if isinstance(values, dict) and isinstance(below, dict):
            if section == "sample" and may_resample and any(values.get(key) is not None for key in PATTERN):
                below = {key: value for key, value in below.items() if key not in PATTERN}  # One takes another's place.
            into[section] = {**below, **values}
        else:
            into[section] = values
