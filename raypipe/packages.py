"""The packages that raypipe uses: which are installed, their versions, and the only import of optional ones."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from raypipe.errors import RaypipeError

EXTRAS = {
    "cupy": "gpu",
    "cuml": "gpu",
    "torchcodec": "gpu",
    "s3fs": "s3",
    "gcsfs": "gcs",
    "keybert": "text",
    "transformers": "text",
}

PACKAGES = (
    "raypipe", "ray", "numpy", "pyarrow", "torch", "torchvision", "open_clip_torch", "timm", "av", "decord",
    "torchcodec", "tslearn", "scikit-learn", "umap-learn", "fastumap", "numba", "cupy-cuda13x", "cuml-cu13",
    "matplotlib", "keybert", "transformers",
)  # fmt: skip


def is_installed(name: str) -> bool:
    """Return whether the package is installed, without importing it."""
    return importlib.util.find_spec(name) is not None


def sees_gpu() -> bool:
    """Return whether this process may use an NVIDIA GPU, without importing a GPU library."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1")


def require(name: str) -> ModuleType:
    """Import an optional package, or raise an error that says how to install it.

    Raises
    ------
    RaypipeError
        If the package is missing or cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        package = name.partition(".")[0]
        extra = EXTRAS.get(package)
        remedy = f"pip install 'raypipe[{extra}]'" if extra else f"pip install {package}"
        raise RaypipeError(f"{name} is needed here and cannot be imported ({error}): {remedy}") from error


def require_on_gpu(name: str, remedy: str) -> ModuleType:
    """Import a package that needs a GPU, or raise an error that says what else to do.

    Raises
    ------
    RaypipeError
        If the package cannot be imported, or sees no GPU.
    """
    runtime = require("cupy").cuda.runtime
    try:
        n_gpus = runtime.getDeviceCount()
    except runtime.CUDARuntimeError:  # CuPy raises this if there is no driver.
        n_gpus = 0
    if not n_gpus:
        raise RaypipeError(f"{name.partition('.')[0]} needs a GPU and there is none: {remedy}")
    return require(name)


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Let modules be imported from the current directory, as `python -m` does."""
    here = str(Path.cwd())
    is_new = here not in sys.path
    if is_new:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if is_new and here in sys.path:
            sys.path.remove(here)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in one thread: sums that are shared among threads differ in their last bits by how many.

    Where nothing has imported torch, nothing computes by it, and it is not imported for this.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
