"""Captions as datasets keep them: several of one video, or one for each window of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raypipe.sources.columns import writable

BETWEEN = " | "
"""What stands between captions that became one text, as in Cosmos Curate's own joined ones."""


def join_captions(captions: Iterable[str]) -> str | None:
    """Return captions as one text, each once, in their order; None if there is none."""
    kept = dict.fromkeys(writable(text) for caption in captions if (text := caption.strip()))
    return BETWEEN.join(kept) or None


def window_captions(meta: Mapping[str, Any]) -> list[str]:
    """Return the caption of each window of a clip's metadata (Cosmos Curate, NeMo Curator), in order.

    A window has ``MODEL_enhanced_caption`` or ``MODEL_caption``; the first is taken where there is one.
    """
    windows = meta.get("windows")
    found = []
    for window in windows if isinstance(windows, list) else ():
        texts = {name: text for name, text in window.items() if name.endswith("_caption") and isinstance(text, str)}
        best = sorted(texts, key=lambda name: not name.endswith("_enhanced_caption"))
        found += [texts[name] for name in best[:1] if texts[name].strip()]
    return found
