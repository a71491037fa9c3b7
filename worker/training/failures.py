"""Tells what is wrong with the machine from what is wrong with the program or its data."""

import errno
from typing import Final

from app.core.spec.reports import TrainerExit
from worker.training.out_of_memory import is_out_of_memory
from worker.training.types import JobFailure

_DRIVERS: Final = ("CUDA error: ", "HIP error: ")
_BROKEN: Final = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "hardware stack error",
    "or a hardware error",
    "CUDA-capable device(s) is/are busy or unavailable",
    "no CUDA-capable device is detected",
    "system not yet initialized",
    "unknown error",
)
"""From `cudaGetErrorString`; a fallen-off GPU is an unknown error. Illegal addresses and asserts are a program's."""


def diagnose(error: BaseException) -> JobFailure | None:
    """What an error that no step foresaw means for the job; None for one that only a crash can be."""
    if is_gpu_fault(error):
        return JobFailure(TrainerExit.gpu_fault, "gpu_fault", f"The GPU is broken: {str(error).splitlines()[0]}")
    if is_disk_full(error):
        message = f"The disk of the run directory is full: {error}"
        return JobFailure(TrainerExit.dependency_down, "storage_full", message)
    if is_out_of_memory(error):
        advice = "Lower hyperparameters.batch_size, max_length, group.self or lora.r."
        message = f"The trainer ran out of memory. {advice} ({error})"
        return JobFailure(TrainerExit.out_of_memory, "out_of_memory", message)
    return None


def is_gpu_fault(error: BaseException) -> bool:
    """Whether another job would fail on this GPU as well: only the driver's own words for hardware count."""
    said = str(error)
    return any(driver in said for driver in _DRIVERS) and any(words in said for words in _BROKEN)


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no room for a file. safetensors tells it in words alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
