"""The page as `raypipe explore` serves it: what it does not hold comes from the server."""

import csv
import gzip
import io
import time

import numpy as np
import pytest
from embedded import make_embedded
from page_server import TOKEN, serve_page
from PIL import Image
from report_runs import WRITTEN, N, frames_of, make_explored_run
from test_explorer import fragment, saved
from watched_pages import watch

import raypipe as rp
from raypipe import pipeline
from raypipe.config import ReportConfig
from raypipe.progress import Progress
from raypipe.report import write_report_files
from raypipe.report.page import explorer
from raypipe.report.serving import page_data
from raypipe.sources.videos import Video

FILM = "#details .film"
MANY = 300


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run whose page holds film strips of some videos only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer, "MAX_STRIPS", 5)
        run = make_explored_run(tmp_path_factory.mktemp("served") / "run")
        write_report_files(run, frames_of, ReportConfig(sheet_videos=2, sheet_frames=3), WRITTEN)
    return run


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    with serve_page(run, tmp_path_factory.mktemp("cache")) as served:
        yield served


@pytest.fixture
def page(online, served):
    """Open the served page; it may not end with an error."""
    errors = []
    page = watch(online, errors)
    page.goto(f"http://127.0.0.1:{served.port}/{TOKEN}/")
    page.wait_for_selector("#explorer[data-ready=yes]")
    yield page
    page.close()
    assert not errors


def test_film_strips_that_the_page_lacks_come_from_the_server(page):
    top_of = f"document.querySelector('{FILM}').nextElementSibling.getBoundingClientRect().top"
    fetched = 0
    for row in range(N)[:8]:
        page.locator(f"#row-{row}").click()
        before = page.evaluate(top_of)
        page.wait_for_selector(f"{FILM} img")
        assert page.evaluate(f"document.querySelector('{FILM} img').decode().then(() => true)")
        source = page.locator(f"{FILM} img").get_attribute("src")
        fetched += source.startswith("filmstrip/")
        assert page.locator(f"{FILM} .times span").count() == explorer.STRIP_PICTURES
        assert abs(page.evaluate(top_of) - before) < 1, "nothing below the strip moves"
    assert 0 < fetched <= 8


def test_an_open_page_notices_that_its_run_was_clustered_again(page, run):
    assert page.locator(".rp-stale").count() == 0
    run.write_bytes("clusters.parquet", run.read_bytes("clusters.parquet"))
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.wait_for_selector("text=This run has been clustered again: reload the page.")
    page.reload()
    page.wait_for_selector("#explorer[data-ready=yes]")
    page.evaluate("raypipe.ask('version')")
    assert page.locator(".rp-stale").count() == 0


# The page of very many videos, which fetches by what is in view, beside the same page from disk, which holds all.


def make_many(folder):
    """Return a run of videos of several lengths, with names that order otherwise by their letters."""
    rng = np.random.default_rng(0)
    names = [("Ä", "b", "_x", "C")[i % 4] + f"{'-ab'[i % 3]}{(7 * i) % MANY}.mp4" for i in range(MANY)]
    uris = [f"file:///films/{name}" for name in names]
    groups = [f"robot {i % 11}" for i in range(MANY)]
    captions = [f"puts the {('red', 'blue')[i % 2]} block {i % 7}" for i in range(MANY)]
    rows = zip(uris, groups, captions, strict=True)
    videos = [Video(f"{i:032x}", uri, group=group, caption=said) for i, (uri, group, said) in enumerate(rows)]
    clips = [rng.normal(4 * (i % 3), 1, (4 + i % 5, 3)).cumsum(axis=0).astype(np.float32) for i in range(MANY)]
    sets = ("cluster.n_clusters=3", "cluster.n_init=1", "report.sheet_videos=1")
    run = make_embedded(folder / "run", clips, videos, sets=sets)
    run.record(state="embedded", encoder={"name": "precomputed", "dim": 3, "fingerprint": ""})
    for step in (pipeline.cluster, pipeline.report):
        step(run, rp.make_config(sets=sets), Progress())
    return run


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_data, "WHOLE_VIDEOS", 100)
        patch.setattr(page_data, "MOST_VALUES", 6)  # The eleven groups come with the rows.
        run = make_many(folder)
        with serve_page(run, folder / "cache") as served:
            yield run, served


@pytest.fixture
def both(offline, online, many):
    """Return the page from disk and the served one; neither may end with an error."""
    run, served = many
    pages, errors = [], []
    addresses = f"file://{run.path('report.html')}", f"http://127.0.0.1:{served.port}/{TOKEN}/"
    for context, address in zip((offline, online), addresses, strict=True):
        page = watch(context, errors)
        page.goto(address)
        page.wait_for_selector("#explorer[data-ready=yes]")
        pages.append(page)
    yield pages
    assert not pages[1].inner_text("#explorer-failure")
    for page in pages:
        page.close()
    assert not errors


ROWS = """() => [...document.querySelectorAll("#table-space [role=row]")].map(
  row => [...row.children].map(cell => cell.textContent).join(" | "))"""


def shown_rows(page) -> list[str]:
    """Return the rows of the table in sight, when all of them are there."""
    end = time.monotonic() + 30
    while True:
        page.wait_for_timeout(200)
        rows = page.evaluate(ROWS)
        waits = any("…" in row for row in rows) or "…" in page.inner_text("#count")
        if not waits or time.monotonic() > end:
            return [*rows, page.inner_text("#count")]


def alike(both, look) -> None:
    from_disk, by_view = map(look, both)
    assert from_disk == by_view


def test_no_texts_of_all_videos_come_at_once(many):
    _, served = many
    assert b'id="explorer-data" data-src="numbers"></script>' in served.ask("").body
    assert b"puts the red" not in gzip.decompress(served.ask("numbers").body)


def test_the_table_shows_the_same_rows(both):
    alike(both, shown_rows)
    for top in (3000, 9000):
        for page in both:
            page.locator("#table-body").evaluate("(e, top) => { e.scrollTop = top; }", top)
        alike(both, shown_rows)


def test_it_sorts_alike_both_ways(both):
    for column in ("video", "group", "distance", "cluster"):
        for _ in range(2):
            for page in both:
                page.click(f"#table-head button:text-is('{column}')")
            both[1].wait_for_timeout(500)
            alike(both, shown_rows)


def test_it_finds_the_same_words(both):
    for words in ("BLUE block 3", "robot 10", "cluster 1 ä", "nothing of it"):
        for page in both:
            page.fill("#search", words)
        alike(both, shown_rows)
        assert (" of " in both[1].inner_text("#count")) and "searching" not in both[1].inner_text("#count")


def draw_lasso(page) -> str:
    page.locator("#time").evaluate("e => { e.value = 0.3; e.dispatchEvent(new Event('input')); }")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    page.keyboard.down("Shift")
    corners = [(0.3, 0.2), (0.7, 0.25), (0.75, 0.6), (0.5, 0.75), (0.25, 0.5)]
    for i, (x, y) in enumerate(corners):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=1 if i == 0 else 2)
        if i == 0:
            page.mouse.down()
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_timeout(800)
    return page.evaluate("location.hash")


def test_the_lasso_finds_all_dots_inside_and_they_are_exported(both, many):
    found = [draw_lasso(page) for page in both]
    assert found[0] == found[1] and "select=" in found[0]
    selected = int(both[1].inner_text("#selected-count").split()[0])
    assert 10 < selected < MANY - 10
    for kind in ("csv", "json", "ids"):
        alike(both, lambda page, kind=kind: saved(page, kind))
    both[1].click("#clear")
    rows = list(csv.DictReader(io.StringIO(saved(both[1], "csv"))))
    clusters = many[0].read_table("clusters.parquet").to_pylist()
    assert [row["video_id"] for row in rows] == [row["video_id"] for row in clusters]
    assert [row["group"] for row in rows] == [row["group"] for row in clusters]


def test_its_address_brings_it_back(both):
    state = "#color=distance&find=red&time=0.500&select=3.8-12&open=8&sort=-name"
    for page in both:
        page.goto(page.url.partition("#")[0] + "#")
        page.goto(page.url.partition("#")[0] + state)
        page.reload()
        page.wait_for_selector("#explorer[data-ready=yes]")
    alike(both, shown_rows)
    alike(both, lambda page: page.inner_text("#selected-count"))
    assert fragment(both[1]) == state


def test_the_pane_of_a_video_that_came_late(both):
    for page in both:
        page.fill("#search", "robot 4")
        shown_rows(page)
        page.locator("#table-space [role=row]").nth(3).click()
    both[1].wait_for_selector("#details .near button")
    alike(both, lambda page: page.inner_text("#details h3"))
    alike(both, lambda page: page.inner_text("#details dl"))
    alike(both, lambda page: page.locator("#details .path polyline.mine").get_attribute("points"))
    alike(both, lambda page: page.locator("#details .links line").count())
    both[1].wait_for_function("document.querySelector('#details .near bdi').textContent != '…'")  # It comes late too.
    name = both[1].locator("#details .near bdi").first.inner_text()
    both[1].locator("#details .near button").first.click()
    both[1].wait_for_function("name => document.querySelector('#details h3')?.textContent.includes(name)", arg=name)


def test_the_map_draws_the_same_paths(both):
    shots = []
    for page in both:
        page.wait_for_timeout(500)
        shots.append(page.locator("#map").screenshot())
    pictures = [np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float) for shot in shots]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5


def test_what_cannot_be_fetched_is_said_and_tried_again(both):
    page, refused = both[1], []

    def refuse(route):
        refused.append(route.request.url)
        route.fulfill(status=200, body=b"", headers={"raypipe-version": ""})

    page.route("**/rows?*", refuse)
    page.locator("#table-body").evaluate("e => { e.scrollTop = 9000; }")
    page.wait_for_selector("text=Some videos could not be fetched")
    page.unroute("**/rows?*")
    page.locator("#table-body").evaluate("e => { e.scrollTop = 9010; }")
    assert not any("…" in row for row in shown_rows(page)) and refused


def test_rows_of_another_version_of_the_run_are_not_taken(both, many):
    run, page = many[0], both[1]
    shown_rows(page)
    run.write_bytes("report.html", run.read_bytes("report.html"))
    page.locator("#table-body").evaluate("e => { e.scrollTop = 9000; }")
    page.wait_for_selector("text=This run has been clustered again: reload the page.")
    rows = page.evaluate(ROWS)
    assert sum("…" in row for row in rows) > len(rows) / 2, "the cards' videos have come before"
    page.reload()
    page.wait_for_selector("#explorer[data-ready=yes]")
    alike(both, shown_rows)
