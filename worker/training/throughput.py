"""What the device could do, and how much of it an update used."""

from typing import Final

import torch

DENSE_BF16_FLOPS: Final = {
    "B200": 2.25e15,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
}
"""Peak of dense bf16 products without sparsity, from NVIDIA's data sheets, by part of the device's name; the first that
fits counts."""
FLOPS_A_TOKEN_AND_PARAMETER: Final = 4
"""Forward 2, backward 2: a frozen base has no weight gradients. The adapter's own products are left out."""


def peak_flops(device: torch.device) -> float | None:
    """Peak bf16 rate of the device per second, or None where no data sheet says it (CPUs, unknown GPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in DENSE_BF16_FLOPS.items() if part in name), None)


def mfu(parameters: int, tokens: int, seconds: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation of an update of `tokens` packed tokens, 0..1; tokens saved by sharing do not count."""
    if peak is None:
        return None
    return FLOPS_A_TOKEN_AND_PARAMETER * parameters * tokens / (seconds * peak)
