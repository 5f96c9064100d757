"""The best speed of the soft-DTW kernel on this processor, from its instructions, the vector pipes and the clock.

The loop that sweeps four cells of float32 lanes is found in the kernel's disassembly, and its vector arithmetic is
counted. Moves, loads and stores are left out: they take other pipes. What feeds the loop – layout, the rows left over
from fours, reading the result – is left out too, so the floor is below what any schedule of these instructions reaches.
"""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

from raypipe.softdtw.lanes import lane_bytes
from raypipe.softdtw.limits import ROWS
from raypipe.softdtw.sweeps import NORMALISED, sweep

LANES = lane_bytes() // 4
_ROUND = "vrndscaleps", "vroundps"  # These occur once in each cell and nowhere else, so they count the cells.
_KINDS = {
    "multiply": r"vf?n?m(ul|add|sub).*ps",
    "add": r"v(add|sub)ps",
    "compare": r"v(min|max)ps|vblend.*|vcmp.*",
    "convert": r"v(rndscale|round)ps|vcvt.*",
    "whole numbers": r"vp.*|v(and|or|xor|andn)ps",
}
# Vector pipes of any kind and their bits, by vendor and family; Zen 4 takes two turns for 512 bits, Zen 5 one.
# On Zen 3 and 4 only half of the pipes do the operations of _FEW: an addition and a minimum share a turn with none of
# their kind, while an addition and a product run side by side.
_FEW = r"v(add|sub|min|max|rndscale|round)ps|vcvt.*|vps[lr]l.*"
_PIPES = {("AuthenticAMD", 25): (4, 256), ("AuthenticAMD", 26): (4, 512), ("GenuineIntel", 6): (2, 512)}


def describe_floor(dim: int = 2) -> dict[str, Any]:
    """Count the instructions of a cell, and return how many cells a second one core could do."""
    loop = _four_cells(_disassemble(dim))
    pipes = _PIPES.get(_processor())
    if not loop or not pipes:
        return {"skipped": f"no known kernel or pipes on {_processor()}: only x86 is read"}
    counts = {kind: _count(loop, pattern) / ROWS for kind, pattern in _KINDS.items()}
    total = _count(loop, r"v(?!mov|broadcast).*") / ROWS
    bits = LANES * 32 // _registers(loop)
    clock = measure_clock()
    few = _count(loop, _FEW) / ROWS
    turns = max(total, 2 * few) if _processor() == ("AuthenticAMD", 25) else total
    cycles = turns * bits / (pipes[0] * pipes[1])
    return {
        "register_bits": bits,
        "lanes": LANES,
        "instructions_a_cell": total,
        "by_kind": counts,
        "on_half_of_the_pipes": few,
        "pipes_assumed": f"{pipes[0]} of {pipes[1]} bits",
        "clock_ghz": clock / 1e9,
        "cycles_a_cell": cycles,
        "cells_per_s_one_core": LANES * clock / cycles,
    }


def measure_clock() -> float:
    """Measure the cycles a second of one core, by operations that take one cycle each and depend on each other.

    The best of many runs of a few milliseconds, which other processes leave alone.
    """
    n = 1_000_000
    _chain(n)
    found = []
    for _ in range(200):
        started = time.perf_counter()
        _chain(n)
        found.append(time.perf_counter() - started)
    return 6 * n / min(found)


@njit
def _chain(n):
    x = np.uint64(88172645463325252)
    for _ in range(n):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
    return x


def _disassemble(dim: int) -> str:
    """Compile the float32 sweep of one center again, because numba's cache keeps no assembly."""
    floats, whole = types.float32[::1], types.int64
    compiled = njit(nogil=True)(sweep.py_func)
    compiled.compile(
        (floats, floats, types.none, types.UniTuple(whole, dim), floats, whole, whole, whole, types.none, types.none)
    )
    return next(iter(compiled.inspect_asm().values()))


def _four_cells(assembly: str) -> str:
    """Return the shortest loop that holds four cells, or an empty one."""
    lines = assembly.splitlines()
    labels = {line.rstrip(":"): number for number, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for number, line in enumerate(lines):
        jump = re.match(r"\s+j\w+\s+(\S+)", line)
        start = labels.get(jump.group(1), number) if jump else number
        body = "\n".join(lines[start:number])
        if body and sum(body.count(name) for name in _ROUND) == ROWS * _registers(body):
            loops.append(body)
    return min(loops, key=len, default="")


def _registers(loop: str) -> int:
    """Return the number of registers that the lanes take."""
    return LANES * 32 // (512 if "%zmm" in loop else 256 if "%ymm" in loop else 128)


def _count(loop: str, pattern: str) -> float:
    """Count instructions by name; those in blocks without a cell are weighted by how often they run."""
    total = 0.0
    for block in re.split(r"^\S+:$", loop, flags=re.M):
        found = sum(bool(re.fullmatch(pattern, name)) for name in re.findall(r"^\s+(v\w+)", block, flags=re.M))
        total += found if any(name in block for name in _ROUND) else found / NORMALISED
    return total


def _processor() -> tuple[str, int]:
    """Return vendor and family from /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    vendor = re.search(r"^vendor_id\s*: (\S+)", text, flags=re.M)
    family = re.search(r"^cpu family\s*: (\d+)", text, flags=re.M)
    return (vendor.group(1), int(family.group(1))) if vendor and family else ("unknown", 0)
