"""oneDNN's caches of kernels, in a process of their own: this one's are filled by all tests."""

import subprocess
import sys
from pathlib import Path

from worker.training.kernel_caches import KERNELS

PROGRAM = """
import ctypes
import sys
from worker.training.kernel_caches import limit_kernel_caches

limit_kernel_caches()
import torch
from worker.training.packed import PackedWeight


def allocated():
    class Info(ctypes.Structure):
        _fields_ = [(str(index), ctypes.c_size_t) for index in range(10)]

    allocator = ctypes.CDLL(None).mallinfo2
    allocator.restype = Info
    return getattr(allocator(), "7")  # uordblks: bytes in use


torch.set_num_threads(1)
kernels = int(sys.argv[1])
weight, rows = PackedWeight(torch.randn(64, 32)), torch.randn(4 * kernels, 32)
for count in range(1, kernels + 1):
    weight.product(rows[:count])
full = allocated()
for count in range(kernels + 1, 4 * kernels + 1):
    weight.product(rows[:count])
print(full, allocated())
"""


def test_kernels_for_many_shapes_take_no_more_memory() -> None:
    argv = [sys.executable, "-c", PROGRAM, str(KERNELS)]
    root = Path(__file__).parents[3]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=root)
    full, end = map(int, done.stdout.split())
    assert end - full < 10e6
