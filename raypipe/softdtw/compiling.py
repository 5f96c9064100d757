"""Compiling by numba, whose result is kept on disk for the processes that come after."""

import warnings
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """Return numba's decorator ``njit(cache=True, **options)``, which works without a place for the cache too.

    numba keeps a function beside its file, or else in the user's cache. Where it can write to neither, as in a
    container whose disk is read-only, it would raise instead of compiling; where the disk is full, after compiling.
    """

    def decorate(function: Callable) -> Any:
        try:
            found = njit(cache=True, **options)(function)
        except RuntimeError:
            _warn()
            return njit(**options)(function)
        save = found._cache.save_overload

        def save_if_possible(*arguments: Any) -> None:
            try:
                save(*arguments)
            except OSError:
                _warn()

        found._cache.save_overload = save_if_possible
        return found

    return decorate


def _warn() -> None:
    # The same words from the same place, whatever the function, so that they are shown once.
    warnings.warn(
        "numba can keep what it compiles nowhere, so each process takes some seconds to compile soft-DTW anew: "
        "set NUMBA_CACHE_DIR to a folder that can be written",
        stacklevel=1,
    )
