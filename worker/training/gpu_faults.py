"""Tells a GPU that is broken from a program that is: only the driver's own words for hardware count."""

from typing import Final

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


def is_gpu_fault(error: BaseException) -> bool:
    """Whether another job would fail on this GPU as well."""
    said = str(error)
    return any(driver in said for driver in _DRIVERS) and any(words in said for words in _BROKEN)
