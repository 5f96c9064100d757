"""The signals of LeRobot episodes as trajectories, and joined to their videos."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call_raypipe
from embedded import make_embedded
from lerobot_sets import CAMERA
from sklearn.metrics import adjusted_rand_score
from whole_sets import EPISODES, FRAMES, STATE, change_info, change_rows, state_of, write_set, write_set_v21

import raypipe as rp
from raypipe import pipeline
from raypipe.errors import SourceError, UsageError
from raypipe.progress import Progress
from raypipe.runs.clip_signals import average_clips, read_signals_of, write_signals
from raypipe.sources.columns import as_rows
from raypipe.sources.episodes import find_episodes
from raypipe.sources.lerobot import open_lerobot
from raypipe.sources.signals import Scale, read_signals
from raypipe.sources.videos import Videos

LENGTHS = (6, 5, 7, 6, 8, 5)
CLUSTER = {"n_clusters": 2, "n_init": 1}


def make_config(features, **trajectory):
    flags = {
        "source": {"features": features},
        "trajectory": trajectory,
        "cluster": CLUSTER,
        "reduce": {"n_components": 2, "picture": "tsne"},
    }
    return rp.make_config(flags=flags)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Write six episodes of two kinds by turns."""
    return write_set(tmp_path_factory.mktemp("sets") / "set", LENGTHS)


def test_signals_are_z_scored_by_the_datasets_statistics(root):
    signals = read_signals(str(root), STATE)
    assert signals.scale.origin == "meta/stats.json"
    assert signals.fps == 10
    stats = json.loads((root / "meta/stats.json").read_text())[STATE]
    for episode, (path, length) in enumerate(zip(signals.paths, LENGTHS, strict=True)):
        expected = (np.array(state_of(episode, length)) - stats["mean"]) / stats["std"]
        np.testing.assert_allclose(path, expected, rtol=1e-5, atol=1e-6)
        assert path.dtype == np.float32
    assert [video.label for video in signals.videos] == ["stack"] * 6
    assert [video.extra["episode_index"] for video in signals.videos] == list(range(6))
    assert [video.extra["length"] for video in signals.videos] == list(LENGTHS)


def test_without_statistics_they_are_computed_from_the_frames(root, tmp_path):
    import shutil

    other = shutil.copytree(root, tmp_path / "set")
    told = read_signals(str(other), STATE)
    (other / "meta/stats.json").unlink()
    computed = read_signals(str(other), STATE)
    assert computed.scale.origin == "the episodes' frames"
    for one, two in zip(told.paths, computed.paths, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2])
def test_an_episode_of_another_number_of_joints_fails_alone(tmp_path, n):
    root = write_set_v21(tmp_path / "set", LENGTHS)
    name = "data/chunk-000/episode_000001.parquet"
    alone = read_signals(str(root), STATE)
    change_rows(root, name, lambda rows: [row | {STATE: row[STATE][:n]} for row in rows])
    signals = read_signals(str(root), STATE)
    assert signals.reasons == {signals.videos[1].video_id: f"its frames have {n} numbers, and others have 3"}
    assert [path.shape for path in signals.paths] == [(0 if i == 1 else length, 3) for i, length in enumerate(LENGTHS)]
    others = np.concatenate([np.array(state_of(i, length)) for i, length in enumerate(LENGTHS) if i != 1])
    np.testing.assert_allclose(signals.scale.mean, others.mean(axis=0), rtol=1e-5)
    assert alone.reasons == {} and alone.scale.origin == "the episodes' frames"


def test_a_spread_that_float32_lost_beside_the_mean_is_computed_from_the_frames(tmp_path):
    states = {0: [[101320.0, 0.0, 1.0], [101325.0, 1.0, 1.0]], 1: [[101330.0, 2.0, 1.0], [101325.0, 1.0, 1.0]]}
    root = write_set(tmp_path / "set", (2, 2), states=states)
    stats = json.loads((root / "meta/stats.json").read_text())
    stats[STATE] |= {"mean": [101325.0, 1.0, 1.0], "std": [24.8, 0.7071, 0.0]}  # As lerobot 0.6.1 writes them.
    (root / "meta/stats.json").write_text(json.dumps(stats))
    signals = read_signals(str(root), STATE)
    assert signals.scale.origin == "the episodes' frames"
    np.testing.assert_allclose(signals.scale.std, [12.5**0.5, 0.5**0.5, 1])
    stats[STATE] |= {"mean": [1.0, 1.0, 1.0], "std": [0.1, 0.7071, 0.0]}
    (root / "meta/stats.json").write_text(json.dumps(stats))
    assert read_signals(str(root), STATE).scale.origin == "meta/stats.json", "one that never changes is no reason"


def test_several_features_stand_one_behind_the_other_and_frames_are_in_the_order_of_time(tmp_path):
    root = write_set(tmp_path / "set", (4, 3))

    def change(rows):
        for number, row in enumerate(rows):
            row["gripper"] = number % 2 == 0

    table = pq.read_table(root / FRAMES)
    closed = pa.array([number % 2 == 0 for number in range(7)])
    table = table.append_column("gripper", closed).take(pa.array([3, 2, 1, 0, 4, 5, 6]))
    pq.write_table(table, root / FRAMES)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    change_info(root, features={**features, "gripper": {"dtype": "bool", "shape": [1]}})
    signals = read_signals(str(root), f"{STATE}, gripper")
    assert [path.shape for path in signals.paths] == [(4, 4), (3, 4)]
    assert (np.diff(signals.paths[0][:, 0]) > 0).all(), "the first number of an even episode rises"
    assert signals.paths[0][:, 3].argsort(kind="stable").tolist() == [1, 3, 0, 2]


def test_what_numbers_the_frames_may_be_a_signal_too(root):
    signals = read_signals(str(root), f"{STATE},frame_index,episode_index")
    assert [path.shape for path in signals.paths] == [(length, 5) for length in LENGTHS]
    for episode, path in enumerate(signals.paths):
        numbers = path[:, 3:] * signals.scale.std[3:] + signals.scale.mean[3:]
        expected = np.stack([np.arange(len(path)), np.full(len(path), episode)], axis=1)
        np.testing.assert_allclose(numbers, expected, atol=1e-5)


def test_a_number_that_never_changes_is_0_and_one_that_is_none_is_interpolated(tmp_path):
    states = {0: [[1.0, 5.0, float("nan")], [2.0, 5.0, 1.0], [3.0, 5.0, 2.0]], 1: [[4.0, 5.0, 3.0], [5.0, 5.0, None]]}
    root = write_set(tmp_path / "set", (3, 2), states={0: [[0.0] * 3] * 3, 1: [[0.0] * 3] * 2})
    (root / "meta/stats.json").unlink()
    frames = [*states[0], *states[1]]
    change_rows(root, FRAMES, lambda rows: [row | {STATE: state} for row, state in zip(rows, frames, strict=True)])
    signals = read_signals(str(root), STATE)
    assert (signals.paths[0][:, 1] == 0).all()
    assert signals.paths[0][0, 2] == signals.paths[0][1, 2]
    assert signals.videos.notes == (
        "2 episodes have numbers that are none, which are interpolated from their neighbours",
    )


@pytest.mark.parametrize("told", [None, 7])
def test_a_frame_that_is_of_no_episode_is_told_of(tmp_path, told):
    root = write_set(tmp_path / "set", (3, 2))
    last = lambda row: row["episode_index"] == 1 and row["frame_index"] == 1  # noqa: E731
    change_rows(root, FRAMES, lambda rows: [row | ({"episode_index": told} if last(row) else {}) for row in rows])
    signals = read_signals(str(root), STATE)
    assert [len(path) for path in signals.paths] == [3, 1]
    assert signals.videos.notes == (
        "1 episode has more or fewer frames than the table of episodes says, such as episode 1",
    )


def test_the_largest_number_of_all_is_none(tmp_path):
    """It may stand where a sensor had no reading; its square is infinite, and so would be the standard deviation."""
    nothing = float(np.finfo(np.float64).max)
    root = write_set(tmp_path / "set", (3, 2), states={0: [[0.0]] * 3, 1: [[0.0]] * 2})
    (root / "meta/stats.json").unlink()
    frames = [[1.0], [nothing], [3.0], [-nothing], [5.0]]
    change_rows(root, FRAMES, lambda rows: [row | {STATE: state} for row, state in zip(rows, frames, strict=True)])
    signals = read_signals(str(root), STATE)
    np.testing.assert_allclose((signals.scale.mean[0], signals.scale.std[0]), (3, np.std([1, 3, 5])))
    np.testing.assert_allclose(signals.paths[0][1], 0.5 * (signals.paths[0][0] + signals.paths[0][2]), atol=1e-6)
    assert len(signals.videos.notes) == 1 and "2 episodes have numbers that are none" in signals.videos.notes[0]


def test_a_number_that_the_first_episode_never_has_is_scaled_by_the_others(tmp_path):
    states = {0: [[1.0, float("nan")], [2.0, float("nan")]], 1: [[3.0, 4.0], [4.0, 6.0]]}
    root = write_set(tmp_path / "set", (2, 2), states={0: [[0.0] * 2] * 2, 1: [[0.0] * 2] * 2})
    (root / "meta/stats.json").unlink()
    frames = [*states[0], *states[1]]
    change_rows(root, FRAMES, lambda rows: [row | {STATE: state} for row, state in zip(rows, frames, strict=True)])
    signals = read_signals(str(root), STATE)
    np.testing.assert_allclose((signals.scale.mean, signals.scale.std), ([2.5, 5.0], [np.sqrt(1.25), 1.0]))
    assert (signals.paths[0][:, 1] == 0).all()


def test_an_episode_whose_frames_cannot_be_read_fails_and_the_others_do_not(tmp_path):
    root = write_set(tmp_path / "set", LENGTHS)
    change_rows(root, FRAMES, lambda rows: [row for row in rows if row["episode_index"] != 3])
    run = rp.Run(str(tmp_path / "run"))
    pipeline.embed(str(root), run, make_config(STATE), Progress())
    rows = run.read_table("videos.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["failed"] + ["ok"] * 2
    assert rows[3]["error"] == "it has no frames"


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.int64(), 2)])
def test_a_row_of_numbers_that_is_null_moves_no_other(kind):
    rows = as_rows(pa.chunked_array([pa.array([[1, 2], None, [3, 4]], kind), pa.array([], kind)]), "state")
    np.testing.assert_array_equal(rows, [[1, 2], [np.nan, np.nan], [3, 4]])
    assert as_rows(pa.chunked_array([pa.array([], kind)]), "state").shape == (0, 1)


def test_whole_numbers_beyond_those_of_float64_are_rounded():
    """Such as the time of a frame in nanoseconds."""
    times_ns = [1_790_000_000_123_456_789, 1_790_000_000_156_790_122]
    np.testing.assert_array_equal(as_rows(pa.chunked_array([times_ns]), "time"), np.float64(times_ns)[:, None])


def test_lists_of_unequal_lengths_are_refused_though_their_sum_would_fit():
    lists = [[1.0], [2.0, 3.0, 4.0]], [[[1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0]]], [[[1.0], None], [[2.0], [3.0]]]
    for values in lists:
        with pytest.raises(SourceError, match=r"state has lists of \d numbers and of \d"):
            as_rows(pa.chunked_array([values]), "state")


def test_an_episode_whose_frames_lie_nobody_knows_where_fails_with_that_reason(tmp_path):
    root = write_set(tmp_path / "set", (3, 2))
    change_rows(root, EPISODES, lambda rows: rows[1].update({"data/file_index": None}))
    signals = read_signals(str(root), STATE)
    assert [len(path) for path in signals.paths] == [3, 0]
    assert list(signals.reasons) == [signals.videos[1].video_id]
    assert "does not say which file of data/ holds it" in signals.reasons[signals.videos[1].video_id]


def test_columns_of_episodes_keep_their_types(tmp_path):
    root = write_set(tmp_path / "set", (3, 2))
    table = pq.read_table(root / EPISODES)
    more = {"grade": pa.array([1, 2], pa.int8()), "until": pa.array([2**30, 0], pa.date32())}
    for name, column in more.items():
        table = table.append_column(name, column)
    pq.write_table(table, root / EPISODES)
    extra = read_signals(str(root), STATE).videos.extra
    assert [extra[name].combine_chunks() for name in more] == list(more.values())


def test_episodes_that_the_table_lacks_are_told_of(tmp_path):
    root = write_set(tmp_path / "set", (3, 2))
    change_info(root, total_episodes=9)
    notes = read_signals(str(root), STATE).videos.notes
    assert notes == (f"{root}: info.json tells of 9 episodes, and their table has 2",)


def test_where_no_frame_can_be_read_the_reason_is_told(tmp_path):
    root = write_set(tmp_path / "set", (3, 2))
    frames = pq.read_table(root / FRAMES)
    words = pa.array(["still"] * len(frames))
    pq.write_table(frames.set_column(frames.column_names.index(STATE), STATE, words), root / FRAMES)
    with pytest.raises(SourceError, match=f"no frame with {STATE} can be read: {STATE} does not hold numbers: "):
        read_signals(str(root), STATE)


@pytest.mark.parametrize("fps", [0, None, "30", float("inf"), 10**400], ids=lambda fps: str(fps)[:10])
def test_a_rate_that_is_none_is_refused(tmp_path, fps):
    root = write_set(tmp_path / "set", (3, 2))
    change_info(root, fps=fps)
    with pytest.raises(SourceError, match=f"info.json: fps is {fps!r}, not a number of frames a second"):
        read_signals(str(root), STATE)


def test_bad_features_get_one_line(root, tmp_path):
    with pytest.raises(UsageError, match=rf"feature gripper is not there: those of .*set are {STATE}, timestamp"):
        read_signals(str(root), "gripper")
    with pytest.raises(UsageError, match=f"feature {CAMERA} is of dtype video: those of"):
        read_signals(str(root), CAMERA)
    with pytest.raises(UsageError, match="is no LeRobot dataset, and has no features action"):
        read_signals(str(tmp_path), "action")
    result = call_raypipe("run", tmp_path, "-o", tmp_path / "run", "--features", f"video,{STATE}")
    assert result.exit_code != 0 and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--features", "video,gripper"), "feature gripper is not there: those of"),
        (("--features", "video"), "no features are named: those of"),
        (("--features", ","), "no features are named: those of"),
        (("--features", STATE, "--camera", CAMERA), f"camera {CAMERA} goes with videos, and the signals of an episode"),
    ],
)
def test_what_is_wrong_with_features_is_said_before_anything_is_embedded(root, tmp_path, asked, more, says):
    """No Ray starts, and nothing is written; Ray cannot be imported here."""
    result = call_raypipe("run", root, "-o", tmp_path / "run", "--encoder", "descriptor", *asked, *more)
    assert result.exit_code == 2
    assert says in result.stderr and len(result.stderr.splitlines()) == 1
    assert not any(tmp_path.glob("run/[!l]*")), "nothing but a log"


def test_features_are_those_of_a_dataset_and_not_of_videos_or_paths(root, tmp_path):
    (tmp_path / "paths.json").write_text(json.dumps({"a": [[0.0], [1.0]]}))
    run = rp.Run(str(tmp_path / "run"))
    for features in (STATE, f"video,{STATE}"):
        with pytest.raises(UsageError, match="name its folder or URL as the source, and not its videos"):
            pipeline.embed(find_episodes(open_lerobot(str(root))), run, make_config(features), Progress())
        with pytest.raises(UsageError, match=r"paths\.json is no LeRobot dataset, and has no features"):
            pipeline.embed(tmp_path / "paths.json", run, make_config(features), Progress())


def test_signals_go_through_clustering_to_the_page_and_no_video_is_opened(root, tmp_path):
    import shutil

    other = shutil.copytree(root, tmp_path / "set")
    shutil.rmtree(other / "videos")
    sets = [
        part
        for pair in ("cluster.n_init=1", "reduce.picture=tsne", "reduce.n_components=2")
        for part in ("--set", pair)
    ]
    result = call_raypipe("run", other, "-o", tmp_path / "run", "--features", STATE, "-k", 2, *sets)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "run/report.html").exists()
    run = rp.Run.open(str(tmp_path / "run"))
    clusters = run.read_table("clusters.parquet")["cluster"].to_pylist()
    assert adjusted_rand_score([0, 1] * 3, clusters) == 1
    spans = run.read_table("embeddings", ["start_s", "end_s"])
    assert spans["end_s"].to_numpy().max() == pytest.approx(0.8), "a clip lasts as long as a frame"
    (line, *_) = rp.export(run, "lerobot")
    assert line == f"wrote 6 episodes and {sum(LENGTHS)} frames to {tmp_path}/run/exports/lerobot"


@pytest.mark.parametrize(("limit", "episodes"), [((), [1, 4]), (("--limit", 3), [1])])
def test_a_run_of_signals_tells_what_the_tables_of_its_dataset_say_wrongly(tmp_path, limit, episodes):
    root = write_set(tmp_path / "set", LENGTHS)
    change_rows(
        root, EPISODES, lambda rows: [row | ({"tasks": []} if row["episode_index"] in {1, 4} else {}) for row in rows]
    )
    result = call_raypipe("embed", root, "-o", tmp_path / "run", "--features", STATE, *limit)
    assert f"{len(episodes)} finding" in result.stderr
    run = rp.Run(str(tmp_path / "run"))
    faults = run.read_json("dataset_faults.json")["faults"]
    assert [(fault["kind"], fault["episode"]) for fault in faults] == [("no task", each) for each in episodes]
    ids = run.read_table("videos.parquet")["video_id"].to_pylist()
    assert [fault["videos"] for fault in faults] == [[ids[each]] for each in episodes]


@pytest.mark.parametrize("has_statistics", [True, False])
def test_a_run_of_the_first_episodes_goes_on_with_all(root, tmp_path, has_statistics):
    import shutil

    other = shutil.copytree(root, tmp_path / "set")
    if not has_statistics:
        (other / "meta/stats.json").unlink()

    def take(*more):
        result = call_raypipe("embed", other, "-o", tmp_path / "run", "--features", STATE, *more)
        last = result.stderr.splitlines()[-1]
        return result.exit_code, next((line for line in result.stderr.splitlines() if " = " in line), last)

    assert take("--limit", 2) == (0, "6 found = 2 ok + 0 failed + 4 skipped")
    assert take() == (0, "6 found = 6 ok + 0 failed + 0 skipped")
    assert take("--limit", 3) == (0, "6 found = 3 ok + 0 failed + 3 skipped")
    (frames,) = (other / "data").rglob("*.parquet")
    change_rows(other, str(frames.relative_to(other)), lambda rows: rows[0].update({STATE: rows[1][STATE]}))
    code, line = take()
    assert code == 2 and "--re-embed" in line, "what was embedded has changed since"
    assert take("--re-embed") == (0, "6 found = 6 ok + 0 failed + 0 skipped")
    code, line = take("--features", f"{STATE},timestamp")
    assert code == 2 and line.endswith("/run holds other trajectories: choose another -o, or --re-embed")


def test_clips_have_the_mean_of_their_frames():
    path = np.arange(10.0)[:, None]
    means = average_clips(path, 10.0, np.array([0.0, 0.2, 0.31, 0.95]), np.array([0.2, 0.4, 0.33, 1.5]))
    np.testing.assert_allclose(means[:, 0], [0.5, 2.5, 3.0, 9.0])
    rounded = average_clips(path, 10.0, np.array([0.2000001]), np.array([0.3999999]))
    np.testing.assert_allclose(rounded[:, 0], [2.5])
    steady = np.full((100_000, 1), 0.1, np.float32)
    last = average_clips(steady, 10.0, np.array([9999.0]), np.array([10_000.0]))
    np.testing.assert_allclose(last, 0.1, rtol=1e-6, err_msg="it does not depend on how many frames came before")


def make_joined(folder, root, scale=None) -> rp.Run:
    """Write a run as embedding the videos would, of a clip a frame, and signals beside them."""
    found = find_episodes(open_lerobot(str(root)))
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(length, 8)).astype(np.float32) for length in LENGTHS]
    run = make_embedded(folder, clips, list(found))
    table = run.read_table("embeddings/0.parquet")
    for name in ("start_s", "end_s"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.compute.divide(table[name], 10.0))
    run.write_table("embeddings/0.parquet", table)
    write_signals(run, str(root), found, f"video,{STATE}", scale, lambda line: None)
    return run


def test_a_joined_step_is_the_embedding_and_behind_it_the_weighed_signals(root, tmp_path):
    run = make_joined(tmp_path / "run", root)
    alone = rp.build_trajectories(run, None, signal_weight=0)
    joined = rp.build_trajectories(run, None, signal_weight=0.5)
    signals = read_signals(str(root), STATE)
    for one, both, signal in zip(alone.values, joined.values, signals.paths, strict=True):
        np.testing.assert_array_equal(both[:, :8], one)
        np.testing.assert_allclose(both[:, 8:], 0.5 / np.sqrt(3) * signal, rtol=1e-5, atol=1e-6)
    steps = rp.build_trajectories(run, 4)
    assert steps.values.shape == (6, 4, 11)
    pipeline.cluster(run, make_config(None, signal_weight=20), Progress())
    labels = run.read_table("clusters.parquet")["cluster"].to_pylist()
    assert adjusted_rand_score([0, 1] * 3, labels) == 1, "the embeddings are noise"


def test_new_videos_are_z_scored_as_the_runs_were(root, tmp_path):
    scale = Scale((STATE,), np.zeros(3), np.full(3, 2.0), "another run")
    run = make_joined(tmp_path / "run", root, scale)
    ids = run.read_table("videos.parquet")["video_id"].to_pylist()
    np.testing.assert_allclose(read_signals_of(run, ids)[ids[2]], np.array(state_of(2, 7)) / 2, rtol=1e-5)
    assert run.info()["signals"]["origin"] == "another run"
    with pytest.raises(UsageError, match=f"the features must be video,{STATE}"):
        write_signals(run, str(root), Videos(), "video,timestamp", scale, lambda line: None)


def test_new_episodes_are_z_scored_as_those_of_the_run_that_predicts(root, tmp_path):
    run, new = rp.Run(str(tmp_path / "run")), rp.Run(str(tmp_path / "new"))
    config = make_config(STATE)
    pipeline.embed(str(root), run, config, Progress())
    pipeline.cluster(run, config, Progress())
    states = {0: (3 * np.array(state_of(0, 6)) + 100).tolist(), 1: state_of(1, 5)}
    other = write_set(tmp_path / "other", (6, 5), states=states)
    pipeline.predict(run, str(other), new, config, Progress())
    scale = run.info()["signals"]
    assert new.info()["signals"] == scale
    expected = [(np.array(states[episode]) - scale["mean"]) / scale["std"] for episode in (0, 1)]
    found = np.array(new.read_table("embeddings")["embedding"].to_pylist())
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match=f"the features must be {STATE}, as in the run"):
        pipeline.predict(run, str(other), rp.Run(str(tmp_path / "bad")), make_config("timestamp"), Progress())
    with pytest.raises(UsageError, match=f"is of signals, without videos: --features {STATE}$"):
        pipeline.predict(run, str(other), rp.Run(str(tmp_path / "bad")), make_config(None), Progress())


def test_a_run_with_signals_predicts_only_with_signals(root, tmp_path):
    run = make_joined(tmp_path / "run", root)
    config = make_config(None)
    pipeline.cluster(run, config, Progress())
    with pytest.raises(UsageError, match=f"joins signals to its videos: --features video,{STATE}"):
        pipeline.predict(run, str(root), rp.Run(str(tmp_path / "new")), config, Progress())
    run.record(state="embedded")
    with pytest.raises(UsageError, match=r"joins signals to its videos, and .* has none: name a video of the run"):
        rp.search(run, str(tmp_path / "new.mp4"))


def test_an_episode_without_signals_counts_as_the_average(root, tmp_path):
    run = make_joined(tmp_path / "run", root)
    import shutil

    other = shutil.copytree(root, tmp_path / "set")
    change_rows(other, FRAMES, lambda rows: [row for row in rows if row["episode_index"] != 3])
    said: list[str] = []
    write_signals(run, str(other), find_episodes(open_lerobot(str(other))), f"video,{STATE}", None, said.append)
    ids = run.read_table("videos.parquet")["video_id"].to_pylist()
    assert (read_signals_of(run, ids)[ids[3]] == 0).all()
    assert said[-1] == "the signals of 1 video cannot be read, and count as the average: it has no frames"


@pytest.mark.parametrize("name", ["lerobot_v30/codes_video", "lerobot_v30/codes_depth", "lerobot_v21/so101_cloth"])
def test_the_shared_sets_have_signals(data_dir, name):
    dataset = open_lerobot(str(data_dir / name))
    signals = read_signals(str(data_dir / name), f"{STATE},action")
    lengths = [video.extra["length"] for video in signals.videos]
    assert [len(path) for path in signals.paths] == lengths
    dim = sum(dataset.features[feature]["shape"][0] for feature in (STATE, "action"))
    every = np.concatenate(signals.paths)
    assert every.shape == (sum(lengths), dim)
    if name != "lerobot_v21/so101_cloth":  # Its statistics are those of a larger set, which it was cut out of.
        np.testing.assert_allclose(every.mean(axis=0), 0, atol=0.01)
        assert set(every.std(axis=0).round(2)) <= {0.0, 1.0}, "what never changes is 0"


def test_words_for_clusters_are_found_by_the_embeddings_alone(root, tmp_path):
    """The text's vectors have the embeddings' dimensions, and none of the signals."""
    from raypipe.runs.descriptions import _average_embeddings

    run = make_joined(tmp_path / "run", root)
    run.record(encoder={"dim": 8})
    config = make_config(None, n_steps=4)
    pipeline.cluster(run, config, Progress())
    labels = run.read_table("clusters.parquet")["cluster"].to_numpy()
    alone = rp.build_trajectories(run, 4, signal_weight=0).values.mean(axis=1)
    expected = [alone[labels == k].mean(axis=0) for k in range(2)]
    np.testing.assert_allclose(_average_embeddings(run, config, labels, [0, 1]), expected, rtol=1e-5)
