"""Moves the memory of a loaded base model to huge pages, on Linux.

A decoding step reads all weights. With pages of 4 KiB, a CPU spends a fifth of that time on the translation of
addresses in a virtual machine. The allocators of torch and oneDNN request no huge pages for most weights.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HUGE: Final = 2 << 20
"""Bytes of a huge page on x86-64, and on ARM with pages of 4 KiB."""
_COLLAPSE: Final = 25
"""`MADV_COLLAPSE` of Linux 6.1: copies the pages of a range into huge pages now. Older kernels refuse it."""
_ENABLED: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> int:
    """Copy this process's private memory to huge pages, as far as the kernel can; return the bytes that it then has.

    Takes one to two seconds for each gigabyte. Does nothing if the operator has switched transparent huge pages off.
    """
    if not _ENABLED.is_file() or "[never]" in _ENABLED.read_text(encoding="ascii"):
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, stop in list(_ranges()):
        advise(start, stop - start, _COLLAPSE)  # fails where memory is too fragmented: those pages stay small
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages:"))


def _ranges() -> Iterator[tuple[int, int]]:
    """Yields the parts of writable anonymous mappings that whole huge pages cover."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, access, _, _, _, *name = line.split(maxsplit=5)
        if access != "rw-p" or name not in ([], ["[heap]"]):
            continue
        first, last = (int(address, 16) for address in addresses.split("-"))
        start, stop = -(-first // HUGE) * HUGE, last // HUGE * HUGE
        if start < stop:
            yield start, stop
