"""The pictures and the recording of the README, made of a real run: the demo's, or a given one.

    python -m bench.readme_pictures [RUN]

`raypipe explore` serves the run, Chromium opens it, and each frame is a screenshot of a state that was set and has been
drawn, so that the recording is as smooth on a slow machine as on a quick one. The pointer is drawn where the mouse is.
The script fails where a file is larger than the README may ask its reader to load.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bench.page_beside import EXPLORED, started
from bench.page_libraries import FLAGS

IMAGES = Path(__file__).parents[1] / "docs/images"
PICTURES = ("page_map.webp", "page_pane.webp", "page_player.webp")
MOST_BYTES = {"page_recording.webp": 2_000_000} | dict.fromkeys(PICTURES, 250_000)
WINDOW = {"width": 1180, "height": 760}
WIDTH, FRAME_MS, HOLD_MS = 900, 80, 900
POINTER = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)]
SET_TIME = """([which, value]) => {
  const slider = document.querySelector(which);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
}"""
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
VIDEOS_SHOW = "() => [...document.querySelectorAll('.rp-player video')].every(v => v.readyState >= 2 && !v.seeking)"
HALT = "() => [...document.querySelectorAll('.rp-bar button')].find(b => b.textContent === 'Pause')?.click()"
TIME, CLOCK = "#time", ".rp-player input"


class Recording:
    """Takes frames of a page, each with the time for which it is shown."""

    def __init__(self, page: Any) -> None:
        self.page, self.at = page, (700.0, 620.0)
        self.frames: list[Image.Image] = []
        self.durations_ms: list[int] = []

    def take(self, duration_ms: int = FRAME_MS) -> None:
        """Take a frame of the page as it is, once it is drawn."""
        self.page.evaluate(DRAWN)
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        pen = ImageDraw.Draw(picture)
        pen.polygon([(self.at[0] + x, self.at[1] + y) for x, y in POINTER], fill="black", outline="white")
        height = round(picture.height * WIDTH / picture.width)
        self.frames.append(picture.resize((WIDTH, height), Image.Resampling.LANCZOS))
        self.durations_ms.append(duration_ms)

    def hold(self) -> None:
        """Show the last frame for longer."""
        self.durations_ms[-1] += HOLD_MS

    def go(self, x: float, y: float, n: int = 7) -> None:
        """Move the pointer to a place, slower at both ends."""
        begin = np.array(self.at)
        for part in (1 - np.cos(np.linspace(0, np.pi, n + 1)[1:])) / 2:
            self.move(*(begin + part * (np.array([x, y]) - begin)))

    def move(self, x: float, y: float) -> None:
        """Take a frame with the pointer at a place."""
        self.at = (float(x), float(y))
        self.page.mouse.move(x, y)
        self.take()

    def click(self, selector: str) -> None:
        """Go to an element and click on it."""
        box = self.page.locator(selector).first.bounding_box()
        self.go(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.click(*self.at)
        self.take()

    def slide(self, which: str, begin: float, end: float, n: int) -> None:
        """Move a slider, the pointer on its knob."""
        box = self.page.locator(which).bounding_box()
        most = float(self.page.locator(which).get_attribute("max"))
        for value in np.linspace(begin, end, n):
            self.page.evaluate(SET_TIME, [which, value])
            wait_for_videos(self.page)
            self.at = (box["x"] + 8 + (box["width"] - 16) * value / most, box["y"] + box["height"] / 2)
            self.take()

    def save(self, path: Path) -> None:
        """Write the frames as an animation that begins again at its end."""
        first, *others = self.frames
        shown: dict[str, Any] = {"append_images": others, "duration": self.durations_ms, "loop": 0}
        first.save(path, save_all=True, quality=60, method=4, minimize_size=True, **shown)


def wait_for_videos(page: Any) -> None:
    """Wait until each open video shows the moment that was asked for; the page's policy forbids Playwright's way."""
    while not page.evaluate(VIDEOS_SHOW):
        page.wait_for_timeout(20)


@contextmanager
def opened(run: Path, **options: Any) -> Iterator[Any]:
    """Yield the run's page, served by `raypipe explore`."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "raypipe", "explore", run, "--no-browser"]
    with started(command, "http") as (_, rest), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(color_scheme="light", **options)
        page.goto(f"http{rest}")
        page.wait_for_selector(EXPLORED)
        show_explorer(page)
        yield page
        browser.close()


def show_explorer(page: Any) -> None:
    """Scroll to the map, and wait until it is drawn."""
    page.locator("#explorer").evaluate("each => scrollTo(0, each.getBoundingClientRect().top + scrollY - 8)")
    page.evaluate(DRAWN)


def lasso_of(page: Any) -> list[tuple[float, float]]:
    """Return a loop round the video that is rightmost on the map, wherever the map has its paths."""
    box = page.locator("#map").bounding_box()
    turn = np.linspace(-0.5 * np.pi, 1.5 * np.pi, 18)
    for x in np.arange(box["x"] + box["width"] - 8, box["x"], -12).tolist():
        for y in np.arange(box["y"] + 8, box["y"] + box["height"], 12).tolist():
            page.mouse.move(x, y)
            if page.locator("#map-tip").is_visible():
                page.mouse.move(box["x"] + 4, box["y"] + 4)
                xs = x + box["width"] * (0.1 * np.cos(turn) - 0.03)
                ys = y + box["height"] * 0.17 * np.sin(turn)
                return list(zip(xs.tolist(), ys.tolist(), strict=True))
    raise RuntimeError("there is no video on the map")


def draw_lasso(page: Any, loop: list[tuple[float, float]], move: Any) -> None:
    """Draw the loop by a function that moves the pointer."""
    first, *others = loop
    page.mouse.move(*first)
    page.mouse.down()
    for place in others:
        move(*place)
    page.mouse.up()


def find_video(page: Any, lasso: list[tuple[float, float]]) -> tuple[float, float]:
    """Return a place within the lasso where the pointer is on a video."""
    loop = np.array(lasso)
    for y in np.linspace(*(loop[:, 1].min(), loop[:, 1].max()), 30):
        for x in np.linspace(*(loop[:, 0].min(), loop[:, 0].max()), 30):
            page.mouse.move(x, y)
            if page.locator("#map-tip").is_visible():
                return float(x), float(y)
    raise RuntimeError("there is no video within the lasso")


def open_selected(page: Any) -> None:
    """Open the first of the selected videos, and leave all of them selected."""
    page.check("#selected-only")
    page.focus("#table-body")
    page.keyboard.press("ArrowDown")
    page.uncheck("#selected-only")
    show_explorer(page)


def open_player(page: Any) -> None:
    """Play the open video beside its nearest, and halt both, so that their moment can be set."""
    page.click("text=Play beside the nearest")
    page.wait_for_selector(".rp-player video", state="attached")
    page.evaluate(HALT)
    wait_for_videos(page)
    page.wait_for_selector(".rp-like img")
    page.wait_for_load_state("networkidle")


def record(run: Path, path: Path) -> None:
    """Record the time slider, a lasso, the pane of a video, and two videos that play aligned."""
    with opened(run, viewport=WINDOW) as page:
        film = Recording(page)
        film.slide(TIME, 0, 0.6, 26)
        loop = lasso_of(page)
        film.click("#lasso")
        film.go(*loop[0])
        draw_lasso(page, loop, film.move)
        film.take(HOLD_MS)
        place = find_video(page, loop)
        film.go(*place)
        page.mouse.click(*place)
        film.take(HOLD_MS)
        film.slide(TIME, 0.6, 0.05, 14)
        film.hold()
        film.click("text=Play beside the nearest")
        page.keyboard.press("Escape")
        open_player(page)
        length = float(page.locator(CLOCK).get_attribute("max"))
        film.slide(CLOCK, 0, 0.9 * length, 40)
        film.hold()
        film.save(path)


def take_pictures(run: Path, folder: Path) -> None:
    """Take the map with a lasso's selection, the pane as a whole, and the player with two videos."""
    with opened(run, viewport={"width": 1180, "height": 760}, device_scale_factor=1.5) as page:
        page.evaluate(SET_TIME, [TIME, 0.6])
        loop = lasso_of(page)
        page.click("#lasso")
        draw_lasso(page, loop, page.mouse.move)
        open_selected(page)
        keep_picture(page.screenshot(), folder / "page_map.webp")
        page.click("#clear")
        open_player(page)
        page.evaluate(SET_TIME, [CLOCK, 0.45 * float(page.locator(CLOCK).get_attribute("max"))])
        wait_for_videos(page)
        page.evaluate(DRAWN)
        keep_picture(page.locator(".rp-player").screenshot(), folder / "page_player.webp")
    with opened(run, viewport={"width": 700, "height": 800}, device_scale_factor=1.5) as page:
        page.evaluate(SET_TIME, [TIME, 0.6])
        loop = lasso_of(page)
        page.click("#lasso")
        draw_lasso(page, loop, page.mouse.move)
        open_selected(page)
        page.locator("#details").evaluate("pane => { pane.style.maxHeight = 'none'; }")
        page.locator("#details section").evaluate("nearest => nearest.remove()")
        page.evaluate(DRAWN)
        keep_picture(page.locator("#details").screenshot(), folder / "page_pane.webp")


def keep_picture(png: bytes, path: Path) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=85, method=6)


def main() -> None:
    """Make them, and see to their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run; by default the demo is run")
    parser.add_argument("--into", type=Path, default=IMAGES, help="the folder to write into")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = chosen.run or Path(folder) / "run"
        if not chosen.run:
            subprocess.run([sys.executable, "-m", "raypipe", "demo", "-q", "-o", run], check=True)
        take_pictures(run, chosen.into)
        record(run, chosen.into / "page_recording.webp")
    for name, most in MOST_BYTES.items():
        size = (chosen.into / name).stat().st_size
        print(f"{name}: {size / 1000:.0f} kB")
        if size > most:
            sys.exit(f"{name} has {size / 1000:.0f} kB, more than {most / 1000:.0f}")


if __name__ == "__main__":
    main()
