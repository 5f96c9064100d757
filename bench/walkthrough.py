"""The pictures of docs/walkthrough.md: parts of the page as a reader sees them, taken by a headless Chromium.

raypipe run videos/robot_tasks -o ROBOTS --encoder descriptor -k 6
raypipe demo -o DEMO
raypipe run lerobot_v30/codes_video -o EPISODES --encoder descriptor -k 3 --camera observation.images.front
python -m bench.walkthrough ROBOTS DEMO EPISODES [--to docs/images]
"""

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image

from bench.page_libraries import open_browser

MOST_BYTES = 80_000


def open_report(page: Any, run: Path) -> None:
    """Open the report of a run afresh."""
    page.goto("about:blank")
    page.goto(f"file://{(run / 'report.html').resolve()}")
    page.wait_for_selector("#explorer[data-ready=yes]")


def open_oddest(page: Any) -> None:
    """Show the outliers alone, and open the first that the table lists."""
    page.check("#outliers-only")
    page.click("#table-head button:text-is('outlier score')")
    page.locator("#table-space [role=row]").first.click()
    page.wait_for_timeout(500)


def picture(page: Any, first: str, last: str, above: int = 12, within: str = "main") -> Image.Image:
    """Return a picture of the page from the top of one element to the bottom of another, as wide as a third."""
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    top = page.locator(first).first.evaluate("e => e.getBoundingClientRect().top + scrollY")
    bottom = page.locator(last).first.evaluate("e => e.getBoundingClientRect().bottom + scrollY")
    box = page.locator(within).bounding_box()
    return whole.crop((int(box["x"]), max(int(top) - above, 0), int(box["x"] + box["width"]), int(bottom) + 12))


def keep_picture(shot: Image.Image, path: Path) -> None:
    """Write a picture as WebP, as good as the bytes allow."""
    for quality in range(88, 20, -8):
        shot.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= MOST_BYTES:
            break
    print(f"{path}: {shot.width}×{shot.height}, {path.stat().st_size:,} bytes")


def main() -> None:
    """Take the pictures of the five questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("robots", "demo", "episodes"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--to", type=Path, default=Path(__file__).parents[1] / "docs/images")
    given = parser.parse_args()
    with open_browser() as (_, page):
        page.set_viewport_size({"width": 1180, "height": 900})
        open_report(page, given.robots)
        keep_picture(picture(page, ".jump", ".jump"), given.to / "walkthrough_1.webp")
        keep_picture(picture(page, ".confusion", ".confusion", 20), given.to / "walkthrough_3.webp")
        open_report(page, given.demo)
        open_oddest(page)
        keep_picture(picture(page, ".views", "#table-space [role=row]", 60), given.to / "walkthrough_2.webp")
        keep_picture(
            picture(page, "#details .film", "#details .near", within="#details"), given.to / "walkthrough_4.webp"
        )
        open_report(page, given.episodes)
        page.check("#outliers-only")
        page.select_option("#export-as", "lerobot")
        keep_picture(picture(page, "#selected-count", "#table-space [role=row]"), given.to / "walkthrough_5.webp")


if __name__ == "__main__":
    main()
