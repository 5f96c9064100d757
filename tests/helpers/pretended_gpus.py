"""A machine that seems to have two GPUs, for what runs in Ray's workers."""

import os
from types import SimpleNamespace


def pretend_gpus() -> None:
    """Have torch, CuPy and the rest of this process answer as on a machine with two GPUs, where none is hidden."""
    import torch

    from raypipe import packages

    def visible() -> list[str]:
        return [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",") if each]

    class Runtime:
        CUDARuntimeError = OSError
        getDeviceCount = staticmethod(lambda: len(visible()))

    class Device:
        def __init__(self, path):
            self.path = path

        def exists(self):
            return self.path == "/dev/nvidiactl"

    stand_ins = {"cupy": SimpleNamespace(cuda=SimpleNamespace(runtime=Runtime)), "cuml.manifold": None}
    torch.cuda.is_available = lambda: bool(visible())
    packages.Path = Device
    packages.is_installed = lambda name: True
    packages.require = stand_ins.__getitem__


def seen() -> dict:
    """What this process takes a GPU to be for."""
    from raypipe.encoders import _resolve_device
    from raypipe.reduction.umap import choose_library
    from raypipe.softdtw.backends import fastest

    return {
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "torch": _resolve_device("auto"),
        "umap": choose_library("auto")[0],
        "softdtw": fastest.__wrapped__(),
    }
