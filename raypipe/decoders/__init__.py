"""Decoders, which turn a video into frames: their protocol, and how they are chosen by name."""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from raypipe.errors import DecodeError, RaypipeError, SourceAwayError, UsageError, one_line
from raypipe.packages import importing_from_here, is_installed
from raypipe.storage import failure, is_transient, local_path, parse_image_column, shown

if TYPE_CHECKING:
    import numpy as np

    from raypipe.schema import Frames, Probe


class Decoder(Protocol):
    """Anything that reads videos.

    Times are seconds from the first frame on display, as the container presents its frames; where it holds no times of
    presentation, the frames that decoding gives follow one another at the container's rate. The frame that answers a
    requested time is the one on display then: the last whose time is not after it, and the first for times before it.

    Attributes
    ----------
    name
        The name that is recorded with each video that the decoder has decoded.
    """

    name: str

    def probe(self, uri: str) -> Probe:
        """Return what the container and the first frame say of the video, or raise `DecodeError`."""

    def frame_times(self, uri: str) -> np.ndarray:
        """Return when each frame of the video is presented, (n,) float64, ascending; no two are equal."""

    def frames(self, uri: str, times_s: np.ndarray, image_size: int, resize_mode: str) -> Frames:
        """Decode the frames on display at ``times_s`` (ascending), each ``image_size`` × ``image_size``.

        ``resize_mode`` is "squash" (both sides to ``image_size``) or "crop" (the short side, then the middle).
        """


DECODERS = {
    "pyav": "raypipe.decoders.pyav:PyAVDecoder",
    "decord": "raypipe.decoders.decord:DecordDecoder",
    "torchcodec": "raypipe.decoders.torchcodec:TorchCodecDecoder",
    "images": "raypipe.decoders.images:ImageColumnDecoder",
}
LOCAL_ONLY = {"decord", "torchcodec"}
# PyAV comes first: in a second of CPU time it decodes 1.2 to 2.5 times as much video as decord, whatever the sampling
# (bench/decoding.py), and it reads what decord cannot: AV1, edit lists, open groups of pictures, streams.
AUTO = ("pyav", "decord")


def make_decoder(name: str) -> Decoder:
    """Make a decoder: one of `DECODERS`, or a user's own as ``package.module:Name``.

    Raises
    ------
    UsageError
        If there is no such decoder.
    RaypipeError
        If a package that it needs is missing.
    """
    _check_name(name)
    module_name, _, class_name = DECODERS.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)()
    except (ModuleNotFoundError, AttributeError) as error:
        if name in DECODERS:
            raise
        raise UsageError(f"decoder {name}: cannot be imported ({error})") from error


def resolve_chain(decoder: str, uri: str) -> list[str]:
    """List the names of the decoders to try for a video, in order.

    Parameters
    ----------
    decoder
        "auto", or one or several names, separated by commas. Pictures in a table have a decoder of their own, whatever
        is named here.
    uri
        The video. If it is not a local file, only decoders that can stream are listed.

    Raises
    ------
    UsageError
        If a name is unknown.
    DecodeError
        If none of the named decoders can stream the video.
    """
    names = [name.strip() for name in decoder.split(",") if name.strip()]
    for name in names:
        if name != "auto":
            _check_name(name)
    if not names:
        raise UsageError(f"no decoder named; choose from: auto, {', '.join(DECODERS)}")
    if parse_image_column(uri) is not None:
        return ["images"]
    chain = [each for name in names for each in (_auto_chain() if name == "auto" else [name])]
    chain = list(dict.fromkeys(chain))
    if local_path(uri) is None:
        chain = [name for name in chain if name not in LOCAL_ONLY]
        if not chain:
            raise DecodeError(f"{decoder} cannot stream {shown(uri)}: add pyav to the decoders")
    return chain


def check_decoders(decoder: str) -> None:
    """Make a user's own decoders once, so that a mistake in one shows now and not as a failure of every video.

    Raises
    ------
    UsageError
        If a name is unknown, or a decoder cannot be made.
    """
    for name in resolve_chain(decoder, "file:///any"):
        if ":" in name:
            try:
                with importing_from_here():
                    make_decoder(name)
            except RaypipeError:
                raise
            except Exception as error:  # It may raise anything.
                raise UsageError(f"decoder {name}: cannot be made ({one_line(error)})") from error


def split_nvdec(decoder: str) -> tuple[bool, str]:
    """Return whether NVDEC is tried first if there is a GPU, and the decoders that the CPU then uses.

    The CPU never uses torchcodec, because each of its many processes would take up GPU memory for nothing.
    """
    names = [name.strip() for name in decoder.split(",")]
    return bool({"auto", "torchcodec"} & set(names)), ",".join(n for n in names if n != "torchcodec") or "auto"


def check_file(path: str, uri: str) -> None:
    """Raise `DecodeError`, which names the URI, unless ``path`` is a readable regular file that is not empty.

    The file is not opened for this: opening a FIFO would wait for a writer for ever, and a device may do anything.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise DecodeError(f"{shown(uri)}: {error.strerror}") from error
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(f"{shown(uri)}: {kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a video file")
    if status.st_size == 0:
        raise DecodeError(f"{shown(uri)}: the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise DecodeError(f"{shown(uri)}: no permission to read it")


def describe(error: Exception, uri: str) -> str:
    """Return in one line why a video cannot be read, without the credentials that its URL may hold."""
    words = str(error if isinstance(error, RaypipeError) else failure("read", uri, error))
    return words.partition(f"{shown(uri)}: ")[2] or words


def decode_error(error: Exception, uri: str, file: str | None = None) -> DecodeError:
    """Return the error of a video of which nothing could be read; ``file`` is where it lies, if not at its URI."""
    kind = SourceAwayError if is_transient(error) else DecodeError
    return kind(f"{shown(uri)}: {describe(error, file or uri)}")


def _check_name(name: str) -> None:
    if name not in DECODERS and ":" not in name:
        raise UsageError(f"unknown decoder {name!r}; choose from: auto, {', '.join(DECODERS)}, or package.module:Name")


def _auto_chain() -> list[str]:
    return [name for name in AUTO if name != "decord" or is_installed("decord")]
