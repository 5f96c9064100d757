"""Config layers, presets and their errors."""

import pytest

from raypipe import pipeline
from raypipe.config import PRESETS, Config, make_config, to_yaml
from raypipe.errors import UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run


def test_layers_lie_over_one_another(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {n_clusters: 4, seed: 1}\nreduce: {method: none}\n")
    config = make_config(
        preset="outlier-detection", file=file, flags={"cluster": {"seed": 2}}, sets=("cluster.gamma=0.5",)
    )
    assert (config.cluster.n_clusters, config.cluster.seed, config.cluster.gamma) == (4, 2, 0.5)
    assert config.reduce.method == "none"
    assert config.trajectory.n_steps == 20  # the preset's


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_yaml_round_trip(preset, tmp_path):
    config = make_config(preset=preset)
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config))
    assert make_config(file=file) == config
    assert make_config(base=config.model_dump(mode="json")) == config


def test_one_sampling_pattern_at_a_time():
    assert make_config(sets=("sample.every_n=10",)).sample.fps is None
    again = make_config(base=make_config(sets=("sample.n_frames=5",)).model_dump(mode="json"))
    assert again.sample.n_frames == 5
    with pytest.raises(UsageError, match="one of fps, every_n and n_frames"):
        make_config(sets=("sample.every_n=10", "sample.n_frames=5"))
    with pytest.raises(UsageError, match="one of fps, every_n and n_frames"):
        make_config(sets=("sample.fps=null",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "nope"}, "unknown preset 'nope'; choose one of: embedding-analysis, outlier-detection"),
        ({"sets": ("cluster.n_cluster=3",)}, "config cluster.n_cluster"),
        ({"sets": ("clusters.n=3",)}, "config clusters"),
        ({"sets": ("cluster.n_clusters=many",)}, "config cluster.n_clusters"),
        ({"sets": ("cluster.gamma=-1",)}, "gamma must be greater than 0"),
        ({"sets": ("cluster.gamma=.nan",)}, "config cluster.gamma"),
        ({"sets": ("cluster",)}, "--set takes section.key=value"),
        ({"sets": ("cluster.x=[",)}, "not a YAML value"),
        ({"file": "/nonexistent.yaml"}, "cannot read config /nonexistent.yaml: No such file"),
    ],
)
def test_errors_name_what_is_wrong(options, message):
    with pytest.raises(UsageError, match=message.replace(".", r"\.")) as caught:
        make_config(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "cluster: [", "cluster: 3"])
def test_broken_files(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError):
        make_config(file=file)


def test_weights_are_named_so_that_they_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("net.pt", "openai", "home/net.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def named(**encode):
        found = make_config(flags={"encode": encode}).encode.from_anywhere()
        return found.model, found.pretrained

    assert named(model="RN50", pretrained="net.pt") == ("RN50", f"{tmp_path}/net.pt")
    assert named(model="RN50", pretrained="~/net.pt") == ("RN50", f"{tmp_path}/home/net.pt")
    assert named(model="RN50", pretrained="openai") == ("RN50", "openai")  # a tag, whatever lies here
    assert named(model="RN50", pretrained="absent.pt") == ("RN50", "absent.pt")
    assert named(model="RN50", pretrained="~nobody of that name/x.pt")[1] == "~nobody of that name/x.pt"
    for folder, found in {"vit": f"{tmp_path}/vit", "~/vit": f"{tmp_path}/home/vit", "/vit": "/vit"}.items():
        assert named(model=f"local-dir:{folder}", pretrained="openai") == (f"local-dir:{found}", "openai")
    assert named(model="hf-hub:owner/name")[0] == "hf-hub:owner/name"


def test_presets_are_valid_and_pinned():
    for name in PRESETS:
        config = make_config(preset=name)
        pooled = config.trajectory.pool is not None  # A vector needs no soft-DTW.
        assert config.cluster.gamma == 1.0 or pooled
        assert config.reduce.backend == "cpu" or config.reduce.method == "none"
        assert config.cluster.backend == "sklearn" or config.cluster.method != "density"
        assert not config.encode.normalize
    assert make_config() == Config()


def test_a_preset_does_not_change_how_a_run_was_embedded_and_replaces_what_follows():
    base = make_config(preset="video-density", flags={"ray": {"shards": 2}}).model_dump(mode="json")
    config = make_config(base=base, embedded=True, preset="outlier-detection")
    other = make_config(preset="outlier-detection")
    assert (config.trajectory, config.reduce, config.cluster) == (other.trajectory, other.reduce, other.cluster)
    assert (config.sample.n_frames, config.ray.shards) == (5, 2)
    base = make_config(flags={"sample": {"fps": 1.0}}).model_dump(mode="json")
    config = make_config(base=base, embedded=True, preset="video-kmeans")
    assert (config.sample.fps, config.sample.every_n, config.encode.normalize) == (1.0, None, True)
    assert (config.cluster.method, config.trajectory.pool) == ("kmeans", "mean")
    assert make_config(preset="video-kmeans").sample.every_n == 10
    with pytest.raises(UsageError, match="one of fps, every_n"):
        make_config(base=base, embedded=True, flags={"sample": {"every_n": 10}})


def test_the_last_layer_that_names_a_sampling_pattern_has_it():
    assert make_config(preset="video-kmeans", sets=["sample.fps=2"]).sample.pattern()["fps"] == 2.0
    chosen = make_config(preset="video-kmeans", flags={"sample": {"fps": 2.0}}, sets=["sample.n_frames=7"]).sample
    assert (chosen.fps, chosen.every_n, chosen.n_frames) == (None, None, 7)
    base = make_config(sets=["sample.n_frames=7", "sample.pool=max"]).model_dump(mode="json")
    again = make_config(base=base, sets=["sample.fps=1.5"]).sample
    assert (again.fps, again.n_frames, again.pool) == (1.5, None, "max")
    for both in ({"fps": 2.0, "every_n": 10}, {"n_frames": 2, "every_n": 10}):
        with pytest.raises(UsageError, match=r"^config sample: give one of fps, every_n and n_frames"):
            make_config(flags={"sample": both})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster: {n_clusters: 5}\ncluster: {seed: 1}", "is not YAML: cluster comes twice in .* line 2"),
        ("cluster: {n_clusters: 5, n_clusters: 6}", "n_clusters comes twice"),
        ("[]", "must be a mapping of sections"),
        ("0", "must be a mapping of sections"),
        ("clusters: {seed: 1}", "config clusters: unknown; did you mean cluster"),
        ("cluster: {n_cluster: 5}", "config cluster.n_cluster: unknown; did you mean n_clusters"),
        ("report: {zzz: 5}", "config report.zzz: unknown; there are sheet_videos, sheet_frames"),
        (
            "cluster: {gamma: foo}",
            "config cluster.gamma: Input should be a valid number, .* or: Input should be 'auto'",
        ),
        ("cluster: {n_clusters: yes}", "config cluster: n_clusters is not true or false"),
        ("cluster: {gamma: on}", "config cluster: gamma is not true or false"),
        ("sample: {fps: true}", "config sample: fps is not true or false"),
        ("sample: 3", "config sample: it is a section, with the keys fps, every_n, "),
        (
            "cluster.seed: 3",
            r"config cluster.seed: in a file seed stands in the section cluster, as 'cluster: {seed: …}'",
        ),
        ("trajectory: {join: none}", "config trajectory.join: Input should be 'camera', or null$"),
        ("cluster: {method: none}", "config cluster.method: Input should be .*'density'$"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_remedy(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        make_config(file=tmp_path / "own.yaml")


@pytest.mark.parametrize("text", ["", "cluster:\n", "cluster: &a {n_clusters: 5}\n"])
def test_a_file_or_section_without_keys_changes_nothing(tmp_path, text):
    (tmp_path / "own.yaml").write_text(text)
    assert make_config(file=tmp_path / "own.yaml") == make_config()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["reduce.method=tsne"], "reduce: t-SNE has at most 3 components"),
        (["reduce.backend=cuml"], "reduce: backend=cuml is for the methods umap and tsne, not pca"),
        (
            ["cluster.solver=lbfgs", "cluster.divergence=true"],
            "cluster: divergence goes with method softdtw, solver",
        ),
        (["cluster.backend=tslearn"], "cluster: backend tslearn solves by L-BFGS only: set cluster.solver=lbfgs"),
        (
            ["trajectory.method=seq2seq", "learn.window_s=2", "trajectory.join=camera"],
            ": learn.window_s parts a video, and trajectory.join joins several",
        ),
    ],
)
def test_what_excludes_each_other_is_said_before_anything_is_embedded(sets, message):
    with pytest.raises(UsageError, match=rf"^config ?{message}"):
        make_config(sets=sets)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["ray.shards=2", "cluster.method=kmeans"], "^cluster.method=kmeans works in one process only: leave ray.sh"),
        (["ray.shards=2", "cluster.backend=tslearn", "cluster.solver=lbfgs"], "^cluster.backend=tslearn works in one"),
        (["ray.shards=2", "reduce.picture=tsne"], "^reduce.picture=tsne works in one process only"),
        (["ray.shards=2", "trajectory.join=camera"], "^trajectory.join works in one process only"),
        (["ray.shards=2", "trajectory.method=seq2seq"], "^trajectory.method=seq2seq works in one process only"),
        (["describe.method=tags", "encode.encoder=descriptor"], "^describe.method=tags needs embeddings of CLIP"),
    ],
)
def test_what_excludes_each_other_in_a_clustering_is_said_before_it_and_stops_no_other_verb(tmp_path, sets, message):
    config = make_config(sets=["encode.encoder=descriptor", *sets])
    with pytest.raises(UsageError, match=message):
        pipeline.run_all(tmp_path, Run(str(tmp_path / "run")), config, Progress())
    assert not (tmp_path / "run").exists()


def test_what_an_encoder_has_no_use_for_is_told():
    def told(encoder, *sets):
        return make_config(sets=[f"encode.encoder={encoder}", *sets]).encode.describe_unused()

    sets = ("encode.model=ViT-L-14", "encode.precision=fp32")
    assert told("descriptor", *sets) == [
        "for clip and cnn alone, and nothing to the encoder descriptor: encode.model, encode.precision"
    ]
    assert told("my.module:Encoder", sets[0]) and not told("descriptor")
    assert told("clip", *sets) == told("cnn") == told("cnn", *sets) == []
