"""One frozen pydantic model a step, the presets, and the YAML round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raypipe.errors import UsageError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceConfig(_Section):
    """Which videos are taken."""

    limit: int | None = Field(None, ge=1, description="take this many videos, in source order; skip the rest")
    allow_pickle: bool = Field(False, description="read .pkl sources, which can run code of their author's")
    retry_failed: bool = Field(False, description="try videos again that failed in an earlier run")
    re_embed: bool = Field(False, description="embed again what another encoder or sampling made, or has changed since")


class SampleConfig(_Section):
    """Which frames are looked at, and how they are gathered into clips."""

    fps: float | None = Field(2.0, gt=0, description="frames a second of video")
    every_n: int | None = Field(None, ge=1, description="instead of fps: every n-th frame, each a clip")
    n_frames: int | None = Field(None, ge=1, description="instead of fps: so many frames a video, each a clip")
    clip_s: float = Field(1.0, gt=0, description="length of a clip in seconds (with fps)")
    stride_s: float | None = Field(None, gt=0, description="from one clip's start to the next's; default clip_s")
    pool: Literal["mean", "max", "median", "first"] = Field("mean", description="frames of a clip to one embedding")
    segment_s: float = Field(120.0, gt=0, le=3600, description="longest piece of a video that one task takes")

    @model_validator(mode="before")
    @classmethod
    def _one_pattern(cls, values: Any) -> Any:
        if isinstance(values, dict):
            named = [key for key in ("every_n", "n_frames") if values.get(key) is not None]
            if len(named) == 2 or (named and values.get("fps") not in (None, 2.0)):
                raise ValueError("give one of fps, every_n and n_frames")
            if named:
                values = {**values, "fps": None}
        return values

    @model_validator(mode="after")
    def _some_pattern(self) -> SampleConfig:
        if self.fps is None and self.every_n is None and self.n_frames is None:
            raise ValueError("give one of fps, every_n and n_frames")
        return self


class DecodeConfig(_Section):
    """Which decoders are tried, and how long one may take."""

    decoder: str = Field("auto", description="auto, one decoder's name, or several with commas, in order")
    deadline_s: float = Field(20.0, gt=0, description="seconds that any probe or decode may take …")
    deadline_factor: float = Field(3.0, ge=0, description="… and so many more a second of video decoded")


class EncodeConfig(_Section):
    """Which encoder turns frames into vectors."""

    encoder: str = Field("clip", description="clip, descriptor, or package.module:Name")
    model: str = Field("ViT-B-32", description="clip: open_clip's name of the architecture")
    pretrained: str = Field("laion2b_s34b_b79k", description="clip: open_clip's tag, or a checkpoint file")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="clip: auto is bf16 on a GPU, else fp32")
    normalize: bool = Field(True, description="L2-normalise each frame's embedding")
    batch_size: int = Field(128, ge=1, description="frames that the encoder sees at once")


class TrajectoryConfig(_Section):
    """How clips become a path."""

    n_steps: int | None = Field(16, ge=1, description="points a trajectory; null keeps each video's own length")
    time_axis: Literal["time", "index"] = Field("time", description="interpolate over seconds or over clip numbers")


class ReduceConfig(_Section):
    """How many dimensions the clustering sees, and by what way they are found."""

    # On real robot videos clusters agree with the tasks under PCA-5 (ARI 0.89) and much less under UMAP-5 (about 0.4),
    # whose neighbourhoods are a video's own steps; on the demo both are perfect. See bench/quality.py.
    method: Literal["umap", "pca", "none"] = Field("pca")
    n_components: int = Field(5, ge=1)
    n_neighbors: int = Field(15, ge=2, description="umap")
    min_dist: float = Field(0.1, ge=0, description="umap")
    metric: Literal["cosine", "euclidean"] = Field("cosine", description="umap")
    backend: Literal["auto", "cuml", "cpu"] = Field("auto", description="auto: cuml where it and a GPU are, else cpu")
    fit_points: int = Field(100_000, ge=10, description="fit on at most so many points, drawn with the seed")
    seed: int = Field(0, ge=0)

    def for_picture(self) -> ReduceConfig:
        """Return the like of this in two dimensions of UMAP, as the pictures have it."""
        return self.model_copy(update={"method": "umap", "n_components": 2})


class ClusterConfig(_Section):
    """How trajectories are grouped."""

    method: Literal["softdtw", "dtw", "euclidean", "kmeans"] = Field(
        "softdtw", description="k-means under that distance; kmeans: on each trajectory's mean"
    )
    n_clusters: int = Field(5, ge=1)
    gamma: float | Literal["auto"] = Field("auto", description="smoothness of soft-DTW")
    divergence: bool = Field(False, description="softdtw, solver mm: assign by the soft-DTW divergence")
    solver: Literal["mm", "lbfgs"] = Field("mm", description="how centers are found; lbfgs: as tslearn, slower")
    precision: Literal["auto", "float32", "float64"] = Field("auto", description="auto: float32 under mm")
    backend: Literal["auto", "cupy", "numba", "tslearn"] = Field("auto", description="auto: cupy on a GPU, else numba")
    max_iter: int = Field(50, ge=1)
    n_init: int = Field(5, ge=1, description="runs from different seeds, of which the best is kept")
    seed: int = Field(0, ge=0)
    outlier_quantile: float = Field(0.95, gt=0, lt=1, description="outliers lie farther from their center than this")

    @model_validator(mode="after")
    def _gamma_positive(self) -> ClusterConfig:
        if self.gamma != "auto" and self.gamma <= 0:
            raise ValueError("gamma must be greater than 0")
        return self


class ReportConfig(_Section):
    """What the report shows."""

    sheet_videos: int = Field(6, ge=1, description="videos on a cluster's contact sheet")
    sheet_frames: int = Field(8, ge=1, description="frames a video there")


class RayConfig(_Section):
    """What the run may take of the Ray cluster."""

    address: str | None = Field(None, description="a Ray cluster's address; default RAY_ADDRESS, else a local one")
    gpus_per_encoder: float = Field(1.0, gt=0, description="a fraction lets encoders share a GPU")
    encoders: int | None = Field(None, ge=1, description="encoder actors; default one a GPU, or one a two CPUs")
    decoders: int | None = Field(None, ge=1, description="decoder actors; default one a CPU")
    shards: int | None = Field(None, ge=1, description="cluster in so many actors; default in this process alone")
    commit_s: float = Field(20.0, gt=0, le=60, description="embeddings are written so often: what a kill may cost")


class Config(_Section):
    """The whole of a run's parameters; ``run.json`` holds the resolved one."""

    source: SourceConfig = SourceConfig()
    sample: SampleConfig = SampleConfig()
    decode: DecodeConfig = DecodeConfig()
    encode: EncodeConfig = EncodeConfig()
    trajectory: TrajectoryConfig = TrajectoryConfig()
    reduce: ReduceConfig = ReduceConfig()
    cluster: ClusterConfig = ClusterConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()


_PINNED_REDUCE = {"backend": "cpu"}
_PINNED_CLUSTER = {"method": "softdtw", "gamma": 1.0, "solver": "lbfgs", "n_init": 1, "max_iter": 50}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "embedding-analysis": {
        "encode": {"normalize": False},
        "trajectory": {"n_steps": 6, "time_axis": "index"},
        "reduce": {
            **_PINNED_REDUCE,
            "method": "umap",
            "n_components": 2,
            "metric": "cosine",
            "n_neighbors": 15,
            "min_dist": 0.1,
            "seed": 353550416,
        },
        "cluster": {**_PINNED_CLUSTER, "n_clusters": 3, "seed": 353550416},
    },
    "outlier-detection": {
        "encode": {"normalize": False},
        "trajectory": {"n_steps": 20, "time_axis": "index"},
        "reduce": {**_PINNED_REDUCE, "method": "pca", "n_components": 3, "seed": 1234},
        "cluster": {**_PINNED_CLUSTER, "n_clusters": 6, "seed": 1234, "outlier_quantile": 0.95},
    },
}


def make_config(
    *,
    base: dict[str, Any] | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    flags: dict[str, dict[str, Any]] | None = None,
    sets: tuple[str, ...] = (),
) -> Config:
    """Resolve a config from layers, each over the last.

    Parameters
    ----------
    base
        A config's dict, such as an earlier run's; the defaults lie beneath it.
    preset
        A name of `PRESETS`.
    file
        A YAML file of sections.
    flags
        Sections of keys.
    sets
        Strings ``section.key=value``, the value in YAML.

    Raises
    ------
    UsageError
        If a preset, section, key or value is unknown or out of range; the message names it.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}")
    merged: dict[str, Any] = {}
    layers = [base or {}, PRESETS[preset] if preset else {}, _read_yaml(Path(file)) if file else {}, flags or {}]
    for layer in (*layers, *map(_parse_assignment, sets)):
        _merge(merged, layer)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"config {where}: {first['msg'].removeprefix('Value error, ')}") from error


def to_yaml(config: Config) -> str:
    """Return the config as YAML that `make_config` reads back to an equal one."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content or {}, dict):
        raise UsageError(f"config {path} must be a mapping of sections, such as 'cluster: {{n_clusters: 5}}'")
    return content or {}


def _parse_assignment(assignment: str) -> dict[str, Any]:
    import yaml

    name, equals, value = assignment.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UsageError(f"--set takes section.key=value, such as cluster.n_clusters=8; got {assignment!r}")
    try:
        return {section: {key: yaml.safe_load(value)}}
    except yaml.YAMLError as error:
        raise UsageError(f"--set {name}: {value!r} is not a YAML value") from error


def _merge(into: dict[str, Any], layer: dict[str, Any]) -> None:
    for section, values in layer.items():
        if isinstance(values, dict) and isinstance(into.get(section, {}), dict):
            into[section] = {**into.get(section, {}), **values}
        else:
            into[section] = values
