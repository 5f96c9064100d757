"""Captions as datasets keep them: several of one video, or one for each window of a clip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from raypipe.errors import SourceError
from raypipe.sources.columns import writable
from raypipe.sources.files import list_folder, map_files, unquoted
from raypipe.sources.videos import Videos
from raypipe.storage import is_transient, open_file

BETWEEN = " | "
"""What stands between captions that became one text, as in Cosmos Curate's own joined ones."""


def join_captions(captions: Iterable[str]) -> str | None:
    """Return captions as one text, each once, in their order; None if there is none."""
    kept = dict.fromkeys(writable(text) for caption in captions if (text := caption.strip()))
    return BETWEEN.join(kept) or None


def read_texts(found: Videos, source: str) -> Videos:
    """Return the videos of a folder with the captions of the folder ``metas`` in it, a text a video, where it has one.

    So Cosmos Predict 2 is trained: ``metas/a.txt`` is what ``videos/a.mp4`` shows. Cosmos Curate writes such folders.
    """
    texts = list_folder(f"{source.rstrip('/')}/metas", re.compile(r".+\.txt")) if found.n_ignored else {}
    if not texts:
        return found
    videos = list(found)
    paths = [texts.get(f"{_stem(video.uri)}.txt") if video.group == "videos" else None for video in videos]
    wanted = dict.fromkeys(path for path in paths if path is not None)
    read = dict(zip(wanted, map_files(_read_text, wanted), strict=True))
    errors = [text for text in read.values() if isinstance(text, SourceError)]
    captions = {path: text for path, text in read.items() if not isinstance(text, SourceError)}
    told = Videos(
        replace(video, caption=captions[path]) if path in captions else video
        for video, path in zip(videos, paths, strict=True)
    )
    told.n_ignored, told.notes = found.n_ignored - len(captions), found.notes
    if errors:
        told.notes += (f"captions that cannot be read: {len(errors):,} (the first: {errors[0]})",)
    return told


def _stem(uri: str) -> str:
    """Return the name of a file without its suffix."""
    return unquoted(uri.rpartition("/")[2], uri).rpartition(".")[0]


def _read_text(path: str) -> str | SourceError | None:
    try:
        with open_file(path) as file:
            return join_captions([file.read().decode("utf-8", "replace")])
    except SourceError as error:
        if is_transient(error):
            raise
        return error


def window_captions(meta: Mapping[str, Any]) -> list[str]:
    """Return the caption of each window of a clip's metadata (Cosmos Curate, NeMo Curator), in order.

    A window has ``MODEL_enhanced_caption`` or ``MODEL_caption``; the first is taken where there is one.
    """
    told = meta.get("windows")
    windows = [window for window in told if isinstance(window, dict)] if isinstance(told, list) else []
    found = []
    for window in windows:
        texts = {name: text for name, text in window.items() if name.endswith("_caption") and isinstance(text, str)}
        best = sorted(texts, key=lambda name: not name.endswith("_enhanced_caption"))
        found += [texts[name] for name in best[:1] if texts[name].strip()]
    return found
