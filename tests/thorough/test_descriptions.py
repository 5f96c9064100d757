"""Clusters in words: by captions, by a vocabulary and CLIP's text tower, and by language models made here."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_clip import quiet_open_clip

from raypipe import pipeline
from raypipe.analysis.description import describe_captions, describe_vectors, drop_common
from raypipe.config import make_config
from raypipe.errors import EncoderError, RaypipeError, UsageError
from raypipe.packages import is_installed
from raypipe.progress import Progress
from raypipe.runs.directory import Run

CAPTIONS = [
    *(
        "the robot picks the red cup and pours coffee",
        "the robot pours hot coffee",
        "robot makes coffee in the kitchen",
    ),
    *("the robot stacks the red blocks", "a robot stacks three blocks on the table", "the robot is stacking blocks"),
]
LABELS = np.array([0, 0, 0, 1, 1, 1])


def terms(found, number):
    return [term for term, _ in found[number]]


def test_keywords_set_a_cluster_apart_and_common_words_describe_none():
    found = describe_captions(CAPTIONS, LABELS, n_keywords=50)
    assert terms(found, 0)[0] == "coffee"
    assert terms(found, 1)[0] == "blocks"
    everywhere = [term for number in found for term in terms(found, number)]
    assert "robot" not in everywhere and "the" not in everywhere
    assert "red" not in everywhere  # As often in one cluster as in the other.
    assert "pours coffee" in terms(found, 0) or "pours hot" in terms(found, 0)


def test_scores_are_class_based_tf_idf_times_contrast():
    captions, labels = ["cup cup lid", "cup", "box", "lid box"], np.array([0, 0, 1, 1])
    found = dict(describe_captions(captions, labels, n_keywords=20)[0])
    # Cluster 0 has cup ×3, lid, "cup cup" and "cup lid": 6 terms. Cluster 1 has box ×2, lid, "lid box": 4. A is 5.
    assert found["cup"] == pytest.approx(3 / 6 * np.log(1 + 5 / 3) * 1.0)
    assert found["cup lid"] == pytest.approx(1 / 6 * np.log(1 + 5 / 1) * 0.5)
    assert "lid" not in found  # half of the captions here and there


def test_noise_is_neither_described_nor_a_contrast():
    captions = ["open drawer", "open door", "open drawer", "pour milk", "pour tea"]
    labels = np.array([0, 0, -1, 1, 1])
    found = describe_captions(captions, labels)
    assert set(found) == {0, 1}
    assert terms(found, 0)[0] == "open"
    assert found == describe_captions(captions[:2] + captions[3:], np.array([0, 0, 1, 1]))


def test_videos_without_a_caption_do_not_count():
    captions = ["open drawer", None, "", "pour milk", "  "]
    found = describe_captions(captions, np.array([0, 0, 1, 1, 2]))
    assert terms(found, 0) == ["drawer", "open", "open drawer"]
    assert found[2] == []


def test_a_single_cluster_is_described_by_its_own_words():
    assert terms(describe_captions(["open drawer", "open door"], np.zeros(2, int)), 0)[0] == "open"


def test_underscores_part_words_and_scores_have_a_floor():
    found = describe_captions(["three_piece_assembly", "kitchen"], np.array([0, 1]))
    assert {"three", "piece", "assembly"} <= set(terms(found, 0))
    assert describe_captions(["open", "shut"], np.array([0, 1]), min_score=10.0) == {0: [], 1: []}


@pytest.mark.parametrize("captions", [[None, ""], ["?!", "…"], ["the", "of it"]])
def test_captions_without_a_word_are_refused(captions):
    with pytest.raises(UsageError, match="no clustered video has a caption with a word in it"):
        describe_captions(captions, np.array([0, 1]))


def test_tags_are_terms_that_suit_one_cluster_more_than_the_others():
    rng = np.random.default_rng(0)
    vocabulary = ["pour", "stack", "robot"]
    vectors = np.linalg.qr(rng.normal(size=(8, 3)))[0].T
    clusters = np.stack([vectors[0] + 2 * vectors[2], vectors[1] + 2 * vectors[2]])  # "robot" suits both best
    found = describe_vectors(clusters, [0, 3], vocabulary, vectors)
    assert terms(found, 0) == ["pour"] and terms(found, 3) == ["stack"]
    assert found[0][0][1] == pytest.approx(1 / np.sqrt(5))
    assert terms(describe_vectors(clusters[:1], [0], vocabulary, vectors), 0)[0] == "robot"


def test_keywords_of_all_clusters_are_dropped():
    found = drop_common({0: [("robot", 0.9), ("cup", 0.5)], 1: [("robot", 0.8)], 2: []})
    assert found == {0: [("cup", 0.5)], 1: [], 2: []}
    assert drop_common({0: [("robot", 0.9)]}) == {0: [("robot", 0.9)]}


def embed(folder: Path, captions: list[str | None], dim: int = 4) -> Run:
    """Make a run of precomputed trajectories in two far groups, with a caption for each."""
    rng = np.random.default_rng(0)
    paths = {}
    for i in range(len(captions)):
        paths[f"v{i}"] = (10 * (i % 2) + np.cumsum(rng.normal(0, 0.1, (6, dim)), axis=0)).astype(np.float32)
    np.savez(folder / "paths.npz", **paths)
    run = Run(str(folder / "run"))
    pipeline.embed(folder / "paths.npz", run, CONFIG, Progress())
    videos = run.read_table("videos.parquet")
    column = videos.schema.get_field_index("caption")
    run.write_table(
        "videos.parquet", videos.set_column(column, videos.schema.field("caption"), pa.array(captions, pa.string()))
    )
    return run


CONFIG = make_config(sets=("cluster.n_clusters=2", "cluster.n_init=1", "reduce.n_components=2"))
TASKS = ["pour coffee", "stack blocks"]


def test_cluster_describes_by_captions_and_the_page_shows_it(tmp_path):
    run = embed(tmp_path, [f"{TASKS[i % 2]}, try {i}" for i in range(10)])
    pipeline.cluster(run, CONFIG, Progress())
    told = run.read_json("descriptions.json")
    assert told["method"] == "captions" and told["implementation"].startswith("c-TF-IDF")
    rows = run.read_table("clusters.parquet").to_pylist()
    for cluster in told["clusters"]:
        mine = [row for row in rows if row["cluster"] == cluster["cluster"]]
        task = TASKS[int(np.flatnonzero([row["video_id"] == mine[0]["video_id"] for row in rows])[0]) % 2]
        assert cluster["size"] == 5
        assert cluster["keywords"][0]["keyword"] in task.split()
        by_distance = sorted(mine, key=lambda row: row["distance"])
        assert [each["video_id"] for each in cluster["central"]] == [row["video_id"] for row in by_distance]
        assert cluster["central"][0]["caption"].startswith(task)
        assert told["keywords"][str(cluster["cluster"])] == [each["keyword"] for each in cluster["keywords"]]
    assert run.info()["implementations"]["describe"] == told["implementation"]
    pipeline.report(run, CONFIG, Progress())
    page = run.read_bytes("report.html").decode()
    for words in told["keywords"].values():
        assert " · ".join(words) in page
    assert "pour coffee, try" in page


def test_a_run_without_captions_is_clustered_without_words_and_says_why(tmp_path):
    run = embed(tmp_path, [None] * 6)
    pipeline.cluster(run, CONFIG, Progress())
    told = run.read_json("descriptions.json")
    assert told["method"] == "none" and "no captions" in told["reason"]
    assert told["keywords"] == {"0": [], "1": []}
    assert len(told["clusters"][0]["central"]) == 3
    pipeline.report(run, CONFIG, Progress())
    assert 'class="keywords"' not in run.read_bytes("report.html").decode()


def with_describe(**values):
    return CONFIG.model_copy(update={"describe": CONFIG.describe.model_copy(update=values)})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"method": "captions"}, "describe.method=captions needs captions, and no video of .* has one"),
        ({"method": "keybert"}, "describe.method=keybert needs captions"),
        ({"method": "tags"}, "needs embeddings of CLIP, and those of .* come from precomputed"),
    ],
)
def test_what_cannot_be_described_is_said_before_anything_is_removed(tmp_path, values, message):
    run = embed(tmp_path, [None] * 6)
    pipeline.cluster(run, CONFIG, Progress())
    before = run.read_bytes("clusters.parquet")
    with pytest.raises(UsageError, match=message):
        pipeline.cluster(run, with_describe(**values), Progress())
    assert run.read_bytes("clusters.parquet") == before


def pretend_clip(run: Run, fingerprint: str = "clip/x/auto/l2") -> None:
    run.record(encoder={"name": "clip", "fingerprint": fingerprint})


def test_a_vocabulary_that_cannot_be_used_is_refused(tmp_path):
    run = embed(tmp_path, [None] * 6)
    pretend_clip(run)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    for name, message in (("empty.txt", "is empty"), ("binary.txt", "is not text"), ("none.txt", "cannot read")):
        with pytest.raises(UsageError, match=message):
            pipeline.cluster(run, with_describe(method="tags", vocabulary=str(tmp_path / name)), Progress())


@pytest.fixture(scope="module")
def text_clip(tmp_path_factory):
    """Make a tiny CLIP with a text tower for open_clip's tokenizer; return its name and a checkpoint."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("text-clip")
    name = "raypipe-test-text"
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "head_width": 16, "width": 16, "layers": 1},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "heads": 1, "width": 16, "layers": 1},
    }
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    with quiet_open_clip():
        torch.save(open_clip.create_model(name).state_dict(), folder / "tiny.pt")
    return name, str(folder / "tiny.pt")


def encode_texts(text_clip, texts):
    """Encode texts the way open_clip's own documentation does."""
    import open_clip
    import torch

    name, checkpoint = text_clip
    with quiet_open_clip(), torch.inference_mode():
        model, _, _ = open_clip.create_model_and_transforms(name, pretrained=checkpoint)
        vectors = model.eval().encode_text(open_clip.get_tokenizer(name)(texts)).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_text_tower_is_open_clips_own(text_clip, monkeypatch):
    from raypipe.encoders import make_encoder
    from raypipe.encoders.clip import ClipText

    tower = ClipText(*text_clip)
    monkeypatch.setattr(tower, "_batch", 2)
    texts = ["a robot arm", "pouring coffee", "an empty room"]
    np.testing.assert_allclose(tower(texts), encode_texts(text_clip, texts), atol=1e-5)
    name, checkpoint = text_clip
    pictures = make_encoder("clip", model=name, pretrained=checkpoint, device="cpu")
    assert pictures.fingerprint.startswith(f"{tower.fingerprint}/") and pictures.dim == 16


def test_clips_text_tower_tags_clusters_without_captions(tmp_path, text_clip):
    from raypipe.encoders.clip import ClipText

    name, checkpoint = text_clip
    words = ["pouring coffee", "stacking blocks", "a robot", "an empty room"]
    (tmp_path / "words.txt").write_text("\n".join([*words, words[0]]))
    run = embed(tmp_path, [None] * 6, dim=16)
    tower = ClipText(name, checkpoint)
    pretend_clip(run, f"{tower.fingerprint}/auto/l2")
    made = encode_texts(text_clip, [f"a video of {word}" for word in words])
    shared = made.mean(axis=0)
    clips = run.read_table("embeddings/00000.parquet")  # Cluster 0 looks like coffee, cluster 1 like blocks.
    ids = run.read_table("videos.parquet")["video_id"].to_pylist()
    which = np.array([ids.index(video_id) % 2 for video_id in clips["video_id"].to_pylist()])
    looks = 10 * (made - shared)[which] / np.linalg.norm(made - shared, axis=1)[which, None]
    looks += 0.01 * np.random.default_rng(0).normal(size=looks.shape)
    column = clips.schema.get_field_index("embedding")
    field = clips.schema.field("embedding")
    vectors = [row.tolist() for row in looks]
    run.write_table("embeddings/00000.parquet", clips.set_column(column, field, pa.array(vectors, field.type)))

    encode = CONFIG.encode.model_copy(update={"model": name, "pretrained": checkpoint})
    config = with_describe(vocabulary=str(tmp_path / "words.txt")).model_copy(update={"encode": encode})
    pipeline.cluster(run, config, Progress())
    told = run.read_json("descriptions.json")
    assert told["method"] == "tags" and told["implementation"] == f"CLIP {name}"
    clusters = dict(zip(ids, run.read_table("clusters.parquet")["cluster"].to_pylist(), strict=True))
    for i, video_id in enumerate(ids[:2]):
        assert told["keywords"][str(clusters[video_id])][0] == words[i]

    pretend_clip(run, "clip/ViT-B-32/laion2b_s34b_b79k/auto/l2")  # The pictures are of another CLIP.
    pipeline.cluster(run, config, Progress())
    assert "leave encode.model" in run.read_json("descriptions.json")["reason"]
    assert "leave encode.model" in run.info()["fallbacks"]["describe"]
    with pytest.raises(EncoderError, match=r"leave encode\.model"):
        tags = config.describe.model_copy(update={"method": "tags"})
        pipeline.cluster(run, config.model_copy(update={"describe": tags}), Progress())


def test_the_built_in_vocabulary_is_there():
    from raypipe.runs.descriptions import _read_vocabulary

    found = _read_vocabulary(None)
    assert len(found) > 100 and all(found) and len(set(found)) == len(found)


def test_without_the_text_extra_keybert_is_refused(tmp_path, monkeypatch):
    if is_installed("keybert"):
        monkeypatch.setitem(__import__("sys").modules, "keybert", None)
        monkeypatch.setattr("raypipe.runs.descriptions.is_installed", lambda name: name != "keybert")
    run = embed(tmp_path, ["pour coffee"] * 6)
    with pytest.raises(RaypipeError, match=r"pip install 'raypipe\[text\]'"):
        pipeline.cluster(run, with_describe(method="keybert"), Progress())
