"""What ``raypipe inspect`` finds wrong with LeRobot datasets: each fault planted in a set that has none."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call_raypipe
from lerobot_sets import CAMERA, X264, write_frames, write_joined
from whole_sets import EPISODES, FRAMES, STATE, change_info, change_rows, state_of, video_of, write_set, write_set_v21

from raypipe.analysis import dataset_faults
from raypipe.analysis.dataset_faults import KINDS, Fault, is_frozen, lay_out_faults, worst_first
from raypipe.analysis.lerobot_faults import find_faults
from raypipe.decoders import make_decoder
from raypipe.errors import DecodeError, SourceError
from raypipe.schema import Failure
from raypipe.sources.episodes import find_episodes
from raypipe.sources.lerobot import open_lerobot

FROM, TO = f"videos/{CAMERA}/from_timestamp", f"videos/{CAMERA}/to_timestamp"
OTHER = "observation.images.side"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write a set without faults, once for all tests here."""
    return write_set(tmp_path_factory.mktemp("sets") / "clean")


@pytest.fixture
def root(made, tmp_path):
    """Return a copy of it, to be spoilt."""
    return shutil.copytree(made, tmp_path / "set")


def attempt(do, *arguments):
    try:
        return do(*arguments)
    except DecodeError as error:
        return Failure("decode", str(error))


def check(root, limit=None, decoder="pyav") -> list[Fault]:
    """Find a dataset's faults as ``raypipe inspect`` does, decoding in this process."""
    dataset = open_lerobot(str(root))
    found = find_episodes(dataset)
    videos = found[:limit]
    reader = make_decoder(decoder)

    def look(file, times_s, span_s):
        return reader.frames(file, times_s, 64, "squash").pixels

    probes = {uri: attempt(reader.probe, uri) for uri in set(videos.table["uri"].to_pylist())}
    return find_faults(
        dataset,
        videos,
        len(videos) == len(found),
        probes,
        lambda files: [attempt(reader.frame_times, file) for file in files],
        lambda looks: [attempt(look, *each) for each in looks],
    )


def told(faults) -> list[tuple]:
    return [(fault.kind, fault.episode, fault.camera, fault.says) for fault in faults]


def set_edges(root, **edges):
    """Set from and to of episodes, in frames: ``e1=(6, 11)``."""

    def change(rows):
        for name, (start, stop) in edges.items():
            rows[int(name[1:])] |= {FROM: start / 10, TO: stop / 10}

    change_rows(root, EPISODES, change)


def test_a_clean_set_has_no_faults(root):
    assert check(root) == []


def test_a_clean_set_of_several_files_and_cameras_has_no_faults(tmp_path):
    """Each camera's files are numbered for themselves, and begin with other episodes."""
    root = write_set(tmp_path / "set", (6, 5, 7), (CAMERA, OTHER))
    write_joined(video_of(root, OTHER, 1), (6, 5), 10)
    write_joined(video_of(root, OTHER, 3), (7,), 10, first=2)
    video_of(root, OTHER).unlink()

    def change(rows):
        for row, (file, start, stop) in zip(rows, ((1, 0, 6), (1, 6, 11), (3, 0, 7)), strict=True):
            side = f"videos/{OTHER}/"
            row |= {f"{side}file_index": file, f"{side}from_timestamp": start / 10, f"{side}to_timestamp": stop / 10}

    change_rows(root, EPISODES, change)
    assert check(root) == []


def test_a_span_beyond_the_file_is_found(root):
    set_edges(root, e2=(11, 20))
    (beyond, length) = check(root)
    assert told([beyond]) == [
        ("beyond the file", 2, CAMERA, "to_timestamp is 2.0000 s, and the file lasts 1.8000 s"),
    ]
    assert (length.kind, length.episode) == ("length", 2)
    assert beyond.amount == pytest.approx(2)


def test_a_hole_is_of_the_file_and_not_beyond_it(root):
    set_edges(root, e2=(30, 37))
    (hole,) = (says for kind, _, _, says in told(check(root)) if kind == "hole")
    assert hole == "between its span and that of episode 1 no episode shows 0.7000 s of the file"


def test_a_span_that_does_not_fit_its_length_is_found(root):
    change_rows(root, EPISODES, lambda rows: rows[1].update({"length": 4}))
    change_info(root, total_frames=17)
    faults = check(root)
    others = [fault for fault in told(faults) if fault[0] == "other frames"]
    assert others == [("other frames", 1, CAMERA, "its span shows 5 frames, and its length is 4 frames")]
    assert {fault.episode for fault in faults if fault.kind == "length"} == {1}
    says = [fault.says for fault in faults if fault.kind == "length"]
    assert "its span lasts 0.5000 s, 5.0 frames, and its length is 4 frames" in says
    assert "it has 5 rows of frames, and its length is 4 frames" in says


def test_spans_that_overlap_are_found(root):
    set_edges(root, e1=(4, 11))
    assert ("overlap", 1, CAMERA, "its span begins 0.2000 s before that of episode 0 ends") in told(check(root))


def test_a_span_within_another_hides_no_overlap_and_leaves_no_hole(root):
    set_edges(root, e0=(0, 16), e1=(4, 9), e2=(11, 18))
    found = told(check(root))
    assert [each for each in found if each[0] in ("overlap", "hole")] == [
        ("overlap", 1, CAMERA, "its span begins 1.2000 s before that of episode 0 ends"),
        ("overlap", 2, CAMERA, "its span begins 0.5000 s before that of episode 0 ends"),
    ]


def test_holes_between_spans_and_at_the_ends_of_a_file_are_found(root):
    set_edges(root, e0=(1, 6), e2=(13, 17))
    found = told(check(root))
    assert ("hole", 2, CAMERA, "between its span and that of episode 1 no episode shows 0.2000 s of the file") in found
    assert ("hole", None, CAMERA, "the file begins with 0.1000 s that no episode shows") in found
    assert ("hole", None, CAMERA, "the file ends with 0.1000 s that no episode shows") in found


def test_frames_of_another_episode_at_a_spans_edge_are_found(root):
    """All spans after the first are a frame late, as where durations were summed that the file does not have."""
    set_edges(root, e0=(0, 6), e1=(7, 12), e2=(12, 19))
    found = [fault for fault in told(check(root)) if fault[0] == "other frames"]
    assert found == [
        ("other frames", 1, CAMERA, "its span begins 1 frame too late and misses them"),
        ("other frames", 2, CAMERA, "its span begins 1 frame too late and misses them"),
    ]
    set_edges(root, e0=(0, 8), e1=(4, 11), e2=(11, 18))
    found = [fault for fault in told(check(root)) if fault[0] == "other frames"]
    assert found == [
        ("other frames", 0, CAMERA, "its span ends 2 frames too late and shows episode 1"),
        ("other frames", 1, CAMERA, "its span begins 2 frames too early and shows episode 0"),
    ]


def test_edges_that_are_rounded_are_no_fault(root):
    """A start that lies a hair's breadth before its first frame would show the last one of the episode before."""
    set_edges(root, e0=(0, 6.0004), e1=(5.9996, 11), e2=(10.9999, 18.0001))
    assert check(root) == []


def test_a_row_without_a_camera_s_file_is_found(root):
    change_rows(root, EPISODES, lambda rows: rows[1].update({f"videos/{CAMERA}/file_index": None}))
    found = told(check(root))
    assert ("no place", 1, CAMERA, "its row in meta/episodes does not say which file it lies in") in found


def test_a_file_that_is_not_there_is_found(root):
    def change(rows):
        rows[2] |= {f"videos/{CAMERA}/file_index": 7, FROM: 0.0, TO: 0.7}

    change_rows(root, EPISODES, change)
    worst = check(root)[0]
    assert (worst.kind, worst.episode, worst.camera) == ("unreadable", 2, CAMERA)
    assert worst.file.endswith("file-007.mp4")


def test_a_file_that_is_damaged_is_found(root):
    video_of(root).write_bytes(b"no video")
    (worst, *others) = check(root)
    assert worst.kind == "unreadable"
    assert worst.says.endswith(", and 3 episodes with it")
    assert {fault.kind for fault in others} == set()


def test_frames_that_cannot_be_read_are_found(root):
    (root / FRAMES).write_bytes(b"PAR1")
    (worst,) = check(root)
    assert worst.kind == "unreadable" and "file-000.parquet" in worst.says
    assert worst.says.endswith("and the frames of 3 episodes with it")


def test_episodes_of_one_frame_are_found(tmp_path):
    root = write_set(tmp_path / "set", (6, 1, 7))
    assert told(check(root)) == [("one frame", 1, None, "it has a single frame")]


def test_a_single_picture_has_no_rate_that_could_be_another(tmp_path):
    """LeRobot writes a row group for each episode, so that nothing beside a lone picture tells how long it lasts."""
    root = write_set(tmp_path / "set", (6, 1, 7))
    tasks = {episode: [0] * n for episode, n in enumerate((6, 1, 7))}
    states = {episode: state_of(episode, n) for episode, n in enumerate((6, 1, 7))}
    columns = {STATE: states, "task_index": tasks}
    write_frames(root / FRAMES, {0: 6, 1: 1, 2: 7}, 10, pictures=CAMERA, **columns)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA]["dtype"] = "image"
    (root / "meta/info.json").write_text(json.dumps(info))
    assert told(check(root, decoder="images")) == [("one frame", 1, None, "it has a single frame")]


def write_still(path, lengths, still, fps=10):
    """Write a file in which some episodes show their first picture alone."""
    import av

    from bench.numbered import draw_number

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=X264)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for episode, length in enumerate(lengths):
            for frame in range(length):
                number = 100 * episode + (0 if episode in still else frame)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_number(number, 96, 64), format="gray")))
        container.mux(stream.encode())


def test_a_frozen_camera_is_found(root):
    write_still(video_of(root), (6, 5, 7), still={1})
    assert told(check(root)) == [("frozen camera", 1, CAMERA, "its picture never changes in 5 frames")]


def test_a_picture_that_changes_in_one_frame_is_not_frozen():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 255, (1, 64, 64, 3), dtype=np.uint8), 8, axis=0)
    assert is_frozen(still)
    moved = still.copy()
    moved[5, 10:30, 10:30] = 0
    assert not is_frozen(moved)
    assert not is_frozen(still[:1]), "of a single frame nobody can say"


def test_duplicate_episodes_are_found_by_their_signals(tmp_path):
    states = {0: state_of(0, 6), 1: state_of(1, 5), 2: state_of(0, 6)}
    root = write_set(tmp_path / "set", (6, 5, 6), states=states)
    assert told(check(root)) == [("duplicate", 2, None, "it has the signals of episode 0")]


def test_a_robot_that_stands_still_twice_is_no_duplicate(tmp_path):
    states = {0: state_of(0, 6), 1: [[1.0, 2.0, 3.0]] * 5, 2: [[1.0, 2.0, 3.0]] * 5}
    assert check(write_set(tmp_path / "set", (6, 5, 5), states=states)) == []


def test_duplicate_episodes_are_found_by_their_pictures(root):
    """An episode that was copied shows the other's pictures to the bit."""
    import av

    from bench.numbered import draw_number

    with av.open(str(video_of(root)), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in [0, 1, 2, 3, 4, 100, 101, 102, 103, 104, 0, 1, 2, 3, 4]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_number(number, 96, 64), format="gray")))
        container.mux(stream.encode())
    change_rows(root, EPISODES, lambda rows: [row | {"length": 5} for row in rows])
    set_edges(root, e0=(0, 5), e1=(5, 10), e2=(10, 15))
    found = told(check(root))
    assert ("duplicate", 2, CAMERA, "it has the pictures of episode 0") in found


def test_tasks_without_text_are_found(root):
    change_rows(root, EPISODES, lambda rows: (rows[0].update({"tasks": []}), rows[2].update({"tasks": [" "]}), None)[2])
    change_rows(root, "meta/tasks.parquet", lambda rows: rows[0].update({"task": ""}))
    assert told(check(root)) == [
        ("no task", None, None, "task 0 of the table of tasks has no text"),
        ("no task", 0, None, "it has no task"),
        ("no task", 2, None, "one of its tasks has no text"),
    ]
    (root / "meta/tasks.parquet").unlink()
    assert "tasks.parquet" in check(root)[0].says


def test_a_table_of_episodes_without_tasks_is_one_finding(root):
    """Each of a million episodes lacks its task then, and the reason is one."""
    pq.write_table(pq.read_table(root / EPISODES).drop_columns(["tasks"]), root / EPISODES)
    says = "the table of episodes has no tasks, without which lerobot cannot delete episodes"
    assert told(check(root)) == [("no task", None, None, says)]


def test_another_frame_rate_than_the_datasets_is_found(root):
    change_info(root, fps=12)
    kinds = [fault for fault in told(check(root)) if fault[0] == "frame rate"]
    assert kinds == [("frame rate", None, CAMERA, "the file has 10 frames a second, and info.json says 12")]
    change_info(root, fps=0)
    (only,) = check(root)
    assert only.says == "info.json says fps 0, so that no time can be checked"
    for fps in (float("inf"), 10**400):  # The former is what JSON's 1e400 is read as.
        change_info(root, fps=fps)
        (only,) = check(root)
        assert only.says == f"info.json says fps {fps}, so that no time can be checked"


def test_a_length_that_is_no_number_of_frames_is_named(root):
    table = pq.read_table(root / EPISODES)
    lengths = pa.array([1.5, 2.0, 3.0])
    pq.write_table(table.set_column(table.column_names.index("length"), "length", lengths), root / EPISODES)
    with pytest.raises(SourceError, match="its table of episodes: length does not hold whole numbers: "):
        check(root)


@pytest.mark.parametrize("dtype", [["video"], {"of": "video"}, None], ids=str)
def test_a_feature_of_an_odd_dtype_is_none(root, dtype):
    change_info(
        root, features=json.loads((root / "meta/info.json").read_text())["features"] | {"odd": {"dtype": dtype}}
    )
    assert check(root) == []


def test_missing_statistics_are_found(root):
    stats = json.loads((root / "meta/stats.json").read_text())
    del stats[STATE]["std"]
    (root / "meta/stats.json").write_text(json.dumps(stats))
    assert told(check(root)) == [("no statistics", None, None, f"there is no mean and std of {STATE}")]
    (root / "meta/stats.json").unlink()
    (only,) = check(root)
    assert only.says == "meta/stats.json cannot be read, and training cannot normalise without"


@pytest.mark.parametrize("dtype", ["uint16", "float32", "bool"])
def test_numbers_of_any_type_have_statistics(root, dtype):
    features = json.loads((root / "meta/info.json").read_text())["features"]
    change_info(root, features=features | {STATE: {**features[STATE], "dtype": dtype}})
    stats = json.loads((root / "meta/stats.json").read_text())
    (root / "meta/stats.json").write_text(json.dumps({name: of for name, of in stats.items() if name != STATE}))
    assert told(check(root)) == [("no statistics", None, None, f"there is no mean and std of {STATE}")]


def test_a_set_of_v21_has_a_file_an_episode(tmp_path):
    root = write_set_v21(tmp_path / "set")
    assert check(root) == []
    (root / "meta/episodes_stats.jsonl").unlink()
    (root / "meta/stats.json").write_text(json.dumps({STATE: {"mean": [0], "std": [1]}}))
    assert [fault.says for fault in check(root)] == [
        "meta/episodes_stats.jsonl cannot be read, and lerobot converts no dataset to v3.0 without",
        f"there is no mean and std of {CAMERA}",
    ]


def test_files_of_v21_that_do_not_fit_their_episodes_are_found(tmp_path):
    root = write_set_v21(tmp_path / "set")
    folder = root / f"videos/chunk-000/{CAMERA}"
    write_joined(folder / "episode_000001.mp4", (4,), 10, first=1)
    shutil.copy(folder / "episode_000000.mp4", folder / "episode_000002.mp4")
    found = told(check(root))
    assert ("length", 1, CAMERA, "its file has 4 frames, and its length is 5 frames") in found
    assert ("length", 1, CAMERA, "its file lasts 0.4000 s, 4.0 frames, and its length is 5 frames") in found
    assert ("duplicate", 2, CAMERA, "it has the pictures of episode 0") in found


def test_a_file_of_frames_that_hold_no_numbers_is_named_and_the_next_are_read(tmp_path):
    root = write_set_v21(tmp_path / "set")
    first, second = (f"data/chunk-000/episode_{number:06d}.parquet" for number in (0, 1))
    table = pq.read_table(root / first)
    texts = pa.array([["a"]] * len(table))
    pq.write_table(table.set_column(table.column_names.index(STATE), STATE, texts), root / first)
    change_rows(root, second, lambda rows: rows[:-1])
    faults = told(check(root))
    assert [fault[:2] for fault in faults] == [("unreadable", 0), ("length", 1)]
    assert f"{STATE} does not hold numbers" in faults[0][3]


def test_counts_that_do_not_fit_are_found(root):
    change_info(root, total_episodes=4, total_frames=20)
    assert [fault.says for fault in check(root)] == [
        "info.json says total_frames 20, and the table of episodes has 18",
        "info.json says total_episodes 4, and the table of episodes has 3",
    ]
    change_info(root, total_episodes=3, total_frames=18)
    assert check(root) == []


def test_the_worst_is_first():
    faults = [Fault(kind, "", episode, amount=amount) for kind in KINDS[::-1] for episode, amount in ((0, 1), (1, 5))]
    ordered = worst_first(faults)
    assert [fault.kind for fault in ordered] == [kind for kind in KINDS for _ in range(2)]
    assert [fault.episode for fault in ordered[:2]] == [1, 0]


def test_with_a_limit_what_lies_behind_is_no_hole(root):
    assert check(root, limit=1) == []


def test_inspect_exits_with_0_where_nothing_is_wrong_and_else_with_3(root):
    """The command decodes in child processes; a broken file is a finding, and ends nothing."""
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    result = call_raypipe("inspect", root)
    assert result.exit_code == 0, result.stdout
    assert result.stdout.endswith("nothing is wrong with the dataset\n")
    assert "3 videos, 0 of which would fail" in result.stdout
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    set_edges(root, e2=(11, 20))
    change_rows(root, EPISODES, lambda rows: rows[1].update({"tasks": []}))
    result = call_raypipe("inspect", root)
    assert result.exit_code == 3
    table = result.stdout[result.stdout.index("what is wrong") :].splitlines()
    assert table[0] == "what is wrong: 3 findings, the worst first"
    assert [line.split("  ")[1] for line in table[2:]] == ["beyond the file", "length", "no task"]
    result = call_raypipe("inspect", root, "--json")
    assert result.exit_code == 3
    findings = json.loads(result.stdout)["findings"]
    assert [each["kind"] for each in findings] == ["beyond the file", "length", "no task"]
    assert findings[0]["episode"] == 2 and findings[0]["camera"] == CAMERA


def test_a_set_without_cameras_is_checked_by_its_tables_and_signals(root, tmp_path):
    features = json.loads((root / "meta/info.json").read_text())["features"]
    change_info(root, features={name: features[name] for name in features if name != CAMERA})
    result = call_raypipe("inspect", root)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert result.stdout.startswith("3 episodes, and no camera that is read: --features embeds their signals\n")
    assert result.stdout.endswith("nothing is wrong with the dataset\n") and "0 files" not in result.stderr
    change_rows(root, EPISODES, lambda rows: rows[1].update({"length": rows[1]["length"] + 1, "tasks": []}))
    result = call_raypipe("inspect", root, "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert (told["episodes"], told["videos"]) == (3, 0)
    assert told["statistics"].keys() == {"duration (s)", "frames"}
    assert {each["kind"] for each in told["findings"] if each["episode"] == 1} == {"length", "no task"}
    assert json.loads(call_raypipe("inspect", root, "--json", "--limit", 1).stdout)["episodes"] == 1
    assert call_raypipe("inspect", root, "--limit", 1).exit_code == 0
    change_info(root, fps=0)
    result = call_raypipe("inspect", root)
    assert result.exit_code == 3 and "no time can be checked" in result.stdout
    result = call_raypipe("inspect", root, "-o", tmp_path / "sample.png")
    assert result.exit_code == 1 and "has no camera, and so no picture to draw" in result.stderr
    result = call_raypipe("inspect", root, "--camera", CAMERA)
    assert result.exit_code == 1 and "has no camera: its features are" in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-n", "3"), "-n and --seed go with -o FILE.png"),
        (("--seed", "3"), "-n and --seed go with -o FILE.png"),
        (("--features", STATE), "No such option"),
        (("--encoder", "descriptor"), "No such option"),
        (("--dry-run",), "No such option"),
    ],
)
def test_inspect_refuses_options_that_it_would_not_heed(root, options, says):
    result = call_raypipe("inspect", root, *options)
    assert result.exit_code == 2 and says in result.stderr


def test_json_has_the_captions_too_where_no_video_can_be_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "list.csv").write_text("path,caption\na.mp4,two words\n")
    result = call_raypipe("inspect", tmp_path / "list.csv", "--json")
    (captions,) = json.loads(result.stdout, parse_constant=pytest.fail)["captions"]
    assert (captions["n_captions"], captions["words_per_caption"], captions["mean_duration_s"]) == (1, 2.0, None)


def test_a_table_has_so_many_of_a_kind_and_says_how_many_more(monkeypatch):
    monkeypatch.setattr(dataset_faults, "SHOWN", 2)
    lines = lay_out_faults([*(Fault("hole", f"gap {i}", i) for i in range(5)), Fault("no task", "none", 7)])
    assert [line.split()[-1] for line in lines[2:4]] == ["0", "1"]
    assert lines[4].endswith("… and 3 more: --json has all") and lines[5].split()[:2] == ["no", "task"]
    assert len(lines) == 6


def test_the_dead_camera_of_the_shared_set_is_named(data_dir):
    """Of twelve real streams one shows a camera that is dead."""
    faults = check(data_dir / "lerobot_v21/so101_cloth")
    assert [(fault.kind, fault.episode, fault.camera) for fault in faults] == [
        ("frozen camera", 0, "observation.images.cam0"),
        ("no statistics", None, None),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("codes_video", [("one frame", 7)]),
        ("codes_depth", []),
    ],
)
def test_the_shared_sets_have_no_faults_but_an_episode_of_one_frame(data_dir, name, expected):
    faults = check(data_dir / "lerobot_v30" / name)
    assert [(fault.kind, fault.episode) for fault in faults] == expected
