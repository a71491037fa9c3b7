"""`python -m worker.training.devices`: what torch finds on this machine, as one JSON object on standard output.

Each GPU is put to work for a moment: a driver that is seen is not yet one that computes.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch


def describe() -> dict[str, Any]:
    """`torch` and `cuda` versions, `cpus`, `devices`, and in `trouble` why a GPU that is there cannot be used."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    trouble = [str(one.message).partition("\n")[0] for one in caught]
    if not usable and not trouble and Path("/dev/nvidia0").exists():
        trouble = ["there is an NVIDIA GPU, but this torch was built without CUDA or may not use it"]
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
    found: dict[str, Any] = {"name": properties.name, "bytes": properties.total_memory, "error": None}
    try:
        found["free_bytes"] = torch.cuda.mem_get_info(index)[0]
        ones = torch.ones(64, 64, device=f"cuda:{index}", dtype=torch.bfloat16)
        if float((ones @ ones).sum()) != 64.0**3:
            found["error"] = "it computes wrong results"
    except RuntimeError as error:
        found["error"] = str(error).partition("\n")[0]
    return found


if __name__ == "__main__":
    json.dump(describe(), sys.stdout)
