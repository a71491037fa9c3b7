"""Memory of every device: the most that was used, and telling that there was too little from other failures."""

import resource

import torch

_CPU_ALLOCATOR = "DefaultCPUAllocator"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. torch's CPU allocator raises a plain RuntimeError that names itself."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
    )


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use at once: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
