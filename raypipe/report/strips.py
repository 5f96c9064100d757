"""Film strips that lie on any ground."""

from PIL import Image

_LINE = 2  # Pixels


def part_pictures(strip: Image.Image, width: int) -> None:
    """Make lines between pictures of this width transparent, so that the ground parts them, by day and by night."""
    mask = Image.new("L", strip.size, 255)
    for x in range(width, strip.width, width):
        mask.paste(0, (x, 0, x + _LINE, strip.height))
    strip.putalpha(mask)
