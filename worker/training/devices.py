"""`python -m worker.training.devices`: prints torch's devices on this machine as one JSON object.

Runs a small product on each GPU, because a visible driver does not prove that the GPU computes.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch


def describe() -> dict[str, Any]:
    """Returns `torch` and `cuda` versions, `cpus`, `devices`, and in `trouble` the reasons why a GPU is unusable."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    trouble = [str(warning.message).partition("\n")[0] for warning in caught]
    if not usable and not trouble and Path("/dev/nvidia0").exists():
        trouble = ["this machine has an NVIDIA GPU, but torch was built without CUDA or has no access to the GPU"]
    devices = [_device(index) for index in range(torch.cuda.device_count())] if usable else []
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cpus": len(os.sched_getaffinity(0)),
        "devices": devices,
        "trouble": trouble,
    }


def _device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    device: dict[str, Any] = {"name": properties.name, "bytes": properties.total_memory, "error": None}
    try:
        device["free_bytes"] = torch.cuda.mem_get_info(index)[0]
        ones = torch.ones(64, 64, device=f"cuda:{index}", dtype=torch.bfloat16)
        if float((ones @ ones).sum()) != 64.0**3:
            device["error"] = "it computes wrong results"
    except RuntimeError as error:
        device["error"] = str(error).partition("\n")[0]
    return device


if __name__ == "__main__":
    json.dump(describe(), sys.stdout)
