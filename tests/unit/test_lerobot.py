"""LeRobot datasets as sources: what is found, where it lies, and that each episode's frames are its own."""

import io
import json
import shutil
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call_raypipe
from lerobot_sets import (
    CAMERA,
    SIZE,
    camera_feature,
    numbers_of,
    picture_bytes,
    write_frames,
    write_info,
    write_joined,
    write_v3,
)
from numbered import write as write_numbers
from PIL import Image

import raypipe as rp
from bench.numbered import draw_number, read_number
from raypipe.config import DecodeConfig, SampleConfig
from raypipe.decoders import make_decoder
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import DecodeError, SourceError, UsageError
from raypipe.schema import Failure, Probe
from raypipe.segments.planning import plan_segments
from raypipe.segments.stages import DecodeSegments
from raypipe.sources.lerobot import open_lerobot, read_episodes
from raypipe.sources.versions import read_versions

V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
V2 = {
    "codebase_version": "v2.1",
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


def read_all(videos, sandbox, **pattern) -> dict[str, tuple[list[int], str | None]]:
    """Probe, plan and decode videos: by id the numbers of the frames, and the error."""
    sample = SampleConfig(thumbnails=0, **pattern)
    probes: dict[str, Probe | Failure] = {}
    for uri in videos.table["uri"].unique().to_pylist():
        try:
            probes[uri] = sandbox.probe(uri)
        except DecodeError as error:
            probes[uri] = Failure.of("probe", error)
    decode = DecodeSegments(sample, DecodeConfig(), SIZE[0], "squash", sandbox)
    found: dict[str, tuple[list[int], str | None]] = {}
    for row in plan_segments(videos, [probes[video.uri] for video in videos], sample).to_pylist():
        done = decode(row) if row["error"] is None else {"pixels": [], "error": row["error"]}
        found[row["video_id"]] = [read_number(frame) for frame in done["pixels"]], done["error"]
    return found


def assert_own_frames(videos, found, complement=()) -> None:
    for video in videos:
        numbers, error = found[video.video_id]
        if video.group in complement:
            numbers = [4095 - number for number in numbers]
        assert error is None
        assert numbers == numbers_of(video.extra["episode_index"], video.extra["length"]), video


# To the frame.


@pytest.mark.parametrize(("name", "fps"), [("codes_video", 20), ("codes_image", 20), ("codes_depth", 10)])
def test_every_episode_of_real_datasets_has_its_own_frames(data_dir, sandbox, name, fps):
    videos = rp.find_videos(data_dir / "lerobot_v30" / name)
    complement = [f"observation.images.{camera}" for camera in ("wrist", "side")]
    assert_own_frames(videos, read_all(videos, sandbox, every_n=1), complement)
    some = videos[:: len(videos) // 8]
    assert_own_frames(some, read_all(some, sandbox, fps=fps), complement)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"preset": "ultrafast", "x264-params": "keyint=24:scenecut=0:bframes=3:b-adapt=0"}),
        (
            "libsvtav1",
            {"preset": "10", "g": "2", "crf": "15", "svtav1-params": "lp=1"},
        ),  # a keyframe every other frame, as LeRobot writes it
    ],
)
def test_sixty_episodes_in_one_file_have_their_own_frames(tmp_path, sandbox, codec, options):
    """H.264 has B-frames, and keyframes that are not those at which episodes begin."""
    lengths = [*np.random.default_rng(0).integers(1, 9, 57).tolist(), 1, 2, 5]
    path = tmp_path / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    spans = write_joined(path, lengths, 30, codec=codec, options=options)
    videos = rp.find_videos(write_v3(tmp_path, lengths, spans={CAMERA: spans}))
    assert len(videos) == 60
    assert_own_frames(videos, read_all(videos, sandbox, every_n=1))
    assert_own_frames(videos, read_all(videos, sandbox, fps=30))


def test_spans_in_several_files_and_cameras_at_other_times(tmp_path, sandbox):
    """When a file is full the next episode begins a new one, for each camera by its own size."""
    cameras, lengths = [CAMERA, "wrist"], [4, 1, 6]
    files = {CAMERA: [[0, 1], [2]], "wrist": [[0], [1, 2]]}
    spans: dict[str, list] = {camera: [] for camera in cameras}
    for camera in cameras:
        for number, episodes in enumerate(files[camera]):
            path = tmp_path / f"videos/{camera}/chunk-000/file-{number:03d}.mp4"
            made = write_joined(path, [lengths[episode] for episode in episodes], 10, first=episodes[0])
            spans[camera] += [(number, start_s, end_s) for _, start_s, end_s in made]
    videos = rp.find_videos(write_v3(tmp_path, lengths, cameras, fps=10, spans=spans))
    order = [(video.extra["episode_index"], video.group) for video in videos]
    assert order == [(episode, camera) for episode in range(3) for camera in cameras]
    assert_own_frames(videos, read_all(videos, sandbox, every_n=1))


def test_an_end_beyond_the_file_is_clamped_and_a_span_outside_of_it_fails_alone(tmp_path, sandbox):
    path = tmp_path / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    spans = write_joined(path, [3, 4], 10)
    spans = {CAMERA: [spans[0], (0, spans[1][1], 9.0), (0, 5.0, 6.0), (0, None, None)]}
    found = list(
        read_all(rp.find_videos(write_v3(tmp_path, [3, 4, 2, 2], fps=10, spans=spans)), sandbox, every_n=1).values()
    )
    assert found[0] == (numbers_of(0, 3), None)
    assert found[1] == (numbers_of(1, 4), None)
    assert found[2][1] == "its span begins at 5 s, and the file lasts 0.7 s"
    assert found[3][1] == "nothing between 0 s and 0 s: the file lasts 0.7 s"


# What is found.


def write_v2(root, lengths, cameras=(CAMERA,), missing=(), tasks=None, fps=10, **more):
    for episode, length in enumerate(lengths):
        for camera in cameras:
            path = root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            if (episode, camera) not in missing:
                write_numbers(path, "mpeg4", None, length, fps, first=100 * episode)
    features = more.pop("features", {camera: camera_feature() for camera in cameras})
    write_info(root, features, len(lengths), fps, **(V2 | more))
    rows = [
        {"episode_index": episode, "tasks": tasks[episode] if tasks else ["stack"], "length": length}
        for episode, length in enumerate(lengths)
    ]
    (root / "meta/episodes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return root


def test_a_number_that_two_episodes_have_is_a_finding_and_stops_a_run(tmp_path):
    root = write_v2(tmp_path, [3, 4])
    table = root / "meta/episodes.jsonl"
    told = table.read_text()
    table.write_text(told + told.splitlines()[0] + "\n")
    with pytest.raises(SourceError, match="its table of episodes has episode 0 twice, and both would"):
        rp.find_videos(root)
    result = call_raypipe("inspect", root)
    table.write_text(told)
    other = write_v2(tmp_path / "other", [3])
    with pytest.raises(SourceError, match=r"two videos with one id: .*episode_000000\.mp4 and .*other/videos/"):
        rp.find_videos([root, other])
    table.write_text("")
    with pytest.raises(SourceError, match="its table of episodes has no rows"):
        rp.find_videos(root)
    assert result.exit_code == 3 and "the table of episodes has 2 rows of it" in result.stdout


def test_an_episode_and_camera_is_a_video(data_dir):
    videos = rp.find_videos(data_dir / "lerobot_v21/so101_cloth")
    assert len(videos) == 12
    assert videos.notes == ()
    video = videos[3]
    assert video.video_id == str(uuid.uuid5(uuid.NAMESPACE_URL, "1/observation.images.cam1"))
    assert video.uri.endswith("/videos/chunk-000/observation.images.cam1/episode_000001.mp4")
    assert (video.group, video.label, video.caption) == (
        "observation.images.cam1",
        "bimanual cloth manipulation",
        "bimanual cloth manipulation",
    )
    assert (video.start_s, video.end_s) == (None, None)
    assert dict(video.extra) == {"episode_index": 1, "tasks": ["bimanual cloth manipulation"], "length": 280}


def test_a_missing_file_costs_its_episodes_alone(tmp_path, sandbox):
    videos = rp.find_videos(write_v2(tmp_path, [3, 4, 5], missing={(1, CAMERA)}))
    found = list(read_all(videos, sandbox, every_n=1).values())
    assert [numbers for numbers, _ in found] == [numbers_of(0, 3), [], numbers_of(2, 5)]
    assert "episode_000001.mp4: pyav: No such file or directory" in found[1][1]


def test_columns_of_episodes_are_kept_and_statistics_left_unread(tmp_path):
    write_v3(tmp_path, [3, 4, 5], per_meta_file=2)
    for path in sorted((tmp_path / "meta/episodes").rglob("*.parquet")):
        table = pq.read_table(path)
        n = len(table)
        pq.write_table(
            table.append_column("success", pa.array([True] * n)).append_column("note", pa.array(["x"] * n)), path
        )
    videos = rp.find_videos(tmp_path)
    assert [dict(video.extra) for video in videos][2] == {
        "episode_index": 2,
        "tasks": ["stack"],
        "length": 5,
        "success": True,
        "note": "x",
    }
    dataset = open_lerobot(str(tmp_path))
    assert not [name for name in read_episodes(dataset).column_names if name.startswith("stats/")]


def test_files_of_episodes_come_in_the_order_of_their_numbers(tmp_path):
    write_v3(tmp_path, list(range(1, 13)), per_meta_file=1)
    for path in sorted((tmp_path / "meta/episodes").rglob("*.parquet")):
        path.rename(path.with_name(f"file-{int(path.stem[5:])}.parquet"))
        path.with_name("._file-0.parquet").write_bytes(b"what macOS leaves on other disks")
    assert [video.extra["episode_index"] for video in rp.find_videos(tmp_path)] == list(range(12))


def test_a_copy_of_the_table_beside_the_folders_of_chunks_is_none_of_it(tmp_path):
    """lerobot reads meta/episodes/*/*.parquet."""
    write_v3(tmp_path, [3, 4, 5])
    episodes = tmp_path / "meta/episodes"
    shutil.copy(episodes / "chunk-000/file-000.parquet", episodes / "episodes.parquet")
    assert [video.extra["episode_index"] for video in rp.find_videos(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("column", ["task", "__index_level_0__", "index"])
def test_the_label_is_the_task_that_most_frames_have(tmp_path, column):
    """Whatever the order of ``tasks``, and in whichever way pandas wrote the table of tasks."""
    write_v3(tmp_path, [5, 5, 2], tasks=[["pour", "wipe"], ["wipe", "pour"], ["stack"]])
    info = json.loads((tmp_path / "meta/info.json").read_text())
    info["features"]["task_index"] = {"dtype": "int64", "shape": [1], "names": None}
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    names = pa.table({"task_index": [0, 1, 2], column: ["stack", "pour", "wipe"]})
    pq.write_table(names, tmp_path / "meta/tasks.parquet")
    frames = tmp_path / "data/chunk-000/file-000.parquet"
    write_frames(frames, {0: 5, 1: 5, 2: 2}, 30, task_index={0: [1, 2, 2, 2, 1], 1: [1, 2, 2, 2, 1], 2: [0, 0]})
    videos = rp.find_videos(tmp_path)
    if column == "index":
        assert [video.label for video in videos] == ["pour", "wipe", "stack"]
        assert "2 episodes have several tasks, so their label is the first" in videos.notes[0]
        return
    assert [(video.label, video.caption) for video in videos] == [("wipe",) * 2, ("wipe",) * 2, ("stack",) * 2]
    assert videos.notes == ()
    frames.write_bytes(frames.read_bytes()[:-20])
    cut_off = rp.find_videos(tmp_path)
    assert [video.label for video in cut_off] == ["pour", "wipe", "stack"]
    assert "task_index of 2 episodes cannot be read, so their label is the first" in cut_off.notes[0]


def test_where_the_table_of_episodes_has_no_tasks_the_frames_tell(tmp_path):
    """So it is after lerobot 0.6 has converted pictures to videos."""
    write_v3(tmp_path, [5, 5, 2], features={CAMERA: camera_feature(), "task_index": {"dtype": "int64"}})
    episodes = tmp_path / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(episodes).drop_columns(["tasks"]), episodes)
    without_names = rp.find_videos(tmp_path)
    assert [video.label for video in without_names] == [None] * 3
    assert "3 episodes have no tasks, so they have no label: " in without_names.notes[0]
    pq.write_table(pa.table({"task_index": [0, 1, 2], "task": ["stack", "pour", ""]}), tmp_path / "meta/tasks.parquet")
    frames = tmp_path / "data/chunk-000/file-000.parquet"
    write_frames(frames, {0: 5, 1: 5, 2: 2}, 30, task_index={0: [0] * 5, 1: [1, 1, 1, 0, 0], 2: [2, 2]})
    videos = rp.find_videos(tmp_path)
    assert [(video.label, video.caption) for video in videos] == [("stack",) * 2, ("pour",) * 2, (None,) * 2]
    assert videos.notes == ()


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.binary(), pa.decimal128(20), pa.float64()])
def test_numbers_of_episodes_are_read_in_any_type(tmp_path, kind):
    """DataFusion writes texts as views, from which Arrow takes no rows."""
    features = {
        CAMERA: camera_feature(),
        "task_index": {"dtype": "int64"},
        "language_persistent": {"dtype": "language"},
    }
    write_v3(tmp_path, [2, 1], tasks=[["pour", "wipe"], ["stack"]], features=features)
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["pour", "wipe"]}), tmp_path / "meta/tasks.parquet")
    says = [{"style": "subtask", "content": "reach", "timestamp": 0.0}]
    columns = {"task_index": {0: [1, 1], 1: [0]}, "language_persistent": {0: [says, says], 1: [says]}}
    frames = write_frames(tmp_path / "data/chunk-000/file-000.parquet", {0: 2, 1: 1}, 30, **columns)
    for path in (frames, tmp_path / "meta/episodes/chunk-000/file-000.parquet"):
        table = pq.read_table(path)
        numbers = table["episode_index"].cast(pa.string()) if kind == pa.binary() else table["episode_index"]
        pq.write_table(
            table.set_column(table.column_names.index("episode_index"), "episode_index", numbers.cast(kind)), path
        )
    found = rp.find_videos(tmp_path)
    assert [(video.label, video.extra["episode_index"], video.extra["subtasks"]) for video in found] == [
        ("wipe", 0, ["reach"]),
        ("stack", 1, ["reach"]),
    ]
    assert found.notes == ()


@pytest.mark.parametrize("number", ["first", [0], {"of": 0}], ids=str)
def test_frames_whose_episode_is_no_number_are_told_of(tmp_path, number):
    features = {
        CAMERA: camera_feature(),
        "task_index": {"dtype": "int64"},
        "language_persistent": {"dtype": "language"},
    }
    write_v3(tmp_path, [2], tasks=[["pour", "wipe"]], features=features)
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["pour", "wipe"]}), tmp_path / "meta/tasks.parquet")
    path = tmp_path / "data/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    rows = {"episode_index": [number] * 2, "task_index": [1, 1], "language_persistent": [[], []]}
    pq.write_table(pa.table(rows), path)
    found = rp.find_videos(tmp_path)
    assert [video.label for video in found] == ["pour"]
    tasks, language = found.notes
    reason = f"{path}: episode_index does not hold whole numbers: "
    assert tasks.startswith(
        f"task_index of 1 episode cannot be read, so their label is the first of their tasks: {reason}"
    )
    assert language.startswith(
        f"language_persistent of 1 episode cannot be read, so their subtasks are not known: {reason}"
    )


def test_tasks_of_version_two(tmp_path):
    write_v2(tmp_path, [3, 4], tasks=[["pour", "wipe"], ["wipe"]], features={
        CAMERA: camera_feature(), "task_index": {"dtype": "int64"},
    })  # fmt: skip
    (tmp_path / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "pour"}\n{"task_index": 1, "task": "wipe"}\n')
    write_frames(tmp_path / "data/chunk-000/episode_000000.parquet", {0: 3}, 10, task_index={0: [1, 1, 0]})
    assert [video.label for video in rp.find_videos(tmp_path)] == ["wipe", "wipe"]


@pytest.mark.parametrize("task", [5, ["pour"], {"verb": "pour"}], ids=str)
def test_a_name_of_a_task_that_is_no_text_is_none(tmp_path, task):
    write_v2(tmp_path, [2], tasks=[["wipe", "pour"]], features={
        CAMERA: camera_feature(), "task_index": {"dtype": "int64"},
    })  # fmt: skip
    (tmp_path / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": task}))
    write_frames(tmp_path / "data/chunk-000/episode_000000.parquet", {0: 2}, 10, task_index={0: [0, 0]})
    assert [video.label for video in rp.find_videos(tmp_path)] == ["wipe"]


@pytest.mark.parametrize(("name", "message"), [("info.json", "is not JSON"), ("episodes.jsonl", "line 1")])
def test_json_that_is_nested_too_deep_is_named(tmp_path, name, message):
    write_v2(tmp_path, [2])
    (tmp_path / "meta" / name).write_text("[" * 100_000)
    with pytest.raises(SourceError, match=f"/meta/{name} {message}: maximum recursion depth exceeded"):
        rp.find_videos(tmp_path)


def test_a_task_that_is_told_as_one_text(tmp_path):
    """So some converters write it, where lerobot has a list ``tasks``."""
    write_v2(tmp_path, [3, 4], tasks=[["pour"], ["wipe"]])
    path = tmp_path / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace('"tasks": ["pour"]', '"task": "pour"').replace('"tasks": ["wipe"], ', ""))
    found = rp.find_videos(tmp_path)
    assert [(video.label, video.caption) for video in found] == [("pour", "pour"), (None, None)]


@pytest.mark.parametrize("tasks", [-1, {"pour": 1}, True])
def test_tasks_that_are_no_list_are_none(tmp_path, tasks):
    write_v2(tmp_path, [3], tasks=[tasks])
    assert [video.label for video in rp.find_videos(tmp_path)] == [None]


def test_subtasks_that_took_the_place_of_numbered_ones(tmp_path):
    """lerobot-annotate 0.6 drops subtask_index from the frames, and info.json goes on to name it."""
    kinds = {"subtask_index": {"dtype": "int64"}, "language_persistent": {"dtype": "language"}}
    write_v3(tmp_path, [2], features={CAMERA: camera_feature(), **kinds})
    says = [{"style": "subtask", "content": "reach", "timestamp": 0.0}]
    write_frames(tmp_path / "data/chunk-000/file-000.parquet", {0: 2}, 30, language_persistent={0: [says, says]})
    (video,) = found = rp.find_videos(tmp_path)
    assert video.extra["subtasks"] == ["reach"] and found.notes == ()


@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_subtasks_that_stand_in_every_frame_are_read_once(tmp_path, row_group_size):
    """As lerobot-annotate 0.6 writes them, beside plans and other words, in a row group an episode or in fewer."""
    features = {CAMERA: camera_feature(), "language_persistent": {"dtype": "language"}}

    def said(*subtasks):
        others = [{"style": "plan", "content": "all", "timestamp": 0.0}, {"style": "subtask", "content": None}]
        return [{"style": "subtask", "content": text, "timestamp": at_s} for at_s, text in subtasks] + others

    language = [said((0.7, "lift"), (0.0, "reach"), (0.9, "reach"))] * 3 + [said()] * 2 + [None] * 2
    write_v3(tmp_path, [3, 2, 2], features=features)
    frames = pa.table({"episode_index": [0, 0, 0, 1, 1, 2, 2], "language_persistent": language})
    path = tmp_path / "data/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(frames, path, row_group_size=row_group_size)
    found = rp.find_videos(tmp_path)
    assert [video.extra["subtasks"] for video in found] == [["reach", "lift"], [], None]
    (note,) = found.notes
    assert note.startswith("2 of 3 episodes have no subtasks in language_persistent: lerobot-annotate with --only_")
    pq.write_table(frames.set_column(1, "language_persistent", pa.array([said()] * 7)), path)
    assert rp.find_videos(tmp_path).notes == (), "where none has any, there is nothing to ask about"
    path.unlink()
    found = rp.find_videos(tmp_path)
    assert [video.extra["subtasks"] for video in found] == [None] * 3
    (note,) = found.notes
    assert note.startswith("language_persistent of 3 episodes cannot be read, so their subtasks are not known: ")


def test_success_and_subtasks_are_told_by_the_frames(tmp_path):
    features = {CAMERA: camera_feature(), "next.success": {"dtype": "bool"}, "subtask_index": {"dtype": "int64"}}
    write_v3(tmp_path, [3, 2], features=features)
    names = pa.table({"subtask_index": [0, 1], "subtask": ["reach", "grasp"]})
    pq.write_table(names, tmp_path / "meta/subtasks.parquet")
    columns = {"next.success": {0: [False, False, True], 1: [False, False]}, "subtask_index": {0: [1, 1, 0], 1: [0, 0]}}
    write_frames(tmp_path / "data/chunk-000/file-000.parquet", {0: 3, 1: 2}, 30, **columns)
    first, second = rp.find_videos(tmp_path)
    assert (first.extra["next.success"], first.extra["subtasks"]) == (True, ["grasp", "reach"])
    assert (second.extra["next.success"], second.extra["subtasks"]) == (False, ["reach"])


@pytest.mark.parametrize(
    "depth",
    [
        {"info": {"is_depth_map": True}},
        {"info": {"video.is_depth_map": True}},
        {"video_info": {"video.is_depth_map": True}},
    ],
)
def test_depth_is_left_out_and_that_is_said(tmp_path, depth):
    features = {CAMERA: camera_feature(), "depth": {"dtype": "video", "shape": [64, 96, 1], **depth}}
    write_v3(tmp_path, [3], [CAMERA, "depth"], features=features)
    videos = rp.find_videos(tmp_path)
    assert [video.group for video in videos] == [CAMERA]
    assert videos.notes == ("depth is not read: depth left out",)
    with pytest.raises(
        UsageError, match=f"camera depth is a depth camera, which is not read: the cameras of .* {CAMERA}"
    ):
        rp.find_videos(tmp_path, camera="depth")


def test_one_camera_can_be_chosen(tmp_path):
    write_v3(tmp_path, [3, 4], [CAMERA, "wrist"])
    assert [video.group for video in rp.find_videos(tmp_path, camera="wrist")] == ["wrist", "wrist"]
    with pytest.raises(UsageError, match=f"camera left is not there: the cameras of .* are {CAMERA}, wrist"):
        rp.find_videos(tmp_path, camera="left")
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match=r"camera left: .*plain is no LeRobot dataset"):
        rp.find_videos(tmp_path / "plain", camera="left")


def test_a_folder_on_any_file_system(tmp_path):
    write_v3(tmp_path, [3, 4], [CAMERA, "wrist"], per_meta_file=1)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/sets/robot", recursive=True)
    videos = rp.find_videos("memory://sets/robot")
    assert videos[3].uri == "memory:///sets/robot/videos/wrist/chunk-000/file-000.mp4"
    assert [video.video_id for video in videos] == [video.video_id for video in rp.find_videos(tmp_path)]
    memory.rm("/sets", recursive=True)


def test_files_within_a_dataset_are_not_its_episodes_and_that_is_said(tmp_path):
    """As where the folder above several datasets is named, or the videos alone."""
    root = tmp_path / "sets/robot"
    write_v3(root, [3, 4])
    write_joined(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", [3, 4], 10)
    said = f"{root} is a LeRobot dataset, and its files are taken as they are: name it itself for its episodes"
    for source in (root.parent, root / "videos", root / "videos/**/*.mp4", root / "**"):
        videos = rp.find_videos(source)
        assert (len(videos), videos.notes) == (1, (said,))
    (root / "meta/info.json").write_text("{")
    assert rp.find_videos(root / "videos").notes == ()


# What is refused.


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"storage_format": "lance"}, "in the storage format 'lance', which is not read: take its copy in the format"),
        ({"codebase_version": "v1.6"}, r"a LeRobot dataset v1\.6; v2\.0 to v3\.x are read: convert it"),
        ({"codebase_version": "v4.0"}, r"a LeRobot dataset v4\.0, newer than v3\.x, .*: update raypipe"),
        ({"codebase_version": None}, "info.json has no codebase_version, which tells of the layout, such as v3.0"),
        ({"codebase_version": "3"}, "codebase_version is '3', not such as v3.0"),
        (
            {"features": {"action": {"dtype": "float32"}}},
            "has no camera: its features are action; those of numbers .* --features",
        ),
        ({"video_path": None}, "info.json has no video_path"),
        ({"video_path": "videos/{camera_name}.mp4"}, r"has a field \{camera_name\}, whose meaning is not known"),
        ({"video_path": "videos/{video_key}/{file_index:03q}.mp4"}, "video_path cannot be filled in"),
        (
            {"video_path": "{video_key}/{file_index:9000000000000000000d}"},
            "video_path cannot be filled in: MemoryError",
        ),
        ({"video_path": "videos/{video_key/0.mp4"}, "is no template"),
        ({"video_path": "../{video_key}.mp4"}, "leads out of the dataset"),
        ({"video_path": "\ud800.mp4"}, r"info.json leads to '\\ud800\.mp4', which is not valid Unicode"),
        ({"features": {"\ud800": camera_feature("image")}}, r"name of the camera '\\ud800' is not valid Unicode"),
        ({"codebase_version": "v2.1", "video_path": "{file_index}.mp4"}, "asks for a file index, which is not known"),
        ({"codebase_version": "v2.1", "chunks_size": 0}, "chunks_size is 0, not a number of episodes"),
        ({"codebase_version": "v2.1", "chunks_size": True}, "chunks_size is True, not a number of episodes"),
        ({"codebase_version": "v2.1", "chunks_size": 2.0}, "chunks_size is 2.0, not a number of episodes"),
        ({"codebase_version": "v2.1", "chunks_size": 2**63}, f"chunks_size is {2**63}, not a number of episodes"),
    ],
    ids=str,
)
def test_what_is_refused_is_named_in_a_line(tmp_path, info, message):
    write_v3(tmp_path, [3], **info)
    (tmp_path / "meta/episodes.jsonl").write_text('{"episode_index": 0, "tasks": ["stack"], "length": 3}')
    with pytest.raises(SourceError, match=message) as raised:
        rp.find_videos(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_later_version_is_read_with_a_note(tmp_path):
    videos = rp.find_videos(write_v3(tmp_path, [3], codebase_version="v3.7", tools=[{"a": 1}]))
    assert len(videos) == 1
    assert "is a LeRobot dataset v3.7, which is newer than this raypipe: it is read as v3.0" in videos.notes[0]


@pytest.mark.parametrize("chunk", ["episode_chunk", "chunk_index"])
def test_templates_are_read_whatever_their_fields_are_called(tmp_path, chunk):
    template = f"clips/{{{chunk}:02d}}/{{image_key}}-{{episode_index:04d}}.mp4"
    write_v2(tmp_path, [2] * 5, video_path=template, chunks_size=2)
    names = [video.uri.removeprefix(tmp_path.as_uri()) for video in rp.find_videos(tmp_path)]
    assert names == [f"/clips/{episode // 2:02d}/{CAMERA}-{episode:04d}.mp4" for episode in range(5)]


def test_a_template_without_a_chunk_needs_no_column_of_it(tmp_path):
    write_v3(tmp_path, [2, 2], video_path="videos/{video_key}-{file_index:03d}.mp4")
    drop(tmp_path, f"videos/{CAMERA}/chunk_index")
    names = [video.uri.removeprefix(tmp_path.as_uri()) for video in rp.find_videos(tmp_path)]
    assert names == [f"/videos/{CAMERA}-000.mp4"] * 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "meta/info.json").write_text("{"), "info.json is not JSON"),
        (lambda root: truncate(root / "meta/episodes/chunk-000/file-001.parquet"), "cannot read .*file-001.parquet"),
        (
            lambda root: [path.unlink() for path in root.rglob("*.parquet")],
            r"no file of this kind in .*/bad/meta/episodes/: looked for \.parquet",
        ),
        (lambda root: shutil.rmtree(root / "meta/episodes"), "cannot find .*/bad/meta/episodes/: no such file"),
        (lambda root: drop(root, f"videos/{CAMERA}/file_index"), f"has no column videos/{CAMERA}/file_index"),
        (lambda root: drop(root, f"videos/{CAMERA}/to_timestamp"), f"has no column videos/{CAMERA}/to_timestamp"),
        (lambda root: drop(root, "episode_index"), "its table of episodes has no column episode_index"),
        (
            lambda root: change(root, f"videos/{CAMERA}/file_index", "one"),
            f"bad: meta/episodes: videos/{CAMERA}/file_index does not hold whole numbers",
        ),
        (
            lambda root: change(root, f"videos/{CAMERA}/from_timestamp", "soon"),
            f"bad: meta/episodes: videos/{CAMERA}/from_timestamp does not hold numbers",
        ),
        (lambda root: change(root, "episode_index", 0.5), "bad: episode_index does not hold whole numbers"),
    ],
    ids=[
        *("info", "truncated", "no episodes", "no folder", "no place", "no end", "no number"),
        *("place is text", "time is text", "number is a fraction"),
    ],
)
def test_bad_metadata_is_named_in_a_line(tmp_path, spoil, message):
    spoil(write_v3(tmp_path / "bad", [3, 4], per_meta_file=1))
    with pytest.raises(SourceError, match=message) as raised:
        rp.find_videos(tmp_path / "bad")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("spoil", [shutil.rmtree, lambda folder: truncate(folder / "chunk-000/file-000.parquet")])
def test_of_a_recording_that_was_not_finalized_the_videos_can_be_named(tmp_path, spoil):
    """lerobot keeps ten episodes' rows in memory, and writes the end of their file last."""
    root = write_v3(tmp_path / "cut", [3, 4])
    write_joined(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", [3, 4], 10)
    spoil(root / "meta/episodes")
    with pytest.raises(
        SourceError, match=r"recording ended before lerobot finalized it, name .*: (.*/cut/videos)$"
    ) as raised:
        rp.find_videos(root)
    assert len(rp.find_videos(raised.value.args[0].rpartition(": ")[2])) == 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def drop(root, column):
    for path in (root / "meta/episodes").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns([column]), path)


def change(root, column, *values):
    """Give the episodes' rows these values by turns."""
    for path in (root / "meta/episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        changed = pa.array((list(values) * len(table))[: len(table)])
        pq.write_table(table.set_column(table.column_names.index(column), column, changed), path)


def test_places_that_are_not_known_are_null_or_as_pandas_writes_them(tmp_path):
    """Among whole numbers pandas has NaN for null, and all of them are floats then."""
    write_v3(tmp_path, [3, 4], [CAMERA, "wrist"])
    for nothing in (None, float("nan")):
        for place in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
            change(tmp_path, f"videos/wrist/{place}", 0.0, nothing)
        videos = rp.find_videos(tmp_path)
        episodes = [(video.extra["episode_index"], video.group) for video in videos]
        assert episodes == [(0, CAMERA), (0, "wrist"), (1, CAMERA)]
        assert videos.notes == ("1 of 2 episodes have no wrist",)
        assert videos[1].uri.endswith("/videos/wrist/chunk-000/file-000.mp4")


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), -0.5])
@pytest.mark.parametrize("edge", ["from_timestamp", "to_timestamp"])
def test_an_episode_of_which_one_time_is_not_known_takes_no_frames_of_others(tmp_path, sandbox, edge, nothing):
    lengths = [3, 4, 5]
    spans = write_joined(tmp_path / f"videos/{CAMERA}/chunk-000/file-000.mp4", lengths, 10)
    write_v3(tmp_path, lengths, fps=10, spans={CAMERA: spans})
    known = [span[1 if edge == "from_timestamp" else 2] for span in spans]
    change(tmp_path, f"videos/{CAMERA}/{edge}", known[0], nothing, known[2])
    videos = rp.find_videos(tmp_path)
    assert videos.notes == (f"1 of 3 episodes have no valid times in {CAMERA}, and fail",)
    found = list(read_all(videos, sandbox, every_n=1).values())
    assert found[0] == (numbers_of(0, 3), None)
    assert found[1] == ([], "nothing between 0 s and 0 s: the file lasts 1.2 s")
    assert found[2] == (numbers_of(2, 5), None)


def test_episodes_that_the_table_lacks_are_told_of(tmp_path):
    write_v3(tmp_path, [3, 4], per_meta_file=1)
    (tmp_path / "meta/episodes/chunk-000/file-001.parquet").unlink()
    videos = rp.find_videos(tmp_path)
    assert len(videos) == 1
    assert "info.json tells of 2 episodes, and their table has 1" in videos.notes[0]


# Pictures in tables.


def write_pictures(root, lengths, kind="PNG", fps=10):
    write_v3(root, lengths, [], fps, features={CAMERA: camera_feature("image")}, video_path=None)
    path = root / "data/chunk-000/file-000.parquet"
    return write_frames(path, dict(enumerate(lengths)), fps, pictures=CAMERA, kind=kind)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures_of_older_files_which_have_one_row_group(tmp_path, sandbox, kind):
    path = write_pictures(tmp_path, [20, 1, 18, 5], kind)
    table = pq.read_table(path)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    for rows in (table, shuffled):
        pq.write_table(rows, path)
        videos = rp.find_videos(tmp_path)
        assert_own_frames(videos, read_all(videos, sandbox, every_n=1))
    assert_own_frames(videos, read_all(videos, sandbox, fps=10))
    assert not sandbox.probe(videos[1].uri).duration_s - 0.1 > 1e-6  # of a single picture, by the others' rate
    assert read_versions(videos)[0].as_py() == f"{path.stat().st_size}-{path.stat().st_mtime_ns}"


@pytest.mark.parametrize(("length", "fps"), [(30, 10), (40, 10), (63, 7), (33, 11)])
def test_pictures_at_a_steady_rate_last_no_hair_longer(tmp_path, sandbox, length, fps):
    """Their timestamps are float32, and a clip of a second more would begin in what rounding adds at the end."""
    write_pictures(tmp_path, [length], fps=fps)
    videos = rp.find_videos(tmp_path)
    probe = sandbox.probe(videos[0].uri)
    assert (probe.fps, probe.duration_s) == (fps, pytest.approx(length / fps, abs=1e-12))
    assert_own_frames(videos, read_all(videos, sandbox, fps=fps))


def test_a_picture_is_cropped_and_has_a_small_one_as_a_video_frame_does(tmp_path, sandbox):
    write_pictures(tmp_path, [3])
    (video,) = rp.find_videos(tmp_path)
    probe = sandbox.probe(video.uri)
    assert (probe.width, probe.height, probe.codec, probe.n_frames) == (*SIZE, "png", 3)
    assert probe.fps == pytest.approx(10)
    sample = SampleConfig(n_frames=1, thumbnail_px=32)
    (row,) = plan_segments([video], [probe], sample).to_pylist()
    done = DecodeSegments(sample, DecodeConfig(), 32, "crop", sandbox)(row)
    assert done["decoder"] == "images"
    assert done["pixels"].shape == (1, 32, 32, 3)
    assert done["frames"]["frame"][0].as_py()[:2] == b"\xff\xd8"


def test_pictures_of_16_bits_and_turned_ones_are_shown_as_they_are(tmp_path, sandbox):
    path = write_pictures(tmp_path, [2])
    grey = draw_number(1, *SIZE)
    deep, turned = io.BytesIO(), io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by a right angle, as datasets and players turn it.
    Image.fromarray(grey).transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", exif=exif)
    unknown = io.BytesIO()
    Image.fromarray(grey).save(unknown, "PNG", exif=b"no EXIF at all")
    for sink, codec in ((deep, "png"), (turned, "jpeg"), (unknown, "png")):
        table = pq.read_table(path)
        pictures = pa.array([{"bytes": sink.getvalue(), "path": None}] * 2)
        pq.write_table(table.set_column(table.column_names.index(CAMERA), CAMERA, pictures), path)
        videos = rp.find_videos(tmp_path)
        ((numbers, error),) = read_all(videos, sandbox, every_n=1).values()
        assert (numbers, error) == ([1, 1], None)
        probe = sandbox.probe(videos[0].uri)
        assert (probe.width, probe.height, probe.codec) == (*SIZE, codec)


def test_a_broken_picture_ends_its_episode_there(tmp_path, sandbox):
    path = write_pictures(tmp_path, [6, 4])
    table = pq.read_table(path)
    data = table[CAMERA].to_pylist()
    data[3]["bytes"] = b"no picture"
    pq.write_table(table.set_column(table.column_names.index(CAMERA), CAMERA, pa.array(data)), path)
    videos = rp.find_videos(tmp_path)
    (numbers, error), second = read_all(videos, sandbox, every_n=1).values()
    assert numbers == numbers_of(0, 3)
    assert error == "stopped at 0.2 s: a picture cannot be decoded: it is in no format that Pillow knows"
    assert second == (numbers_of(1, 4), None)


def test_pictures_whose_times_are_seconds_since_1970(tmp_path, sandbox):
    """As float32 they would be the same for two minutes."""
    path = write_pictures(tmp_path, [6, 4])
    table = pq.read_table(path)
    at_s = 1_790_000_000 + table["timestamp"].to_numpy().astype(np.float64)
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", pa.array(at_s)), path)
    videos = rp.find_videos(tmp_path)
    assert [*read_all(videos, sandbox, every_n=1).values()] == [(numbers_of(0, 6), None), (numbers_of(1, 4), None)]


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_picture_of_no_episode_is_in_none(tmp_path, sandbox, nothing):
    path = write_pictures(tmp_path, [3, 2])
    table = pq.read_table(path)
    episodes = pa.array([0.0, 0.0, nothing, 1.0, 1.0])  # pandas makes them floats where one is missing.
    pq.write_table(table.set_column(table.column_names.index("episode_index"), "episode_index", episodes), path)
    first, second = read_all(rp.find_videos(tmp_path), sandbox, every_n=1).values()
    assert first == (numbers_of(0, 2), None) and second == (numbers_of(1, 2), None)


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_an_episode_with_a_picture_at_no_time_fails_with_that_reason(tmp_path, sandbox, nothing):
    path = write_pictures(tmp_path, [3, 2])
    table = pq.read_table(path)
    at_s = pa.array([0.0, nothing, 0.2, 0.0, 0.1])
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", at_s), path)
    (numbers, error), second = read_all(rp.find_videos(tmp_path), sandbox, every_n=1).values()
    assert numbers == [] and "has rows of episode 0 whose timestamp is no number" in error
    assert second == (numbers_of(1, 2), None)


def test_pictures_of_a_truncated_or_foreign_table_fail_in_a_line(tmp_path, sandbox):
    path = write_pictures(tmp_path, [2])
    (video,) = rp.find_videos(tmp_path)
    table = pq.read_table(path)
    for lacking in (CAMERA, "timestamp"):
        pq.write_table(table.drop_columns([lacking]), path)
        with pytest.raises(DecodeError, match=f"has no column {lacking}"):
            sandbox.probe(video.uri)
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(DecodeError, match="has no row of episode 0"):
        sandbox.probe(video.uri)
    pq.write_table(table, path)
    truncate(path)
    with pytest.raises(DecodeError) as raised:
        sandbox.probe(video.uri)
    assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(DecodeError, match="No such file"):
        sandbox.probe(video.uri)


def test_pictures_on_another_file_system():
    sink = io.BytesIO()
    data = [{"bytes": picture_bytes(number), "path": None} for number in range(40)]
    table = {
        "timestamp": pa.array(np.arange(40, dtype=np.float32) / 10),
        "front": data,
        "episode_index": [0] * 20 + [1] * 20,
    }
    pq.write_table(pa.table(table), sink, row_group_size=20)
    memory = fsspec.filesystem("memory")
    memory.pipe("/pictures.parquet", sink.getvalue())
    uri = "memory:///pictures.parquet#episode=1&column=front"
    decoder = make_decoder("images")
    frames = decoder.frames(uri, np.array([0.0, 0.1, 0.15, 1.9, 2.1]), 96, "squash")
    assert [read_number(frame) for frame in frames.pixels] == [20, 21, 21, 39, 39]
    np.testing.assert_allclose(frames.times_s, [0, 0.1, 0.1, 1.9, 1.9], atol=1e-6)
    assert frames.error is None
    assert decoder.frames(uri, np.array([1.0, 3.0]), 96, "squash").error == "ends at 1.9 s, before 3.0 s"
    with pytest.raises(DecodeError, match=r"ends at 1\.9 s, before 3\.0 s"):
        decoder.frames(uri, np.array([3.0]), 96, "squash")
    memory.rm("/pictures.parquet")
