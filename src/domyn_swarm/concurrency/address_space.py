"""The address space of this process where it is limited: a call of its own, as it has to come before most imports."""

from __future__ import annotations

import contextlib
import ctypes
import os

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's malloc.h
_LARGE_BYTES = 256 * 1024


def save_address_space() -> None:
    """Reserve no address space ahead of need, where it is limited (`ulimit -v`): to be called as early as can be.

    Arrow's allocator reserves 1 GB at its first use and glibc 64 MB for each thread. Under a limit that leaves none to
    native code, and most of it ends the process when it gets none.
    """
    if not _address_space_is_limited():
        return
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such function
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)  # fixed, so that large blocks go back when they are freed


def _address_space_is_limited() -> bool:
    try:
        import resource  # noqa: PLC0415 - not on every platform
    except ImportError:
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
