"""The player in a real browser: skipped where Playwright or Chromium is missing."""

import time

import numpy as np
import pytest
from numbered import HEIGHT, WIDTH, write
from page_server import SECONDS, TOKEN, make_run, serve_page

from bench.numbered import read_number

VIDEOS = "[...document.querySelectorAll('.rp-player video')]"
TIMES = f"{VIDEOS}.map(v => v.currentTime)"


RATE = 25
NUMBERED = {  # how the videos are written whose frames bear their numbers
    "plain.mp4": {},
    "late.mp4": {"start_ms": 480},
    "with_sound.mp4": {"audio_s": 6.0, "start_ms": 200},
    "late.mkv": {"start_ms": 480},
    "old.avi": {"codec": "mpeg4"},
    "stream.ts": {"codec": "mpeg2video"},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("player")
    numbered = {name: write(folder / name, n_frames=6 * RATE, rate=RATE, **how) for name, how in NUMBERED.items()}
    run = make_run(folder, {name: path.as_uri() for name, path in numbered.items()})
    with serve_page(run, folder / "cache") as served:
        yield served


@pytest.fixture
def page(online, served):
    """Open the page; nothing may go wrong in it."""
    page = online.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: f":{served.port}/" in request.url or "data:" in request.url or wrong.append(request.url),
    )
    page.goto(f"http://127.0.0.1:{served.port}/{TOKEN}/")
    if not page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.640028\"')"):
        pytest.skip("this Chromium does not play H.264")
    yield page
    page.close()
    assert not wrong


def wait_until_played(page, n: int, beyond_s: float) -> list[float]:
    """Wait until all of n videos have been played up to a time; the page's policy forbids Playwright's own way."""
    end = time.monotonic() + 30
    while True:
        times = page.evaluate(TIMES)
        if len(times) == n and min(times) > beyond_s:
            return times
        assert time.monotonic() < end, times
        page.wait_for_timeout(50)


def test_a_click_plays_the_video_at_that_moment(page, served):
    ranges = []
    page.on("response", lambda answer: answer.url.endswith("/video/c") and ranges.append(answer.status))
    strip = page.locator('.row[data-video="c"] .strip img').first
    box = strip.bounding_box()
    strip.click(position={"x": 0.75 * box["width"], "y": 10})
    first = wait_until_played(page, 1, 4.0)[0]
    assert first < 6
    assert wait_until_played(page, 1, first + 0.3)[0] > first
    assert 206 in ranges
    page.click("text=Close")
    page.wait_for_selector(".rp-player video", state="detached")


def test_the_open_video_of_the_explorer_plays(page, served):
    page.wait_for_selector("#explorer[data-ready=yes]")
    page.locator("#table-space [role=row]").first.click()
    page.click("text=Play from the time of the map")
    wait_until_played(page, 1, 0.3)
    page.click("text=Close")
    page.click("text=Play beside the nearest")
    wait_until_played(page, 2, 0.3)


def test_the_name_of_the_open_video_plays_it_by_the_keyboard_too(page, served):
    """It is a link to the file, which no browser follows from a served page."""
    page.wait_for_selector("#explorer[data-ready=yes]")
    page.locator("#table-space [role=row]").first.click()
    page.focus("#details h3 a")
    page.keyboard.press("Enter")
    wait_until_played(page, 1, 0.3)
    page.keyboard.press("Escape")
    page.wait_for_selector(".rp-player video", state="detached")


def test_the_open_video_plays_from_where_the_map_is_now(page, served):
    page.wait_for_selector("#explorer[data-ready=yes]")
    page.locator("#table-space [role=row]").first.click()
    page.locator("#time").evaluate("e => { e.value = 0.5; e.dispatchEvent(new Event('input')); }")
    page.click("text=Play from the time of the map")
    assert wait_until_played(page, 1, 0.01)[0] > SECONDS / 2 - 0.1


def test_two_videos_do_the_same_at_the_same_time(page, served):
    """See `test_aligned_videos_do_the_same_at_the_same_time`: where a is at t, b is at 2.5 + 0.6 (t − 0.5)."""
    page.evaluate("raypipe.compare(['a', 'b'], 1.0)")
    # The page itself looks: on a machine that has much to do, the videos end before this process looks again.
    seen = page.evaluate(f"""() => new Promise(done => {{
        const seen = [];
        const timer = setInterval(() => {{
            const times = {TIMES};
            if (times.length == 2 && Math.min(...times) > 1.5) seen.push(times);
            if (times[0] > 3) done(seen, clearInterval(timer));
        }}, 100);
    }})""")
    for a, b in seen:
        assert abs(b - (2.5 + 0.6 * (a - 0.5))) < 0.4
    assert seen[-1][0] > seen[0][0] + 0.3 and seen[-1][1] > seen[0][1] + 0.15


@pytest.mark.parametrize("video", ["avi", "part"])
def test_a_converted_video_plays(page, served, video):
    page.evaluate(f"raypipe.play('{video}')")
    wait_until_played(page, 1, 0.6)
    assert page.evaluate(f"{VIDEOS}[0].currentSrc").endswith(f"video/{video}/converted.mp4")
    said, end = page.locator(".rp-player figcaption span"), time.monotonic() + 30
    while float(said.inner_text().split()[0]) <= (2.5 if video == "part" else 0.5):  # It is written after the frame.
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def test_neighbours_are_offered_and_played_beside(page, served):
    page.locator('.row[data-video="a"] a').first.click()
    page.locator(".rp-like button").first.click(timeout=30_000)
    wait_until_played(page, 2, 0.3)


SHOWN = """
async ([width, height]) => {
  const video = document.querySelector('.rp-player video');
  while (video.seeking || video.readyState < 2) await new Promise((done) => setTimeout(done, 20));
  await new Promise((done) => setTimeout(done, 100));
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0, width, height);
  return [...context.getImageData(0, 0, width, height).data].filter((_, i) => i % 4 == 1);
}
"""


@pytest.mark.parametrize("name", NUMBERED)
def test_the_frame_at_a_moment_is_the_one_on_display_then(page, served, name):
    page.evaluate(f"raypipe.play('{name}', 0.5)")
    wait_until_played(page, 1, 0.1)
    # At once: by the time that a busy machine clicks, the video may have ended, and the button says Play.
    page.evaluate(
        "() => { const b = document.querySelector('.rp-bar button'); if (b.innerText == 'Pause') b.click(); }"
    )
    for time_s in (0.02, 1.3, 2.66, 5.98):
        page.evaluate("t => { const s = document.querySelector('.rp-bar input'); s.value = t; s.oninput(); }", time_s)
        for _ in range(20):  # A busy machine is late with drawing.
            pixels = page.evaluate(SHOWN, [WIDTH, HEIGHT])
            shown = read_number(np.array(pixels, np.uint8).reshape(HEIGHT, WIDTH))
            if shown == int(time_s * RATE):
                break
        assert shown == int(time_s * RATE), time_s
