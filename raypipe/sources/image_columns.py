"""URIs of videos that are no files of their own, but pictures in the rows of a Parquet file.

``file:///data/file-000.parquet#episode=3&column=observation.images.front`` stands for those of episode 3 in one column.
In a canonical ``file://`` URI a ``#`` of a file's own name is percent-encoded, so that this one can stand for nothing
else.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

_URI = re.compile(r"(.+)#episode=(\d+)&column=([^#&]+)", re.DOTALL)


class ImageColumn(NamedTuple):
    """The pictures of one episode in one column.

    Attributes
    ----------
    file
        URI of the Parquet file.
    episode
        The rows whose ``episode_index`` is this.
    column
        The column: structs of ``bytes`` (PNG or JPEG) and ``path``.
    """

    file: str
    episode: int
    column: str

    @property
    def uri(self) -> str:
        """The URI, which `parse_image_column` reads."""
        return f"{self.file}#episode={self.episode}&column={quote(self.column, safe='')}"


def parse_image_column(uri: str) -> ImageColumn | None:
    """Return which pictures a URI stands for, or None if it is that of a file."""
    found = _URI.fullmatch(uri)
    return ImageColumn(found[1], int(found[2]), unquote(found[3])) if found else None
