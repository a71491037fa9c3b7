"""When the processes of a job share the weights of the frozen base model instead of holding a copy each."""

from typing import Final, Literal

Sharding = Literal["auto", "none", "full"]

WHOLE_SHARE: Final = 0.85
"""The part of a GPU's memory that `auto` lets a whole base model take. A larger one could not be trained whole."""


def is_sharded(wanted: Sharding, processes: int, base_bytes: float, gpu_bytes: float | None) -> bool:
    """Return whether a base model is sharded over the processes of a job.

    `gpu_bytes` is the memory of one GPU, None on a CPU, where all processes use the same memory and `auto` shards
    nothing.
    """
    if processes == 1 or wanted == "none":
        return False
    return wanted == "full" or (gpu_bytes is not None and base_bytes > WHOLE_SHARE * gpu_bytes)
