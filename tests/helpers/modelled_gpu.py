"""A GPU that is modelled on the CPU: it runs the CUDA kernels' very source, lane by lane."""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypipe.softdtw.cupy import Engine, read_source

SHIM = Path(__file__).with_name("cuda_shim.h")


class GuardedNumpy:
    """numpy whose fresh arrays hold a large negative number, and end in a guard that nothing may touch.

    The kernels take the smaller of numbers, so one that was never written is not read unseen; NaN would be passed over.
    """

    GUARD = 64

    def __init__(self):
        self.guarded = []

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype):
        size = int(np.prod(shape))
        filling = -1e30 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).min
        whole = np.full(size + self.GUARD, filling, dtype)
        self.guarded.append((whole[size:], whole[size:].tobytes()))
        return whole[:size].reshape(shape)

    def check(self):
        assert all(guard.tobytes() == before for guard, before in self.guarded), "written beyond an array's end"


class Model:
    """A GPU of a few blocks, on the CPU: each kernel compiled by g++ through cuda_shim.h."""

    def __init__(self, blocks: int = 3, backwards: bool = False):
        self.xp: Any = GuardedNumpy()
        self.folder = compiled_kernels()
        self.blocks = blocks
        self.backwards = backwards
        self.exponentials: Counter[str] = Counter()  # that each kernel has computed

    def resident(self, kernel):
        return self.blocks

    def launch(self, kernel, blocks, *arguments):
        values = [self._value(one) for one in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(one) for one in values))
        library = self._library(kernel)
        library.run(blocks, int(self.backwards), pointers)
        self.exponentials[kernel.partition("<")[0]] += library.exponentials()
        self.xp.check()

    @staticmethod
    def _value(one):
        if one is None:
            return ctypes.c_void_p(0)
        if isinstance(one, np.ndarray):
            assert one.flags.c_contiguous
            return ctypes.c_void_p(one.ctypes.data)
        return {"i": ctypes.c_int, "f": ctypes.c_float, "d": ctypes.c_double}[one.dtype.char](one)

    def _library(self, kernel):
        made = self.folder / (re.sub(r"\W+", "_", kernel) + ".so")
        if not made.exists():
            code = f'#include "{SHIM}"\n{read_source()}\n'
            code += 'extern "C" void run(int blocks, int backwards, void** arguments) {\n'
            code += f"    shim::launch({kernel}, blocks, backwards, arguments);\n}}\n"
            code += 'extern "C" long long exponentials() { return std::exchange(shim::exponentials, 0); }\n'
            options = ["-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"]
            new = made.with_suffix(f".{os.getpid()}")
            command = ["g++", *options, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(new)]
            subprocess.run(command, input=code, text=True, check=True)
            new.replace(made)
        library = ctypes.CDLL(str(made))
        library.exponentials.restype = ctypes.c_longlong
        return library


def model_gpu(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Let a model be the GPU here, which backend "cupy" is on and "auto" takes; return it."""
    engine = Engine(Model())
    monkeypatch.setattr("raypipe.softdtw.cupy.load_engine", lambda: engine)
    monkeypatch.setattr("raypipe.softdtw.backends.fastest", lambda: "cupy")
    return engine.device


@cache
def compiled_kernels() -> Path:
    """Return a folder for compiled kernels, one for each state of what they are made of: the next run finds them."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    compiler = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    parts = [read_source().encode(), SHIM.read_bytes(), Path(__file__).read_bytes(), compiler, str(SHIM).encode()]
    folder = Path(tempfile.gettempdir()) / f"raypipe-model-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    return folder
