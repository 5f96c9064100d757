"""The parameters of a run: a frozen pydantic model for each step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_switches(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise ValueError(f"{name} is not true or false, as which YAML reads yes, no, on and off too")
        return values


class SourceConfig(_Section):
    """Parameters that choose the videos."""

    limit: int | None = Field(None, ge=1, description="take this many videos, in source order; skip the rest")
    camera: str = Field("all", description="LeRobot: the only camera that is wanted; all: a video for each")
    features: str | None = Field(
        None,
        description="LeRobot: take these features of numbers, with commas between them, as trajectories in place of "
        "the videos; with video among them they are joined to the videos",
    )
    allow_pickle: bool = Field(False, description="read .pkl sources, which can run code of their author's")
    retry_failed: bool = Field(False, description="try videos again that failed in an earlier run")
    re_embed: bool = Field(
        False,
        description="embed videos again whose embeddings come from another encoder or sampling, or whose files changed",
    )


PATTERN = ("fps", "every_n", "n_frames")
"""The keys of `SampleConfig` that exclude each other."""


class SampleConfig(_Section):
    """Parameters that choose the frames and gather them into clips."""

    fps: float | None = Field(
        2.0, gt=0, description="frames a second of video; a clip has as many as fit, and one at least"
    )
    every_n: int | None = Field(None, ge=1, description="instead of fps: every n-th frame, each a clip")
    n_frames: int | None = Field(None, ge=1, description="instead of fps: this many frames a video, each a clip")
    clip_s: float = Field(1.0, gt=0, description="length of a clip in seconds (with fps)")
    stride_s: float | None = Field(
        None, gt=0, description="seconds from one clip's start to the next one's; default clip_s"
    )
    pool: Literal["mean", "max", "median", "first"] = Field(
        "mean", description="how the frames of a clip become one embedding"
    )
    segment_s: float = Field(120.0, gt=0, le=3600, description="seconds of video that one task takes at most")
    thumbnails: int = Field(
        64,
        ge=0,
        le=10_000,
        description="clips a video, evenly spread, of which frames/ keeps a small picture for the report; 0: none. "
        "A change holds for what is embedded from then on",
    )
    thumbnail_px: int = Field(160, ge=16, le=1024, description="shorter side of these pictures, in pixels")

    def pattern(self) -> dict[str, Any]:
        """Return the parameters that embeddings depend on; small pictures may change without embedding anew."""
        return self.model_dump(mode="json", exclude={"thumbnails", "thumbnail_px"})

    @model_validator(mode="before")
    @classmethod
    def _one_pattern(cls, values: Any) -> Any:
        if isinstance(values, dict):
            named = [key for key in PATTERN if values.get(key) is not None]
            if len(named) > 1:
                raise ValueError("give one of fps, every_n and n_frames")
            if named:
                values = {**values, **dict.fromkeys(PATTERN), named[0]: values[named[0]]}
        return values

    @model_validator(mode="after")
    def _some_pattern(self) -> SampleConfig:
        if self.fps is None and self.every_n is None and self.n_frames is None:
            raise ValueError("give one of fps, every_n and n_frames")
        return self


class DecodeConfig(_Section):
    """Parameters of decoding: the decoders to try, and how long one may take."""

    decoder: str = Field("auto", description="auto, one decoder's name, or several with commas, in order")
    deadline_s: float = Field(20.0, gt=0, description="seconds that a probe or decode may take")
    deadline_factor: float = Field(3.0, ge=0, description="further seconds allowed for each second of video decoded")


class EncodeConfig(_Section):
    """Parameters of the encoder, which turns frames into vectors."""

    encoder: str = Field("clip", description="clip, cnn, descriptor, or package.module:Name")
    model: str = Field(
        "ViT-B-32",
        description="clip: open_clip's name of the architecture; cnn: torchvision's or timm's, by default "
        "mobilenet_v3_large",
    )
    pretrained: str = Field(
        "laion2b_s34b_b79k",
        description="clip: open_clip's tag, or a checkpoint file; cnn: torchvision's name, DEFAULT (the default), or a "
        "file with a state dict",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="clip, cnn: auto is bf16 on a GPU, else fp32"
    )
    normalize: bool = Field(True, description="L2-normalise each frame's embedding")
    batch_size: int = Field(128, ge=1, description="frames in one batch of the encoder")

    @model_validator(mode="before")
    @classmethod
    def _own_weights(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("encoder") == "cnn":
            return {"model": "mobilenet_v3_large", "pretrained": "DEFAULT", **values}
        return values

    def describe_unused(self) -> list[str]:
        """Return a line that names what is set for networks alone, where the encoder is none of these."""
        names = ("model", "pretrained", "precision")
        unused = [f"encode.{name}" for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if self.encoder in ("clip", "cnn") or not unused:
            return []
        return [f"for clip and cnn alone, and nothing to the encoder {self.encoder}: {', '.join(unused)}"]

    def from_anywhere(self) -> EncodeConfig:
        """Return the same with absolute paths, since actors, and whoever uses the run later, are in other folders."""
        schema, _, folder = self.model.partition(":")
        expand = os.path.expanduser  # Path.expanduser raises if "~name" is no user.
        file = Path(expand(self.pretrained))
        is_file = file.suffix != "" and file.is_file()  # open_clip's tags have no suffix.
        found = {
            "model": f"{schema}:{Path(expand(folder)).absolute()}" if schema == "local-dir" else self.model,
            "pretrained": str(file.absolute()) if is_file else self.pretrained,
        }
        return self.model_copy(update=found)


class TrajectoryConfig(_Section):
    """Parameters of the trajectories, which are made from clips."""

    method: Literal["interpolate", "seq2seq"] = Field(
        "interpolate",
        description="interpolate: the clips, resampled to n_steps; seq2seq: what a recurrent network learns of these "
        "(section learn)",
    )
    n_steps: int | None = Field(16, ge=1, description="points a trajectory; null keeps each video's own length")
    time_axis: Literal["time", "index"] = Field("time", description="interpolate over seconds or over clip numbers")
    pool: Literal["mean", "max", "median", "first"] | None = Field(
        None, description="instead of a path: one step a video, its clips pooled so; n_steps and time_axis do not count"
    )
    normalize: bool = Field(False, description="pool: L2-normalise the pooled vector")
    signal_weight: float = Field(
        1.0,
        ge=0,
        description="of a video that signals are joined to: so many times the z-scored signals stand behind the "
        "embedding in each step, over the root of how many they are; 0: the video alone",
    )
    join: Literal["camera"] | None = Field(
        None, description="camera: the paths of an episode's cameras become one, step by step (LeRobot)"
    )

    @property
    def step_axis(self) -> Literal["time", "index"]:
        """Over what the steps of a path are spread evenly; where each clip is a step, over the clips."""
        return "index" if self.n_steps is None else self.time_axis

    @property
    def noun(self) -> str:
        """What has a trajectory, and so a row among the clusters: a video, or an episode of joined cameras."""
        return "episode" if self.join else "video"

    @model_validator(mode="after")
    def _joins_alike(self) -> TrajectoryConfig:
        if self.join and self.n_steps is None and self.pool is None:
            raise ValueError("join needs paths of equal lengths: give n_steps or pool")
        return self

    @model_validator(mode="after")
    def _learns_from_paths(self) -> TrajectoryConfig:
        if self.method == "seq2seq" and self.pool is not None:
            raise ValueError("method=seq2seq learns from paths, and pool leaves none: set pool=null")
        return self


class LearnConfig(_Section):
    """Parameters of `raypipe.trajectories.learned.Seq2SeqEmbedder`, for ``trajectory.method=seq2seq``."""

    # The defaults are those that were chosen on one view of NW-UCLA alone. See docs/learned.md.
    cell: Literal["gru", "lstm"] = Field("gru", description="the recurrent cell of encoder and decoder")
    hidden_size: int = Field(256, ge=2, description="numbers of the state")
    layers: int = Field(1, ge=1, description="layers of the encoder")
    bidirectional: bool = Field(False, description="half of the state reads the video backwards")
    decoder: Literal["fixed_weights", "fixed_state", "free"] = Field(
        "free",
        description="how the decoder is weakened, so that the state carries the video. fixed_weights: its weights stay "
        "as they were drawn; fixed_state: each step gets the encoder's state in place of its own; free: not at all",
    )
    target: Literal["reconstruct", "predict"] = Field(
        "reconstruct", description="reconstruct: the video from its state alone; predict: from its first step too"
    )
    epochs: int = Field(100, ge=0, description="at most; 0 leaves the network as it was drawn")
    patience: int = Field(15, ge=1, description="epochs without a better held-out loss after which learning ends")
    learning_rate: float = Field(0.003, gt=0)
    batch_size: int = Field(64, ge=1, description="videos a step of the optimizer")
    clip_norm: float = Field(1.0, gt=0, description="norm that a gradient is clipped to")
    held_out: float = Field(0.1, ge=0, lt=1, description="part of the videos on which the loss is held out")
    output: Literal["state", "path"] = Field(
        "state", description="state: the encoder's last state, a vector a video; path: the decoder's states over time"
    )
    window_s: float | None = Field(
        None,
        gt=0,
        description="learn from windows of so many seconds, and part longer videos into spans (spans.csv); a video is "
        "then the mean of its windows' states, or the path of them",
    )
    span_kinds: int | None = Field(None, ge=1, description="kinds of spans; default as many as differ")
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _halves_are_equal(self) -> LearnConfig:
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError("hidden_size must be even for a bidirectional encoder, which has a half for each way")
        return self


PICTURE_POINTS = 2000
"""Steps on which a UMAP picture is fitted at most, as its exact neighbours cost the square of them."""

TSNE_COMPONENTS = 3
"""Components of t-SNE at most: the Barnes-Hut approximation, scikit-learn's default, has no more."""

TSNE_POINTS = 10_000
"""Steps on which a t-SNE picture is fitted at most, as its time grows faster than their number."""


class ReduceConfig(_Section):
    """Parameters of the reduction to the few dimensions that the clustering sees."""

    # PCA is the default because on real robot videos clusters agree with the tasks much better under PCA-5 (ARI 0.89)
    # than under UMAP-5 (about 0.4), where a step's neighbours are other steps of its own video. On the demo both are
    # perfect. See bench/quality.py.
    method: Literal["umap", "pca", "tsne", "autoencoder", "none"] = Field("pca")
    n_components: int = Field(5, ge=1)
    n_neighbors: int = Field(15, ge=2, description="umap: number of neighbours of a point")
    min_dist: float = Field(0.1, ge=0, le=1, description="umap: least distance between points")
    metric: Literal["cosine", "euclidean"] = Field("cosine", description="umap: distance between embeddings")
    backend: Literal["auto", "cuml", "cpu", "quick"] = Field(
        "auto",
        description="umap: auto is cuml if it is installed and there is a GPU, else cpu; cpu is umap-learn; quick is "
        "auto with fastumap on the CPU",
    )
    fit_points: int = Field(100_000, ge=10, description="points to fit on at most, sampled with the seed")
    stretch: bool = Field(True, description="autoencoder: spread the points evenly over the map")
    smoothness: float = Field(
        0.0, ge=0, description="autoencoder: weight of the term that draws steps together that follow each other"
    )
    picture: Literal["umap", "tsne", "autoencoder"] = Field(
        "umap", description="the 2-D map of the pictures; tsne: of what is clustered, with the centers"
    )
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _method_fits(self) -> ReduceConfig:
        if self.backend == "cuml" and self.method not in ("umap", "tsne"):
            raise ValueError(f"backend=cuml is for the methods umap and tsne, not {self.method}")
        if self.method == "tsne" and self.n_components > TSNE_COMPONENTS:
            raise ValueError(f"t-SNE has at most {TSNE_COMPONENTS} components: set reduce.n_components, or use umap")
        return self

    def for_picture(self) -> ReduceConfig:
        """Return these parameters with the method of the pictures, in the two dimensions that they show.

        Unless it is the reduction itself, UMAP is fitted on `PICTURE_POINTS` at most, by the quicker library, and t-SNE
        on `TSNE_POINTS`. The autoencoder takes about as long for many points as for few.
        """
        if self.method == self.picture and self.n_components == 2:
            return self
        backend = "quick" if self.backend == "auto" else self.backend
        at_most = {"umap": PICTURE_POINTS, "tsne": TSNE_POINTS}.get(self.picture, self.fit_points)
        return self.model_copy(
            update={
                "method": self.picture,
                "n_components": 2,
                "backend": "auto" if self.picture == "autoencoder" else backend,
                "fit_points": min(self.fit_points, at_most),
            }
        )


class ClusterConfig(_Section):
    """Parameters of the clustering."""

    method: Literal["softdtw", "dtw", "euclidean", "kmeans", "density"] = Field(
        "softdtw",
        description="k-means under that distance; kmeans: on each trajectory's mean; density: HDBSCAN, which finds "
        "the number of clusters itself and leaves noise",
    )
    n_clusters: int = Field(5, ge=1)
    min_cluster_size: int = Field(5, ge=2, description="density: videos that make a cluster at least")
    min_samples: int | None = Field(
        None,
        ge=1,
        description="density: videos, itself counted, within the distance that says how dense it is around a video "
        "(hdbscan and cuML do not count it: theirs is one less); default min_cluster_size",
    )
    assign_all: bool = Field(False, description="density: noise goes to the cluster of the nearest video that has one")
    gamma: float | Literal["auto"] = Field("auto", description="smoothness of soft-DTW")
    global_constraint: Literal["sakoe_chiba", "itakura"] | None = Field(
        None, description="softdtw, dtw, density: let an alignment pass near the diagonal only"
    )
    sakoe_chiba_radius: int | None = Field(None, ge=0, description="so many steps from it; 1 for sakoe_chiba alone")
    itakura_max_slope: float | None = Field(None, ge=1, description="so steep at most; 2 for itakura alone")
    divergence: bool = Field(False, description="softdtw, solver mm: assign by the soft-DTW divergence")
    solver: Literal["mm", "lbfgs"] = Field("mm", description="how centers are found; lbfgs as in tslearn, slower")
    precision: Literal["auto", "float32", "float64"] = Field("auto", description="auto: float32 under mm")
    backend: Literal["auto", "cupy", "numba", "tslearn", "cuml", "sklearn"] = Field(
        "auto", description="auto: cupy on a GPU, else numba; density on vectors: cuml on a GPU, else sklearn"
    )
    max_iter: int = Field(50, ge=1)
    n_init: int = Field(5, ge=1, description="runs from different seeds; the best is kept")
    seed: int = Field(0, ge=0, lt=2**32)
    outlier_by: Literal["score", "distance"] = Field(
        "score",
        description="what makes an outlier: the divergence from the nearest center that other videos support, or the "
        "distance to the own center",
    )
    outlier_quantile: float = Field(0.95, gt=0, lt=1, description="videos beyond this quantile of it are outliers")

    @model_validator(mode="after")
    def _gamma_positive(self) -> ClusterConfig:
        if self.gamma != "auto" and self.gamma <= 0:
            raise ValueError("gamma must be greater than 0")
        return self

    @model_validator(mode="after")
    def _backend_fits(self) -> ClusterConfig:
        unfit = {"density": {"tslearn"}, "kmeans": set()}.get(self.method, {"cuml", "sklearn"})
        if self.backend in unfit:
            raise ValueError(f"backend={self.backend} is not for method {self.method}: set cluster.backend=auto")
        return self

    @model_validator(mode="after")
    def _solver_fits(self) -> ClusterConfig:
        is_ours = self.method == "softdtw" and self.solver == "mm" and self.backend != "tslearn"
        if self.divergence and not is_ours and self.method in ("softdtw", "dtw", "euclidean"):
            raise ValueError("divergence goes with method softdtw, solver mm and raypipe's own backends")
        if self.method == "softdtw" and self.solver == "mm" and self.backend == "tslearn":
            raise ValueError("backend tslearn solves by L-BFGS only: set cluster.solver=lbfgs")
        return self

    @model_validator(mode="after")
    def _one_constraint(self) -> ClusterConfig:
        if self.global_constraint is None and None not in (self.sakoe_chiba_radius, self.itakura_max_slope):
            raise ValueError(
                "sakoe_chiba_radius and itakura_max_slope exclude each other: say by global_constraint which one counts"
            )
        return self


class DescribeConfig(_Section):
    """Parameters of describing clusters in words."""

    method: Literal["auto", "captions", "keybert", "tags", "none"] = Field(
        "auto",
        description="captions: words that set a cluster's captions apart; keybert: of summarised captions, by language "
        "models (text extra); tags: terms of the vocabulary that suit the pictures, by CLIP; auto: captions if there "
        "are any, else tags if the encoder is clip, else none",
    )
    keywords: int = Field(5, ge=1, description="words or terms a cluster, at most")
    min_score: float = Field(0.0, ge=0, description="terms below this score are left out")
    vocabulary: str | None = Field(None, description="tags: a file with a term a line; default raypipe's own list")
    model: str = Field("all-MiniLM-L6-v2", description="keybert: sentence-transformers model, a folder or a name")
    summarizer: str | None = Field(
        "sshleifer/distilbart-cnn-12-6",
        description="keybert: sequence-to-sequence model that summarises, a folder or a name; null: no summary",
    )


class ReportConfig(_Section):
    """Parameters of the report."""

    sheet_videos: int = Field(6, ge=1, description="videos on a cluster's contact sheet")
    sheet_frames: int = Field(8, ge=1, description="frames of each video on a contact sheet")
    sheet_choice: Literal["central", "random"] = Field(
        "central", description="its most central videos over time; or random ones, a frame each, with their captions"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the random choice")


class RayConfig(_Section):
    """Parameters that say what the run may take of the Ray cluster."""

    address: str | None = Field(None, description="a Ray cluster's address; default RAY_ADDRESS, else a local one")
    gpus_per_encoder: float = Field(1.0, gt=0, description="at least; a fraction lets encoders share a GPU")
    encoders: int | None = Field(None, ge=1, description="encoder actors; default one a GPU, or one for two CPUs")
    decoders: int | None = Field(None, ge=1, description="decoder actors; default one a CPU")
    shards: int | None = Field(None, ge=1, description="actors that cluster; by default this process clusters alone")
    commit_s: float = Field(
        20.0, gt=0, le=60, description="seconds between two writes of embeddings, the work that a kill may cost"
    )


class Config(_Section):
    """All parameters of a run, as ``run.json`` holds them."""

    source: SourceConfig = SourceConfig()
    sample: SampleConfig = SampleConfig()
    decode: DecodeConfig = DecodeConfig()
    encode: EncodeConfig = EncodeConfig()
    trajectory: TrajectoryConfig = TrajectoryConfig()
    learn: LearnConfig = LearnConfig()
    reduce: ReduceConfig = ReduceConfig()
    cluster: ClusterConfig = ClusterConfig()
    describe: DescribeConfig = DescribeConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _parts_or_joins(self) -> Config:
        if self.trajectory.method == "seq2seq" and self.learn.window_s and self.trajectory.join:
            raise ValueError("learn.window_s parts a video, and trajectory.join joins several: leave one of them out")
        return self

    def one_process(self) -> str | None:
        """Return a parameter of the clustering whose work cannot be shared among processes, if there is one."""
        if self.trajectory.method == "seq2seq":
            return "trajectory.method=seq2seq"
        if self.trajectory.join:
            return "trajectory.join"
        if self.reduce.for_picture().method == "tsne":
            return "reduce.picture=tsne"
        if self.cluster.method != "softdtw":
            return f"cluster.method={self.cluster.method}"
        return "cluster.backend=tslearn" if self.cluster.backend == "tslearn" else None
