"""Learned trajectories: the estimator, and what `raypipe cluster` makes of it."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import raypipe as rp
from raypipe import pipeline
from raypipe.errors import RaypipeError, UsageError
from raypipe.progress import PlainProgress, Progress
from raypipe.runs.directory import Run
from raypipe.runs.span_table import read_spans
from raypipe.trajectories.learned import Seq2SeqEmbedder

SMALL = {"hidden_size": 16, "batch_size": 8, "epochs": 6}
LEARN = ("trajectory.method=seq2seq", "learn.hidden_size=16", "learn.batch_size=8", "learn.epochs=25")


def make_paths(n: int, seed: int = 0, dim: int = 6) -> list[np.ndarray]:
    """Return sequences of 8 to 15 steps in three shapes, in turn; order tells two of them apart, and no step does."""
    rng = np.random.default_rng(seed)
    turned = np.random.default_rng(9).normal(size=(2, dim))
    paths = []
    for i in range(n):
        t = np.linspace(0, 2 * np.pi, int(rng.integers(8, 16)))[:, None]
        way = (t, -t, 2 * t)[i % 3]
        paths.append(np.hstack([np.sin(way), np.cos(way)]) @ turned + rng.normal(0, 0.05, (len(t), dim)))
    return [path.astype(np.float32) for path in paths]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"cell": "lstm", "layers": 2},
        {"bidirectional": True, "decoder": "fixed_state"},
        {"decoder": "fixed_weights", "target": "predict"},
        {"cell": "lstm", "bidirectional": True, "decoder": "fixed_state", "target": "predict"},
    ],
)
def test_learning_lowers_the_loss_and_repeats_to_the_bit(parameters):
    paths = make_paths(24)
    first, again = (Seq2SeqEmbedder(**{**SMALL, **parameters}).fit(paths) for _ in range(2))
    losses = [row["loss"] for row in first.history_]
    assert losses[-1] < losses[0] and first.n_held_out_ == 2
    np.testing.assert_array_equal(first.transform(paths), again.transform(paths))
    states = first.states(paths)
    assert [state.shape for state in states] == [(len(path), 16) for path in paths]
    other = Seq2SeqEmbedder(**{**SMALL, **parameters}, random_state=1).fit(paths)
    assert np.abs(other.transform(paths) - first.transform(paths)).max() > 0.01


def test_weights_of_a_fixed_decoder_stay_as_they_were_drawn():
    paths = make_paths(12)
    learned = Seq2SeqEmbedder(**SMALL, decoder="fixed_weights").fit(paths).arrays()
    drawn = Seq2SeqEmbedder(**{**SMALL, "epochs": 0}, decoder="fixed_weights").fit(paths).arrays()
    changed = {name for name in drawn if name.startswith("weight") and (drawn[name] != learned[name]).any()}
    assert changed and not {name for name in changed if "cell" in name}
    assert any("output" in name for name in changed)


def test_padding_says_nothing():
    """A sequence's state does not depend on how long those beside it are."""
    paths = make_paths(12)
    model = Seq2SeqEmbedder(**SMALL, bidirectional=True).fit(paths)
    alone = np.concatenate([model.transform([path]) for path in paths])
    np.testing.assert_allclose(model.transform(paths), alone, atol=1e-6)


def test_arrays_hold_all_of_it_without_pickles(tmp_path):
    paths = make_paths(12)
    model = Seq2SeqEmbedder(**SMALL, cell="lstm").fit(paths)
    np.savez(tmp_path / "model.npz", **model.arrays())
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        restored = Seq2SeqEmbedder.of(dict(file))
    np.testing.assert_array_equal(restored.transform(paths), model.transform(paths))
    np.testing.assert_array_equal(restored.states(paths)[3], model.states(paths)[3])


def test_a_break_changes_no_bit(tmp_path, capsys):
    paths, file = make_paths(24), tmp_path / "kept.npz"
    whole = Seq2SeqEmbedder(**SMALL, patience=3).fit(paths)
    Seq2SeqEmbedder(**{**SMALL, "epochs": 3}, patience=3).fit(paths, checkpoint=file)
    resumed = Seq2SeqEmbedder(**SMALL, patience=3).fit(paths, checkpoint=str(file))
    assert resumed.history_ == whole.history_
    np.testing.assert_array_equal(resumed.transform(paths), whole.transform(paths))
    Seq2SeqEmbedder(**SMALL, patience=3).fit(paths, checkpoint=file, progress=PlainProgress())
    assert capsys.readouterr().err == "", "nothing is left to learn, and no count of 0 epochs is shown"
    other = Seq2SeqEmbedder(**SMALL, learning_rate=0.01).fit(paths, checkpoint=file)  # It is not made of that file.
    assert other.history_ == Seq2SeqEmbedder(**SMALL, learning_rate=0.01).fit(paths).history_


def test_learning_ends_when_nothing_becomes_better():
    noise = [np.random.default_rng(i).normal(size=(6, 4)) for i in range(20)]
    model = Seq2SeqEmbedder(8, epochs=500, patience=4, learning_rate=0.05).fit(noise)
    assert len(model.history_) - 1 == model.best_epoch_ + 4 < 500


def test_what_never_changes_is_no_trouble():
    assert np.isfinite(Seq2SeqEmbedder(8, epochs=2).fit_transform(np.ones((5, 4, 3)))).all()
    assert Seq2SeqEmbedder(8, epochs=2, target="predict").fit_transform(np.ones((5, 1, 3))).shape == (5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # That all states are one is nothing to warn of.
        model = Seq2SeqEmbedder(8, epochs=2, n_clusters=2).fit(np.ones((5, 4, 3)))
    assert {row["silhouette"] for row in model.history_} == {None}


@pytest.mark.parametrize(
    ("parameters", "paths", "told"),
    [
        ({"hidden_size": 7, "bidirectional": True}, np.zeros((3, 4, 2)), "must be even"),
        ({"cell": "rnn"}, np.zeros((3, 4, 2)), "cell"),
        ({"held_out": 1.0}, np.zeros((3, 4, 2)), "held_out"),
        ({}, [], "one or more sequences"),
        ({}, [np.zeros((3, 2)), np.zeros((3, 4))], "sequence 1 has 4 numbers"),
        ({}, [np.zeros(3)], "sequence 0 has the shape"),
        ({}, np.array(1.0), "sequence 0 has the shape"),
        ({}, None, "one or more sequences"),
        ({}, [np.full((3, 2), np.nan)], "sequence 0 has NaN"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(parameters, paths, told):
    with pytest.raises(RaypipeError, match=told):
        Seq2SeqEmbedder(**parameters).fit(paths)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """As a search over an array of values gives them; what was learned by Python's own is gone on with."""
    paths = make_paths(6)
    file = tmp_path / "kept.npz"
    plain = Seq2SeqEmbedder(8, bidirectional=True, epochs=2, n_clusters=2).fit(paths, checkpoint=file)
    numbers = {"hidden_size": np.int64(8), "layers": np.int32(1), "bidirectional": np.bool_(True)}
    others = {"epochs": np.int64(2), "n_clusters": np.int64(2), "random_state": np.int64(0)}
    again = Seq2SeqEmbedder(**numbers, **others).fit(paths, checkpoint=file)
    assert again.history_ == plain.history_
    np.testing.assert_array_equal(Seq2SeqEmbedder.of(again.arrays()).transform(paths), plain.transform(paths))


def test_paths_of_torch_and_of_pandas_are_arrays():
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    paths = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    expected = Seq2SeqEmbedder(**SMALL).fit(paths).transform(paths)
    for same in (torch.tensor(paths), pandas.Series(list(paths))):
        np.testing.assert_array_equal(Seq2SeqEmbedder(**SMALL).fit(same).transform(same), expected)


def test_another_default_type_of_torch_changes_no_bit():
    torch = pytest.importorskip("torch")
    paths = make_paths(6)
    expected = Seq2SeqEmbedder(**SMALL).fit(paths).transform(paths)
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(Seq2SeqEmbedder(**SMALL).fit(paths).transform(paths), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "kept.npz").write_bytes(b"PK no more")
    with pytest.raises(RaypipeError, match=r"kept\.npz.*remove it"):
        Seq2SeqEmbedder(**SMALL).fit(make_paths(6), checkpoint=tmp_path / "kept.npz")


def test_other_sequences_than_those_learned_are_refused():
    model = Seq2SeqEmbedder(**SMALL).fit(make_paths(6))
    with pytest.raises(UsageError, match="a step has 5 numbers"):
        model.transform(make_paths(3, dim=5))


def write_source(path: Path, paths: dict[str, np.ndarray]) -> str:
    path.write_text(json.dumps({name: values.tolist() for name, values in paths.items()}))
    return str(path)


def cluster(run: Run, *sets: str) -> None:
    config = rp.make_config(sets=("cluster.n_init=2", "cluster.n_clusters=3", *sets))
    pipeline.cluster(run, config, Progress())


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Run:
    """Return a run of 30 paths, clustered by what is learned of them."""
    folder = tmp_path_factory.mktemp("learned")
    source = write_source(folder / "known.json", {f"{i:02d}": path for i, path in enumerate(make_paths(30))})
    run = Run(str(folder / "run"))
    pipeline.embed(source, run, rp.make_config(), Progress())
    cluster(run, *LEARN)
    return run


def test_states_are_clustered_and_reported(known):
    labels = known.read_table("clusters.parquet")["cluster"].to_numpy()
    assert sorted(len(set(labels[kind::3])) for kind in range(3)) == [1, 1, 1] and len(set(labels)) == 3
    learned = known.read_json("learned.json")
    assert learned["n_held_out"] == 3 and learned["best_epoch"] > 0
    assert sum(row["silhouette"] is not None for row in learned["history"]) > 3
    config = rp.make_config(base=known.info()["config"])
    pipeline.report(known, config, Progress())
    assert known.exists("plots/learning.png") and known.exists("plots/states.png")
    assert "What was learned" in known.read_bytes("report.html").decode()
    assert not known.exists("plots/trajectories.png")  # A vector has no path.


def test_new_videos_take_the_saved_encoder(known, tmp_path):
    new = {f"new-{i}": path for i, path in enumerate(make_paths(9, seed=4))}
    found = rp.predict(known, write_source(tmp_path / "new.json", new), tmp_path / "run")
    labels = known.read_table("clusters.parquet")["cluster"].to_numpy()
    np.testing.assert_array_equal(found.read_table("clusters.parquet")["cluster"].to_numpy(), labels[:9])
    assert not found.exists("learning") and not found.exists("learned.json")
    rp.write_report(found)
    assert rp.search(known, write_source(tmp_path / "one.json", {"new-2": new["new-2"]}))[0]["cluster"] == labels[2]
    for name in known.files("model", ".npz"):
        with np.load(Path(known.path(name)), allow_pickle=False) as file:
            assert all(file[each].dtype.kind != "O" for each in file)


def test_what_was_learned_is_taken_again(known, monkeypatch):
    before, encoder = known.read_json("learned.json"), known.read_bytes("model/encoder.npz")
    monkeypatch.setattr("raypipe.trajectories.training.Training.run_epoch", lambda training: 1 / 0)
    cluster(known, *LEARN, "cluster.n_clusters=4")
    assert known.read_json("learned.json")["history"] == before["history"]
    assert known.read_bytes("model/encoder.npz") == encoder
    with pytest.raises(ZeroDivisionError):
        cluster(known, *LEARN, "learn.seed=1")
    monkeypatch.undo()
    cluster(known)  # Again by interpolation: what was learned is gone, but for what it can be taken from.
    left = {name for name in ("learned.json", "model/encoder.npz", "spans.csv") if known.exists(name)}
    assert left == set(), "these followed from what was learned"


def test_paths_of_states_are_clustered_by_softdtw(known):
    cluster(known, *LEARN, "learn.output=path", "trajectory.n_steps=8")
    table = known.read_table("trajectories")
    assert len(table["trajectory"][0]) == 8 * 16 and len(table["decoded"][0]) == 8 * 2
    cluster(known, *LEARN, "learn.output=path", "trajectory.n_steps=null")
    assert len(set(map(len, known.read_table("trajectories")["trajectory"].to_pylist()))) > 1


def test_sweep_learns_too(known):
    from raypipe.trajectories.samples import sample_trajectories

    config = rp.make_config(sets=LEARN)
    paths, n = sample_trajectories(known, config, 20)
    assert n == 30 and paths.values.shape == (20, 1, 5)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("trajectory.pool=mean",), "pool leaves none"),
        (("ray.shards=2",), "leave ray.shards out"),
        (("learn.window_s=2", "trajectory.join=camera"), "leave one of them out"),
        (("learn.hidden_size=15", "learn.bidirectional=true"), "must be even"),
    ],
)
def test_what_cannot_be_had_together_loses_nothing(known, sets, told):
    cluster(known, *LEARN)
    with pytest.raises(UsageError, match=told):
        cluster(known, *LEARN, *sets)
    assert known.exists("clusters.parquet")


def test_windows_longer_than_every_video_leave_it_whole(tmp_path):
    paths = {str(i): path for i, path in enumerate(make_paths(12))}
    run = Run(str(tmp_path / "run"))
    pipeline.embed(write_source(tmp_path / "short.json", paths), run, rp.make_config(), Progress())
    cluster(run, *LEARN, "learn.window_s=100")
    assert read_spans(run) == {} and run.exists("spans.csv")
