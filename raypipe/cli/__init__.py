"""The ``raypipe`` command: its verbs and the only argument parser.

A verb imports what it needs only when it runs, so that ``raypipe --help`` stays quick. The verbs are in two modules,
which put them into the command in the order in which ``--help`` names them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from raypipe.cli import making, showing
from raypipe.options import DONE, FAILED, app

__all__ = ["app", "main", "making", "showing"]


def main() -> None:
    """Run the command line, which other signals end as Ctrl-C does; unload nothing of what was imported.

    All work is done and every file is closed by then. Unloading takes up to half a second; and while the interpreter
    unloads Ray's core, one of Ray's threads may lock a mutex that is destroyed already, which aborts the process (seen
    on a busy machine), and that must not become the exit code.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # It was closed, as by `>&-`, and the next file that is opened takes its place.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123
    for number in (signal.SIGTERM, signal.SIGHUP):  # They too leave nothing half done; nohup has the latter ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        app()
    except SystemExit as end:
        with contextlib.suppress(BrokenPipeError):  # Who reads the output, such as `head`, may have seen enough.
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else FAILED if end.code else DONE)
