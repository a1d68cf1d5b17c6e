"""What the C library does with freed memory.

Every layer of a model, and every message with pictures, frees megabytes and asks for the same again. By default glibc
hands such blocks back to the system, which then maps, clears and faults them in anew: tens of thousands of page faults
a sample, and more time than packing and sending take.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_KEPT_BYTES = 32 << 20
"""The largest that glibc takes for this."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to the most that it has used at once, instead of giving it back to the
    system. Call it before threads compute; False where the C library does not take all of these settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc
        return False
    wanted = ((_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES), (_TRIM_THRESHOLD, (1 << 31) - 1), (_ARENA_MAX, 1))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in wanted)
