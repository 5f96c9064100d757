"""Which versions of what a run was made with."""

import importlib.metadata
import platform

PACKAGES = (
    "raypipe", "ray", "numpy", "pyarrow", "torch", "open_clip_torch", "av", "decord", "torchcodec", "tslearn",
    "scikit-learn", "umap-learn", "numba", "cupy-cuda13x", "cuml-cu13", "matplotlib",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Return Python's version and those of the installed packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
