"""The data of a run's page as its server holds them, once: what the page of very many videos asks for part by part.

They are those in ``report.html``, so that a row means the same video in the page, in its file and here.
"""

from __future__ import annotations

import base64
import gzip
import re
import threading
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.clustering.result import name_cluster
from raypipe.errors import UsageError
from raypipe.report.packing import join_texts, pack, unpack
from raypipe.runs.contents import REPORT_FILE
from raypipe.runs.directory import Run
from raypipe.runs.run_version import version_in

WHOLE_VIDEOS = 20_000
"""The served page of more videos than this fetches texts and paths when they come into view."""
MOST_VALUES = 10_000
"""A column of more distinct texts comes with the rows: its texts would be too many to send, and to colour by."""

_DATA = re.compile(rb'<script type="text/plain" id="explorer-data">([^<]*)</script>')
_TEXTS = ("names", "ids", "uris", "links", "captions", "reasons")
_NUMBERS = ("origin", "span", "oddStart", "oddEnd")
_COPIED = ("clusters", "palette", "hasVideos", "pointBox", "reducedBox", "dim", "gamma", "centers", "lerobot")
_DIGITS, _ACCENTS = re.compile("[0-9]+"), re.compile("[\u0300-\u036f]+")


class Texts:
    """A text for each video, in the bytes in which they have come."""

    def __init__(self, joined: np.ndarray) -> None:
        self._joined = joined
        self._starts = _find_starts(joined)

    def take(self, rows: np.ndarray) -> bytes:
        """Return the texts of some rows, joined likewise."""
        content = self._joined.data
        ends = zip(self._starts[rows].tolist(), self._starts[rows + 1].tolist(), strict=True)
        return b"".join(content[start:end] for start, end in ends)

    def read(self) -> list[str]:
        """Return all texts."""
        return self._joined.tobytes().decode(errors="replace").split("\0")[:-1]

    @cached_property
    def _lower(self) -> pa.StringArray:
        lower = self._joined.tobytes().decode(errors="replace").lower().encode()
        starts = _find_starts(np.frombuffer(lower, np.uint8))
        return pa.StringArray.from_buffers(len(starts) - 1, pa.py_buffer(starts), pa.py_buffer(lower))

    def find(self, word: str) -> np.ndarray:
        """Return for each row whether its text in lower case holds a word, (n,) bool."""
        return np.asarray(pc.match_substring(self._lower, word).to_numpy(zero_copy_only=False), bool)


class PageData:
    """What the page shows of each video, row by row.

    Parameters
    ----------
    html
        The page.

    Raises
    ------
    ValueError
        If its data are of another form, as an earlier raypipe wrote them.
    """

    def __init__(self, html: bytes) -> None:
        found = _DATA.search(html)
        if found is None:
            raise ValueError("the page has no data")
        self._header, self._arrays = unpack(gzip.decompress(base64.b64decode(found[1])))
        if "names" not in self._arrays:
            raise ValueError("the page's data are of an earlier form")
        self.n = len(self._arrays["cluster"])
        self.shell = b""
        if self.n > WHOLE_VIDEOS:
            marked = b'<script type="text/plain" id="explorer-data" data-src="numbers"></script>'
            self.shell = html[: found.start()] + marked + html[found.end() :]
        self._texts = {name: Texts(self._arrays[name]) for name in _TEXTS}
        origin, scale = self._header["pointBox"]["origin"], self._header["pointBox"]["scale"]
        self._origin, self._scale = np.array(origin), scale
        self._ranks: dict[str, np.ndarray] = {}

    @cached_property
    def numbers(self) -> bytes:
        """What filtering, colouring, sorting and counting need of all videos, packed and compressed."""
        starts, arrays = self._arrays["starts"], self._arrays
        columns = [
            {name: value for name, value in column.items() if name not in ("values", "array")}
            if _is_many(column)
            else column
            for column in self._header["columns"]
        ]
        sent: dict[str, np.ndarray | bytes] = {
            "cluster": arrays["cluster"],
            "outlier": arrays["outlier"],
            "lengths": np.diff(starts),
            "boxes": _bound(arrays["points"].reshape(-1, 2), starts),
        }
        if "reduced" in arrays:
            sent["reducedLengths"] = np.diff(arrays["reducedStarts"])
        sent |= {
            name: arrays[name] for name in ("episodes", *(column.get("array") for column in columns)) if name in arrays
        }
        header = {name: self._header[name] for name in _COPIED if name in self._header}
        return gzip.compress(pack({**header, "columns": columns, "byView": True}, sent), 6, mtime=0)

    def describe(self, rows: np.ndarray) -> bytes:
        """Return what a table, the pane and an export show of some rows: texts, times, and reduced paths."""
        sent: dict[str, np.ndarray | bytes] = {name: texts.take(rows) for name, texts in self._texts.items()}
        sent |= {name: self._arrays[name][rows] for name in _NUMBERS if name in self._arrays}
        for column in self._header["columns"]:
            if _is_many(column):
                sent[f"column {column['name']}"] = join_texts(self._texts_of(column, rows))
        if "reduced" in self._arrays:
            sent["reduced"] = _take_paths(self._arrays["reduced"], self._arrays["reducedStarts"], rows)
        return pack({}, sent)

    def take_paths(self, rows: np.ndarray) -> bytes:
        """Return the paths of some rows on the map, one behind the other."""
        return pack({}, {"points": _take_paths(self._arrays["points"], self._arrays["starts"], rows)})

    def find(self, words: Sequence[str]) -> bytes:
        """Return a bit for each video, whether the words, in lower case, all occur in its texts.

        These are the texts that the page searches: name, URI, cluster, caption, and the columns of texts.
        """
        fits = np.ones(self.n, bool)
        for word in words:
            hits = np.logical_or.reduce([self._texts[name].find(word) for name in ("names", "uris", "captions")])
            for number in np.unique(self._arrays["cluster"]).tolist():
                if word in name_cluster(number):
                    hits |= self._arrays["cluster"] == number
            for column in self._header["columns"]:
                if column["kind"] == "text":
                    of_values = np.array([False, *(word in value.lower() for value in column["values"])])
                    hits |= of_values[self._arrays[column["array"]]]
            fits &= hits
        return _as_bits(fits)

    def find_inside(self, polygon: np.ndarray, time: float) -> bytes:
        """Return a bit for each video, whether its dot lies inside a polygon at a time, 0 its start and 1 its end.

        Parameters
        ----------
        polygon
            Corners on the map, (n_corners, 2), in either direction; it may cross itself, by the rule of even and odd.
        """
        starts = self._arrays["starts"].astype(np.int64)
        last = np.diff(starts) - 1
        there = np.flatnonzero(last >= 0)
        at, last = starts[there], last[there]
        step = np.minimum(np.floor(time * last).astype(np.int64), np.maximum(last - 1, 0))
        part = (time * last - step)[:, None]
        points = self._arrays["points"].reshape(-1, 2)
        begin, end = (self._restore(points[at + np.minimum(each, last)]) for each in (step, step + 1))
        fits = np.zeros(self.n, bool)
        fits[there] = _lie_inside(begin + (end - begin) * part, polygon)
        return _as_bits(fits)

    def rank(self, name: str) -> np.ndarray:
        """Return the place of each video in the order of its names, or of a column's texts, (n,) uint32.

        Digits are ordered by the number that they are, and letters whatever their case and accents.

        Raises
        ------
        UsageError
            If there is no such column of texts.
        """
        if name not in self._ranks:
            if name == "name":
                texts = self._texts["names"].read()
            else:
                column = next((each for each in self._header["columns"] if each["name"] == name), None)
                if column is None or column["kind"] != "text":
                    raise UsageError("videos are ranked by their name, or by a column of texts")
                texts = self._texts_of(column, np.arange(self.n))
            # Equal texts have one rank, so that their videos keep the source's order both ways.
            keys = {text: (_natural_key(text), text.swapcase()) for text in set(texts)}
            place = {text: rank for rank, text in enumerate(sorted(keys, key=keys.__getitem__))}
            self._ranks[name] = np.fromiter((place[text] for text in texts), np.uint32, self.n)
        return self._ranks[name]

    def _texts_of(self, column: dict[str, Any], rows: np.ndarray) -> list[str]:
        values = ["", *column["values"]]
        return [values[code] for code in self._arrays[column["array"]][rows].tolist()]

    def _restore(self, whole: np.ndarray) -> np.ndarray:
        """Return places on the map as the page's script has them: in 32 bits a number."""
        return (self._origin + whole * self._scale).astype(np.float32).astype(np.float64)


class HeldPage:
    """The data of a run's present page, which are read again when the page has been written again."""

    def __init__(self, run: Run) -> None:
        self._run, self._lock = run, threading.Lock()
        self._version: str | None = None
        self._data: PageData | None = None

    def read(self) -> PageData | None:
        """Return the data, or None if the page is of an earlier raypipe, which knew only pages that hold all."""
        with self._lock:
            version = version_in(self._run, REPORT_FILE)
            if version != self._version or not version:
                self._data = None  # The memory of the old ones is needed for the new.
                html = self._run.read_bytes(REPORT_FILE)
                with suppress(ValueError, OSError, EOFError):
                    self._data = PageData(html)
                self._version = version
            return self._data


def _find_starts(joined: np.ndarray) -> np.ndarray:
    """Return where each of some joined texts begins, and the end of the last."""
    return np.concatenate([[0], np.flatnonzero(joined == 0) + 1]).astype(np.int32)


def _is_many(column: dict[str, Any]) -> bool:
    return column["kind"] == "text" and len(column["values"]) > MOST_VALUES


def _as_bits(fits: np.ndarray) -> bytes:
    return np.packbits(fits, bitorder="little").tobytes()


def _bound(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the least and the greatest x and y of each path, (n, 4), zeros where there is none."""
    boxes = np.zeros((len(starts) - 1, 4), points.dtype)
    there = np.diff(starts) > 0
    if there.any():
        at = starts[:-1][there].astype(np.int64)
        boxes[there] = np.hstack([np.minimum.reduceat(points, at), np.maximum.reduceat(points, at)])
    return boxes


def _take_paths(points: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    dim = len(points) // max(int(starts[-1]), 1)
    ends = zip((dim * starts[rows].astype(int)).tolist(), (dim * starts[rows + 1].astype(int)).tolist(), strict=True)
    return np.concatenate([points[:0], *(points[start:end] for start, end in ends)])


def _lie_inside(places: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Return whether each place lies inside a polygon: an edge is compared with the places at its height alone."""
    order = np.argsort(places[:, 1], kind="stable")
    x, y = places[order].T
    inside = np.zeros(len(places), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, 1, axis=0), strict=True):
        if y0 == y1:
            continue
        first, end = np.searchsorted(y, sorted((y0, y1)))
        inside[first:end] ^= x[first:end] < (x1 - x0) * (y[first:end] - y0) / (y1 - y0) + x0
    found = np.zeros(len(places), bool)
    found[order] = inside
    return found


def _natural_key(text: str) -> str:
    """Return what orders texts by their numbers, and by letters without their case and accents."""
    if not text.isascii():
        text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return _DIGITS.sub(_as_number, text.casefold())


def _as_number(found: re.Match[str]) -> str:
    """Return digits so that texts order by their number: how many they are goes before them, and all before letters."""
    digits = found[0].lstrip("0")
    return f"@{chr(0x30 + len(digits))}{digits}"
