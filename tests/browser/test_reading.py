"""Whether the page can be read and used by everybody: contrast, the keyboard, and that nothing jumps."""

import pytest
from contrast import FIND_POOR
from page_server import TOKEN, make_run, serve_page
from report_runs import make_run as make_written_run

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.report.posters.poster_layout import PosterForm

SHIFTS = """
window.shifted = 0;
new PerformanceObserver(list => {
  for (const each of list.getEntries()) if (!each.hadRecentInput) window.shifted += each.value;
}).observe({type: "layout-shift", buffered: true});
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("reading"))
    pipeline.poster(run, make_config(), f"{run.path()}/poster.png", PosterForm(width=400), Progress())
    clusters = run.read_table("clusters.parquet")["video_id"].to_pylist()
    run.write_json("duplicates.json", {"compared": len(clusters), "groups": [clusters[:3]]})
    fault = {"kind": "length", "says": "its file lasts longer", "episode": 1, "camera": "top", "videos": clusters[:1]}
    run.write_json("dataset_faults.json", {"dataset": "/data/set", "faults": [fault]})
    pipeline.report(run, make_config(base=run.info()["config"]), Progress())
    with serve_page(run, tmp_path_factory.mktemp("cache")) as served:
        yield served


def visit(context, served, fragment="#open=0"):
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"http://127.0.0.1:{served.port}/{TOKEN}/{fragment}")
    page.wait_for_selector("#explorer[data-ready=yes]")
    page.wait_for_selector("#finder:visible")
    return page


@pytest.mark.parametrize(
    ("size", "schemes"),
    [((1400, 900), ("light", "dark")), ((390, 844), ("dark", "light"))],  # the one it is opened in, and the other
)
def test_every_text_stands_out_from_its_ground(chromium, served, size, schemes):
    context = chromium.new_context(color_scheme=schemes[0], viewport={"width": size[0], "height": size[1]})
    page = visit(context, served)
    page.click("text=Find most like this")
    page.wait_for_selector(".found li")
    page.click("text=Show the poster")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.locator(".cluster a").first.click()
    page.wait_for_selector(".rp-player[open] .rp-like button")
    grounds = set()
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        found = page.evaluate(FIND_POOR, 4.5)
        assert found["n"] > 200 and not found["poor"], scheme
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert len(grounds) == 2
    context.close()


def test_poor_contrast_is_found(chromium):
    page = chromium.new_page()
    page.set_content("<body style='background: #fff'><p style='color: #999'>pale</p><p style='opacity: .3'>faint</p>")
    assert len(page.evaluate(FIND_POOR, 4.5)["poor"]) == 2
    page.close()


@pytest.mark.parametrize("fragment", ["", "#open=0"])
def test_nothing_jumps_after_the_first_picture(chromium, served, fragment):
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    context.add_init_script(SHIFTS)
    page = visit(context, served, fragment)
    page.wait_for_timeout(1500)
    assert page.evaluate("window.shifted") < 0.1
    context.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(chromium, served):
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    page = visit(context, served)
    wanted = page.evaluate("""() => {
      const all = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")];
      const there = all.filter(each => each.checkVisibility() && !each.disabled && !each.closest(".unseen, dialog"));
      there.forEach((each, i) => { each.dataset.stop = i; });
      return there.length;
    }""")
    seen, blind = set(), set()
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        stop, outline = page.evaluate("""() => {
          const at = document.activeElement, style = getComputedStyle(at);
          return [at.dataset?.stop ?? null, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1];
        }""")
        if stop is None:
            continue
        seen.add(int(stop))
        if not outline:
            blind.add(int(stop))
    describe = "i => document.querySelector(`[data-stop='${i}']`).outerHTML.slice(0, 100)"
    missed = [page.evaluate(describe, i) for i in sorted(set(range(wanted)) - seen)]
    assert not missed and not [page.evaluate(describe, i) for i in blind]
    context.close()


def test_the_table_says_to_a_screen_reader_which_row_is_open(chromium, served):
    """Only some roles can, and a grid is one: of others, assistive technology passes over what is said."""
    page = visit(chromium, served)
    grid = page.get_by_role("grid")
    grid.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("#row-1.open")
    assert grid.get_attribute("aria-activedescendant") == "row-1"
    assert page.locator("#row-1").get_attribute("aria-rowindex") == "3", "behind the head, which is the first"
    assert grid.get_attribute("aria-owns") == page.get_by_role("columnheader").first.locator("..").get_attribute("id")
    n_rows = int(grid.get_attribute("aria-rowcount"))
    page.fill("#search", "nothing is named so")
    page.wait_for_selector(".nothing")
    assert n_rows > 3 and grid.get_attribute("aria-rowcount") == "1"
    assert grid.get_attribute("aria-activedescendant") is None, "the row is not there any more"
    page.close()


def test_a_page_without_pictures_says_why_once_a_cluster(open_page, tmp_path):
    run = make_written_run(tmp_path / "run", [f"file:///data/paths.npz#v{i}" for i in range(24)], k=3)
    pipeline.report(run, make_config(), Progress())
    for width in (1400, 390):
        page = open_page(path=run.path("report.html"), viewport={"width": width, "height": 844})
        assert page.locator(".none >> visible=true").count() == 3 < page.locator(".none").count()
        assert page.locator(".cluster .who >> visible=true").count() == 21
        assert page.evaluate("document.documentElement.scrollWidth") <= width
