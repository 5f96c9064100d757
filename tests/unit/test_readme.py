"""What the README names is there, and its pictures are no larger than a reader should have to load."""

import re
from pathlib import Path

from PIL import Image

from bench.readme_pictures import IMAGES, MOST_BYTES

ROOT = Path(__file__).parents[2]


def test_what_the_readme_names_is_there():
    named = re.findall(r"""(?:]\(|src=")([^)"#]+)""", (ROOT / "README.md").read_text())
    local = [name for name in named if "://" not in name]
    assert len(local) > 10
    assert not [name for name in local if not (ROOT / name).exists()]


def test_its_pictures_are_small_and_the_recording_moves():
    assert not [name for name, most in MOST_BYTES.items() if (IMAGES / name).stat().st_size > most]
    with Image.open(IMAGES / "page_recording.webp") as recording:
        assert recording.n_frames > 100
