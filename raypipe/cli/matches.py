"""What a search has found, as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from raypipe.runs.lookup import own_id
from raypipe.storage import shown_place

_HEAD = ["", "distance", "cluster", "label", "group", "from (s)", "to (s)", "video", "id"]


def as_text(found: list[Any], as_json: bool) -> str:
    """Lay what was found out as a table, or as JSON; groups of videos have a blank line between them."""
    if as_json:
        return json.dumps(found, indent=2, ensure_ascii=False)
    if not found:
        return "nothing found"
    groups = found if isinstance(found[0], list) else [found]
    times_used = Counter(uri for uri, _ in {(each["uri"], each.get("video_id")) for group in groups for each in group})
    rows = [[_cells(number, each, times_used) for number, each in enumerate(group, 1)] for group in groups]
    every = [_HEAD, *(row for group in rows for row in group)]
    kept = [i for i, name in enumerate(_HEAD) if any(row[i] for row in every[1:])]
    widths = {i: max(len(row[i]) for row in every) for i in kept}

    def lay_out(row: list[str]) -> str:
        return "  ".join(row[i].ljust(widths[i]) for i in kept).rstrip()

    blocks = ["\n".join(map(lay_out, block)) for block in ([_HEAD], *rows)]
    return ("\n\n" if len(rows) > 1 else "\n").join(blocks)


def _cells(number: int, each: dict[str, Any], times_used: Mapping[str, int]) -> list[str]:
    times = ["" if each[name] is None else f"{each[name]:.2f}" for name in ("start_s", "end_s")]
    cluster = "" if each["cluster"] is None else str(each["cluster"])
    uri = each["uri"]
    named = [each["label"] or "", each["group"] or ""]
    # A file of several videos does not tell them apart.
    own = (own_id(each) or each["video_id"]) if times_used[uri] > 1 else ""
    return [str(number), f"{each['distance']:.4g}", cluster, *named, *times, shown_place(uri), own]
