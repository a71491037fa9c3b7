"""A process of its own moves 64 MiB to huge pages; in this one, the memory of all tests would move along."""

import subprocess
import sys

import pytest

from worker.serving import huge_pages

PROGRAM = """
from worker.serving.huge_pages import use_huge_pages
memory = bytearray(b"x" * (64 << 20))
print(use_huge_pages(), memory == b"x" * (64 << 20))
"""


@pytest.mark.skipif(
    not huge_pages._ENABLED.is_file() or "[never]" in huge_pages._ENABLED.read_text(),
    reason="this kernel has no transparent huge pages",
)
def test_memory_moves_to_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    moved, is_intact = done.stdout.split()
    assert int(moved) >= 2 << 20  # one page: how many the kernel finds depends on how fragmented its memory is
    assert is_intact == "True"
