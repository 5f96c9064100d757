"""The command line: verbs, errors of one line, exit codes."""

import json
import re
import shlex
from pathlib import Path

import pytest
from commands import call_raypipe, run_raypipe
from lerobot_sets import CAMERA, write_v3
from typer.main import get_command

from raypipe.config import PRESETS
from raypipe.options import app, prepare
from raypipe.progress import PlainProgress, counted, rounded, shorten
from raypipe.runs.directory import Run

ROOT = Path(__file__).parents[2]


def test_help_names_every_verb():
    result = call_raypipe("--help")
    assert result.exit_code == 0
    verbs = "run embed cluster outliers report sweep predict search poster explore demo inspect doctor".split()
    for verb in verbs:
        assert f" {verb} " in result.stdout
        page = call_raypipe(verb, "--help").stdout
        assert f"\n raypipe {verb}" in page.partition("Examples:")[2], "an example is a line of its own"
        assert "--debug" in page


def test_the_commands_that_help_and_documents_show_have_these_verbs_and_options():
    command = get_command(app)
    pages = [call_raypipe(verb, "--help").stdout.partition("Examples:")[2] for verb in command.commands]
    texts = [path.read_text() for path in (ROOT / "README.md", *ROOT.glob("*/*.md"))]
    pages += [block for text in texts for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    text = "\n".join(pages).replace("\\\n", "")
    lines = set(re.findall(r"^ *raypipe (\S.*)", text, re.MULTILINE))
    assert len(lines) > 100
    for verb, *rest in (shlex.split(line, comments=True) for line in sorted(lines)):
        command.commands[verb].make_context(verb, rest)  # It raises for an option that is not there.


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "{tmp}", "-o", "{tmp}/run", "--preset", "x"), 2, "raypipe: unknown preset 'x'"),
        (("run", "{tmp}", "-o", "{tmp}/run", "--set", "a.b=1"), 2, "raypipe: config a"),
        (("cluster", "{tmp}"), 2, "raypipe: {tmp} is not a run directory"),
        (("report", "{tmp}/nothing"), 2, "raypipe: {tmp}/nothing is not a run directory"),
        (("run", "{tmp}"), 2, None),
        (("run", "{tmp}", "-o", "{tmp}/run", "--max-failed", "5"), 2, None),
        (("fly",), 2, None),
    ],
)
def test_errors_are_one_line(tmp_path, make_video, arguments, code, message):
    make_video()
    result = call_raypipe(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
    if message is not None:
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("raypipe:")]
        assert line.startswith(message.format(tmp=tmp_path))


def test_debug_shows_the_traceback(tmp_path):
    result = run_raypipe("cluster", tmp_path, "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_dry_run_starts_nothing(tmp_path, make_video):
    video = make_video()
    result = call_raypipe("run", video, "-o", tmp_path / "run", "--dry-run", "--set", "sample.n_frames=5")
    assert result.exit_code == 0
    assert "n_frames: 5" in result.stdout
    assert "would take 1 of 1 videos found" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flag", "name", "code"), [("--encoder", "clop", 1), ("--decoder", "decrod", 2)])
def test_dry_run_refuses_what_the_run_would_refuse(tmp_path, make_video, flag, name, code):
    result = call_raypipe("run", make_video(), "-o", tmp_path / "run", "--dry-run", flag, name)
    assert (result.exit_code, result.stdout) == (code, "")
    assert repr(name) in result.stderr


def test_dry_run_tells_episodes_of_one_file_apart(tmp_path):
    dataset = write_v3(tmp_path / "größer & mehr", [2, 3])
    lines = call_raypipe("run", dataset, "-o", tmp_path / "run", "--dry-run").stdout.splitlines()
    file = f"{dataset}/videos/{CAMERA}/chunk-000/file-000.mp4"
    assert lines[-2:] == [f"  0/{CAMERA}: {file}", f"  1/{CAMERA}: {file}"]


def test_one_video_is_no_videos(tmp_path, make_video):
    make_video("a/one.mp4", n_frames=20)
    (tmp_path / "a" / "notes.txt").write_text("")
    said = call_raypipe("inspect", tmp_path / "a").stdout
    assert "1 video, 0 of which would fail; 1 other file ignored" in said
    assert [counted(n, "trajectory", "trajectories") for n in (1, 2000)] == ["1 trajectory", "2,000 trajectories"]


def test_no_rate_is_told_by_powers_of_ten():
    assert [rounded(rate) for rate in (0.394, 4.72, 9.96, 99.6, 160, 1234.5)] == [
        "0.39",
        "4.7",
        "10",
        "100",
        "160",
        "1,234",
    ]


def test_inspect(tmp_path, make_video):
    make_video("a/one.mp4", n_frames=20)
    make_video("b/two.mp4", n_frames=40)
    broken = tmp_path / "b" / "kaputt & größer.mp4"
    broken.write_text("no video")
    result = call_raypipe("inspect", tmp_path)
    assert result.exit_code == 0
    assert "3 videos, 1 of which would fail" in result.stdout
    assert "h264 (2)" in result.stdout
    assert "64x48 (2)" in result.stdout
    (duration,) = [line.split() for line in result.stdout.splitlines() if line.startswith("duration")]
    assert [float(number) for number in duration[2:]] == [3.0, 1.0, 2.0, 4.0]
    assert "total length   6.00 s\n" in result.stdout, "few short videos take no 0.00 h"
    assert f"  {broken}\n" in result.stdout.split("would fail:")[1], "a path, and no escapes"


def test_inspect_says_once_why_all_parts_of_a_file_fail(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"")
    rows = "".join(f"broken.mp4,{i},{i + 1}\n" for i in range(30))
    (tmp_path / "list.csv").write_text(f"path,start_s,end_s\n{rows}")
    result = call_raypipe("inspect", tmp_path / "list.csv")
    assert "30 videos, 30 of which would fail" in result.stdout
    first, second = result.stdout.split("would fail:\n")[1].splitlines()
    assert first == f"  {tmp_path}/broken.mp4  (30 videos)"
    assert second.startswith("    pyav: the file is empty (0 bytes)")


def test_inspect_lists_of_a_reason_that_many_files_have_the_first(tmp_path):
    for i in range(25):
        (tmp_path / f"{i:02d}.mp4").write_bytes(b"")
    lines = call_raypipe("inspect", tmp_path).stdout.split("would fail:\n")[1].splitlines()
    assert len(lines) == 42 and lines[38].endswith("/19.mp4")
    assert lines[40] == "  … and 5 more files: --json has all" and lines[41] == lines[39]


def test_what_git_lfs_has_not_fetched_is_named_as_that(tmp_path):
    """As of a dataset that was cloned without its large files; the tables too are pointers then."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:6e34\nsize 2885821\n"
    (tmp_path / "a.mp4").write_text(pointer)
    fetch = "it is a pointer of Git LFS in place of the file: run `git lfs pull` where it was cloned"
    result = call_raypipe("inspect", tmp_path)
    assert f"a.mp4\n    pyav: {fetch}" in result.stdout and result.stdout.count(fetch) == 1, (
        "what is the same is said once"
    )
    for name in ("list.csv", "list.parquet", "videos.npz"):
        (tmp_path / name).write_text(pointer)
        result = call_raypipe("embed", tmp_path / name, "-o", tmp_path / "run")
        assert (result.exit_code, result.stderr) == (1, f"raypipe: cannot read {tmp_path}/{name}: {fetch}\n")


@pytest.mark.parametrize(
    ("content", "is_text"), [("<!DOCTYPE html>\r\n<p>Größe\t404", True), ("\0\1\2\3 a page", False)]
)
def test_text_in_place_of_a_video_is_named_as_that(tmp_path, content, is_text):
    """Servers send a page in place of what is gone, and time series have the suffix of MPEG-TS too."""
    (tmp_path / "a.mp4").write_text(content, "utf-8")
    result = call_raypipe("inspect", tmp_path)
    assert "a.mp4\n    pyav: Invalid data found when processing input" in result.stdout
    assert ("; the file is text" in result.stdout) == is_text


def test_of_a_long_path_the_end_is_kept():
    assert shorten("a robot that pours water", 12) == "a robot tha…"
    assert shorten("robots.org/static/videos", 16) == "…/static/videos"
    assert shorten("videos/chunk-000/observation.images.wrist", 16) == "…on.images.wrist"
    assert shorten("static/videos", 13) == "static/videos"


def test_inspect_prints_no_credentials():
    result = call_raypipe(
        "inspect", "http://me:pw123456@127.0.0.1:9/a.mp4?sig=verysecret", "--set", "decode.deadline_s=1"
    )
    assert "  http://127.0.0.1:9/a.mp4?…\n" in result.stdout.split("would fail:")[1]
    assert "pw123456" not in result.output and "verysecret" not in result.output


def test_inspect_tells_of_spans_that_a_file_does_not_hold(tmp_path, make_video):
    make_video("one.mp4", n_frames=20)  # two seconds
    (tmp_path / "list.csv").write_text("path,start_s,end_s\none.mp4,0.5,100\none.mp4,50,60\none.mp4,,\n")
    result = call_raypipe("inspect", tmp_path / "list.csv")
    assert "3 videos, 1 of which would fail" in result.stdout
    assert "its span begins at 50 s, and the file lasts 2 s" in result.stdout
    (duration,) = [line.split() for line in result.stdout.splitlines() if line.startswith("duration")]
    assert [float(number) for number in duration[4:]] == [1.5, 2.0]


def test_captions_of_parts_of_a_file_are_counted_with_their_own_seconds(tmp_path, make_video):
    make_video("one.mp4", n_frames=40)  # four seconds
    (tmp_path / "list.csv").write_text("path,start_s,end_s,caption\none.mp4,0.5,1,a\none.mp4,1,2.5,b\none.mp4,3,9,c\n")
    result = json.loads(call_raypipe("inspect", tmp_path / "list.csv", "--json").stdout)
    assert result["statistics"]["duration (s)"]["mean"] == pytest.approx(1)
    assert [each["mean_duration_s"] for each in result["captions"]] == [pytest.approx(1)]


def test_trajectories_have_no_video_to_inspect(tmp_path):
    (tmp_path / "pre.json").write_text("[[[0.0, 1.0], [1.0, 2.0]]]")
    result = call_raypipe("inspect", tmp_path / "pre.json")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert f"{tmp_path}/pre.json holds trajectories, and there is no video to inspect" in line
    result = call_raypipe("inspect", tmp_path / "gone.json")
    assert result.exit_code == 1 and f"cannot read {tmp_path}/gone.json: no such file or folder" in result.stderr


def test_a_run_that_broke_off_before_its_plan_is_none_to_cluster(tmp_path):
    with Run(str(tmp_path)).step("find"):
        pass
    for verb in ("cluster", "report"):
        done = call_raypipe(verb, tmp_path)
        assert done.exit_code == 2
        assert (
            done.stderr == f"raypipe: nothing has been embedded in {tmp_path}: run raypipe embed SOURCE -o {tmp_path}\n"
        )


def test_doctor():
    result = call_raypipe("doctor")
    assert result.exit_code == 0
    for word in ("python", "ray 2.", "decoders", "descriptor", "cnn", "cores", "gpu"):
        assert word in result.stdout


def test_the_help_names_every_preset():
    page = " ".join(call_raypipe("run", "--help").stdout.replace("│", " ").split())
    assert all(name in page for name in PRESETS)


def test_a_constraint_that_no_alignment_keeps_to_is_said(capsys):
    radius = "cluster.sakoe_chiba_radius=0"
    for method, is_said in (("kmeans", True), ("euclidean", True), ("softdtw", False), ("dtw", False)):
        options = {"set": [f"cluster.method={method}", radius], "quiet": False}
        config, _ = prepare(options)
        said = f"cluster.sakoe_chiba_radius has no effect under cluster.method={method}"
        assert (said in capsys.readouterr().err) == is_said
        assert config.cluster.sakoe_chiba_radius == (None if is_said else 0)


@pytest.mark.parametrize(("n", "said"), [(1, "probing: 1 video"), (2, "probing: 2 videos")])
def test_a_count_that_begins_has_its_noun(capsys, n, said):
    with PlainProgress().count("probing", n):
        pass
    assert capsys.readouterr().err.splitlines()[0] == said
