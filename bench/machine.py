"""The description of the machine that figures are measured on, and the files that keep them."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raypipe.packages import package_versions

RESULTS = Path(__file__).parent / "results"


def describe_machine() -> dict[str, Any]:
    """Return the processor, its widest vector instructions where they are known, the cores and the versions."""
    model, isa = platform.processor() or platform.machine(), None
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        model = names[0] if names else model
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
        isa = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), None)
    return {"cpu": model, "isa": isa, "cores": os.cpu_count(), "versions": package_versions()}


def of_this_isa(name: str) -> str:
    """Return the name of the file for figures of this instruction set: a file is of one machine."""
    return f"{name}_avx2" if describe_machine()["isa"] == "AVX2" else name


def keep(name: str, figures: Any) -> Path:
    """Write the figures, the day and the machine to ``bench/results/<name>.json``, and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"measured": f"{datetime.now(UTC):%Y-%m-%d}", "machine": describe_machine(), "figures": figures}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
