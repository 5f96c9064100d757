"""The page as `raypipe explore` serves it: what it does not hold comes from the server."""

import pytest
from page_server import TOKEN, serve_page
from report_runs import WRITTEN, N, frames_of, make_explored_run

from raypipe.config import ReportConfig
from raypipe.report import explorer, write_report_files

FILM = "#details .film"


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
def open_served(chromium, served):
    """Return a function that opens the served page, with a fragment; no page may end with an error."""
    contexts, errors = [], []

    def open_one(fragment="", **options):
        context = chromium.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{served.port}/{TOKEN}/{fragment}")
        page.wait_for_selector("#explorer[data-ready=yes]")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not errors


def test_film_strips_that_the_page_lacks_come_from_the_server(open_served):
    page = open_served()
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


def test_an_open_page_notices_that_its_run_was_clustered_again(open_served, run):
    page = open_served()
    assert page.locator(".rp-stale").count() == 0
    run.write_bytes("clusters.parquet", run.read_bytes("clusters.parquet"))
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.wait_for_selector("text=This run has been clustered again: reload the page.")
    page.reload()
    page.wait_for_selector("#explorer[data-ready=yes]")
    page.evaluate("raypipe.ask('version')")
    assert page.locator(".rp-stale").count() == 0
