"""In which ways a browser may be given a video: its own file, a converted one, or the kept pictures."""

from __future__ import annotations

from collections.abc import Mapping

from raypipe.report.serving.transcoder import Media

_EIGHT_BITS = ("yuv420p", "yuvj420p")
_TEN_BITS = "yuv420p10le"
_LATE_S = 0.1
CONVERTED_TYPE = 'video/mp4; codecs="avc1.640028"'


def direct_type(media: Media) -> str | None:
    """Return the MIME type with which browsers are given a video's own file; None where few of them could play it.

    A browser that does not play the type takes the converted video. Matroska with H.264 has no type that is understood
    everywhere. Where no track begins at 0, Chrome never reaches the end: it takes the length for the end.
    """
    if media.is_edited or media.start_s > _LATE_S:
        return None
    if "mov" in media.formats:
        codec = _name_in_mp4(media)
        return codec and f'video/mp4; codecs="{codec}"'
    if "webm" in media.formats and media.pixel_format in _EIGHT_BITS:
        names: Mapping[str, str] = {"vp8": "vp8", "vp9": "vp09.00.40.08", "av1": _name_av1(media) or ""}
        codec = names.get(media.codec)
        return f'video/webm; codecs="{codec}"' if codec else None
    return None


def _name_in_mp4(media: Media) -> str | None:
    """Return the codec's name as RFC 6381 has it."""
    config = media.config
    if media.codec == "h264" and media.pixel_format in _EIGHT_BITS and config[:1] == b"\x01" and len(config) > 3:
        return f"avc1.{config[1:4].hex().upper()}"
    if media.codec == "av1" and media.pixel_format in (*_EIGHT_BITS, _TEN_BITS):
        return _name_av1(media)
    if media.codec == "vp9" and media.pixel_format in _EIGHT_BITS:
        return "vp09.00.40.08"
    if media.codec == "hevc" and media.tag == "hvc1" and media.pixel_format in (*_EIGHT_BITS, _TEN_BITS):
        # Main or Main 10; players look at little else.
        return "hvc1.2.4.L120.B0" if media.pixel_format == _TEN_BITS else "hvc1.1.6.L120.B0"
    return None


def _name_av1(media: Media) -> str | None:
    """Return AV1's name of its configuration record: profile, level, tier and depth (AV1 in ISOBMFF, §5)."""
    if len(media.config) < 4 or media.config[0] != 0x81:
        return None
    profile, level = media.config[1] >> 5, media.config[1] & 31
    tier = "H" if media.config[2] >> 7 else "M"
    depth = "10" if media.config[2] >> 6 & 1 else "08"
    return f"av01.{profile}.{level:02d}{tier}.{depth}"
