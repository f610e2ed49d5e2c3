"""How the C library keeps what is freed: as little of it as may be, for one aggregator may sit beside many things.

Chunks are allocated on the loop's thread and freed on others. glibc then keeps an arena a thread, and holds on to what
lies between: 20 MiB more at the peak of a round of ten updates of 10 MiB. One arena that is trimmed costs a few percent
of the time of an update at most.

Not here: what we hold ourselves (`aggregation.py`, `session.py`).
"""

import ctypes

__all__ = ["keep_heap_small"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
TRIM_BYTES = 4 * 2**20
"""Free memory at the end of the heap that is given back."""
MMAP_BYTES = 4 * 2**20
"""From here on each piece is mapped alone and given back at once: models are, chunks and windows are used again."""


def keep_heap_small() -> bool:
    """Set the C library of this process; return whether it can be set, which only glibc's can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    options = {M_ARENA_MAX: 1, M_TRIM_THRESHOLD: TRIM_BYTES, M_MMAP_THRESHOLD: MMAP_BYTES}
    taken = [mallopt(option, value) for option, value in options.items()]  # each is set, whatever the others say
    return all(taken)
