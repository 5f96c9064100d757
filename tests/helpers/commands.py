"""The command line in a process of its own, as a shell starts it."""

import os
import subprocess
import sys


def run_raypipe(*arguments, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raypipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "200"})
