"""Importing tslearn without its warning."""

import warnings
from types import ModuleType

from raypipe import packages


def load(name: str) -> ModuleType:
    """Import ``tslearn`` or a module of it.

    tslearn warns on import if h5py is missing, but only its own file format needs h5py.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="h5py not installed", category=UserWarning)
        return packages.require(name)
