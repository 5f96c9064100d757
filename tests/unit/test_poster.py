"""Posters: each frame once, on the tile near its place, whatever the map, the videos and their names are like."""

import io
import json
import math
import re
import sys
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from commands import call_raypipe
from mapped import color_of, jpeg_of, make_mapped
from PIL import Image
from videos import write_video

import raypipe as rp
from raypipe import pipeline
from raypipe.config import make_config
from raypipe.errors import DecodeError, RaypipeError, UsageError
from raypipe.progress import Progress
from raypipe.report.posters.poster import write_poster
from raypipe.report.posters.poster_layout import PosterForm, _size_grid, lay_out
from raypipe.runs.directory import Run
from raypipe.runs.frames import index_frames
from raypipe.runs.picture_map import read_picture_map
from raypipe.schema import FRAMES, Frames

HOSTILE = "</script><script>alert('x')</script><!--"


class Told(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def grid_paths(n=6, n_steps=4):
    """Paths from left to right, one above the other."""
    return [np.column_stack([np.arange(n_steps), np.full(n_steps, float(i))]) for i in range(n)]


def frames_of(uri, times_s, side):
    video = int(uri.rpartition("/")[2].partition(".")[0])
    pixels = np.stack([np.full((side, side, 3), color_of(video, int(t)), np.uint8) for t in times_s])
    return Frames(pixels, np.asarray(times_s), np.arange(len(times_s)), "fake")


def never(uri, times_s, side):
    raise AssertionError("nothing is decoded for a preview")


def shown(picture: Image.Image, layout) -> np.ndarray:
    """Return the colour in the middle of each tile, (rows * columns, 3)."""
    width, height = layout.tile
    found = []
    for tile in range(layout.rows * layout.columns):
        row, column = divmod(tile, layout.columns)
        found.append(
            picture.getpixel((layout.margin + column * width + width // 2, layout.margin + row * height + height // 2))
        )
    return np.array(found)


def opened(run: Run, name: str) -> Image.Image:
    return Image.open(io.BytesIO(run.read_bytes(name))).convert("RGB")


def expected(layout) -> np.ndarray:
    colors = np.tile([[23, 25, 30]], (layout.rows * layout.columns, 1))
    frames = layout.frames
    for video, clip, tile in zip(frames.video, frames.clip_index, layout.tiles, strict=True):
        colors[tile] = color_of(int(frames.video_ids[video].rpartition("-")[2]), clip)
    return colors


@pytest.mark.parametrize("originals", [False, True])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_each_frame_lies_on_its_tile(tmp_path, place, originals):
    run = make_mapped(tmp_path / "run" if place == "local" else f"memory://{tmp_path.name}/run", grid_paths())
    form = PosterForm(width=480, tiles=(4, 6), originals=originals)
    write_poster(run, None, form, frames_of if originals else never, Progress())
    layout = lay_out(run, form)
    picture = opened(run, "poster.png")
    assert picture.size == (480, layout.height) == (480, 540)  # tiles of 4:3, as the videos are
    # Nothing needs to move: a path is a row, the last video's on top, and time goes from left to right.
    wanted = [color_of(video, clip) for video in reversed(range(6)) for clip in range(4)]
    np.testing.assert_allclose(shown(picture, layout), wanted, atol=3)
    assert run.files("", ".png") and not [name for name in run.files("") if "raypipe-" in name]


def test_no_frame_comes_twice_and_fewer_tiles_show_a_choice(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths())
    for tiles in (1, 7, 24, 60):
        layout = lay_out(run, PosterForm(width=800, tiles=tiles))
        pairs = set(zip(layout.frames.video.tolist(), layout.frames.clip_index.tolist(), strict=True))
        assert len(pairs) == len(layout.frames) == min(24, layout.rows * layout.columns)
        assert len(set(layout.tiles.tolist())) == len(pairs) and layout.rows * layout.columns <= tiles
        assert layout.n_found == 24


def test_more_tiles_than_frames_leave_some_empty(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths(2, 3))
    form = PosterForm(width=800, tiles=(8, 5))
    write_poster(run, str(tmp_path / "few.png"), form, never, Progress())
    layout = lay_out(run, form)
    np.testing.assert_allclose(shown(Image.open(tmp_path / "few.png"), layout), expected(layout), atol=3)
    assert len(layout.frames) == 6


def test_two_clips_that_show_one_frame_give_one(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths(1, 4))
    frames = run.read_table("frames/0.parquet")
    times = pa.array([0.0, 1.0, 1.0, 3.0])
    run.write_table("frames/0.parquet", frames.set_column(frames.schema.get_field_index("time_s"), "time_s", times))
    assert lay_out(run, PosterForm()).n_found == 3


def test_pictures_that_no_longer_hold_are_not_shown(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths(2, 2))
    again = {"video_id": "video-1", "clip_index": 0, "time_s": 0.0, "frame": jpeg_of((9, 9, 9))}
    rows = [{**again, "fingerprint": "f"}, {**again, "fingerprint": "of another file", "clip_index": 1}]
    run.write_table("embeddings/1.parquet", pa.table({"n": [0]}))
    run.write_table("frames/1.parquet", pa.Table.from_pylist(rows, schema=FRAMES))
    run.write_table("frames/2.parquet", pa.Table.from_pylist(rows, schema=FRAMES))  # an orphan
    found = index_frames(run, ["video-1", "no such video", "video-0"])
    keys = ("video", "clip_index", "file", "row")
    told = list(zip(*(getattr(found, key).tolist() for key in keys), strict=True))
    assert told == [(0, 0, 1, 0), (0, 1, 0, 3), (2, 0, 0, 0), (2, 1, 0, 1)]
    assert found.places()[0].file == "frames/1.parquet"


def test_the_window_leaves_out_what_is_outside(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths())
    layout = lay_out(run, PosterForm(center=(1.0, 2.0), span=2.2))
    found = {(int(v), int(c)) for v, c in zip(layout.frames.video, layout.frames.clip_index, strict=True)}
    assert found == {(video, clip) for video in (1, 2, 3) for clip in (0, 1, 2)}
    with pytest.raises(UsageError, match=r"the map of .* reaches from 0 to 3 in x and from 0 to 5 in y"):
        lay_out(run, PosterForm(center=(50.0, 2.0), span=1.0))


def test_only_a_sample_of_very_many_videos_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.report.posters.poster_layout._MAX_VIDEOS", 5)
    run = make_mapped(tmp_path / "run", grid_paths(24))
    layouts = [lay_out(run, PosterForm(seed=seed)) for seed in (0, 0, 1)]
    assert [layout.n_found for layout in layouts] == [20] * 3
    assert layouts[0].frames.video_ids == layouts[1].frames.video_ids != layouts[2].frames.video_ids
    inside = lay_out(run, PosterForm(center=(1.5, 2.0), span=4.0))  # of those in the window
    assert set(inside.frames.video_ids) == {f"video-{i}" for i in range(5)}


@pytest.mark.parametrize(
    ("paths", "n"),
    [
        ([np.zeros((1, 2))], 1),  # one video of one clip
        ([np.array([[0.0, 0.0], [4.0, 1.0], [8.0, 0.0]])], 3),  # one video
        ([np.ones((3, 2))] * 4, 12),  # all at one place
        ([np.column_stack([np.arange(5), np.zeros(5)])] * 2, 10),  # all on a line
        ([np.full((3, 2), np.nan), np.zeros((2, 2)), np.array([[0.0, 0.0], [np.nan, 1.0], [1.0, 1.0]])], 4),
    ],
)
def test_maps_of_every_kind(tmp_path, paths, n):
    run = make_mapped(tmp_path / "run", paths)
    layout = lay_out(run, PosterForm(width=2000))
    assert len(layout.frames) == layout.n_found == n or layout.rows * layout.columns == len(layout.frames) < n
    assert len(set(layout.tiles.tolist())) == len(layout.frames)
    assert layout.height < 4 * layout.width


def test_clips_lie_on_the_path_at_their_fraction(tmp_path):
    run = make_mapped(tmp_path / "run", [np.array([[0.0, 0.0], [1.0, 2.0]]), np.ones((16, 2))], n_clips=[5, 1])
    places = read_picture_map(run).places(np.array([0, 0, 0, 1]), np.array([0, 1, 4, 0]))
    np.testing.assert_allclose(places, [[0, 0], [0.25, 0.5], [1, 2], [1, 1]])


def test_frames_keep_their_shape_and_fill_their_tile(tmp_path):
    """A wide frame on 4:3 tiles: its middle is shown, unsquashed, from the small picture as from the original."""
    run = make_mapped(tmp_path / "run", grid_paths(1, 1))
    wide = np.zeros((40, 160, 3), np.uint8)
    wide[:, 60:100] = (0, 200, 0)  # a square in the middle
    sink = io.BytesIO()
    Image.fromarray(wide).save(sink, "JPEG", quality=95)
    frames = run.read_table("frames/0.parquet")
    at = frames.schema.get_field_index("frame")
    run.write_table("frames/0.parquet", frames.set_column(at, "frame", pa.array([sink.getvalue()], pa.binary())))

    def squashed(uri, times_s, side):
        pixels = np.asarray(Image.fromarray(wide).resize((side, side)))[None]
        return Frames(pixels, np.asarray(times_s), np.arange(1), "fake")

    for originals in (False, True):
        form = PosterForm(width=324, tiles=1, originals=originals)
        write_poster(run, None, form, squashed, Progress())
        green = np.asarray(opened(run, "poster.png"))[:, :, 1] > 100
        assert green.any(axis=0).sum() == pytest.approx(lay_out(run, form).picture[1], abs=6)
        assert green.any(axis=1).sum() == pytest.approx(lay_out(run, form).picture[1], abs=6)


def test_what_cannot_be_decoded_shows_its_small_picture_and_is_counted(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths(4))

    def some_of(uri, times_s, side):
        found = frames_of(uri, times_s, side)
        if uri.endswith("/1.mp4"):
            raise DecodeError(f"{uri}: pyav: no\nframe decodes")
        if uri.endswith("/2.mp4"):
            return Frames(found.pixels[:3], found.times_s[:3], found.requested[:3], "fake", "it was cut off")
        return found

    told = Told()
    form = PosterForm(width=480, tiles=(4, 4), originals=True)
    write_poster(run, None, form, some_of, told)
    layout = lay_out(run, form)
    np.testing.assert_allclose(shown(opened(run, "poster.png"), layout), expected(layout), atol=3)
    (line,) = [line for line in told.lines if "cannot" in line]
    assert line.startswith("5 of 16 frames, of 2 videos, cannot be decoded from the originals")
    assert line.endswith("the first: file:///videos/1.mp4: pyav: no frame decodes")


def test_many_frames_of_one_video_are_asked_for_in_order_of_time_and_in_portions(tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.report.posters.poster._BYTES_AT_ONCE", 3 * 130 * 130 * 3)
    run = make_mapped(tmp_path / "run", grid_paths(1, 8))
    asked = []
    form = PosterForm(width=1000, tiles=(8, 1), originals=True)
    write_poster(run, None, form, lambda *request: asked.append(request) or frames_of(*request), Progress())
    assert [times.tolist() for _, times, _ in asked] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = make_mapped(tmp_path / "run", [np.random.default_rng(i).normal(size=(5, 2)) for i in range(9)])
    for name in ("a", "b"):
        for suffix in ("png", "jpg", "dzi"):
            out = str(tmp_path / name / f"poster.{suffix}")
            write_poster(run, out, PosterForm(width=600), never, Progress())
        time.sleep(1.1)  # so that a time of day in a file would show
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert len(files) > 10
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_deep_zoom_pyramid_is_whole(tmp_path, place):
    run = make_mapped(tmp_path / "run", grid_paths())
    folder = Run(str(tmp_path / "out") if place == "local" else f"memory://{tmp_path.name}/out")
    form = PosterForm(width=1001, tiles=(4, 6))
    folder.write_bytes("wall_files/99/stale.jpg", b"of an earlier poster")
    page = write_poster(run, f"{folder.url}/wall.dzi", form, never, Progress())
    layout = lay_out(run, form)
    assert page.endswith("wall.html")
    root = ElementTree.fromstring(folder.read_bytes("wall.dzi"))
    space = {"dz": "http://schemas.microsoft.com/deepzoom/2008"}
    size = root.find("dz:Size", space).attrib
    assert (int(size["Width"]), int(size["Height"])) == (1001, layout.height)
    assert (root.get("TileSize"), root.get("Overlap"), root.get("Format")) == ("254", "1", "jpg")
    top = math.ceil(math.log2(max(1001, layout.height)))
    for level in range(top + 1):
        width, height = (math.ceil(side / 2 ** (top - level)) for side in (1001, layout.height))
        columns, rows = math.ceil(width / 254), math.ceil(height / 254)
        names = {name.rpartition("/")[2] for name in folder.files(f"wall_files/{level}")}
        assert names == {f"{x}_{y}.jpg" for x in range(columns) for y in range(rows)}
        for x in range(columns):
            left, right = max(x * 254 - 1, 0), min((x + 1) * 254 + 1, width)
            assert opened(folder, f"wall_files/{level}/{x}_0.jpg").width == right - left
    assert not folder.exists(f"wall_files/{top + 1}") and not folder.exists("wall_files/99")
    assert not folder.exists("wall_files/vips-properties.xml")


class Scripts(HTMLParser):
    """Collects a page's tags, and what stands in its script elements."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.attributes = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def test_names_and_captions_made_of_html_are_texts_in_the_viewer(tmp_path):
    uris = [f"file:///videos/<img src=x onerror=alert({i})>.mp4" for i in range(2)]
    run = make_mapped(tmp_path / "run", grid_paths(2), uris=uris, captions=[HOSTILE, "@DATA@ & @TITLE@"])
    name = "<b>&'\"@DATA@"
    write_poster(run, str(tmp_path / f"{name}.dzi"), PosterForm(width=400), never, Progress())
    html = (tmp_path / f"{name}.html").read_text()
    page = Scripts(html)
    assert page.tags.count("script") == 2 and "img" not in page.tags and "b" not in page.tags
    assert not any(attribute.startswith("on") for attribute, _ in page.attributes)
    assert not re.search(r"https?://", html), "nothing is loaded from elsewhere"
    facts = json.loads(page.scripts[0])
    assert facts["name"] == name
    assert HOSTILE in facts["videos"][0] and "@DATA@ & @TITLE@" in facts["videos"][1]
    layout = lay_out(run, PosterForm(width=400))
    assert len(facts["frames"]) == len(layout.frames) and facts["width"] == 400


def test_a_poster_is_made_from_the_videos_themselves(tmp_path):
    """The whole way with the sandbox: one video decodes, one is no video."""
    write_video(tmp_path / "0.mp4", n_frames=40, size=(160, 120))
    (tmp_path / "1.mp4").write_bytes(b"no video")
    uris = [(tmp_path / f"{i}.mp4").as_uri() for i in range(2)]
    run = make_mapped(tmp_path / "run", grid_paths(2), uris=uris)
    told = Told()
    path = rp.write_poster(run, tmp_path / "out.jpg", width=640, tiles=(4, 2), originals=True, progress=told)
    assert path == str(tmp_path / "out.jpg")
    layout = lay_out(run, PosterForm(width=640, tiles=(4, 2)))
    colors = shown(Image.open(path), layout)
    np.testing.assert_allclose(colors[:4], [color_of(1, clip) for clip in range(4)], atol=4)
    brightness = [opened(Run(str(tmp_path)), "out.jpg").crop((x, 125, x + 150, 235)) for x in range(5, 640, 160)]
    assert (np.diff([np.mean(tile) for tile in brightness]) > 10).all(), "the frames at 0 to 3 s, which grow brighter"
    assert sum("4 of 8 frames, of 1 video, cannot be decoded" in line for line in told.lines) == 1


def test_numbers_of_numpy_are_numbers(tmp_path):
    """They come from a map that was looked at in a notebook."""
    run = make_mapped(tmp_path / "run", grid_paths(3))
    width, tiles = np.int64(640), (np.int32(4), np.int64(2))
    rp.write_poster(
        run, width=width, tiles=tiles, center=(np.float32(1), np.float64(2)), span=np.float32(9), seed=tiles[0]
    )
    facts = run.read_json("poster.json")
    assert (facts["width"], facts["grid"]["columns"]) == (640, 4)
    assert PosterForm(tiles=np.int64(12)) == PosterForm(tiles=12)
    with pytest.raises(UsageError, match="width"):
        PosterForm(width=np.float64(640))


def test_clustering_again_removes_the_posters(tmp_path):
    from raypipe.runs.beginnings import remove_clusters

    run = make_mapped(tmp_path / "run", grid_paths(2))
    for name in ("poster.png", "poster.dzi", "wall.png"):
        write_poster(run, f"{run.url}/{name}", PosterForm(width=300), never, Progress())
    assert run.exists("poster.png") and run.exists("poster_files")
    remove_clusters(run)
    assert [name.rpartition("/")[2] for name in run.files("") if "poster" in name] == []
    assert run.exists("wall.png") and not run.exists("wall.json"), "it lies where its maker wanted it"


@pytest.mark.parametrize("name", ["poster.png", "poster.dzi"])
def test_the_runs_own_poster_is_described(tmp_path, name):
    run = make_mapped(tmp_path / "run", grid_paths(2))
    form = PosterForm(width=300, tiles=(2, 3))
    write_poster(run, f"{run.url}/{name}", form, never, Progress())
    facts, layout = run.read_json("poster.json"), lay_out(run, form)
    assert (facts["file"], facts["name"]) == (name, "poster")
    assert (facts["width"], facts["height"]) == (300, layout.height)
    assert (facts["levels"], facts["tile"]) == ((9, 254) if name == "poster.dzi" else (0, max(300, layout.height)))
    shown = {facts["rows"][video] for video, _ in facts["frames"].values()}
    assert shown and shown <= set(range(run.read_table("clusters.parquet").num_rows))
    assert len(facts["frames"]) == len(layout.frames)


def test_a_poster_that_cannot_be_written_leaves_nothing(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths(2))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RaypipeError, match="cannot write"):
        write_poster(run, f"{tmp_path}/file/poster.png", PosterForm(width=300), never, Progress())

    def broken(uri, times_s, side):
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError):
        write_poster(run, f"{tmp_path}/out/a.png", PosterForm(width=300, originals=True), broken, Progress())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-o wall.gif", "wall.gif: a poster is a file whose name ends with .png, .jpg, .jpeg, .dzi"),
        ("-o .png", "a poster is a file whose name ends with"),
        ("--width 0", "a poster is 8 to 65,000 px wide, not 0"),
        ("--width 70000", "a poster is 8 to 65,000 px wide, not 70000"),
        ("--tiles many", "--tiles is a number, such as 900, or COLUMNSxROWS, such as 40x30; not 'many'"),
        ("--tiles 3x4x5", "--tiles is a number"),
        ("--tiles 0", "one tile or more"),
        ("--tiles 4x-1", "one tile or more"),
        ("--tiles 400x3", "columns on 400 px make tiles of 1 × 1 px: choose fewer --tiles, or a larger --width"),
        ("--tiles 1x900", "is too high: choose fewer rows"),
        ("--center 1,2", "a window has a width: --center goes with --span"),
        ("--center here --span 1", "--center is two numbers, X,Y, such as 3.5,-2; not 'here'"),
        ("--center nan,1 --span 1", "--center is two numbers, X,Y"),
        ("--span -1", "--span is greater than 0, not -1"),
        ("--center 90,90 --span 1", "no frame lies in the window"),
        ("--from videos", "--from is frames or originals, not 'videos'"),
        ("--decoder none", "none"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(mapped, arguments, said):
    arguments = arguments if "--width" in arguments or "--tiles 1x" in arguments else f"--width 400 {arguments}"
    if "--decoder" in arguments:
        arguments += " --from originals"
    result = call_raypipe("poster", mapped.url, *arguments.split())
    assert result.exit_code == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raypipe:")]
    assert said in line


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    return make_mapped(tmp_path_factory.mktemp("poster") / "run", grid_paths(3))


def test_the_command_writes_into_the_run(mapped):
    result = call_raypipe("poster", mapped.url, "--width", 400, "--tiles", "4x3", "--center", "1.5,1", "--span", "4")
    assert result.exit_code == 0, result.stderr
    assert "12 of 12 frames on 4 × 3 tiles of 100 × 75: 400 × 225 px" in result.stderr
    assert opened(mapped, "poster.png").size == (400, 225)


def test_runs_that_lack_something_are_told_so(tmp_path):
    run = make_mapped(tmp_path / "run", grid_paths(2))
    run.remove("frames")
    config = make_config()
    with pytest.raises(UsageError, match="has no frames/, the small pictures that a poster is made from"):
        pipeline.poster(run, config, None, PosterForm(), Progress())
    run.remove("trajectories")
    with pytest.raises(UsageError, match="has no map, as it is not clustered: run raypipe cluster"):
        pipeline.poster(run, config, None, PosterForm(), Progress())


def test_a_run_that_is_being_clustered_is_told_so_before_anything_is_drawn(tmp_path):
    run, told = make_mapped(tmp_path / "run", grid_paths(2)), Told()
    run.remove("clusters.parquet")  # It comes last, when the map is there already.
    with pytest.raises(UsageError, match="is not clustered: run raypipe cluster"):
        pipeline.poster(run, make_config(), None, PosterForm(), told)
    assert not told.lines


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_a_grid_has_a_tile_for_nearly_all(aspect, shape):
    for n in range(1, 200):
        columns, rows = _size_grid(PosterForm(tiles=n), 999, aspect, shape)
        assert 1 <= columns * rows <= n
        assert columns * rows >= 0.88 * n or n < 30
        if n > 30:
            assert 0.4 < rows / columns / aspect / shape < 1.9
    if aspect * shape == 1:
        assert _size_grid(PosterForm(tiles=40), 999, aspect, shape) == (6, 6), "and not 8 × 5"


@pytest.mark.parametrize("tiles", [(3, 4, 5), (2.5, 3), "40", 1.5, (0, 3)])
def test_tiles_are_a_number_or_two(tiles):
    with pytest.raises(UsageError, match="tile"):
        PosterForm(tiles=tiles)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"center": ("a", 1), "span": 2.0}, "--center is two numbers"),
        ({"center": (1,), "span": 2.0}, "--center is two numbers"),
        ({"center": 3, "span": 2.0}, "--center is two numbers"),
        ({"span": "3"}, "span must be a number or None, not str"),
        ({"seed": -1}, "a seed is 0 or more, not -1"),
        ({"seed": 0.5}, "seed must be a whole number, not float"),
    ],
)
def test_a_form_of_the_wrong_kind_is_one_line(wrong, message):
    with pytest.raises(UsageError, match=message):
        PosterForm(**wrong)


def test_without_libvips_the_remedy_is_told_before_anything_is_decoded(mapped, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(RaypipeError, match=r"pip install 'pyvips\[binary\]'"):
        write_poster(mapped, None, PosterForm(width=400, originals=True), never, Progress())
