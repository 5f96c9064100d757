"""What this machine can run, in one line for each finding, with the remedy for what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from raypipe.errors import RaypipeError
from raypipe.packages import EXTRAS, is_installed, package_versions, require
from raypipe.softdtw.backends import load_backend


def examine() -> Iterator[str]:
    """Yield the findings: machine, packages and which of them are too old, GPU, decoders, encoders, memory for Ray."""
    versions = package_versions()
    yield f"python {versions['python']} on {sys.platform}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB of memory"
    yield "packages   " + ", ".join(f"{name} {version}" for name, version in versions.items() if name != "python")
    yield from find_too_old()
    yield from _gpu()
    yield from _decoders()
    yield from _weights()
    yield f"soft-dtw   on {load_backend('auto').NAME}"
    for name, extra in EXTRAS.items():
        state = "installed" if is_installed(name) else f"missing: pip install 'raypipe[{extra}]'"
        if name == "torchcodec" and is_installed(name) and not _finds_ffmpeg():
            state += ", but it finds no FFmpeg libraries, which it does not bring: apt install ffmpeg"
        yield f"optional   {name}: {state}"
    if Path("/dev/shm").is_dir():
        free = shutil.disk_usage("/dev/shm").free / 2**30
        advice = "" if free > 1 else ": Ray keeps frames there; give the container --shm-size=4g"
        yield f"ray        {free:.1f} GiB of shared memory{advice}"


def find_too_old() -> Iterator[str]:
    """Yield a line for each installed package that is older than raypipe's metadata ask, those of extras included."""
    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires("raypipe") or ()]
    except importlib.metadata.PackageNotFoundError:  # It runs from its source alone, which says nothing of versions.
        return
    lines = {}
    for requirement in requirements:
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        if any(Version(installed) < bound for bound in bounds):
            asked = f"{requirement.name}>={max(bounds)}"
            lines[asked] = f"too old    {requirement.name} {installed}: pip install '{asked}'"
    yield from lines.values()


def _gpu() -> Iterator[str]:
    import torch

    if not torch.cuda.is_available():
        yield "gpu        torch finds none that it can use: everything runs on the CPU"
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"gpu        {properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _decoders() -> Iterator[str]:
    from raypipe.decoders import resolve_chain

    yield f"decoders   local files: {' → '.join(resolve_chain('auto', 'file:///x.mp4'))}"
    yield f"decoders   remote files: {' → '.join(resolve_chain('auto', 's3://x/x.mp4'))}"


def _weights() -> Iterator[str]:
    from raypipe.config import EncodeConfig

    default = EncodeConfig()
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "hub"
    found = any(cache.glob(f"models--*{default.model}*{default.pretrained}*".replace("_", "[_-]")))
    state = "in the cache" if found else "downloaded at the first use (--pretrained FILE takes a checkpoint instead)"
    yield f"encoders   clip weights {default.model} {default.pretrained}: {state}"
    yield "encoders   cnn: weights of torchvision or timm, downloaded at the first use, or --pretrained FILE"
    yield "encoders   descriptor: needs no weights"


def _finds_ffmpeg() -> bool:
    try:
        torchcodec = require("torchcodec")
    except RaypipeError:  # Older versions load the libraries when they are imported.
        return False
    # Since 0.17 they are loaded at the first video, and this says which version there is, or None.
    return getattr(torchcodec, "ffmpeg_major_version", 0) is not None


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
