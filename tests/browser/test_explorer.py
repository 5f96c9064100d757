"""The report's page does what it offers, in a browser."""

import csv
import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from report_runs import NAMES, STEPS, WRITTEN, K, N, frames_of, make_explored_run, make_run

from raypipe.config import ReportConfig
from raypipe.report import write_report_files
from raypipe.runs.results import write_barycenters
from raypipe.softdtw.alignment import align_pairs

SHOWN = [name.rpartition("/")[2] for name in NAMES]


def saved(page, kind) -> str:
    page.select_option("#export-as", kind)
    with page.expect_download() as download:
        page.click("#export")
    return download.value.path().read_text()


def fragment(page) -> str:
    """Return the page's, by a timer of its own, which runs behind that of the address however busy the machine is."""
    return page.evaluate("new Promise(done => setTimeout(() => done(location.hash), 300))")


def test_names_are_shown_as_text(open_page):
    page = open_page()
    shown = page.locator("#table-space [role=row] bdi").all_inner_texts()
    assert shown[: len(NAMES)] == SHOWN
    page.locator("#table-space [role=row]").nth(1).click()
    assert NAMES[1] in page.inner_text("#details")
    assert page.locator("img[src=x], #explorer script").count() == 0


def test_a_click_on_a_cluster_selects_it_everywhere(open_page):
    page = open_page()
    page.click("#cluster-2 [data-cluster]")
    assert page.inner_text("#selected-count") == f"{N // K} selected"
    rows = list(csv.DictReader(io.StringIO(saved(page, "csv"))))
    assert [row["cluster"] for row in rows] == ["2"] * (N // K)
    page.check("#selected-only")
    assert page.inner_text("#count") == f"{N // K} of {N} videos"


def test_a_video_plays_beside_the_first_of_its_nearest(open_page, tmp_path):
    """The button looks for one and the list for six, and both find the same."""
    run = make_explored_run(tmp_path / "run", n=600)
    write_report_files(run, frames_of, ReportConfig(sheet_videos=2, sheet_frames=3), WRITTEN)
    page = open_page(path=run.path("report.html"))
    page.evaluate("window.raypipe = {play() {}, compare: ids => { window.asked = ids; }}")
    videos = run.read_table("videos.parquet", ["video_id", "uri"]).to_pylist()
    name_of = {video["video_id"]: video["uri"].rpartition("/")[2] for video in videos}
    for row in range(8):
        page.locator("#table-space [role=row]").nth(row).click()
        page.click("text=Play beside the nearest")
        shown = page.locator("#details .near bdi").first.inner_text()
        assert name_of[page.evaluate("window.asked[1]")] == shown


def test_the_export_is_what_is_selected(open_page, run):
    page = open_page("#select=0-1.3.7")
    clusters = run.read_table("clusters.parquet").to_pylist()
    wanted = [clusters[i] for i in (0, 1, 3, 7)]
    assert saved(page, "ids").split() == [row["video_id"] for row in wanted]
    records = json.loads(saved(page, "json"))
    assert [record["uri"] for record in records] == [row["uri"] for row in wanted]
    assert [record["outlier_score"] for record in records] == pytest.approx([row["outlier_score"] for row in wanted])
    assert [record["distance"] for record in records] == pytest.approx([row["distance"] for row in wanted])
    rows = list(csv.DictReader(io.StringIO(saved(page, "csv"))))
    assert rows[0]["video"] == SHOWN[0] and rows[2]["video"] == f"'{NAMES[3]}"
    assert page.locator("#export-as option").all_inner_texts() == ["CSV", "JSON", "list of ids"]


def test_the_lasso_selects_what_lies_inside(open_page):
    page = open_page()
    page.click("#lasso")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    left, top = box["x"] + 12, box["y"] + 12
    right, bottom = left + box["width"] - 24, top + box["height"] - 24
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y)
    page.mouse.up()
    assert page.inner_text("#selected-count") == f"{N} selected"


def test_search_legend_and_outliers_filter(open_page):
    page = open_page()
    page.fill("#search", "STACK episode")
    assert page.inner_text("#count") == f"9 of {N} videos"
    assert all("stack" in row for row in page.locator("#table-space [role=row]").all_inner_texts())
    page.fill("#search", "")
    page.select_option("#color", "label")
    page.locator("#legend button").first.click()
    assert page.inner_text("#count") == f"{N - N // K} of {N} videos"
    page.locator("#legend button").first.click()
    page.check("#outliers-only")
    assert 0 < page.locator("#table-space .tag").count() == page.locator("#table-space [role=row]").count()


def test_the_table_sorts_and_is_driven_by_keys(open_page, run):
    page = open_page()
    page.click("#table-head button:text-is('distance')")
    distances = run.read_table("clusters.parquet")["distance"].to_numpy()
    first = page.locator("#table-space [role=row]").first.get_attribute("data-row")
    assert int(first) == int(np.argmax(distances))
    page.focus("#table-body")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert fragment(page) == f"#select={first}&open={first}&sort=-column+distance"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "details"


def test_a_fragment_brings_the_page_back(open_page):
    page = open_page()
    page.select_option("#color", "distance")
    page.locator("#table-space [role=row]").nth(5).click()
    page.locator("#time").evaluate("e => { e.value = 0.25; e.dispatchEvent(new Event('input')); }")
    page.check("#outliers-only")
    state = fragment(page)
    assert state == "#color=distance&outliers=1&time=0.250&select=5&open=5"
    again = open_page(state)
    assert again.input_value("#color") == "distance" and again.is_checked("#outliers-only")
    assert again.inner_text("#time-said") == "25 %" and again.inner_text("#selected-count") == "1 selected"
    assert "episode_005.mp4" in again.inner_text("#details")
    assert open_page("#open=36").locator("#row-36").is_visible()
    assert fragment(again) == state


def test_playing_moves_all_paths(open_page):
    page = open_page()
    before = page.locator("#map").screenshot()
    page.click("#play")
    page.wait_for_timeout(1500)  # The page's policy forbids what Playwright would wait for a condition by.
    page.click("#play")
    assert 0 < float(page.input_value("#time")) < 1
    assert page.locator("#map").screenshot() != before


def test_the_numbers_of_barycenters_that_end_together_are_all_seen(open_page, tmp_path):
    run = make_explored_run(tmp_path / "run")
    corners = np.array([[-9.0, 9.0], [0.0, 9.0], [9.0, 9.0], [9.0, -9.0]])
    write_barycenters(run, {c: np.linspace(corners[c], [0.0, 0.0], STEPS, dtype=np.float32) for c in range(K)})
    write_report_files(run, frames_of, ReportConfig(sheet_videos=2, sheet_frames=3), WRITTEN)
    page = open_page(path=run.path("report.html"))
    page.evaluate("""() => {
        const write = CanvasRenderingContext2D.prototype.fillText;
        window.written = {};
        CanvasRenderingContext2D.prototype.fillText = function(text, x, y) {
          if (this.canvas.id === "map-over") window.written[text] = [x, y];
          write.call(this, text, x, y);
        };
    }""")
    page.locator("#time").evaluate("e => e.dispatchEvent(new Event('input'))")
    page.wait_for_timeout(300)
    written = page.evaluate("window.written")
    places = np.array([written[str(cluster)] for cluster in range(K)])
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    assert 18 < apart[~np.eye(K, dtype=bool)].min(), "none hides another"
    assert apart.max() < 60, "and none stands far from its end"


def test_a_path_is_found_under_the_pointer(open_page, run):
    page = open_page("#open=6&select=6")
    page.locator("#map").scroll_into_view_if_needed()
    found = page.evaluate("""() => new Promise(done => {
        const box = document.querySelector("#map"), tip = document.querySelector("#map-tip"), names = new Set();
        const rect = box.getBoundingClientRect();
        for (let x = 5; x < rect.width; x += 12) for (let y = 5; y < rect.height; y += 12) {
          box.dispatchEvent(new PointerEvent("pointermove", {clientX: rect.x + x, clientY: rect.y + y}));
          if (!tip.hidden) names.add(tip.querySelector("b").textContent);
        }
        done([...names]);
    })""")
    assert len(found) > N / 4


def test_the_alignment_is_that_of_python(open_page, run):
    page = open_page("#open=6&select=6")
    assert page.locator("#details .links line").count() >= STEPS
    shown = page.evaluate("""() => {
        const {width, height} = document.querySelector("#details .heat");
        const pen = document.querySelector("#details .heat").getContext("2d");
        return [width, height, [...pen.getImageData(0, 0, width, height).data]];
    }""")
    paths = np.array(run.read_table("trajectories/00000.parquet")["reduced"].to_pylist()).reshape(N, STEPS, 2)
    center = np.load(io.BytesIO(run.read_bytes("model/centers.npy")))[6 % K]
    expected = align_pairs(paths[6][None], center[None], 0.0123).expected[0][::-1]
    red = np.array(shown[2]).reshape(shown[1], shown[0], 4)[..., 0]
    assert shown[:2] == [STEPS, STEPS]
    assert np.corrcoef(red.ravel(), expected.ravel())[0, 1] > 0.99  # the ramp's red rises with the probability


@pytest.mark.parametrize(
    ("size", "schemes"),
    [((1280, 900), ("light", "dark")), ((390, 844), ("dark", "light"))],  # the one it is opened in, and the other
)
def test_nothing_is_wider_than_the_window(open_page, size, schemes):
    page = open_page("#open=6", viewport={"width": size[0], "height": size[1]}, color_scheme=schemes[0])
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    names = page.evaluate("""() => [...document.querySelectorAll("button, input, select")].map(
        each => (each.ariaLabel || each.labels?.[0]?.textContent || each.textContent).trim())""")
    assert all(names)


def test_without_a_script_the_pictures_remain(chromium, run):
    context = chromium.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(f"file://{run.path('report.html')}")
    assert not page.locator("#explorer").is_visible()
    assert page.locator("details img").first.is_visible(), "they take the map's place"
    page.click("text=The map as pictures")
    assert page.locator("details img").first.is_visible()
    context.close()


def test_on_paper_the_pictures_take_the_place_of_the_map(open_page):
    page = open_page()
    shown = page.locator("#explorer, details img, details pre")
    on_screen = shown.evaluate_all("all => all.map(each => each.checkVisibility({contentVisibilityAuto: true}))")
    page.emulate_media(media="print")
    assert not page.locator("#explorer").is_visible()
    assert page.locator("details img").count() == 2 and all(
        each.is_visible() for each in page.locator("details img").all()
    )
    assert not page.locator("details pre").first.is_visible(), "what is no picture stays folded"
    assert on_screen[0] and not any(on_screen[1:])


def test_paper_is_light_whatever_the_screen_is(open_page):
    page = open_page()
    inks = "() => ['h2', '.card', 'figcaption'].map(each => getComputedStyle(document.querySelector(each)).color)"
    light = page.evaluate(inks)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert not set(light) & set(page.evaluate(inks))
    page.emulate_media(media="print")
    assert page.evaluate(inks) == light


def test_two_fingers_zoom(open_page):
    page = open_page()
    page.locator("#map").scroll_into_view_if_needed()
    before = page.locator("#map").screenshot()
    page.evaluate("""() => {
        const box = document.querySelector("#map"), {x, y, width, height} = box.getBoundingClientRect();
        box.setPointerCapture = () => {};
        const send = (kind, id, by) => box.dispatchEvent(new PointerEvent(kind, {
          pointerId: id, pointerType: "touch", clientX: x + width / 2 + by, clientY: y + height / 2}));
        send("pointerdown", 1, -20); send("pointerdown", 2, 20);
        for (let by = 20; by < 120; by += 20) { send("pointermove", 2, by); send("pointermove", 1, -by); }
        send("pointerup", 1, -100); send("pointerup", 2, 100);
    }""")
    page.wait_for_timeout(400)
    assert page.locator("#map").screenshot() != before
    assert page.inner_text("#selected-count") == "none selected"


@pytest.mark.parametrize("kind", ["unequal lengths", "vectors", "noise", "one video"])
def test_runs_of_every_kind_are_shown(open_page, tmp_path, kind):
    n, n_steps = (1 if kind == "one video" else 12), {"unequal lengths": None, "vectors": 1}.get(kind, 16)
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(n)], k=min(n, 3), n_steps=n_steps)
    if kind == "vectors":
        run.record(config={"trajectory": {"pool": "mean"}})
    if kind == "noise":
        clusters = run.read_table("clusters.parquet")
        labels = pa.array([-1, -1, *clusters["cluster"].to_pylist()[2:]], pa.int32())
        place = clusters.schema.get_field_index("cluster")
        run.write_table("clusters.parquet", clusters.set_column(place, "cluster", labels))
    write_report_files(run, frames_of, ReportConfig(sheet_videos=1, sheet_frames=2), WRITTEN)
    page = open_page("#open=0", path=run.path("report.html"))
    for row in page.locator("#table-space [role=row]").all():
        row.click()
    assert page.inner_text("#count").startswith(f"{n} video")
    page.locator("[data-cluster]").last.click()
    assert page.inner_text("#selected-count") != "none selected"


def test_without_webgl_all_but_the_map_remains(chromium, run):
    context = chromium.new_context(offline=True)
    context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page = context.new_page()
    page.goto(f"file://{run.path('report.html')}")
    page.wait_for_selector("#explorer[data-ready=yes]")
    assert "no WebGL 2" in page.inner_text("#explorer-failure") and not page.locator("#map").is_visible()
    page.click("#cluster-1 [data-cluster]")
    assert page.inner_text("#selected-count") == f"{N // K} selected"
    context.close()


def test_the_wheel_scrolls_the_page_until_the_map_is_clicked(open_page):
    page = open_page()
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 40)
    before, at = page.locator("#map").screenshot(), page.evaluate("scrollY")
    page.mouse.wheel(0, 60)
    page.wait_for_function("at => scrollY > at", arg=at)  # It scrolls smoothly, on a busy machine late.
    assert page.locator("#map-hint").is_visible()
    page.mouse.wheel(0, -60)
    page.wait_for_function("at => scrollY === at", arg=at)
    page.mouse.click(box["x"] + 20, box["y"] + 40)
    page.mouse.wheel(0, 60)
    page.wait_for_timeout(400)
    assert page.evaluate("scrollY") == at and page.locator("#map-hint").is_hidden()
    assert page.locator("#map").screenshot() != before


def test_the_pane_says_once_where_a_video_is_odd_and_then_what_is_like_it(open_page, tmp_path):
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(12)], k=3)
    odd = run.read_table("clusters.parquet").filter(pc.field("outlier")).to_pylist()[0]
    reason = {"verdict": "drop", "start_s": 1.0, "end_s": 2.5, "reason": "unlike any cluster from 1.0 s to 2.5 s"}
    head = ["video_id", *reason]
    run.write_bytes(
        "outliers.csv", f"{','.join(head)}\n{odd['video_id']},{','.join(map(str, reason.values()))}\n".encode()
    )
    write_report_files(run, frames_of, ReportConfig(sheet_videos=1, sheet_frames=2), WRITTEN)
    page = open_page(path=run.path("report.html"))
    page.check("#outliers-only")
    page.locator("#table-space [role=row]", has_text=odd["uri"].rpartition("/")[2]).click()
    assert page.inner_text("#details .odd") == f"Outlier: {reason['reason']}"
    assert page.inner_text(".gallery").count("2.5 s") == 1
    assert page.locator("#details section:has(.near) ~ .path").count()


def test_figures_are_whole_on_a_phone(open_page):
    page = open_page(viewport={"width": 390, "height": 800})
    cut = page.evaluate("""() => [...document.querySelectorAll(".metrics .value, .confusion td")].filter(
        e => e.scrollWidth > e.clientWidth || getComputedStyle(e).whiteSpace !== "nowrap").map(e => e.textContent)""")
    assert cut == []
    assert page.locator(".confusion .said").count() and not page.locator(".scroll .said").count()
    wraps = "e => getComputedStyle(e).whiteSpace !== 'nowrap'"
    assert not page.locator(".times span").first.evaluate(wraps), "the times of a long video, below small pictures"


def test_the_table_of_labels_counts_the_videos_of_each_cluster(open_page, run):
    page = open_page()
    clusters = run.read_table("clusters.parquet").to_pylist()
    counted = {}
    for row in page.locator(".confusion").first.locator("tr:has(th[scope=row])").all():
        counted[row.locator("th").inner_text()] = [int(cell or 0) for cell in row.locator("td").all_inner_texts()]
    counts = Counter((row["label"], row["cluster"]) for row in clusters)
    assert counted == {label: [counts[label, k] for k in range(K)] for label in {row["label"] for row in clusters}}
    assert page.inner_text(".confusion .said").startswith("Nothing mixes")
    assert page.locator(".jump a").first.inner_text().endswith(clusters[0]["label"])
