"""What the page's server says of videos: how each is played, its pictures, what is like it, what goes with what."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from raypipe.errors import RaypipeError, UsageError, message_of
from raypipe.report.serving.catalog import Catalog, Entry
from raypipe.report.serving.conversions import Conversions, Excerpt, Inspector
from raypipe.report.serving.media_sources import CONVERTED_TYPE, direct_type
from raypipe.report.serving.transcoder import Media
from raypipe.runs.contents import CLUSTERS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.frames import FrameReader, Pictures
from raypipe.runs.run_version import of_one_clustering, version_in
from raypipe.sources.precomputed import check_has_video
from raypipe.sources.versions import version_of_file
from raypipe.storage import shown

MOST_FOUND = 100
MOST_PICTURES = 64
_STRIP_HEIGHT = (32, 160)
_STRIP_WIDTH = 16383  # A WebP is no wider.
_UNKNOWN_S = 600.0  # So much is converted of a video whose length is not known.


class NotHere(RaypipeError):
    """The run has no such video, or not that of it."""


class Answers:
    """What is known of a run's videos. Its methods may wait for disks and processes, and are called in threads.

    `align` and `search`, which take all cores and much memory, are called in one thread.

    Parameters
    ----------
    run
        A clustered run.
    conversions
        What converts videos for browsers.
    """

    def __init__(self, run: Run, conversions: Conversions) -> None:
        self.run, self.conversions = run, conversions
        self._catalog, self._catalog_version = Catalog(run), version_in(run, CLUSTERS_FILE)
        self._frames: FrameReader | None = None
        self._frames_version = ""
        self._inspector = Inspector()
        self._one_index = threading.Lock()

    @property
    def catalog(self) -> Catalog:
        """The run's videos, as they are clustered now."""
        version = version_in(self.run, CLUSTERS_FILE)
        if version != self._catalog_version:
            self._catalog, self._catalog_version = Catalog(self.run), version
        return self._catalog

    def find(self, video_id: str) -> Entry:
        """Return the video of an id.

        Raises
        ------
        NotHere
            If the run has none.
        """
        entry = self.catalog.find(video_id)
        if entry is None:
            raise NotHere(f"this run has no video {shown(video_id)[:80]}")
        return entry

    def look_into(self, entry: Entry) -> Media:
        """Return what its file is, in its present version."""
        check_has_video(entry.row["uri"])
        return self._inspector.look_into(entry.row["uri"], version_of_file(entry.row["uri"]) or "")

    def find_excerpt(self, entry: Entry, media: Media | None = None) -> Excerpt:
        """Return what is to be converted of a video; looks into it unless that has been done."""
        uri, media = entry.row["uri"], media or self.look_into(entry)
        span_s = entry.span_s or media.duration_s or _UNKNOWN_S
        return Excerpt(uri, version_of_file(uri) or "", entry.origin_s, span_s, media.fps)

    def describe(self, video_id: str, n_pictures: int = MOST_PICTURES) -> dict[str, Any]:
        """Return how a browser gets a video: sources in the order in which it should try them, and the pictures."""
        entry = self.find(video_id)
        sources: list[dict[str, Any]] = []
        problem = None
        try:
            media = self.look_into(entry)
        except RaypipeError as error:
            problem = message_of(error)
        else:
            excerpt = self.find_excerpt(entry, media)
            if own_type := direct_type(media):
                sources.append(_source("video/" + video_id, own_type, media.zero_s, entry, "ready"))
            problem = self.conversions.failure_of(excerpt)
            if problem is None:
                state = "ready" if self.conversions.find(excerpt) else "on demand"
                name = f"video/{video_id}/converted.mp4"
                sources.append(_source(name, CONVERTED_TYPE, 0.0 - entry.origin_s, entry, state))
        strip: dict[str, Any] | None = None
        try:
            kept = self._read_pictures(entry, min(max(n_pictures, 1), MOST_PICTURES))
        except RaypipeError as error:  # The video itself may play without them.
            kept, problem = None, problem or message_of(error)
        if kept is not None:
            n = len(kept.jpegs)
            strip = {"src": f"filmstrip/{video_id}?n={n}", "n": n, "aspect": _aspect_of(kept)}
            strip["times_s"] = kept.times_s.tolist()
        return {**entry.describe(), "sources": sources, "filmstrip": strip, "problem": problem}

    def draw_filmstrip(self, video_id: str, n: int, height: int, is_parted: bool = False) -> bytes | None:
        """Return ``n`` kept pictures of a video, or fewer, side by side as a JPEG; all are as wide as the first.

        Parted ones have transparent lines between them, and are a WebP. None if the run has kept no picture of it.

        Raises
        ------
        NotHere
            If there is no such video.
        """
        from PIL import Image

        from raypipe.report.strips import part_pictures

        entry = self.find(video_id)
        kept = self._read_pictures(entry, min(max(n, 1), MOST_PICTURES))
        if kept is None:
            return None
        height, aspect = min(max(height, _STRIP_HEIGHT[0]), _STRIP_HEIGHT[1]), _aspect_of(kept)
        height = min(height, int(_STRIP_WIDTH / len(kept.jpegs) / aspect))
        width = max(min(round(aspect * height), _STRIP_WIDTH // len(kept.jpegs)), 1)
        strip = Image.new("RGB", (width * len(kept.jpegs), height))
        for place, jpeg in enumerate(kept.jpegs):
            picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
            strip.paste(picture.resize((width, height)), (place * width, 0))
        if is_parted:
            part_pictures(strip, width)
        sink = io.BytesIO()
        strip.save(sink, "WEBP" if is_parted else "JPEG", quality=82)
        return sink.getvalue()

    def align(self, ids: Sequence[str], to_center: bool) -> dict[str, Any]:
        """Return a clock by which videos do the same thing at the same time; see `align_videos`."""
        from raypipe.trajectories.side_by_side import align_videos

        for video_id in ids:
            self.find(video_id)
        with of_one_clustering(self.run):
            found = align_videos(self.run, ids, to_center)
        videos = [
            {"video_id": video_id, "times_s": np.round(times_s, 4).tolist(), "distance": distance}
            for video_id, times_s, distance in zip(ids, found.times_s, found.distances, strict=True)
        ]
        return {"clock_s": np.round(found.clock_s, 4).tolist(), "videos": videos, "gamma": found.gamma}

    def search(
        self, like: str | None, text: str | None, n: int, least: bool, part: tuple[float | None, float | None]
    ) -> list[dict[str, Any]]:
        """Return videos that are like one of the run, a part of one, or a text; see `similarity.search`.

        A path or a URI is not taken, or the server would open whatever file a client names.

        Raises
        ------
        UsageError
            If the request names neither a video nor a text, or both.
        """
        from raypipe.trajectories import similarity

        if (like is None) == (text is None):
            raise UsageError("say what to search for: like=ID or text=WORDS")
        n = min(max(n, 1), MOST_FOUND)
        with of_one_clustering(self.run):
            if like is not None:
                self.find(like)
                found = similarity.search(self.run, like, n=n, least=least, from_s=part[0], to_s=part[1])
            else:
                found = similarity.search_text(self.run, text or "", n=n, least=least)
        return [{**each, "uri": shown(each["uri"]), **_place(self.find(each["video_id"]))} for each in found]

    def close(self) -> None:
        """End the processes."""
        self._inspector.close()

    def _read_pictures(self, entry: Entry, n: int) -> Pictures | None:
        with self._one_index:
            version = self._catalog_version  # A run that is run again has other files of pictures.
            if self._frames is None or self._frames_version != version:
                self._frames, self._frames_version = FrameReader(self.run), version
            index = self._frames
        span_s = entry.span_s or 0.0
        asked_s = entry.origin_s + span_s * (np.arange(n) + 0.5) / n
        return index.read(entry.row["video_id"], asked_s)


def _place(entry: Entry) -> dict[str, Any]:
    """Return what the page must know to show a video that it may not hold: its name, its row, and its time."""
    return {"name": entry.name, "row": entry.row["row"], "origin_s": entry.origin_s, "span_s": entry.span_s}


def _aspect_of(kept: Pictures) -> float:
    """Return the width of a video's first picture over its height."""
    from PIL import Image

    with Image.open(io.BytesIO(kept.jpegs[0])) as first:
        return first.width / first.height


def _source(src: str, media_type: str, offset_s: float, entry: Entry, state: str) -> dict[str, Any]:
    end_s = None if entry.span_s is None else entry.origin_s + entry.span_s + offset_s
    return {
        "src": src,
        "type": media_type,
        "offset_s": offset_s,
        "start_s": entry.origin_s + offset_s,
        "end_s": end_s,
        "state": state,
    }
