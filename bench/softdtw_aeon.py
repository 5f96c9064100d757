"""aeon's soft-DTW, timed in a Python of its own, because aeon needs an older numba than raypipe's tests run on.

This file is both ends: `Aeon` starts it in that Python, sends it the names of files with x (n, T, d) and y (m, T, d),
and reads the seconds that aeon took.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 1, 2


class Aeon:
    """aeon in a Python of its own.

    Attributes
    ----------
    version
        aeon's version, or "not installed", in which case nothing is timed.
    """

    def __init__(self, python: str):
        command = [python, "-c", "import aeon; print(aeon.__version__)"]
        asked = subprocess.run(command, capture_output=True, text=True)
        self.version = "not installed" if asked.returncode else asked.stdout.strip()
        self._python = python
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Aeon":
        if self.version != "not installed":
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._child = subprocess.Popen([self._python, "-W", "ignore", __file__], **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            self._child.communicate()

    def peers(self, x: np.ndarray, y: np.ndarray, gamma: float, times: float, folder: str) -> dict[str, Callable]:
        """Return, by name, a function that times aeon on the arrays, which are passed through a file in the folder.

        It returns the seconds of ``times`` calls.
        """
        if not self._child:
            return {}
        path = Path(folder) / f"{x.shape}.npz"
        np.savez(path, x=x, y=y, gamma=gamma)
        self._ask(path)  # The first call compiles.
        return {"aeon": lambda: times * min(self._ask(path))}

    def _ask(self, path: Path) -> list[float]:
        assert self._child and self._child.stdin and self._child.stdout
        print(path, file=self._child.stdin, flush=True)
        return json.loads(self._child.stdout.readline())


def answer() -> None:
    """Read a file's name from each line, and answer it with the seconds of a call for each number of threads."""
    from aeon.distances import soft_dtw_pairwise_distance

    for line in sys.stdin:
        arrays = np.load(line.strip())
        x, y = (np.ascontiguousarray(arrays[name].transpose(0, 2, 1)) for name in "xy")
        gamma = float(arrays["gamma"])
        seconds = []
        for n_jobs in THREADS:
            started = time.perf_counter()
            soft_dtw_pairwise_distance(x, y, gamma=gamma, n_jobs=n_jobs)
            seconds.append(time.perf_counter() - started)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    answer()
