"""Trajectories that were computed elsewhere: a nested list video → clip → floats, as JSON, npz or pickle.

The nested list may stand alone, or in a mapping under ``trajectories`` or ``values``, with ``labels`` and ``ids`` (or
``names``) beside it. A mapping without ``trajectories`` or ``values`` is read as id → clips. ``lengths`` beside a
(n, T, d) array cut its padding off; without them steps of NaN alone at a video's end are padding, as tslearn has it.
Beside a (sum of lengths, d) array they say where each video ends.
"""

import contextlib
import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from pydantic_core import from_json

from raypipe.errors import DecodeError, SourceError, one_line
from raypipe.progress import counted
from raypipe.ranges import read_range
from raypipe.sources.columns import from_pairs, is_unicode
from raypipe.sources.files import names_file
from raypipe.sources.videos import Video, Videos, make_video_id
from raypipe.storage import canonical_uri, failure, open_file, shown, suffix

PRECOMPUTED_SUFFIXES = (".json", ".npz", ".pkl")

_MOST = 1e15  # Numbers of this magnitude can still be squared, and a hundred million of the squares summed, in float32.
_VALUES = ("trajectories", "values")
_IDS = ("ids", "names")
_EPISODE = re.compile(r"episode=\d+")  # Of its signals; what names a column too are its pictures.


class Precomputed(NamedTuple):
    """The clips of each video of a source, as they were computed elsewhere.

    Attributes
    ----------
    clips
        (n_clips, dim) float32 or float64 for each video.
    spans_s
        (n_clips, 2) float64 for each video, where each clip begins and ends in seconds of the file; None if that is not
        known.
    reasons
        By ``video_id``, why there are no clips of a video.
    """

    clips: list[np.ndarray]
    spans_s: list[np.ndarray] | None = None
    reasons: Mapping[str, str] | None = None


def is_precomputed(source: str | Path | Sequence[str | Path]) -> bool:
    """Return whether a source is one file of trajectories (``.json``, ``.npz``, ``.pkl``) instead of videos."""
    if not isinstance(source, str | os.PathLike):
        return len(source) == 1 and is_precomputed(source[0])
    name = os.fspath(source)
    return names_file(name, PRECOMPUTED_SUFFIXES) and (suffix(name) != ".json" or not holds_records(name))


def has_video(uri: str) -> bool:
    """Return whether a URI is a video's, and not one that `read_precomputed` or `read_signals` made of a trajectory."""
    file, mark, part = uri.rpartition("#")
    return not mark or not (suffix(file) in PRECOMPUTED_SUFFIXES or _EPISODE.fullmatch(part))


def check_has_video(uri: str) -> None:
    """Raise `DecodeError` if a URI is that of a trajectory alone."""
    if not has_video(uri):
        raise DecodeError("only its trajectory is known, not where the video lies")


def holds_records(name: str) -> bool:
    """Return whether a JSON file begins as objects in a list, or a line each, which no trajectories do.

    A few bytes of it are read.
    """
    try:
        data = read_range(name, 0, 4096)
        start = data.decode(json.detect_encoding(data), errors="replace")
    except Exception:  # Each filesystem raises errors of its own. Whoever reads the file will say what is wrong.
        return False
    records = r'\ufeff?\s*(\[\s*\{|\{\s*"(?!trajectories"|values")[^"]*"\s*:\s*(\{|\[\s*\{)|\{.*\}\s*\n\s*\{)'
    return re.match(records, start) is not None


def read_precomputed(path: str | Path, allow_pickle: bool = False) -> tuple[Videos, list[np.ndarray]]:
    """Read trajectories that were computed elsewhere.

    Parameters
    ----------
    path
        Path or URL of a ``.json``, ``.npz`` or ``.pkl`` file.
    allow_pickle
        Unpickle ``.pkl`` files, and object arrays in ``.npz`` files. Unpickling can run any code that a file holds.

    Returns
    -------
    videos
        A video for each trajectory, in the file's order. Its ``uri`` is the file's, and ``#id`` or ``#index``.
    clips
        The (n_clips, dim) embeddings of each video: float32 if the file holds float32 or less, else float64. A video
        without clips has (0, dim).

    Raises
    ------
    SourceError
        If the file cannot be read, is a pickle that was not allowed, or has a video that is no list of clips of finite
        numbers, all of one ``dim``; the message names the video's index.
    """
    name = os.fspath(path)
    parts = _split(_load(name, allow_pickle), name)
    if not parts.clips:
        raise SourceError(f"{shown(name)} holds no video")
    if any(isinstance(each, str | Mapping) for each in parts.clips) and not any(map(_is_listed, parts.clips)):
        raise SourceError(
            f"{shown(name)} holds no trajectories, which are nested lists video → clip → floats; a list of videos is a "
            ".csv, .jsonl or .parquet with a column path"
        )
    clips = _check(parts, name)
    base = canonical_uri(name)
    videos, unknown = [], [None] * len(clips)
    for i, (own_id, label) in enumerate(zip(parts.ids or unknown, parts.labels or unknown, strict=True)):
        uri = f"{base}#{i if own_id is None else quote(own_id, safe='')}"
        videos.append(Video(make_video_id(own_id or uri), uri, label=label))
    found = Videos(videos)
    if parts.unread:
        found.notes = (f"{shown(name)}: not read beside the trajectories: {shown(', '.join(parts.unread))}",)
    if parts.n_padded:
        has = counted(parts.n_padded, "trajectory ends", "trajectories end")
        found.notes += (f"{shown(name)}: {has} in steps of NaN alone, which are left out as padding",)
    return found, clips


class _Parts(NamedTuple):
    clips: list[Any]
    ids: list[str] | None = None
    labels: list[str | None] | None = None
    unread: Sequence[str] = ()
    n_padded: int = 0


def _load(name: str, allow_pickle: bool) -> Any:
    kind = suffix(name)
    if kind == ".pkl" and not allow_pickle:
        raise SourceError(
            f"{shown(name)} is a pickle, and reading it can run any code: if you trust it, add --allow-pickle"
        )
    with open_file(name) as file:
        try:
            if kind == ".json":
                return _read_json(file.read())
            if kind == ".npz":
                content = np.load(file, allow_pickle=allow_pickle)
                content = dict(content) if isinstance(content, Mapping) else content
            else:
                content = pickle.loads(_check_pickle(file.read(), name))
            return _without_tensors(content) if allow_pickle else content
        except SourceError:
            raise
        except Exception as error:  # A pickle can raise anything; a damaged npz raises zipfile's, zlib's or numpy's.
            if "allow_pickle=False" in str(error):
                raise SourceError(
                    f"{shown(name)} holds pickled objects, and reading them can run any code: "
                    "save plain arrays, or if you trust it, add --allow-pickle"
                ) from error
            raise failure("read", name, error) from error


def _read_json(content: bytes) -> Any:
    """Return what JSON says: a list by the parser of pydantic, which takes a third of the time of Python's."""
    if content.lstrip().startswith(b"["):
        with contextlib.suppress(ValueError):  # Python's says in which line a mistake is.
            return from_json(content)
    return json.loads(content, object_pairs_hook=from_pairs)


def _check_pickle(content: bytes, name: str) -> bytes:
    if content.startswith(b"PK\3\4"):
        raise SourceError(
            f"{shown(name)} is a zip archive, as torch.save and numpy.savez write them, and no pickle: "
            "write it with pickle.dump, or with numpy.savez under the suffix .npz"
        )
    return content


def _without_tensors(content: Any) -> Any:
    """Return unpickled content with plain arrays in place of torch's tensors, JAX's small floats, and masked values.

    NumPy takes no tensor that requires a gradient or has bfloat16's; and what is masked, it takes as if it were not.
    """
    if isinstance(content, np.ndarray) and content.dtype == object:
        content = content.tolist()
    if isinstance(content, Mapping):
        return {key: _without_tensors(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return [_without_tensors(value) for value in content]
    if hasattr(content, "detach"):
        with contextlib.suppress(Exception):  # What NumPy says of it comes up again where its video is known.
            tensor = content.detach().cpu().resolve_conj().resolve_neg()
            return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    if isinstance(content, np.ndarray) and content.dtype.type.__module__.startswith("ml_dtypes"):
        return content.astype(np.float32)
    if isinstance(content, np.ma.MaskedArray) and content.dtype.kind in "fiu":
        return np.ma.filled(content.astype(np.result_type(content.dtype, np.float32)), np.nan)
    return content


def _split(content: Any, name: str) -> _Parts:
    """Take the file's content apart into one entry a video."""
    if not isinstance(content, Mapping):
        return _listed(content, name)
    key = next((key for key in _VALUES if key in content), None)
    if key is None and list(content) == ["arr_0"]:  # This is numpy's name for an array that was saved without one.
        key = "arr_0"
    if key is None:
        return _Parts(list(content.values()), _distinct(_texts(list(content), len(content), "ids", name), name))
    if content.get("lengths") is None:
        parts = _listed(content[key], name)
    else:
        parts = _Parts(_cut(content[key], content["lengths"], name))
    n = len(parts.clips)
    named = next((key for key in _IDS if key in content), None)
    ids = None if named is None else _distinct(_texts(content[named], n, named, name), name)
    labels = _texts(content["labels"], n, "labels", name) if "labels" in content else None
    unread = [str(each) for each in content if each not in (key, "lengths", named, "labels")]
    return parts._replace(ids=ids, labels=labels, unread=unread)


def _is_listed(values: Any) -> bool:
    is_one = getattr(values, "shape", None) == () or not hasattr(values, "__len__")
    return not (is_one or isinstance(values, str | bytes | Mapping))


def _listed(values: Any, name: str) -> _Parts:
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype != object:
        n, dim = values.shape
        raise SourceError(
            f"{shown(name)}: a ({n}, {dim}) array needs lengths, which say where each video ends; if each row is a "
            f"series of numbers, the shape is ({n}, {dim}, 1), and if it is a video of one clip, the shape is "
            f"({n}, 1, {dim})"
        )
    if not _is_listed(values):
        raise SourceError(f"{shown(name)} holds {type(values).__name__}, not a nested list video → clip → floats")
    if isinstance(values, np.ndarray) and values.ndim == 3 and values.dtype.kind == "f":
        clips = [_without_padding(video) for video in values]
        return _Parts(clips, n_padded=sum(len(video) < values.shape[1] for video in clips))
    return _Parts(list(values))


def _without_padding(video: np.ndarray) -> np.ndarray:
    """Return a video's (T, d) clips without those of NaN alone at the end."""
    return video[: np.flatnonzero(~np.isnan(video).all(axis=1)).max(initial=-1) + 1]


def _cut(values: Any, lengths: Any, name: str) -> list[np.ndarray]:
    try:
        array, sizes = np.asarray(values), _as_vector(np.asarray(lengths))
    except Exception as error:  # The lists are ragged, or they hold objects, each of which raises errors of its own.
        raise failure("read", name, error) from error
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 0).any():
        raise SourceError(f"{shown(name)}: lengths must be whole numbers, 0 or more, one for each video")
    if array.ndim == 2 and sizes.sum() == len(array):
        return np.split(array, np.cumsum(sizes)[:-1])
    if array.ndim == 3 and len(sizes) == len(array) and sizes.max(initial=0) <= array.shape[1]:
        return [video[:size] for video, size in zip(array, sizes, strict=True)]
    raise SourceError(
        f"{shown(name)}: {len(sizes)} lengths with the sum {sizes.sum()} do not fit an array of shape {array.shape}"
    )


def _as_vector(values: np.ndarray) -> np.ndarray:
    """Return an array of one row or one column, which a vector is in MATLAB, as a vector; any other as it is."""
    return values.reshape(-1) if values.ndim == 2 and 1 in values.shape else values


def _texts(values: Any, n: int, what: str, name: str) -> list[str | None]:
    """Return labels or ids as text, with None for a missing one."""
    values = _as_vector(values).tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, list | tuple) or len(values) != n:
        raise SourceError(f"{shown(name)}: {what} must be a list of {n}, one for each video")
    return [_text(value, f"{shown(name)}: {what}[{i}]") for i, value in enumerate(values)]


def _text(value: Any, where: str) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    is_na = type(value).__name__ == "NAType"  # It is pandas' own, and cannot be compared.
    try:
        is_missing = value is None or is_na or bool(value == "") or bool(value != value)
    except ValueError as error:  # An array is neither equal nor unequal.
        raise SourceError(f"{where} is a {type(value).__name__}, not text") from error
    if is_missing:
        return None
    if not is_unicode(text := str(value)):
        raise SourceError(f"{where}, {text!a}, is not valid Unicode")
    return text


def _distinct(ids: list[str | None], name: str) -> list[str]:
    first: dict[str, int] = {}
    for i, own_id in enumerate(ids):
        if own_id is None:
            raise SourceError(f"{shown(name)}: video {i} has no id")
        if first.setdefault(own_id, i) != i:
            raise SourceError(f"{shown(name)}: videos {first[own_id]} and {i} have the same id, {shown(own_id)}")
    return list(first)


def _check(parts: _Parts, name: str) -> list[np.ndarray]:
    """Return each video's clips as (n_clips, dim), or raise `SourceError` unless they all have one dim."""
    where = [
        f"{shown(name)}: video {i}" + (f" ({shown(parts.ids[i])})" if parts.ids else "")
        for i in range(len(parts.clips))
    ]
    clips = [_as_clips(video, where[i]) for i, video in enumerate(parts.clips)]
    full = [i for i, video in enumerate(clips) if len(video)]
    if not full:
        raise SourceError(f"{shown(name)}: none of its {len(clips)} videos has a clip")
    dim = clips[full[0]].shape[1]
    dtype = np.result_type(*(clips[i] for i in full))
    largest, i = max((float(np.abs(clips[i]).max()), i) for i in full)
    if largest > _MOST:
        raise SourceError(
            f"{where[i]} holds {largest:.3g}; beyond {_MOST:g} squares leave float32's range: scale the data"
        )
    if 0 < largest < 1 / _MOST:
        raise SourceError(
            f"{shown(name)}: no number is beyond {largest:.3g}; below {1 / _MOST:g} squares leave float32's range: "
            "scale the data"
        )
    for i in full:
        if clips[i].shape[1] != dim:
            raise SourceError(
                f"{where[i]} has clips of {clips[i].shape[1]} numbers, video {full[0]} has clips of {dim}"
            )
    return [video.astype(dtype, copy=False) if len(video) else np.empty((0, dim), dtype) for video in clips]


def _as_clips(video: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(video)
    except ValueError as error:  # numpy's message about a ragged list would not help a user.
        raise SourceError(f"{where} has clips of unequal length, or lists of unequal depth") from error
    except Exception as error:  # Each kind of object raises errors of its own.
        raise SourceError(f"{where} holds {type(video).__name__}, which is no array: {one_line(error)}") from error
    if array.ndim and len(array) == 0:
        return np.empty((0, 0))
    if array.ndim != 2 or array.shape[1] == 0:
        one = "one number" if array.dtype.kind in "biuf" else type(video).__name__
        levels = f"lists nested to the shape {array.shape}" if array.ndim else one
        advice = "; an array of all videos is named trajectories, and of each clip all numbers are one row"
        raise SourceError(
            f"{where} must be a list of clips, each a list of floats; it is {levels}{advice if array.ndim > 2 else ''}"
        )
    if array.dtype.kind not in "fiu":
        raise SourceError(f"{where} holds something that is not a number")
    if array.dtype not in (np.float16, np.float32):
        array = array.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise SourceError(f"{where}, clip {bad[0]} holds NaN or infinity; cut padding off, or give lengths")
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)
