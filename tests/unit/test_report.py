"""The report: every file is there and whole, whatever the videos are called and however their decoding went."""

import base64
import csv
import hashlib
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image, ImageDraw
from report_runs import HOSTILE, LABELS, WRITTEN, frames_of, keep_pictures, make_run

from raypipe import pipeline, report
from raypipe.cli.matches import as_text
from raypipe.config import Config, ReportConfig
from raypipe.decoders.thumbnails import encode_jpeg
from raypipe.errors import DecodeError, RaypipeError, UsageError
from raypipe.progress import Progress
from raypipe.report import write_report_files
from raypipe.runs.directory import Run
from raypipe.runs.lookup import describe_videos, find_id
from raypipe.schema import Frames
from raypipe.sources.videos import make_video_id

NOWHERE = {"distance": 0.0, "start_s": None, "end_s": None}


def failing(uri, times_s, image_size):
    raise DecodeError(f"decord: spins past its deadline; pyav: no frame decodes, {HOSTILE}")


def write(run, frames=frames_of, **sheet) -> str:
    write_report_files(run, frames, ReportConfig(**{"sheet_videos": 2, "sheet_frames": 3, **sheet}), WRITTEN)
    return run.read_bytes("report.html").decode()


def videos_of(run) -> list[str]:
    return run.read_table("clusters.parquet")["video_id"].to_pylist()


def size_of(run, name) -> tuple[int, int]:
    with Image.open(io.BytesIO(run.read_bytes(name))) as image:
        image.load()
        return image.size


class Page(HTMLParser):
    """Collects a page's tags, attributes and text, and checks that every tag is closed."""

    VOID = ("meta", "img", "wbr", "input")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def script_hash(html) -> str:
    """Return what the page's policy says of its script, which stands last in the page."""
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    return f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    names = [f"{LABELS[i % 4]}/episode_{i:03d}.mp4" for i in range(24)]
    labels = [LABELS[i % 4] for i in range(24)]
    run = make_run(tmp_path_factory.mktemp("report") / "run", names, labels, groups=["g"] * 24, failed=["dead.mp4"])
    write(run)
    return run


def test_every_file_is_written_and_can_be_read(run):
    for name in ("points", "trajectories", "fingerprints", "sizes", "outliers", *(f"cluster_{i}" for i in range(4))):
        assert min(size_of(run, f"plots/{name}.png")) > 300
    assert len(run.files("plots")) == 9
    clusters = run.read_table("clusters.parquet").to_pylist()
    thumbnails = {name.rpartition("/")[2].removesuffix(".jpg") for name in run.files("thumbnails", ".jpg")}
    assert {row["video_id"] for row in clusters if row["outlier"]} < thumbnails
    assert len(thumbnails) < len(clusters)
    assert size_of(run, f"thumbnails/{min(thumbnails)}.jpg") == (192, 192)


def test_the_summary_says_what_the_run_holds(run):
    summary = run.read_json("summary.json")
    assert summary["counts"] == {"found": 25, "ok": 24, "failed": 1, "skipped": 0, "ignored": 2}
    assert summary["wall_s"] == 78.0
    assert summary["metrics"]["silhouette"] == 0.6654
    rows = run.read_table("clusters.parquet").to_pylist()
    for number, cluster in enumerate(summary["clusters"]):
        mine = sorted((row for row in rows if row["cluster"] == number), key=lambda row: row["distance"])
        assert cluster["size"] == 6 and cluster["share"] == 0.25
        assert cluster["labels"] == {LABELS[number]: 6}
        assert [video["video_id"] for video in cluster["most_central"]] == [row["video_id"] for row in mine[:5]]
        assert cluster["farthest"]["video_id"] == mine[-1]["video_id"]
        assert cluster["n_outliers"] == sum(row["outlier"] for row in mine)
    assert [video["outlier_score"] for video in summary["outliers"]] == sorted(
        (row["outlier_score"] for row in rows if row["outlier"]), reverse=True
    )


def test_the_csv_holds_every_clustered_video_in_source_order(run):
    rows = list(csv.DictReader(io.StringIO(run.read_bytes("video_cluster_mapping.csv").decode())))
    clusters = run.read_table("clusters.parquet").to_pylist()
    columns = ("video_id", "uri", "group", "label")
    assert [[row[c] for c in columns] for row in rows] == [[row[c] for c in columns] for row in clusters]
    assert [int(row["cluster"]) for row in rows] == [row["cluster"] for row in clusters]
    assert [float(row["distance"]) for row in rows] == [row["distance"] for row in clusters]
    assert [row["outlier"] == "true" for row in rows] == [row["outlier"] for row in clusters]
    assert rows[0]["video"] == "episode_000.mp4"


def test_the_page_stands_alone_and_says_everything(run):
    html = run.read_bytes("report.html").decode()
    page = Page(html)
    assert page.tags.count("script") == 2 and "link" not in page.tags  # the data, and the one script
    assert html.count(script_hash(html)) == 1
    sources = [value for key, value in page.attributes if key == "src"]
    assert len(sources) > 15 and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(|@import", html)
    for said in ("24 videos in 4 clusters", "2025-01-31 12:30", "0.6654", "−0.0312", "dead.mp4", "no GPU here"):
        assert said in page.text
    assert "decord: <b>dead.mp4</b> spins" in page.text and "file:///data/dead.mp4: " not in page.text
    for said in ("pick then place", "n_components: 5", "umap-learn", "2.60.0", "/data/robots", "78 s"):
        assert said in page.text
    assert "adjusted Rand" in page.text and "nmi" not in page.text
    assert len(html) < 5_000_000


def test_labels_and_clusters_are_counted_in_a_table(run):
    table = run.read_bytes("report.html").decode().partition('class="confusion"')[2].partition("</table>")[0]
    rows = [re.findall(r">(\d*)</td>", row) for row in table.split("<tr>")[2:]]
    assert sorted(rows) == sorted([["6" if i == j else "" for j in range(4)] for i in range(4)])


def test_the_number_of_a_cluster_that_lies_in_pieces_stands_at_one_of_them():
    from matplotlib.figure import Figure

    from raypipe.report.figures.plots import number_clusters

    one = np.random.default_rng(0).normal(scale=0.3, size=(20, 2))
    axes = Figure().add_subplot()
    number_clusters(axes, {0: np.vstack([one, one + np.array([10, 0])])}, aside=True)
    (number,) = axes.texts
    x, y = number.get_position()
    assert abs(y) < 2 and min(abs(x), abs(x - 10)) < 2, "halfway between them is no video"


def test_the_same_run_gives_the_same_bytes(run):
    names = [*run.files("plots"), *run.files("thumbnails"), "summary.json", "video_cluster_mapping.csv", "report.html"]
    before = {name: run.read_bytes(name) for name in names}
    run.write_bytes("plots/cluster_99.png", b"of an earlier clustering")
    write(run)
    assert {name: run.read_bytes(name) for name in names} == before
    assert not run.exists("plots/cluster_99.png")


def test_a_report_that_breaks_off_leaves_the_page_of_before(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    keep_pictures(run, 5)
    config = Config(report=ReportConfig(sheet_videos=1, sheet_frames=2))
    pipeline.report(run, config, Progress())
    names = [*run.files("plots"), *run.files("thumbnails"), "report.html"]
    page, paths = run.read_bytes("report.html"), run.read_bytes("trajectories/00000.parquet")
    run.write_bytes("trajectories/00000.parquet", b"no table")
    with pytest.raises(RaypipeError, match="cannot read"):
        pipeline.report(run, config, Progress())
    run.write_bytes("trajectories/00000.parquet", paths)

    def press_ctrl_c(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("raypipe.report.page.document.render_page", press_ctrl_c)
        pipeline.report(run, config, Progress())
    assert run.read_bytes("report.html") == page
    assert [*run.files("plots"), *run.files("thumbnails"), "report.html"] == names
    run.write_bytes("thumbnails/old.jpg", b"of an earlier clustering")
    pipeline.report(run, config, Progress())
    assert [*run.files("plots"), *run.files("thumbnails"), "report.html"] == names


def test_hostile_and_foreign_names_are_harmless(tmp_path):
    names = [
        f"javascript://alert/{HOSTILE}",
        "=HYPERLINK(1).mp4",
        "+1.mp4",
        "手/把杯子放在桌子上_été.mp4",
        "x" * 400 + ".mp4",
        'a"b.mp4',
        "line\nbreak.mp4",
    ]
    labels = ["<img src=x onerror=alert(1)>", "@SUM(A1)", "$\\frac{$", "$5 & $6", "手", "ب" * 80, "-"]
    run = make_run(tmp_path / "<b>run", names, labels, groups=["<i>g"] * 7, k=2, failed=["<u>dead.mp4"])
    run.record(fallbacks={"<s>reduce": "<s>why"}, versions={"<s>": "<s>"}, seconds={"<s>stage": 1.0})
    html = write(run, failing)
    page = Page(html)
    assert page.tags.count("script") == 2 and not {"i", "u", "s"} & set(page.tags)
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    targets = [value for key, value in page.attributes if key == "href"]
    assert {target.partition(":")[0] for target in targets if not target.startswith("#")} == {"file"}
    assert HOSTILE in page.text and "<img src=x onerror=alert(1)>" in page.text
    assert "把杯子放在桌子上_été.mp4" in page.text
    rows = list(csv.reader(io.StringIO(run.read_bytes("video_cluster_mapping.csv").decode())))
    assert len(rows) == 8
    assert {cell[0] for row in rows[1:] for i, cell in enumerate(row) if cell and i not in (3, 4)} & set(
        "=+-@"
    ) == set()
    assert [row[0] for row in rows[2:4]] == ["'=HYPERLINK(1).mp4", "'+1.mp4"]


def test_a_video_that_does_not_decode_shows_why(tmp_path):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(8)], k=2)
    page = Page(write(run, failing))
    assert page.text.count("No picture: decord: spins past its deadline") == 6
    assert not run.exists("thumbnails")
    assert size_of(run, "plots/cluster_0.png")[0] > 500


def test_missing_frames_leave_gaps_and_say_why(tmp_path):
    def breaks_off(uri, times_s, image_size):
        whole = frames_of(uri, times_s, image_size)
        return Frames(whole.pixels[:2], whole.times_s[:2], whole.requested[:2], "fake", "pyav: stopped at 1.9 s")

    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    page = Page(write(run, breaks_off, sheet_frames=5))
    assert page.text.count("Some pictures are missing: pyav: stopped at 1.9 s") == 2
    assert len(run.files("thumbnails")) == 2


def test_frames_are_asked_for_at_equal_fractions_of_the_span(tmp_path):
    asked = []

    def note(uri, times_s, image_size):
        asked.append(times_s)
        return frames_of(uri, times_s, image_size)

    run = make_run(tmp_path / "run", ["a.mp4", "a.mp4"], k=1)
    ids = run.read_table("videos.parquet")["video_id"].to_pylist()
    plan = {"video_id": [ids[0], ids[0], ids[1]], "origin_s": [10.0, 10.0, None], "span_s": [8.0, 8.0, None]}
    run.write_table("plan.parquet", pa.table(plan))
    page = Page(write(run, note, sheet_frames=4))
    assert sorted(times.tolist() for times in asked) == [[0.5, 1.5, 2.5, 3.5], [11.0, 13.0, 15.0, 17.0]]
    assert "a.mp4 [10–18 s]" in page.text and "a.mp4 [0–4 s]" in page.text


def sheets(run, frames, n_frames):
    """Write what shows pictures, without the plots; return the videos on the page."""
    from raypipe.report.facts import read_facts

    config = ReportConfig(sheet_videos=2, sheet_frames=n_frames)
    cards, *_ = report._write_sheets(run, read_facts(run), frames, config)
    return [shown for card in cards for shown in (*card.central, card.farthest) if shown]


def test_a_video_of_fewer_frames_than_are_asked_for_shows_each_once(tmp_path):
    def two(uri, times_s, image_size):
        return frames_of(uri, np.floor(times_s / 2) * 2, image_size)

    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(2)], k=2)
    assert [shown.times_s for shown in sheets(run, two, 8)] == [(0.01, 2.01)] * 2


def test_kept_pictures_are_shown_and_nothing_is_decoded(tmp_path):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(8)], k=2)
    keep_pictures(run, 12)
    shown = sheets(run, failing, 3)
    assert [each.times_s for each in shown] == [(2.0, 6.0, 10.0)] * 6
    assert not any(each.note for each in shown) and {each.width for each in shown} == {1.0}
    assert size_of(run, run.files("thumbnails")[0]) == (192, 154)
    assert min(size_of(run, "plots/cluster_1.png")) > 300


def test_a_video_of_fewer_clips_is_decoded_or_else_shows_each_picture_once(tmp_path):
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    keep_pictures(run, 2)
    shown = sheets(run, frames_of, 5)
    assert [(len(each.times_s), each.width, each.note) for each in shown] == [(5, 1.0, "")] * 2
    shown = sheets(run, failing, 5)
    assert [(each.times_s, each.width) for each in shown] == [((0.0, 1.0), 0.4)] * 2
    assert all("no frame decodes" in each.note for each in shown), "the page says why there are so few"
    with Image.open(io.BytesIO(shown[0].strip)) as strip:
        assert strip.size == (2 * 144, 116), "no larger than others, and nothing beside them"
    assert {each.aspect for each in shown} == {144 / 116}


@pytest.mark.parametrize(("size", "aspect", "width"), [((100, 40), 2.5, 1.0), ((40, 100), 0.4, 0.4)])
def test_pictures_are_of_whole_frames(tmp_path, size, aspect, width):
    """What happens at a frame's edge is seen, of wide and of tall ones, kept or decoded."""

    def edged(uri, times_s, image_size):
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        picture[[0, 1, -2, -1]], picture[:, [0, 1, -2, -1]] = 255, 255
        square = np.zeros((len(times_s), image_size, image_size, 3), np.uint8)
        whole = {i: encode_jpeg(picture) for i in range(len(times_s))}
        return Frames(square, times_s, np.arange(len(times_s)), "fake", None, whole)

    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    decoded = sheets(run, edged, 4)
    keep_pictures(run, 4, lambda *request: SimpleNamespace(pixels=list(edged(*request).thumbnails.values())))
    for shown in (decoded, sheets(run, failing, 4)):
        assert [(each.width, round(each.aspect, 1), each.note) for each in shown] == [
            (pytest.approx(width, abs=0.01), aspect, "")
        ] * 2
        with Image.open(io.BytesIO(shown[0].strip)) as strip:
            pixels = np.asarray(strip.convert("L")).astype(int)
        each = np.split(pixels, 4, axis=1)
        assert min(part[:, [0, -1]].mean() for part in each) > 150 and pixels[[0, -1]].mean() > 150
        assert all(part[5:-5, 5:-5].mean() < 30 for part in each)
    page = write(run, failing, sheet_frames=4)
    assert page.count('style="visibility:hidden"') == (0 if aspect > 1 else 4), "below narrow ones only some times"


def test_the_times_below_narrow_pictures_stand_apart(tmp_path, monkeypatch):
    """Of a frame ten times as high as wide, pictures are narrower than the times below them."""
    boxes, write = [], ImageDraw.ImageDraw.text

    def text(draw, xy, text, *args, **options):
        if re.fullmatch(r"[0-9.]+ s", text):
            boxes.append(draw.textbbox(xy, text, font=options["font"]))
            assert boxes[-1][2] <= draw.im.size[0]
        write(draw, xy, text, *args, **options)

    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    narrow = np.zeros((100, 10, 3), np.uint8)
    keep_pictures(run, 4, lambda uri, times_s, size: SimpleNamespace(pixels=[encode_jpeg(narrow) for _ in times_s]))
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    write_report_files(run, failing, ReportConfig(sheet_frames=4), WRITTEN)
    pairs = [(left, right) for left, right in pairwise(boxes) if left[1] == right[1]]
    assert len(pairs) >= 3 and all(left[2] < right[0] for left, right in pairs)


def test_videos_without_kept_pictures_are_decoded(tmp_path):
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    keep_pictures(run, 3)
    asked = []
    ids = run.read_table("videos.parquet")["video_id"]
    kept = run.read_table("frames")
    run.write_table("frames/0.parquet", kept.filter(pc.equal(kept["video_id"], ids[0])))
    sheets(run, lambda uri, *request: asked.append(uri) or frames_of(uri, *request), 3)
    assert asked == ["file:///data/robots/b.mp4"]


def test_a_png_holds_its_pixels():
    from raypipe.report.style import encode_png

    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(picture))) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), picture)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.66, 0.67, 0.99])
def test_what_is_said_of_the_threshold_stays_within_the_axes(tmp_path, monkeypatch, share):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from raypipe.report.facts import read_facts
    from raypipe.report.figures import histogram

    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(24)])
    scores = run.read_table("clusters.parquet")["outlier_score"].to_numpy()
    threshold = scores.min() + share * np.ptp(scores)
    outliers = {"by": "score", "threshold": threshold}
    run.write_json("metrics.json", {**run.read_json("metrics.json"), "outliers": outliers})
    figures = []
    monkeypatch.setattr(histogram, "as_png", figures.append)
    histogram.draw_histogram(read_facts(run))
    (axes,) = figures[0].axes
    (text,) = axes.texts
    said, around = text.get_window_extent(FigureCanvasAgg(figures[0]).get_renderer()), axes.get_window_extent()
    assert text.get_text().endswith(f"beyond {threshold:.4g}")
    assert around.x0 < said.x0 and said.x1 < around.x1, "beside the axes stands the legend"


@pytest.mark.parametrize("score, n_apart", [(0.0, 0), (5.0, 0), (5.0, 1), (1e17, 0), (1e17, 3), (1e-12, 1)])
def test_a_bar_of_equal_values_is_drawn_upon_the_value(tmp_path, monkeypatch, score, n_apart):
    from raypipe.report.facts import read_facts
    from raypipe.report.figures import histogram

    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4"], k=1)
    clusters = run.read_table("clusters.parquet")
    scores = pa.array([score, score + n_apart * np.spacing(score)])  # As two videos' distances from their mean are.
    run.write_table("clusters.parquet", clusters.set_column(6, clusters.schema.field("outlier_score"), scores))
    figures = []
    monkeypatch.setattr(histogram, "as_png", figures.append)
    histogram.draw_histogram(read_facts(run))
    (axes,) = figures[0].axes
    counts, edges, _ = axes.patches[0].get_data()
    (bar,) = np.flatnonzero(counts)
    assert counts[bar] == 2
    assert (edges[bar] + edges[bar + 1]) / 2 == pytest.approx(score, abs=1e-6 * np.ptp(edges))


@pytest.mark.parametrize(
    "n, k, n_steps", [(1, 1, 16), (2, 2, 1), (5, 1, 4), (17, 3, None), (60, 13, 8)], ids=lambda value: str(value)
)
def test_sizes_and_lengths_of_every_kind(tmp_path, n, k, n_steps):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(n)], k=k, n_steps=n_steps)
    page = Page(write(run, sheet_frames=1))
    assert f"{n} video{'s' * (n > 1)} in {k} cluster{'s' * (k > 1)}" in page.text
    assert len(run.files("plots", ".png")) == 4 + (n > 1) + k  # One video has none to differ from.
    assert "could not be read" not in page.text


def test_videos_that_stand_still_at_one_spot(tmp_path):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(6)], k=2, scale=0.0)
    assert "6 videos in 2 clusters" in Page(write(run)).text


def test_unknown_lengths_distances_and_metrics(tmp_path):
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4", "c.mp4"], k=1)
    for name, column in (("videos.parquet", "duration_s"), ("clusters.parquet", "distance")):
        table = run.read_table(name)
        values = pa.array([None, *table[column].to_pylist()[1:]], pa.float64())
        run.write_table(name, table.set_column(table.schema.get_field_index(column), column, values))
    run.write_json("metrics.json", {"silhouette": None, "sizes": [3], "truth": None})
    page = Page(write(run, sheet_videos=5))
    assert "the video's length is not known" in page.text
    assert run.read_json("summary.json")["clusters"][0]["farthest"]["distance"] is None


def test_many_clusters_stay_within_a_mail(tmp_path):
    rng = np.random.default_rng(0)
    grain = rng.integers(60, 120, (192, 192, 3), dtype=np.uint8)  # as costly to compress as a camera's noise

    def noisy(uri, times_s, image_size):
        n = len(times_s)
        return Frames(np.broadcast_to(grain, (n, *grain.shape)), times_s, np.arange(n), "fake")

    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(72)], k=18, n_steps=4)
    assert len(write(run, noisy, sheet_videos=8, sheet_frames=16)) < 6_000_000


def test_a_run_without_clusters_is_refused(tmp_path):
    run = make_run(tmp_path / "run", ["a.mp4"], k=1)
    run.remove("clusters.parquet")
    with pytest.raises(RaypipeError, match=r"clusters\.parquet"):
        write(run)


def test_any_scheme_but_web_and_file_is_no_link():
    from raypipe.report.facts import common_folder, link_of
    from raypipe.runs.lookup import name_of

    assert link_of("javascript:alert(1)") is None
    assert link_of("s3://bucket/a.mp4") is None
    assert link_of("https://host/a.mp4") == "https://host/a.mp4"
    assert name_of("file:///data/a%20b%23.mp4") == "a b#.mp4"
    assert name_of("https://host/a.mp4?token=1") == "a.mp4"
    assert name_of("s3://bucket/50%25?.mp4") == "50%25?.mp4"
    assert name_of("file:///data/paths.json#left%2F7") == "paths.json#left/7"
    assert name_of("file:///data/caf%E9.mp4") == "caf\\xe9.mp4"
    assert name_of("http://[host/a.mp4") == "a.mp4"
    assert common_folder(["file:///d/a/x.mp4", "file:///d/ab/y.mp4"]) == "/d"
    assert common_folder(["file:///d/a/x.mp4", "file:///d/a-2/y.mp4", "file:///d/a/b/z.mp4"]) == "/d"
    assert common_folder(["file:///d/a.mp4", "s3://d/a.mp4"]) == ""
    assert common_folder(["https://a/x.mp4", "https://b/x.mp4"]) == ""


def test_a_drawn_barycenter_lies_along_its_members_paths(run):
    from raypipe.report.facts import read_centers, read_facts, read_paths

    facts, paths = read_facts(run), read_paths(run)
    centers = read_centers(run, paths, facts.clusters)
    assert sorted(centers) == [0, 1, 2, 3]
    for cluster in facts.clusters:
        members = np.concatenate([paths[member.video_id] for member in cluster.members])
        apart = np.linalg.norm(centers[cluster.number][:, None] - members, axis=2).min(axis=1)
        assert centers[cluster.number].shape == (16, 2)
        assert apart.max() < 0.3  # the paths are 3 long and scatter by 0.25


def test_cluster_colors_stay_apart_and_their_ink_is_readable():
    from raypipe.report.style import COLORS, color_of, ink_on

    assert len({color_of(i) for i in range(8)}) == len(COLORS) == 8
    assert color_of(8) == color_of(0)
    assert (ink_on("#5B4A00"), ink_on("#E69F00")) == ("#FFFFFF", "#111111")

    def luminance(color):
        parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for color in [*COLORS, color_of(-1)]:
        low, high = sorted([luminance(color), luminance(ink_on(color))])
        assert (high + 0.05) / (low + 0.05) >= 4.5, color


@pytest.mark.parametrize("uri", ["file:///data/paths.npz#v", "file:///set/file-000.parquet#episode=", "set#episode="])
def test_trajectories_of_a_file_have_no_video_that_could_be_decoded(tmp_path, uri):
    run = make_run(tmp_path / "run", [f"{uri}{i}" for i in range(4)], k=2)
    pipeline.report(run, Config(report=ReportConfig(sheet_videos=2, sheet_frames=3)), Progress())
    page = Page(run.read_bytes("report.html").decode())
    assert page.text.count("No picture: only its trajectory is known, not where the video lies") == 4
    assert "No such file" not in page.text
    assert ("class", "gallery bare") in page.attributes and page.attributes.count(("class", "card cluster bare")) == 2
    assert not any(name == "data-video" for name, _ in page.attributes), "there is nothing to play"
    assert not any("cluster_" in name for name in run.files("plots")), "a sheet without a picture shows nothing"


@pytest.fixture
def episodes(tmp_path) -> Run:
    """Return the run of a LeRobot dataset of four episodes and a failed one, all in one file."""
    file = "file:///data/set/videos/top/chunk-000/file-000.mp4"
    run = make_run(tmp_path / "run", [file] * 4, groups=["top"] * 4, k=2, failed=["x"])
    videos = run.read_table("videos.parquet")
    ids = pa.array([make_video_id(f"{i}/top") for i in range(5)])
    columns = {"video_id": ids, "uri": pa.array([file] * 5), "group": pa.array(["top"] * 5)}
    for name, column in columns.items():
        videos = videos.set_column(videos.schema.get_field_index(name), name, column)
    run.write_table("videos.parquet", videos.append_column("episode_index", pa.array(range(5), pa.int64())))
    for name in ("clusters.parquet", "trajectories/00000.parquet"):
        run.write_table(name, run.read_table(name).set_column(0, "video_id", ids[:4]))
    return run


def test_a_caption_that_is_the_label_is_not_said_twice(tmp_path):
    """Of an episode of LeRobot's both are its task."""
    run = make_run(tmp_path, [f"{i}.mp4" for i in range(6)], ["lift it"] * 6, k=2)
    videos = run.read_table("videos.parquet")
    at = videos.schema.get_field_index("caption")
    captions = pa.array(["lift it"] * 5 + ["a hand lifts it"])
    run.write_table("videos.parquet", videos.set_column(at, "caption", captions))
    page = write(run, sheet_videos=3)
    cards = page[page.index("Cluster 0</h3>") :]
    assert cards.count('<div class="muted clip">') == cards.count('<div class="muted clip">a hand lifts it</div>') == 1


def test_episodes_of_one_file_are_named_by_what_the_commands_take(episodes):
    page = Page(write(episodes))
    assert all(f"{i}/top" in page.text for i in range(5)) and "file-000.mp4 [" not in page.text
    assert find_id(episodes, "3/top") == make_video_id("3/top")
    with pytest.raises(UsageError, match=r"holds 5 videos of .*: give one's id, such as 0/top$"):
        find_id(episodes, "file-000.mp4")
    found = [{**each, **NOWHERE} for each in describe_videos(episodes, videos_of(episodes)).values()]
    told = as_text(found, False)
    assert [line.rpartition("  ")[2] for line in told.splitlines()[1:]] == [f"{i}/top" for i in range(4)]
    assert [each["episode_index"] for each in found] == [0, 1, 2, 3]


def test_spans_of_a_manifest_are_no_episodes(episodes):
    """Such a table may have a column of the name too, and ids of its own."""
    videos = episodes.read_table("videos.parquet")
    groups = pa.array(["left"] * 5)
    episodes.write_table("videos.parquet", videos.set_column(videos.schema.get_field_index("group"), "group", groups))
    assert "file-000.mp4 [0–4 s]" in Page(write(episodes)).text


def test_only_cards_without_any_picture_are_bare(tmp_path):
    def every_second(uri, times_s, image_size):
        return failing(uri, times_s, image_size) if int(uri[-5]) // 2 % 2 else frames_of(uri, times_s, image_size)

    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(8)], k=2)
    page = Page(write(run, every_second))
    assert page.text.count("No picture: decord") == 3 and ("class", "card cluster bare") not in page.attributes


def test_labels_that_are_numbers_come_in_their_order(tmp_path):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(24)], labels=[str(i % 12 + 1) for i in range(24)], k=2)
    page = write(run)
    rows = re.findall(r'<th scope="row"[^>]*><bdi>(\d+)</bdi>', page)
    pills = re.findall(r"<li><bdi>(\d+)</bdi>", page)
    assert rows == [str(i) for i in range(1, 13)]
    assert pills == [str(i) for i in (*range(1, 13, 2), *range(2, 13, 2))]


def test_figures_keep_no_room_for_what_is_not_there(tmp_path):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(80)], k=40)
    write(run, sheet_videos=1)
    bare, (width, height) = size_of(run, "plots/fingerprints.png"), size_of(run, "plots/sizes.png")
    assert height < 1.2 * width, "forty bars fit a screen"
    keep_pictures(run, 16)
    write(run, sheet_videos=1)
    whole = size_of(run, "plots/fingerprints.png")
    assert bare[0] < 0.75 * whole[0] and bare[1] == whole[1]


def test_a_poster_is_told_of_where_one_can_be_made(tmp_path):
    run = make_run(tmp_path / "run", [f"file:///data/paths.npz#v{i}" for i in range(4)], k=2)
    run.record(encoder={"name": "precomputed", "dim": 4, "fingerprint": ""})
    assert '<section id="poster">' not in write(run)
    keep_pictures(run, 9)
    assert '<section id="poster">' in write(run)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_run_that_is_clustered_again_meanwhile_is_said_in_a_line(tmp_path, monkeypatch, is_broken):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(4)], k=2)

    def cluster_again(*_):
        run.write_bytes("clusters.parquet", b"those of another command")
        if is_broken:
            raise IndexError("list index out of range")

    monkeypatch.setattr(report, "write_report_files", cluster_again)
    with pytest.raises(RaypipeError, match=r"run has been clustered again meanwhile: raypipe report .*run writes its"):
        pipeline.report(run, Config(), Progress())
