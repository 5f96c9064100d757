"""How many threads compute on the CPU."""

from numba import config, get_num_threads
from numba.np.ufunc import parallel


def count_threads() -> int:
    """Return how many threads numba allows, ``NUMBA_NUM_THREADS`` or as set by ``numba.set_num_threads``.

    To ask numba itself would start its threads, which nothing here uses. Where they are OpenMP's they allow nested
    parallel regions in the whole process, and torch's products on the CPU then take ten times as long and more.
    """
    return get_num_threads() if parallel._is_initialized else config.NUMBA_NUM_THREADS
