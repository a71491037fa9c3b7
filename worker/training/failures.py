"""Diagnosis of machine failures: a broken GPU, a full disk, too little memory. Anything else is a crash."""

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
"""Texts of `cudaGetErrorString`. A GPU that fell off the bus reports an unknown error. Illegal addresses and failed
asserts are not listed: they are program errors."""


def diagnose(error: BaseException) -> JobFailure | None:
    """Returns the job failure for an unhandled error, or None if the error is a crash of the program."""
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
    """Returns whether the GPU itself is faulty, so that other jobs would fail on it too.

    Only the driver's own error texts for hardware count.
    """
    message = str(error)
    return any(driver in message for driver in _DRIVERS) and any(text in message for text in _BROKEN)


def is_disk_full(error: BaseException) -> bool:
    """Returns whether a file did not fit on the disk. safetensors gives no errno, only a message."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
