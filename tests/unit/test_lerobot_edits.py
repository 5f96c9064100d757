"""What is exported for LeRobot's own tools: an edit, lists of episodes, and scores of episodes and frames."""

import base64
import gzip
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call_raypipe
from embedded import make_embedded
from lerobot_sets import CAMERA
from whole_sets import EPISODES, change_info, change_rows, write_set

import raypipe as rp
from raypipe import pipeline
from raypipe.errors import SourceError, UsageError
from raypipe.progress import Progress
from raypipe.report import packing
from raypipe.report.exporting import lerobot_edits
from raypipe.report.exporting.lerobot_edits import find_dataset, merge_videos
from raypipe.report.facts import read_facts
from raypipe.report.page import explorer
from raypipe.sources.episodes import find_episodes
from raypipe.sources.lerobot import open_lerobot, read_episodes

OTHER = "observation.images.side"
LENGTHS = (6, 5, 7, 6, 8, 5, 6, 7)
ODD = 5
CLUSTER = {
    "cluster": {"n_clusters": 2, "n_init": 1, "outlier_quantile": 0.95},
    "reduce": {"method": "none", "picture": "tsne"},
}


def make_run(folder, root, lengths=LENGTHS, odd=ODD, **sections) -> rp.Run:
    """Write a clustered run of a dataset: a clip a frame, two kinds of episodes by turns, and one that is odd late."""
    rng = np.random.default_rng(0)
    videos = list(find_episodes(open_lerobot(str(root))))
    clips = []
    for video in videos:
        episode = video.extra["episode_index"]
        t = np.linspace(0, 1, lengths[episode])[:, None]
        path = np.hstack([t, t**2]) * (-1 if episode % 2 else 1) + rng.normal(scale=0.01, size=(len(t), 2))
        if episode == odd and video.group == CAMERA:
            path[len(t) // 2 :] += 5
        clips.append(path.astype(np.float32))
    run = make_embedded(folder, clips, videos)
    fps = open_lerobot(str(root)).info["fps"]
    for file in ("plan.parquet", "embeddings/0.parquet"):
        table = run.read_table(file)
        starts = [video.start_s or 0.0 for video in videos]
        start_of = dict(zip((video.video_id for video in videos), starts, strict=True))
        offset = [start_of[video_id] for video_id in table["video_id"].to_pylist()]
        for name in {"start_s", "end_s", "origin_s", "span_s"} & set(table.column_names):
            scaled = np.array(table[name].to_pylist()) / fps + (0 if name == "span_s" else np.array(offset))
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(scaled))
        run.write_table(file, table)
    pipeline.cluster(run, rp.make_config(flags={**CLUSTER, **sections}), Progress())
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a dataset of eight episodes, and a clustered run of it."""
    folder = tmp_path_factory.mktemp("edits")
    return write_set(folder / "my set", LENGTHS), make_run(folder / "run", folder / "my set")


def test_the_command_deletes_the_outliers_in_a_copy(made, tmp_path):
    root, run = made
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    lines = rp.export(run, "lerobot", str(tmp_path / "out"))
    assert lines[0] == f"wrote 8 episodes and {sum(LENGTHS)} frames to {tmp_path}/out"
    assert lines[-2] == "# deletes 1 outlier of 8 episodes in a copy:"
    assert shlex.split(lines[-1]) == [
        "lerobot-edit-dataset",
        *("--repo_id", "local/my-set", "--root", str(root)),
        *("--new_repo_id", "local/my-set_without_outliers", "--new_root", f"{root}_without_outliers"),
        *("--operation.type", "delete_episodes", "--operation.episode_indices", f"[{ODD}]"),
    ]
    edit = json.loads((tmp_path / "out/edit.json").read_text())
    assert edit["operation"] == {"type": "delete_episodes", "episode_indices": [ODD]}
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("tail", ["", "#episode=0&column=observation.images.top"])
def test_a_bucket_may_have_a_number_sign_in_the_name_of_a_folder(made, tail):
    """In the URI of an object it is a letter; what names the pictures of an episode stands at the end."""
    root, run = made
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/sets/reach #2/meta/info.json", (root / "meta/info.json").read_bytes())
    try:
        uris = pa.chunked_array([[f"memory:///sets/reach #2/data/chunk-000/file-000.parquet{tail}"]])
        assert find_dataset(run, uris).root == "memory:///sets/reach #2"
    finally:
        bucket.rm("/sets", recursive=True)


def test_the_page_can_delete_what_is_selected(made):
    root, run = made
    block = explorer.write_data(run, read_facts(run), {}, {})
    header, arrays = packing.unpack(gzip.decompress(base64.b64decode(block)))
    words = shlex.split(header["lerobot"]["flags"])
    assert words[0] == "lerobot-edit-dataset" and words[words.index("--root") + 1] == str(root)
    assert words[words.index("--new_root") + 1] == f"{root}_selection_deleted"
    episodes = arrays["episodes"].tolist()
    assert sorted(episodes) == sorted([*range(8)] * (len(episodes) // 8))


@pytest.mark.parametrize("value", ["first try", 0.5])
def test_the_page_deletes_nothing_by_what_is_no_number_of_an_episode(made, tmp_path, value):
    """A manifest of a dataset's files may have a column of that name too, with whatever in it."""
    shutil.copytree(made[1].url, tmp_path / "run")
    run = rp.Run(str(tmp_path / "run"))
    videos = run.read_table("videos.parquet")
    place = videos.schema.get_field_index("episode_index")
    run.write_table("videos.parquet", videos.set_column(place, "episode_index", pa.array([value] * len(videos))))
    block = explorer.write_data(run, read_facts(run), {}, {})
    header, arrays = packing.unpack(gzip.decompress(base64.b64decode(block)))
    assert "episode_index does not hold whole numbers" in header["lerobot"]["problem"] and "episodes" not in arrays


def test_the_page_can_delete_episodes_whose_numbers_are_times(made, tmp_path):
    recorded = 20_261_130_194_300
    shutil.copytree(made[1].url, tmp_path / "run")
    run = rp.Run(str(tmp_path / "run"))
    videos = run.read_table("videos.parquet")
    place = videos.schema.get_field_index("episode_index")
    numbers = pa.array([recorded + number for number in videos["episode_index"].to_pylist()])
    run.write_table("videos.parquet", videos.set_column(place, "episode_index", numbers))
    block = explorer.write_data(run, read_facts(run), {}, {})
    _, arrays = packing.unpack(gzip.decompress(base64.b64decode(block)))
    assert {*arrays["episodes"].tolist()} == {*range(recorded, recorded + 8)}


def test_the_command_keeps_a_cluster(made, tmp_path):
    root, run = made
    labels = run.read_table("clusters.parquet")["cluster"].to_numpy()
    of_0 = int(labels[0])
    inside = np.flatnonzero(labels == of_0).tolist()
    lines = rp.export(run, "lerobot", str(tmp_path / "out"), keep=of_0)
    assert f"cluster {of_0}: episodes={inside}" in lines
    words = shlex.split(lines[-1])
    assert json.loads(words[-1]) == [i for i in range(8) if i not in inside]
    assert words[words.index("--new_root") + 1] == f"{root}_cluster_{of_0}"
    lists = json.loads((tmp_path / "out/episodes.json").read_text())
    assert lists["clusters"][str(of_0)] == inside and lists["outliers"] == [ODD]
    with pytest.raises(UsageError, match=r"no episode is in cluster 7: the clusters of .* are 0, 1"):
        rp.export(run, "lerobot", str(tmp_path / "out"), keep=7)


def test_episodes_are_a_table_that_joins_onto_the_datasets(made, tmp_path):
    root, run = made
    rp.export(run, "lerobot", str(tmp_path / "out"))
    ours = pq.read_table(tmp_path / "out/episodes.parquet")
    columns = ["episode_index", "length"]
    joined = pq.read_table(root / EPISODES, columns=columns).join(ours, "episode_index").sort_by("episode_index")
    known = run.read_table("clusters.parquet")
    for name in ("cluster", "distance", "outlier_score", "outlier"):
        assert joined[name].to_pylist() == known[name].to_pylist()
    assert joined["length"].to_pylist() == list(LENGTHS)


def test_frames_have_the_score_of_the_step_that_shows_them(made, tmp_path):
    """The odd episode leaves its cluster's way in its second half."""
    _, run = made
    rp.export(run, "lerobot", str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out/frames.parquet")
    assert table.schema.names == ["index", "episode_index", "frame_index", "outlier"]
    assert table["index"].to_pylist() == list(range(sum(LENGTHS)))
    frames = table.to_pylist()
    assert [row["frame_index"] for row in frames if row["episode_index"] == 2] == list(range(7))
    odd = [row["outlier"] for row in frames if row["episode_index"] == ODD]
    assert max(odd[:2]) < min(odd[-2:]) / 10
    assert max(row["outlier"] for row in frames if row["episode_index"] != ODD) < min(odd[-2:]) / 10
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["lerobot.scores.format"] == "lerobot.frame_signals"
    assert json.loads(metadata["lerobot.scores.descriptors"])["outlier"]["direction"] == "lower"
    assert json.loads(metadata["lerobot.scores.provenance"])["dataset"]["total_frames"] == sum(LENGTHS)


def test_the_first_frame_of_an_episode_has_the_number_that_the_dataset_tells(made):
    dataset = open_lerobot(str(made[0]))
    table = read_episodes(dataset)
    counted = np.cumsum([0, *LENGTHS[:-1]]).tolist()
    assert lerobot_edits._frames_of(dataset, table) == (dict(enumerate(LENGTHS)), dict(enumerate(counted)))
    told = pa.array([*range(0, 7000, 1000), None], pa.int64())
    _, starts = lerobot_edits._frames_of(dataset, table.append_column("dataset_from_index", told))
    assert list(starts.values()) == [*range(0, 7000, 1000), counted[-1]]


def test_an_episode_is_odd_if_one_of_its_cameras_is(tmp_path):
    root = write_set(tmp_path / "set", LENGTHS, (CAMERA, OTHER))
    run = make_run(tmp_path / "run", root)
    lines = rp.export(run, "lerobot")
    assert lines[1].startswith("of 2 cameras: an episode is an outlier if one of its videos is")
    rows = pq.read_table(tmp_path / "run/exports/lerobot/episodes.parquet").to_pylist()
    known = {(row["group"], i // 2): row for i, row in enumerate(run.read_table("clusters.parquet").to_pylist())}
    for episode, row in enumerate(rows):
        scores = [known[camera, episode]["outlier_score"] for camera in (CAMERA, OTHER)]
        assert row["outlier_score"] == max(scores)
        assert [row[f"outlier_score/{camera}"] for camera in (CAMERA, OTHER)] == scores
        assert row["outlier"] == any(known[camera, episode]["outlier"] for camera in (CAMERA, OTHER))
    assert rows[ODD]["outlier"] and not known[OTHER, ODD]["outlier"]


def test_where_cameras_are_joined_an_episode_is_a_row_as_it_was_clustered(tmp_path):
    root = write_set(tmp_path / "set", LENGTHS, (CAMERA, OTHER))
    run = make_run(tmp_path / "run", root, trajectory={"join": "camera"})
    lines = rp.export(run, "lerobot")
    assert not any(line.startswith("of 2 cameras") for line in lines)
    rows = pq.read_table(tmp_path / "run/exports/lerobot/episodes.parquet")
    known = run.read_table("clusters.parquet")
    assert rows["episode_index"].to_pylist() == list(range(8))
    assert rows["outlier_score"].to_pylist() == known["outlier_score"].to_pylist()
    assert shlex.split(lines[-1])[-1] == f"[{ODD}]"
    frames = pq.read_table(tmp_path / "run/exports/lerobot/frames.parquet")
    assert frames.num_rows == sum(LENGTHS)
    assert "outliers: 1 of 8 episodes has a score beyond " in call_raypipe("outliers", run.url).stderr


def test_a_run_of_noise_alone_has_no_scores_to_export(tmp_path):
    root = write_set(tmp_path / "set", LENGTHS)
    density = {"method": "density", "min_cluster_size": len(LENGTHS)}
    run = make_run(tmp_path / "run", root, cluster=density)
    assert np.isnan(run.read_table("clusters.parquet")["outlier_score"]).all()
    with pytest.raises(UsageError, match="has no cluster, only noise: cluster it again with a lower --min-cluster"):
        rp.export(run, "lerobot")
    assert not run.files("exports")


def test_the_cluster_of_an_episode_is_that_of_most_of_its_videos():
    clusters = pa.table(
        {
            "group": ["a", "b", "c", "a", "b", "a"],
            "cluster": pa.array([1, 0, 1, 2, 1, 0], pa.int32()),
            "distance": [3.0, 1.0, 2.0, 5.0, 4.0, None],
            "outlier_score": [1.0, 2.0, None, 1.0, 1.0, 9.0],
            "outlier": [False, True, False, False, False, False],
        }
    )
    found = merge_videos(clusters, np.array([7, 7, 7, 3, 3, 5]))
    assert found.numbers.tolist() == [3, 5, 7]
    assert found.clusters.tolist() == [1, 0, 1], "of two, that of the video which is nearer to its center"
    np.testing.assert_array_equal(found.distances, [5, np.nan, 3])
    np.testing.assert_array_equal(found.scores, [1, 9, 2])
    assert found.is_outlier.tolist() == [False, False, True]
    assert found.videos["c"].tolist() == [-1, -1, 2]


def test_a_list_that_is_too_long_for_a_line_is_read_from_the_file(made, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_edits, "_LONGEST_LINE", 10)
    lines = rp.export(made[1], "lerobot", str(tmp_path / "out"))
    assert lines[-1] == f"lerobot-edit-dataset --config_path {tmp_path}/out/edit.json"


def test_runs_that_lead_to_no_edit_get_one_line(made, tmp_path):
    _, run = made
    other = rp.Run(str(tmp_path / "run"))
    for name in (
        "run.json",
        "plan.parquet",
        "embeddings/0.parquet",
        "metrics.json",
        "outliers.csv",
        "model/centers.npy",
    ):
        other.write_bytes(name, run.read_bytes(name))
    for name in run.files("trajectories"):
        other.write_bytes(name, run.read_bytes(name))
    clusters, videos = run.read_table("clusters.parquet"), run.read_table("videos.parquet")
    place = clusters.schema.get_field_index("outlier")
    other.write_table("videos.parquet", videos)
    other.write_table("clusters.parquet", clusters.set_column(place, "outlier", pa.array([False] * 8)))
    assert rp.export(other, "lerobot")[-1] == "no episode is an outlier: nothing to delete"
    other.write_table("clusters.parquet", clusters.set_column(place, "outlier", pa.array([True] * 8)))
    other.remove("exports")
    with pytest.raises(UsageError, match="all 8 episodes would be deleted, which LeRobot refuses"):
        rp.export(other, "lerobot")
    assert not other.exists("exports"), "nothing is half written"
    uris = pa.array([*videos["uri"].to_pylist()[:-1], "file:///elsewhere/a.mp4"])
    other.write_table("videos.parquet", videos.set_column(videos.schema.get_field_index("uri"), "uri", uris))
    with pytest.raises(UsageError, match=r"is of several datasets: file:///elsewhere/a\.mp4 is not in"):
        rp.export(other, "lerobot")
    uris = pa.array(["file:///elsewhere/a.mp4"] * 8)
    other.write_table("videos.parquet", videos.set_column(videos.schema.get_field_index("uri"), "uri", uris))
    with pytest.raises(UsageError, match=r"no folder above file:///elsewhere/a\.mp4 is a LeRobot dataset"):
        rp.export(other, "lerobot")
    other.write_table("videos.parquet", videos.drop_columns(["episode_index"]))
    result = call_raypipe("export", tmp_path / "run", "--to", "lerobot")
    assert result.exit_code == 2
    assert (
        result.stderr == f"raypipe: {tmp_path}/run is no run of a LeRobot dataset: its videos have no episode_index\n"
    )


@pytest.mark.parametrize("lacks", ["episode 3", "any episode"])
def test_an_episode_without_a_length_would_shift_the_frames_behind_it(tmp_path, lacks):
    root = write_set(tmp_path / "set", LENGTHS)
    run = make_run(tmp_path / "run", root)
    table = pq.read_table(root / EPISODES)
    column = table.schema.get_field_index("length")
    lengths = pa.array([None if i == 3 else n for i, n in enumerate(LENGTHS)])
    without = table.remove_column(column)
    pq.write_table(table.set_column(column, "length", lengths) if "3" in lacks else without, root / EPISODES)
    with pytest.raises(UsageError, match=f"no length of {lacks} in its table of episodes, so frames cannot be scored"):
        rp.export(run, "lerobot")
    assert not run.exists("exports"), "nothing is half written"


def test_what_lerobot_cannot_edit_is_said_beside_the_command(tmp_path):
    """It reads v3.0, and takes episodes for numbered from 0."""
    root = write_set(tmp_path / "set", LENGTHS)
    run = make_run(tmp_path / "run", root)
    change_rows(root, EPISODES, lambda rows: [*rows, rows[-1] | {"episode_index": 9}])
    lines = rp.export(run, "lerobot")
    assert "# the episodes are not numbered from 0 without gaps, which lerobot-edit-dataset relies on" in lines
    assert not any("has no tasks" in line or "several dimensions" in line for line in lines)
    info = json.loads((root / "meta/info.json").read_text())
    pose = {"dtype": "float32", "shape": [3, 4], "names": None}
    change_info(root, features={**info["features"], "pose": pose})
    lines = rp.export(run, "lerobot")
    note = next(line for line in lines if "fails where a feature has several dimensions (pose): LeRobotDataset" in line)
    assert note.endswith("episodes=[…], and normalises by the statistics of all")
    change_info(root, features=info["features"])
    table = pq.read_table(root / EPISODES)
    pq.write_table(table.drop_columns(["tasks"]), root / EPISODES)
    lines = rp.export(run, "lerobot")
    assert any("the table of episodes has no tasks, and lerobot-edit-dataset fails without" in line for line in lines)
    pq.write_table(table, root / EPISODES)
    change_rows(root, EPISODES, lambda rows: rows[:-2])
    with pytest.raises(UsageError, match="has no episode 7 any more, which the run has"):
        rp.export(run, "lerobot")
    change_rows(root, EPISODES, lambda rows: [rows[0], *({**row, "episode_index": i} for i, row in enumerate(rows, 1))])
    change_info(root, fps=None)
    run.remove("exports")
    with pytest.raises(SourceError, match=r"meta/info\.json: fps is None, not a number of frames a second"):
        rp.export(run, "lerobot")
    assert not run.exists("exports"), "nothing is half written"
    change_info(root, fps=10, codebase_version="v2.1")
    (root / "meta/episodes.jsonl").write_text(
        "".join(json.dumps({"episode_index": i, "tasks": ["stack"], "length": n}) + "\n" for i, n in enumerate(LENGTHS))
    )
    lines = rp.export(run, "lerobot")
    assert any("convert_dataset_v21_to_v30 --repo-id local/set --root COPY" in line for line in lines)
    assert not any("v20_to_v21" in line for line in lines)
    lacks = "# that conversion fails without meta/episodes_stats.jsonl, which this dataset lacks"
    assert lacks in lines
    (root / "meta/episodes_stats.jsonl").write_text("{}\n")
    assert lacks not in rp.export(run, "lerobot")
    change_info(root, fps=10, codebase_version="v2.0")
    lines = rp.export(run, "lerobot")
    first, then = (next(i for i, line in enumerate(lines) if name in line) for name in ("v20_to_v21", "v21_to_v30"))
    assert first < then, "that one takes what this one makes"


@pytest.mark.slow
def test_the_real_lerobot_does_what_the_line_says(data_dir, tmp_path):
    """Its environment, of Python 3.12 and lerobot 0.6, is named by RAYPIPE_LEROBOT: the folder of its commands."""
    place = os.environ.get("RAYPIPE_LEROBOT")
    if not place or not (Path(place) / "lerobot-edit-dataset").exists():
        pytest.skip("RAYPIPE_LEROBOT does not name the folder of lerobot-edit-dataset")
    import shutil

    root = shutil.copytree(data_dir / "lerobot_v30/codes_video", tmp_path / "codes", copy_function=shutil.copyfile)
    episodes = pq.read_table(root / EPISODES).to_pylist()
    lengths = [row["length"] for row in episodes]
    run = make_run(tmp_path / "run", root, lengths, odd=7)
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_LEROBOT_HOME": str(tmp_path / "home")}
    for keep, gone in ((None, [7]), (int(run.read_table("clusters.parquet")["cluster"][0].as_py()), None)):
        *_, line = rp.export(run, "lerobot", keep=keep)
        gone = gone or json.loads(shlex.split(line)[-1])
        done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        words = shlex.split(line)
        made = Path(words[words.index("--new_root") + 1])
        kept = [row for row in episodes if row["episode_index"] not in gone]
        found = open_lerobot(str(made))
        videos = find_episodes(found)
        assert [video.extra["length"] for video in videos][::2] == [row["length"] for row in kept]
        from bench.numbered import read_number
        from raypipe.decoders import make_decoder

        decoder = make_decoder("pyav")
        for video in list(videos)[::2]:
            row = kept[video.extra["episode_index"]]
            (picture,) = decoder.frames(video.uri, np.array([video.start_s + 0.5 / 20]), 96, "squash").pixels
            front = video.group.endswith("front")
            number = read_number(picture[:, :, 0])
            assert number == (100 * row["episode_index"] if front else 4095 - 100 * row["episode_index"])
