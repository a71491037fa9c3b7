"""What the device could do, and how much of it an update used."""

from typing import Final

import torch

from app.core.spec.hardware import data_sheet

FLOPS_A_TOKEN_AND_PARAMETER: Final = 4
"""Forward 2, backward 2: a frozen base has no weight gradients. The adapter's own products are left out."""


def peak_flops(device: torch.device) -> float | None:
    """Peak bf16 rate of the device per second, or None where no data sheet says it (CPUs, unknown GPUs)."""
    if device.type != "cuda":
        return None
    sheet = data_sheet(torch.cuda.get_device_name(device))
    return None if sheet is None else sheet.flops


def mfu(parameters: int, tokens: int, seconds: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation of an update of `tokens` packed tokens, 0..1; tokens saved by sharing do not count."""
    if peak is None:
        return None
    return FLOPS_A_TOKEN_AND_PARAMETER * parameters * tokens / (seconds * peak)
