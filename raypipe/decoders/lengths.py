"""How long a video is, and what else probing finds."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

import av
import numpy as np
from av.error import FFmpegError

from raypipe.decoders.container import LONGEST_FRAME_S, OpenVideo, is_plausible, open_video, read_first_frame
from raypipe.decoders.orientation import read_orientation
from raypipe.decoders.timeline import read_packets, read_timeline
from raypipe.errors import DecodeError
from raypipe.schema import Probe
from raypipe.storage import shown

# The limits up to which a header is believed. A wild duration in it must not be cut into millions of segments.
_HOUR_S = 3600.0
_SLACK_S = 0.5  # Headers round, and tracks differ in length.
_FEWEST_BYTES_A_SECOND = 1000  # Any camera writes far more than this.
_COUNTED = 300  # So many frames tell the rate where the container does not.


class ContainerReader:
    """The methods that all decoders share: they read the container through PyAV, whatever decodes the frames."""

    name: str

    def probe(self, uri: str) -> Probe:
        """See `probe_video`."""
        return probe_video(uri, self.name)

    def frame_times(self, uri: str) -> np.ndarray:
        """See `raypipe.decoders.Decoder.frame_times`."""
        return read_timeline(uri).times_s


def probe_video(uri: str, decoder: str) -> Probe:
    """Read the header and decode one frame, which shows the rotation and whether the video decodes at all.

    The length is measured: by the last packets, or by all where these do not tell. So is the rate, by the first frames,
    where the container tells none.

    Raises
    ------
    DecodeError
        If the video cannot be opened, none of its frames decodes, or its duration is impossible for so few frames.
    """
    with open_video(uri) as video:
        frame = read_first_frame(video)
        turned = read_orientation(frame).swaps_sides
        longest_s = max(_HOUR_S, video.container.size / _FEWEST_BYTES_A_SECOND)
        can_tell = video.is_indexed and video.is_sought and frame.pts is not None
        lengths_s = _measure(video, frame.pts) if can_tell else []
        duration_s = next((length_s for length_s in lengths_s if 0 < length_s <= longest_s), 0.0)
        claim_s = video.read_claim(0) if "avi" in video.formats else None
        probed = {
            "width": frame.height if turned else frame.width,
            "height": frame.width if turned else frame.height,
            "fps": video.fps,
            "n_frames": video.stream.frames,
            "codec": video.stream.codec.canonical_name,
        }
    probed["fps"] = probed["fps"] or _measure_rate(uri)
    if not duration_s:
        packets = read_packets(uri)
        duration_s, n = packets.duration_s, len(packets.times_s)
        if claim_s is not None and duration_s + _SLACK_S < claim_s <= longest_s:
            duration_s = claim_s
        if duration_s > max(_HOUR_S, n * LONGEST_FRAME_S):
            raise DecodeError(f"{shown(uri)}: its times are invalid: {n} frames in {duration_s:.3g} s")
    return Probe(duration_s=duration_s, decoder=decoder, **probed)


def _measure_rate(uri: str) -> float:
    """Return the frames a second at the start of a video; 0 where their times tell none."""
    ticks = []
    with open_video(uri) as video, suppress(FFmpegError):
        for packet in islice(video.container.demux(video.stream), _COUNTED):
            if packet.pts is not None and not packet.is_discard:
                ticks.append(packet.pts)
    lasted_s = float((max(ticks) - min(ticks)) * video.stream.time_base) if ticks else 0.0
    rate = (len(ticks) - 1) / lasted_s if lasted_s else 0.0
    return rate if is_plausible(rate) else 0.0


def _measure(video: OpenVideo, origin: int) -> list[float]:
    """Return how long a video is from its first frame on, as its last packets tell, which a seek finds; or nothing.

    The header of the whole file tells of the longest track, and the header of a track may be an estimate. They are
    believed where the file ends before both: then what the header promises comes first, and what the file holds second.
    """
    container, stream = video.container, video.stream
    ends: dict[int, float] = {}
    durations: set[float] = set()
    last_shown, last, last_dts = None, None, None
    try:
        goal = (container.duration or 0) + (container.start_time or 0)
        container.seek(round(goal / av.time_base / stream.time_base), stream=stream)
        for packet in container.demux():
            if packet.pts is None or packet.is_discard:
                continue
            duration = packet.duration or (video.period if packet.stream_index == stream.index else 0)
            end_s = float((packet.pts + duration) * packet.time_base)
            ends[packet.stream_index] = max(end_s, ends.get(packet.stream_index, end_s))
            if packet.stream_index == stream.index:
                last, last_dts = max(last or packet.pts + duration, packet.pts + duration), packet.dts
                last_shown = max(last_shown or packet.pts, packet.pts)
                durations.add(duration)
    except FFmpegError:
        pass
    if last is None or last_shown is None:
        return []
    measured_s = float((last - origin) * stream.time_base)
    promised_s = _read_promise(video, origin, last_dts, max(ends.values()))
    if promised_s is not None and promised_s - measured_s > _SLACK_S:
        return [promised_s, measured_s]
    last_s = float((last_shown - origin) * stream.time_base)
    return [_read_length(video, origin, last_s, durations) or measured_s]


def _read_length(video: OpenVideo, origin: int, last_s: float, durations: set[float]) -> float | None:
    """Return the length in the header where the last frame, at ``last_s``, has no duration of its own; else None.

    ``durations`` are those of the last packets. In MP4 they are differences of decoding times, and if frames are
    reordered and the durations differ they are not the frames'. That of a lone frame in ASF is made up.
    """
    longest_s = max(durations) * float(video.stream.time_base)
    is_reordered = "mov" in video.formats and video.stream.codec_context.has_b_frames and len(durations) > 1
    is_lone = "asf" in video.formats and last_s == 0 and len(video.container.streams) == 1
    length_s = video.read_claim(origin) if is_reordered or is_lone else None
    is_plausible = length_s is not None and last_s < length_s and (is_lone or length_s <= last_s + longest_s)
    return length_s if is_plausible else None


def _read_promise(video: OpenVideo, origin: int, last_dts: int | None, reached_s: float) -> float | None:
    """Return the length in the header, if it is the video's own and the file does not hold all that it tells of."""
    container, stream = video.container, video.stream
    if "mov" in video.formats:  # Its index names every frame.
        n = len(stream.index_entries)
        is_whole = n == 0 or (last_dts is not None and last_dts >= stream.index_entries[n - 1].timestamp)
        return None if is_whole else video.read_claim(origin)
    if "avi" in video.formats:
        return video.read_claim(origin)
    if "matroska" in video.formats and container.duration:
        whole_s = container.duration / av.time_base
        if whole_s - reached_s > _SLACK_S:  # No track is there up to the end.
            return video.read_claim(origin) or whole_s - float(origin * stream.time_base)
    return None
