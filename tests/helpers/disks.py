"""Disks of a size of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def mount_small(path: Path, size: str) -> None:
    """Make a folder that is a file system of so many bytes, or skip."""
    path.mkdir()
    tool = shutil.which("mount")
    if tool is None or os.geteuid() != 0:
        pytest.skip("mount needs root")
    if subprocess.run([tool, "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True).returncode:
        pytest.skip("no mount allowed here")
