"""A page in a browser: opened from disk, without a network, and without an error on its console."""

import os
import shutil

import pytest
from report_runs import WRITTEN, frames_of, make_explored_run
from watched_pages import close, watch

from raypipe.config import ReportConfig
from raypipe.report import write_report_files

# WebGL in software, as there is no GPU in a container; a container's root has no sandbox.
FLAGS = [
    "--no-sandbox",
    "--enable-unsafe-swiftshader",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--autoplay-policy=no-user-gesture-required",
]


@pytest.fixture(scope="session")
def chromium():
    """Return a running Chromium, RAYPIPE_CHROMIUM or one on the PATH or Playwright's own, or skip."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("RAYPIPE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=path, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def online(chromium):
    """Return the context of the pages that need none of their own, as a new one takes longer than a page.

    One page may be open in it at a time: a page that lies behind another is slow.
    """
    with chromium.new_context(accept_downloads=True) as context:
        yield context


@pytest.fixture(scope="session")
def offline(chromium):
    """Return such a context without a network."""
    with chromium.new_context(accept_downloads=True, offline=True) as context:
        yield context


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Return the run that `report_runs.make_explored_run` makes, with its report."""
    run = make_explored_run(tmp_path_factory.mktemp("page") / "run")
    write_report_files(run, frames_of, ReportConfig(sheet_videos=2, sheet_frames=3), WRITTEN)
    return run


@pytest.fixture
def open_page(chromium, offline, run):
    """Return a function that opens the report, with a fragment behind its address; no page may end with an error."""
    pages, errors = [], []

    def open_one(fragment="", path=None, **options):
        has_own = options or pages
        context = chromium.new_context(offline=True, accept_downloads=True, **options) if has_own else offline
        page = watch(context, errors)
        pages.append(page)
        page.on("request", lambda request: errors.append(request.url[:80]) if not is_local(request.url) else None)
        page.goto(f"file://{path or run.path('report.html')}{fragment}")
        page.wait_for_selector("#explorer[data-ready=yes]")
        return page

    yield open_one
    close(pages, offline)
    assert not errors


def is_local(address: str) -> bool:
    return address.startswith(("file:", "data:", "blob:"))
