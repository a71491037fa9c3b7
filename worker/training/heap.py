"""Memory that glibc keeps after it is freed. With another C library, these functions do nothing."""

import ctypes
from typing import Any, Final

_M_MMAP_THRESHOLD: Final = -3
_BYTES: Final = 256 * 1024


def return_large_blocks() -> None:
    """Makes the C library return large blocks to the system as soon as they are freed, from now on.

    By default it stops to do so once a program has freed some. Weights that are gathered and freed layer by layer then
    leave gaps into which later ones do not fit: a process with a half of a base grew by more than the whole base.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _BYTES)


def return_freed() -> None:
    """Returns all pages that are free now to the system."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
