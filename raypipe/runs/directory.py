"""A run directory, which is the only state: what it records of itself, beside the files of its folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypipe.errors import UsageError, one_line
from raypipe.runs.contents import LOG_FILE, RUN_FILE
from raypipe.runs.folder import Folder
from raypipe.storage import local_path


@dataclass(frozen=True)
class Run(Folder):
    """A run directory: its files, as `raypipe.runs.folder.Folder` reads and writes them, ``run.json`` and the log.

    Parameters
    ----------
    url
        A local folder or a URL such as ``s3://bucket/runs/kitchen``. Nothing is created until something is written.
    """

    @classmethod
    def open(cls, url: str | Path) -> Run:
        """Open a run that exists.

        Raises
        ------
        UsageError
            If there is no ``run.json`` at ``url``.
        """
        run = cls(str(url))
        if not run.exists(RUN_FILE):
            instead = _find_near(run.url)
            how = f"name one, such as {instead}" if instead else f"make one with raypipe run SOURCE -o {run}"
            raise UsageError(f"{run} is not a run directory (no run.json): {how}")
        return run

    def info(self) -> dict[str, Any]:
        """Return what ``run.json`` holds so far; an empty dict before anything was recorded."""
        return self.read_json(RUN_FILE) if self.exists(RUN_FILE) else {}

    def record(self, **sections: Any) -> None:
        """Merge sections into ``run.json``: a dict is merged key by key, anything else replaced."""
        info = self.info()
        for name, value in sections.items():
            merge = isinstance(value, dict) and isinstance(info.get(name), dict)
            info[name] = {**info[name], **value} if merge else value
        self.write_json(RUN_FILE, info)

    def record_stage(self, stage: str, implementation: str, reason: str | None = None) -> None:
        """Record in ``run.json`` what implemented a stage, and the reason if that was a fallback.

        A reason that an earlier run of the stage has left is removed.
        """
        info = self.info()
        fallbacks = {name: why for name, why in info.get("fallbacks", {}).items() if name != stage}
        fallbacks |= {stage: reason} if reason else {}
        implementations = {**info.get("implementations", {}), stage: implementation}
        self.write_json(RUN_FILE, {**info, "implementations": implementations, "fallbacks": fallbacks})

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record how many seconds a step takes, and log that it ended, or why it broke off."""
        started = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.log("broke off", step=name, seconds=round(time.monotonic() - started, 3), error=one_line(error))
            raise
        seconds = round(time.monotonic() - started, 3)
        self.record(seconds={name: seconds})
        self.log("done", step=name, seconds=seconds)

    def log(self, event: str, **fields: Any) -> None:
        """Append a line to ``log.jsonl``: the time in seconds since 1970, the event, and its fields."""
        line = {"time": round(time.time(), 3), "event": event, **fields}
        self.append(LOG_FILE, json.dumps(line, ensure_ascii=False))


def _find_near(url: str) -> Path | None:
    """Return a run on this machine that a file of it, or the folder above it, was given for."""
    path = local_path(url)
    if path is None:
        return None
    near = [*Path(path).parents[:2], *sorted(Path(path).glob("*"))] if path else []
    return next((each for each in near if os.access(each / RUN_FILE, os.R_OK)), None)
