"""The line that deletes episodes of a LeRobot dataset: saved by the page, read back as a shell reads it."""

import shlex

import pyarrow as pa
import pytest
from report_runs import WRITTEN, frames_of, make_run

from raypipe import find_videos
from raypipe.config import ReportConfig
from raypipe.report import write_report_files


@pytest.fixture
def open_dataset(open_page, tmp_path, data_dir):
    """Return a function that opens the page of a run of one camera of a LeRobot dataset."""

    def open_one(name, camera):
        root = data_dir / name
        if not root.is_dir():
            pytest.skip(f"no {name} in {data_dir}")
        videos = [video for video in find_videos(str(root)) if video.group == camera]
        run = make_run(tmp_path / "run", [video.uri for video in videos], groups=[camera] * len(videos), k=2)
        table = run.read_table("videos.parquet")
        episodes = pa.array([video.extra["episode_index"] for video in videos])
        run.write_table("videos.parquet", table.append_column("episode_index", episodes))
        write_report_files(run, frames_of, ReportConfig(sheet_videos=1, sheet_frames=2), WRITTEN)
        page = open_page(path=run.path("report.html"))
        page.select_option("#export-as", "lerobot")
        return page, root

    return open_one


def saved_lines(page) -> list[str]:
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "delete_episodes.sh"
    return download.value.path().read_text().splitlines()


def test_the_delete_line_names_the_selected_episodes_and_a_copy(open_dataset):
    page, root = open_dataset("lerobot_v30/codes_video", "observation.images.front")
    page.locator("#table-space [role=row]").nth(7).click()
    page.locator("#table-space [role=row]").nth(2).click(modifiers=["Control"])
    assert page.inner_text("#export-said") == "a command that deletes 2 of 10 episodes, in a copy"
    told, line = saved_lines(page)
    assert told == "# deletes 2 of the 10 episodes of this run, in a copy of the dataset:"
    words = shlex.split(line)
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "lerobot-edit-dataset" and options["--operation.type"] == "delete_episodes"
    assert options["--operation.episode_indices"] == "[2, 7]"
    assert options["--root"] == str(root) and options["--new_root"] == f"{root}_selection_deleted"


def test_no_line_deletes_all_episodes(open_dataset):
    page, _ = open_dataset("lerobot_v30/codes_video", "observation.images.front")
    assert page.is_disabled("#export") and "select the episodes to delete" in page.inner_text("#export-said")
    page.select_option("#export-as", "csv")
    assert page.is_enabled("#export") and page.inner_text("#export-said").startswith("all: 10 videos")
    page.select_option("#export-as", "lerobot")
    page.fill("#search", "nothing is named so")
    assert page.is_disabled("#export") and "now none is chosen" in page.inner_text("#export-said")


def test_without_the_dataset_the_page_says_why_there_is_no_line(open_page, tmp_path):
    run = make_run(tmp_path / "run", [str(tmp_path / f"gone/videos/{i}.mp4") for i in range(4)], k=2)
    table = run.read_table("videos.parquet")
    run.write_table("videos.parquet", table.append_column("episode_index", pa.array(range(len(table)))))
    write_report_files(run, frames_of, ReportConfig(sheet_videos=1, sheet_frames=2), WRITTEN)
    page = open_page(path=run.path("report.html"))
    page.locator("#table-space [role=row]").first.click()
    page.select_option("#export-as", "lerobot")
    assert page.is_disabled("#export") and page.inner_text("#export-said").startswith("there is no such line: ")
    page.select_option("#export-as", "ids")
    assert page.is_enabled("#export")


def test_an_old_dataset_is_to_be_converted_first(open_dataset):
    page, _ = open_dataset("lerobot_v21/so101_cloth", "observation.images.cam0")
    page.locator("#table-space [role=row]").first.click()
    note, lack, _, line = saved_lines(page)
    assert note.startswith("# lerobot since 0.4 edits datasets of v3.0 only") and line.endswith("'[0]'")
    assert lack == "# that conversion fails without meta/episodes_stats.jsonl, which this dataset lacks"
