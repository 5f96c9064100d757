"""A picture that is larger than memory should hold: it lies on the disk while tiles are pasted, and is encoded there.

libvips reads it in strips and encodes as it goes. Pillow holds a picture whole, with four bytes a pixel, and its JPEG
and PNG writers take nothing else; and the levels of a deep-zoom pyramid would be code of our own.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from raypipe.errors import RaypipeError, one_line

_JPEG = "[Q=90]"  # From 90 on libvips keeps the colours at full resolution.
_ZOOMED = ".jpg[Q=85]"


class Canvas:
    """An RGB picture in a file, of one colour at first.

    Parameters
    ----------
    folder
        Where the file lies; it takes three bytes a pixel, and is removed in the end.
    width, height
        The size in pixels.
    ground
        The colour, three numbers up to 255.

    Raises
    ------
    RaypipeError
        If libvips cannot be loaded.
    """

    def __init__(self, folder: Path, width: int, height: int, ground: tuple[int, int, int]) -> None:
        self._vips = _load_vips()  # It is loaded before anything is decoded for the picture.
        self.width, self.height = width, height
        self._path = folder / "canvas.raw"
        row = bytes(ground) * width
        with self._path.open("wb") as file:
            for _ in range(height):
                file.write(row)

    def __enter__(self) -> Canvas:
        self._file = os.open(self._path, os.O_WRONLY)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._path.unlink()

    def paste(self, picture: np.ndarray, left: int, top: int) -> None:
        """Write a (h, w, 3) uint8 picture to its place, which lies on the canvas whole."""
        for number, row in enumerate(np.ascontiguousarray(picture)):
            os.pwrite(self._file, row.data, ((top + number) * self.width + left) * 3)

    def encode(self, target: Path) -> None:
        """Write a PNG or a JPEG, or a deep-zoom pyramid (``NAME.dzi`` and the folder ``NAME_files``), by the suffix.

        Raises
        ------
        RaypipeError
            If it cannot be written.
        """
        try:
            image = self._vips.Image.rawload(str(self._path), self.width, self.height, 3).copy(interpretation="srgb")
            # libvips logs through Python as it works: in the main thread, that would swallow an interrupt.
            with ThreadPoolExecutor(1) as thread:
                encoded = thread.submit(_encode, image, target)
                try:
                    encoded.result()
                except KeyboardInterrupt:
                    image.set_kill(True)
                    raise
        except self._vips.Error as error:
            raise RaypipeError(f"cannot encode {target.name}: {one_line(error)}") from error


def _encode(image: Any, target: Path) -> None:
    if target.suffix == ".dzi":
        image.dzsave(str(target.with_suffix("")), layout="dz", suffix=_ZOOMED)
        # It names the time, and nothing reads it.
        (target.with_name(f"{target.stem}_files") / "vips-properties.xml").unlink(missing_ok=True)
    else:
        image.write_to_file(f"{target}{_JPEG if target.suffix != '.png' else ''}")


def _load_vips() -> ModuleType:
    try:
        import pyvips
    except (ImportError, OSError) as error:  # An environment may be older than this version, or lack the library.
        raise RaypipeError(f"posters need libvips ({one_line(error)}): pip install 'pyvips[binary]'") from error
    return pyvips
