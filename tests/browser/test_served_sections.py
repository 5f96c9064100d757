"""What a served page has beside the player: search, and the poster; and what remains of them on a page from disk."""

import json
import time

import numpy as np
import pytest
from page_server import TOKEN, make_run, serve_page
from worded import WORDS, make_worded

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.report.posters.poster_layout import PosterForm
from raypipe.runs.directory import Run
from raypipe.trajectories import similarity

SETS = (
    "cluster.n_clusters=2",
    "cluster.n_init=1",
    "reduce.method=pca",
    "reduce.n_components=2",
    "report.sheet_frames=2",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("sections"))


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    with serve_page(run, tmp_path_factory.mktemp("cache")) as served:
        yield served


def config_of(run):
    return make_config(base=run.info()["config"])


@pytest.fixture
def visit(chromium, online):
    """Return a function that opens a served page; nothing may go wrong in it but what it expects."""
    pages, wrong = [], []

    def visit_one(served, fragment="", expected=(), **options):
        page = chromium.new_page(**options) if options or pages else online.new_page()
        pages.append(page)
        page.set_default_timeout(60_000)

        def note(text):
            if not any(each in text for each in expected):
                wrong.append(text)

        page.on("console", lambda message: note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"http://127.0.0.1:{served.port}/{TOKEN}/{fragment}")
        page.wait_for_selector("#explorer[data-ready=yes]")
        page.wait_for_selector("#finder:visible")
        return page

    yield visit_one
    for page in pages:
        page.close()
    assert not wrong


def found_names(page) -> list[str]:
    page.wait_for_selector(".found li")
    return page.locator(".found li bdi").all_inner_texts()


def row_of(run, video_id) -> int:
    return run.read_table("clusters.parquet")["video_id"].to_pylist().index(video_id)


@pytest.mark.parametrize(("button", "least"), [("Find most like this", False), ("Least like this", True)])
def test_videos_like_the_open_one_are_found(visit, served, run, button, least):
    page = visit(served, f"#open={row_of(run, 'c')}")
    page.click(f"text={button}")
    expected = served.ask(f"search?like=c&n=9&least={str(least).lower()}").json["videos"]
    shown = found_names(page)
    assert shown == [each["name"] for each in expected] and len(shown) > 3
    page.click("text=Select all found on the map")
    assert page.inner_text("#selected-count") == f"{len(expected)} selected"
    page.locator(".found li button.video").first.click()
    assert shown[0] in page.inner_text("#details h3")
    assert f"open={row_of(run, expected[0]['video_id'])}" in address(page)


def address(page) -> str:
    page.wait_for_timeout(300)
    return page.evaluate("location.hash")


@pytest.mark.parametrize("query", ["like=2&least=1&count=9", "like=0&from=1&to=4&count=20"])
def test_a_search_stands_in_the_address_and_is_made_again_from_it(visit, served, query):
    page = visit(served, f"#open=0&{query}")
    names, said = found_names(page), page.inner_text("#finder .status")
    assert said.startswith(f"Found {len(names)}, {'least' if 'least' in query else 'most'} like ")
    assert page.locator("#finder .mark .part").is_visible() == ("from" in query)
    assert query in address(page)
    page.reload()
    assert found_names(page) == names and page.inner_text("#finder .status") == said
    page.click("#finder button.main")  # By the open video, whatever is asked for now.
    page.wait_for_selector(f"#finder .status:has-text('like {page.inner_text('#finder .query bdi')}')")
    assert "like=0" in address(page)
    page.evaluate("location.hash = '#open=1'")
    page.wait_for_selector(".found li", state="detached")
    assert page.inner_text("#finder .status") == "" and "like" not in address(page)


def test_a_page_of_before_opens_nothing_by_its_place_in_the_run_of_now(visit, served, run):
    page = visit(served, "#open=0")
    run.write_bytes("clusters.parquet", run.read_bytes("clusters.parquet"))
    page.click("text=Find most like this")
    assert found_names(page) and page.locator(".rp-stale").count() == 1
    assert page.locator(".found button.reel").count() > 3, "they play, by their ids"
    assert page.locator(".found button.video, .found > button").count() == 0


def test_a_page_that_is_being_written_again_comes_by_itself(visit, served, run):
    page, html = visit(served, expected=("503",)), run.read_bytes("report.html")
    run.remove("report.html")
    page.reload()
    assert "it is shown here" in page.inner_text("body")
    run.write_bytes("report.html", html)
    page.wait_for_selector("#explorer[data-ready=yes]")


def test_a_search_that_is_given_up_leaves_nothing(visit, served):
    page = visit(served, "#open=0")
    page.route("**/search?*", lambda route: None)  # It is never answered.
    page.click("text=Find most like this")
    page.click("#finder .status button")
    assert page.inner_text("#finder .status") == "" and "like" not in address(page)
    page.unroute("**/search?*")
    page.click("text=Find most like this")
    assert found_names(page)


def test_a_server_that_has_ended_is_said_in_a_line(visit, served):
    page = visit(served, "#open=0", expected=("ERR_CONNECTION_REFUSED",))
    page.route("**/search?*", lambda route: route.abort("connectionrefused"))
    page.route("**/video/*/info*", lambda route: route.abort("connectionrefused"))
    page.click("text=Find most like this")
    page.wait_for_selector("#finder .failure:not(:empty)")
    said = "the server does not answer: raypipe explore may have ended"
    assert page.inner_text("#finder .failure") == said
    page.click("text=Play from the time of the map")
    page.wait_for_selector(f".rp-player[open] >> text={said}")


def test_every_choice_of_the_search_has_a_name(visit, served):
    page = visit(served, "#open=0")
    assert page.get_by_role("combobox", name="Show the").count() == 1
    assert page.get_by_role("combobox", name="which videos").count() == 1


def test_without_an_open_video_the_page_says_what_to_do(visit, served):
    page = visit(served)
    assert "Open a video first" in page.inner_text("#finder .query")
    assert page.is_disabled("#finder button.main") and not page.locator("#finder .mark").is_visible()
    page.locator("#table-space [role=row]").first.click()
    assert "a.mp4" in page.inner_text("#finder .query") and page.is_enabled("#finder button.main")


def test_a_part_is_marked_by_dragging_or_by_its_seconds_and_plays_where_it_was_found(visit, served, run):
    page = visit(served, f"#open={row_of(run, 'a')}")
    page.locator("#finder .mark").scroll_into_view_if_needed()
    box = page.locator("#finder .mark").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 6, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, middle)
    page.mouse.move(box["x"] + box["width"] * 5 / 6, middle)
    page.mouse.up()
    fields = page.locator("#finder input[type=number]")
    assert [fields.nth(i).get_attribute("placeholder") for i in (0, 1)] == ["0", "6"], "what may be typed"
    assert [float(fields.nth(i).input_value()) for i in (0, 1)] == pytest.approx([1, 5], abs=0.05)
    page.click("text=Whole video")
    assert fields.nth(0).input_value() == "" and not page.locator("#finder .mark .part").is_visible()
    fields.nth(0).focus()
    page.keyboard.type("1")
    page.keyboard.press("Tab")
    page.keyboard.type("4")
    assert page.locator("#finder .mark .part").is_visible()
    page.click("text=Find where this part happens")
    expected = similarity.search(run, "a", from_s=1, to_s=4)
    assert len(found_names(page)) == len(expected)
    first = page.locator(".found li").first
    assert f"{expected[0]['start_s']:.1f} to {expected[0]['end_s']:.1f} s" in first.inner_text()
    mark, reel = first.locator(".part").bounding_box(), first.locator(".reel").bounding_box()
    assert (mark["x"] - reel["x"]) / reel["width"] == pytest.approx(expected[0]["start_s"] / 6, abs=0.03)
    first.locator("button.reel").click()
    page.wait_for_selector(".rp-player[open] .rp-screen")
    page.click("text=Pause")
    assert float(page.locator(".rp-player output").inner_text().split()[0]) >= expected[0]["start_s"] - 0.1


def test_what_cannot_be_searched_is_said_in_a_line(visit, served, run):
    page = visit(served, f"#open={row_of(run, 'a')}", expected=("400", "422"))
    assert "only the encoder clip reads texts" in page.inner_text("#finder form")
    assert page.locator("#finder form input").count() == 0
    page.locator("#finder input[type=number]").nth(0).fill("5")
    page.locator("#finder input[type=number]").nth(1).fill("2")
    page.click("text=Find where this part happens")
    page.wait_for_selector("#finder .failure:not(:empty)")
    assert page.inner_text("#finder .failure") == "the part from 5 s to 2 s is empty"
    assert not page.locator("#finder .status").is_visible()


def test_words_find_the_moment_that_shows_them(visit, tmp_path):
    run = make_worded(tmp_path, *SETS)
    config = config_of(run)
    pipeline.cluster(run, config, Progress())
    pipeline.report(run, config, Progress())
    with serve_page(run, tmp_path / "cache") as served:
        page = visit(served, expected=("404",))  # There are no videos to be played.
        page.fill("#finder input[type=search]", WORDS[2])
        page.keyboard.press("Enter")
        found_names(page)
        texts = page.locator(".found li").all_inner_texts()
        assert any("v1.mp4" in text and "2.0 to 3.0 s" in text for text in texts[:2])
        assert WORDS[2] in page.inner_text("#finder .status")


def test_trajectories_alone_are_searched_and_not_offered_to_be_played(visit, tmp_path):
    turns = np.random.default_rng(0).normal(size=(6, 1, 3)) + np.linspace(0, 1, 8)[:, None]
    (tmp_path / "paths.json").write_text(json.dumps(turns.tolist()))
    run, config = Run(f"{tmp_path}/run"), make_config(sets=SETS)
    pipeline.run_all(f"{tmp_path}/paths.json", run, config, Progress())
    with serve_page(run, tmp_path / "cache") as served:
        page = visit(served, "#open=0")
        assert page.locator("#details .film").count() == 0, "no picture is to come"
        page.click("text=Find most like this")
        assert len(found_names(page)) == 5 and page.locator(".found .reel").count() == 0
        page.locator("#finder input[type=number]").nth(0).fill("2")
        page.click("text=Find where this part happens")
        page.wait_for_selector(".found .reel .part")
        names = ".found .reel, #details h3 bdi, .cluster .clip > *, .gallery .clip > *"
        page.locator(names).evaluate_all("all => all.map(each => each.click())")
        page.wait_for_timeout(300)
        assert page.locator("button:has-text('Play'):visible, .rp-player[open]").count() == 0


@pytest.mark.parametrize("name", ["poster.png", "poster.dzi"])
def test_the_poster_zooms_and_opens_videos(visit, served, run, name):
    pipeline.poster(run, config_of(run), f"{run.path()}/{name}", PosterForm(width=400), Progress())
    page = visit(served)
    page.click("text=Show the poster")
    page.wait_for_timeout(800)
    canvas = page.locator("#poster canvas")
    box = canvas.bounding_box()
    before = canvas.screenshot()
    assert len(set(before)) > 50, "it is not blank"
    page.click("#poster [data-zoom='2']")
    page.wait_for_timeout(300)
    assert canvas.screenshot() != before
    page.click("#poster [data-zoom='0']")
    canvas.click(position={"x": box["width"] / 2 + 10, "y": box["height"] / 2 + 10})
    opened = page.inner_text("#details h3")
    assert "a.mp4" in opened or "old.avi" in opened, "only these have pictures"
    page.click("#details .close")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#details h3").count() == 1
    page.click("text=Hide the poster")
    assert canvas.count() == 0


def test_the_page_of_a_pyramid_opens_from_disk(chromium, run, tmp_path):
    pipeline.poster(run, config_of(run), f"{tmp_path}/wall.dzi", PosterForm(width=400), Progress())
    context = chromium.new_context(offline=True, viewport={"width": 800, "height": 600})
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"file://{tmp_path}/wall.html")
    page.wait_for_timeout(800)
    before = page.screenshot()
    page.mouse.move(410, 310)
    said = page.inner_text(".said")
    assert " s · " in said and ("a.mp4" in said or "old.avi" in said)
    page.keyboard.press("+")
    page.wait_for_timeout(300)
    assert page.screenshot() != before and not wrong
    context.close()


def test_a_run_without_a_poster_says_how_one_is_made(visit, served, run):
    for each in ("poster.json", "poster.png", "poster.dzi"):
        run.remove(each)
    page = visit(served)
    assert "raypipe poster" in page.inner_text("#poster") and page.locator("#poster button").count() == 0


def test_a_page_from_disk_has_no_search_and_its_contents_lead_to_what_it_has(open_page, run):
    page = open_page(path=run.path("report.html"))
    assert not page.locator("#finder").is_visible()
    links = page.locator("nav.contents a:visible")
    assert "Search" not in links.all_inner_texts() and "Clusters" in links.all_inner_texts()
    for link in links.all():
        target = link.get_attribute("href")
        assert page.locator(f"h2{target}").is_visible(), target
    links.last.click()
    deadline = time.monotonic() + 30  # The page scrolls smoothly, on a busy machine for some seconds.
    while (top := page.locator("h2#how-it-was-made").bounding_box()["y"]) >= 900 and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert top < 900
