"""Memory that glibc would keep after it is freed."""

import subprocess
import sys
from typing import Final

import pytest

from tests.worker.training.runs import REPOSITORY

PROGRAM: Final = """
from pathlib import Path
from worker.training import heap

MIB = 2**20

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(MIB) for _ in range(64)]
del blocks  # from now on, glibc takes blocks of this size from its heap
if {early}:
    heap.return_large_blocks()
start = resident()
blocks, small = [], []
for _ in range(64):
    blocks.append(bytearray(b"x") * MIB)
    small.append(bytearray(4096))  # prevents that the free blocks form the end of the heap
del blocks
if {late}:
    heap.return_freed()
print((resident() - start) // MIB)
"""


@pytest.mark.parametrize(("early", "late", "kept"), [(True, False, 8), (False, True, 8), (False, False, None)])
def test_freed_blocks_are_returned(*, early: bool, late: bool, kept: int | None) -> None:
    """The last case shows that glibc keeps the blocks otherwise."""
    argv = [sys.executable, "-c", PROGRAM.format(early=early, late=late)]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
    if kept is None:
        assert int(done.stdout) > 32
    else:
        assert int(done.stdout) <= kept
