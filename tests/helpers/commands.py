"""The command line: in a process of its own, as a shell starts it, and in this one, which is quicker."""

import os
import subprocess
import sys

from click.testing import Result
from typer.testing import CliRunner

from raypipe import cli

WIDE = {"COLUMNS": "200"}


def run_raypipe(*arguments, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raypipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **WIDE})


def call_raypipe(*arguments) -> Result:
    """Run it here: UMAP is compiled once for all such calls, and a Ray that runs is joined."""
    done = CliRunner().invoke(cli.app, [*map(str, arguments)], env=WIDE, prog_name="raypipe")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
