"""decord, for local MP4 and Matroska files; the container is read through PyAV, because decord reports less of it."""

from __future__ import annotations

import re
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from raypipe.decoders.colors import name_unusual
from raypipe.decoders.container import N_THREADS, OpenVideo, read_first_frame
from raypipe.decoders.lengths import ContainerReader
from raypipe.decoders.orientation import Orientation, read_orientation
from raypipe.decoders.picture import Resizer
from raypipe.decoders.timeline import Timeline, open_indexed
from raypipe.errors import DecodeError, message_of
from raypipe.packages import require
from raypipe.schema import Frames, ThumbnailRequest
from raypipe.storage import local_path, shown


class DecordDecoder(ContainerReader):
    """Decodes with decord by frame numbers, which are looked up in the container's presentation times.

    Videos of which decord 0.6 silently returns wrong frames are refused: those with an edit list (decord counts the
    hidden frames, and then is off or loops for ever), those with open groups of pictures or with intra refresh (it is
    off after a seek), those with a colour matrix that it does not know (it takes another), those where it may read
    another video track, and all containers except MP4 and Matroska. Its frames are set upright here: it takes a
    mirror image for a turn, and knows no orientation in Matroska.

    Parameters
    ----------
    n_threads
        Number of decord's threads; with 0 it chooses.
    """

    name = "decord"

    def __init__(self, n_threads: int = N_THREADS) -> None:
        self.n_threads = n_threads
        self._decord = require("decord")

    def frames(
        self,
        uri: str,
        times_s: np.ndarray,
        image_size: int,
        resize_mode: str,
        thumbnails: ThumbnailRequest | None = None,
    ) -> Frames:
        """See `raypipe.decoders.Decoder.frames`; with ``thumbnails`` it makes small pictures too."""
        with open_indexed(uri, self.name) as (video, packets):
            sizes = _sizes_of_tracks(video)
            _check_countable(uri, packets)
            first = read_first_frame(video)
            _check_colors(uri, first)
            _check_keyframes(video, packets)
            orientation = read_orientation(first)
            turns = _count_turns(video, orientation)
            resize = Resizer(image_size, resize_mode, video.pixel_aspect, orientation, thumbnails)
        numbers, error = packets.find(times_s)
        pixels = np.empty((len(numbers), image_size, image_size, 3), dtype=np.uint8)
        n = 0
        try:
            reader = self._open(uri, len(packets.times_s))
            if len(sizes) > 1 and sorted(reader[0].shape[:2]) != sizes[0]:
                raise DecodeError(f"{shown(uri)}: decord takes another of its {len(sizes)} video tracks")
            for number in np.unique(numbers).tolist():
                n = resize.fill(pixels, numbers, number, _to_frame(reader[number], turns))
        except self._decord.DECORDError as failure:
            stopped = f"stopped after {packets.times_s[numbers[n - 1]]:.1f} s: " if n else ""
            error = stopped + _reason_of(failure)
        if error and not n:
            raise DecodeError(f"{shown(uri)}: {error}")
        return Frames(pixels[:n], packets.times_s[numbers[:n]], np.arange(n), self.name, error, resize.thumbnails)

    def _open(self, uri: str, n_frames: int) -> Any:
        try:
            # A part of the frames below 1 in their number: decord raises at the first one that it fills in from others.
            reader = self._decord.VideoReader(local_path(uri), num_threads=self.n_threads, fault_tol=1e-9)
        except (RuntimeError, AssertionError) as error:
            raise DecodeError(f"{shown(uri)}: decord cannot open it") from error
        if len(reader) != n_frames:
            raise DecodeError(f"{shown(uri)}: decord counts {len(reader)} frames, but there are {n_frames}")
        return reader


def _sizes_of_tracks(video: OpenVideo) -> list[list[int]]:
    """Return the sides of the pictures of each video track, the shown one's first, or raise if they do not differ."""
    still = av.stream.Disposition.attached_pic
    tracks = [s for s in video.container.streams.video if s.codec_context is not None and not s.disposition & still]
    tracks.sort(key=lambda track: track.index != video.stream.index)
    sizes = [sorted((track.width, track.height)) for track in tracks]
    if sizes[0] in sizes[1:]:
        raise DecodeError(f"{shown(video.uri)}: decord may take another of its {len(tracks)} video tracks")
    return sizes


def _check_countable(uri: str, packets: Timeline) -> None:
    if packets.n_hidden:
        raise DecodeError(f"{shown(uri)}: decord miscounts the {packets.n_hidden} frames that an edit list hides")
    if packets.n_leading:
        raise DecodeError(f"{shown(uri)}: decord finds wrong frames in open groups of pictures")


def _check_keyframes(video: OpenVideo, packets: Timeline) -> None:
    """Raise `DecodeError` unless the last keyframe is the first frame to come where decoding begins with it.

    It is not in H.264 with intra refresh, where a keyframe is the place at which a refresh begins, and what is shown
    begins with the end of it.
    """
    keyframe = first = None
    try:
        video.container.seek(int(video.to_ticks(packets.times_s[-1:], packets.origin)[0]), stream=video.stream)
        for packet in video.container.demux(video.stream):
            keyframe = packet.pts if keyframe is None else keyframe
            first = next((frame.pts for frame in packet.decode()), None)
            if first is not None:
                break
    except FFmpegError:
        return  # What is damaged is told of where it is read.
    if first != keyframe:
        raise DecodeError(f"{shown(video.uri)}: decord finds wrong frames where pictures are refreshed bit by bit")


def _check_colors(uri: str, frame: av.VideoFrame) -> None:
    unusual = name_unusual(frame)
    if unusual:
        raise DecodeError(f"{shown(uri)}: decord does not know that its colours are coded by {unusual}")


def _count_turns(video: OpenVideo, orientation: Orientation) -> int:
    """Return by how many quarter turns counterclockwise decord has turned its frames.

    It mirrors nothing, turns by angles that are within a degree, and knows the matrix of MP4 alone.
    """
    exact = abs(orientation.degrees - 90 * round(orientation.degrees / 90)) < 1
    return orientation.turns if exact and "mov" in video.formats else 0


def _to_frame(picture: Any, turns: int) -> av.VideoFrame:
    """Return a picture of decord's as it was coded, before it was turned."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(picture.asnumpy(), -turns)), format="rgb24")


def _reason_of(error: Exception) -> str:
    """Return decord's message without the places in its source code."""
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", message_of(error))[:200]
