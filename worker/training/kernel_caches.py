"""Bounds the caches of oneDNN, which computes torch's matrix products on a CPU.

oneDNN compiles a kernel for each shape, and the number of rows changes from step to step. By default it keeps 1,024
kernels, and torch's layer above it as many per operation; each takes up to half a megabyte. An engine that decodes for
many users, or a bf16 job with rows of many lengths, grows by hundreds of megabytes this way.
"""

import os
from typing import Final

KERNELS: Final = 128
"""A training step and the sampling of its completions use about 110, and a decoding step about 10."""
_CAPACITIES: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def limit_kernel_caches() -> None:
    """Keep at most `KERNELS` kernels, unless the environment has other numbers. Call it before torch computes."""
    for name in _CAPACITIES:
        os.environ.setdefault(name, str(KERNELS))
