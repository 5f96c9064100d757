"""Whether workers can read what the driver can.

On another machine they may lack its credentials, its network or its disks. All videos would then fail one by one, and
be skipped by later runs, so an actor that cannot read does not start.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pyarrow as pa
import ray

from raypipe.errors import SourceError
from raypipe.ranges import read_range
from raypipe.storage import (
    failure,
    file_of,
    is_http,
    is_transient,
    local_path,
    open_filesystem,
    parse_image_column,
    patiently,
)


def find_readable(uris: pa.ChunkedArray) -> str | None:
    """Return the first file of some videos if this process can read it; else None, as nothing is known of workers."""
    first = uris[0].as_py()
    pictures = parse_image_column(first)
    file = file_of(first) if pictures is None else pictures.file
    try:
        _read_some(file)
    except Exception:  # Each filesystem raises errors of its own. Whoever reads the video will say what is wrong.
        return None
    return file


def check_readable(file: str | None) -> None:
    """Raise `SourceError` if this process cannot read what `find_readable` found in the driver.

    In an actor that Ray has started again it raises nothing: the file may have been removed meanwhile, and Ray replaces
    no actor whose second start fails, but waits for it.
    """
    if file is None or _is_restarted():
        return
    try:
        patiently(file, lambda: _read_some(file))
    except Exception as error:  # Each filesystem raises errors of its own.
        if not is_transient(error):
            raise SourceError(
                f"a worker on {platform.node()} lacks what the driver can read; it needs the same credentials, network "
                f"and disks: {failure('read', file, error)}"
            ) from error


def _is_restarted() -> bool:
    context = ray.get_runtime_context() if ray.is_initialized() else None
    return context is not None and bool(context.get_actor_id()) and context.was_current_actor_reconstructed


def _read_some(file: str) -> None:
    path = local_path(file)
    if is_http(file):  # Of a server that sends files only whole, a byte is all of them.
        filesystem, inner = open_filesystem(file)
        filesystem.info(inner)
    elif path is None:
        read_range(file, 0, 1)
    elif Path(path).is_file() and not os.access(path, os.R_OK):
        raise PermissionError(f"no permission to read {path}")
    elif not Path(path).is_file():  # Opening a FIFO would block.
        raise FileNotFoundError(path)
