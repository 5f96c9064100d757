"""What the page of very many videos asks its server for, by what is in view: rows, paths, and which rows fit."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import numpy as np
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raypipe.errors import UsageError
from raypipe.report.serving.page_data import HeldPage, PageData
from raypipe.report.serving.player_answers import NotHere
from raypipe.runs.directory import Run
from raypipe.runs.run_version import VERSION_HEADER, read_version
from raypipe.storage import shown

MOST_ROWS, MOST_CORNERS, MOST_WORDS = 1000, 5000, 20
_GZIP = b"\x1f\x8b"
_RANGES = re.compile(r"\d{1,10}(?:-\d{1,10})?(?:\.\d{1,10}(?:-\d{1,10})?)*", re.ASCII)


def make_routes(run: Run, page: HeldPage, call: Callable[..., Awaitable[Any]]) -> list[Route]:
    """Return the routes to the answers, all of them bytes: packed arrays (`raypipe.report.packing`), or one array.

    Parameters
    ----------
    run
        The run.
    page
        The data of its page.
    call
        Calls a function in a thread.
    """

    def answer_by(read: Callable[[PageData, QueryParams], bytes]) -> Callable[[Request], Awaitable[Response]]:
        def find(ask: QueryParams, is_compressed: bool) -> tuple[bytes, str]:
            version, data = read_version(run), page.read()
            if data is None:
                raise NotHere("this page was written by an earlier raypipe: run raypipe report again")
            content = read(data, ask)
            if is_compressed and not content.startswith(_GZIP):
                content = gzip.compress(content, 3, mtime=0)  # Level 6 takes three times as long for a tenth less.
            return content, version

        async def answer(request: Request) -> Response:
            is_compressed = "gzip" in request.headers.get("accept-encoding", "")
            content, version = await call(find, request.query_params, is_compressed)
            headers = {VERSION_HEADER: version}
            if content.startswith(_GZIP):
                headers["content-encoding"] = "gzip"
            return Response(content, media_type="application/octet-stream", headers=headers)

        return answer

    return [Route(f"/{name}", answer_by(read)) for name, read in _READS.items()]


def _find_words(data: PageData, ask: QueryParams) -> bytes:
    words = [word for word in ask.get("text", "").lower().split(" ") if word]
    if len(words) > MOST_WORDS:
        raise UsageError(f"at most {MOST_WORDS} words are searched for at once")
    return data.find(words)


def _find_inside(data: PageData, ask: QueryParams) -> bytes:
    (time,), (left, top, unit) = _numbers(ask.get("time", ""), 1), _numbers(ask.get("view", ""), 3)
    corners = [_numbers(each, 2) for each in ask.get("at", "").split(";")]
    if not (0 <= time <= 1 and unit > 0 and 3 <= len(corners) <= MOST_CORNERS):
        raise UsageError(f"say time=0..1, view=left,top,unit and at=x,y;… of 3 to {MOST_CORNERS} corners")
    return data.find_inside(np.array([left, top]) + np.array(corners) * [unit, -unit], time)


_READS: dict[str, Callable[[PageData, QueryParams], bytes]] = {
    "numbers": lambda data, _: data.numbers,
    "rows": lambda data, ask: data.describe(parse_rows(ask.get("of", ""), data.n)),
    "paths": lambda data, ask: data.take_paths(parse_rows(ask.get("of", ""), data.n)),
    "find": _find_words,
    "inside": _find_inside,
    "ranks": lambda data, ask: data.rank(ask.get("by", "")).astype("<u4").tobytes(),
}


def parse_rows(text: str, n: int) -> np.ndarray:
    """Return the rows that are written as ``3.7-9``, ascending, each below ``n``.

    Raises
    ------
    UsageError
        If they are written otherwise, or are too many.
    """
    if _RANGES.fullmatch(text) is None:
        raise UsageError(f"rows are written as of=3.7-9, and {shown(text)[:40]!r} is not")
    ends = [[int(end) for end in part.split("-")] for part in text.split(".")]
    flat = [end for pair in ends for end in pair]
    if flat[-1] >= n or any(a >= b for a, b in pairwise(flat)):
        raise UsageError(f"rows ascend, and are below {n}")
    count = sum(pair[-1] - pair[0] + 1 for pair in ends)
    if count > MOST_ROWS:
        raise UsageError(f"at most {MOST_ROWS} rows at once, and these are {count}")
    return np.concatenate([np.arange(pair[0], pair[-1] + 1) for pair in ends])


def _numbers(text: str, n: int) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != n or not all(map(math.isfinite, found)):
        raise UsageError(f"{shown(text)[:40]!r} should be {'a number' if n == 1 else f'{n} numbers'}")
    return found
