"""How the C library keeps what is freed: as little of it as may be, for one aggregator may sit beside many things.

Chunks are allocated on the loop's thread and freed on others. glibc then keeps an arena a thread, and holds on to what
lies between: 20 MiB more at the peak of a round of ten updates of 10 MiB. One arena that is trimmed costs a few percent
of the time of an update at most.

Not here: what we hold ourselves (`aggregation.py`, `session.py`).
"""

import ctypes

__all__ = ["keep_heap_small"]

M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8
"""Of glibc's malloc.h."""
TRIM_BYTES = 2**20
"""Free memory at the end of the heap that is given back."""


def keep_heap_small() -> bool:
    """Set the C library of this process; return whether it can be set, which only glibc's can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(M_ARENA_MAX, 1)) and bool(mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))
