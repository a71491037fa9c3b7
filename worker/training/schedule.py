"""The learning-rate schedule: linear warm-up, then constant or cosine decay. `plan.resolve` decides the peak rate."""

import math
from typing import Final

WARMUP_SHARE: Final = 0.03
MIN_SHARE: Final = 0.1
"""The cosine schedule ends at this share of the peak."""


def learning_rate(step: int, total_steps: int, peak: float, schedule: str) -> float:
    """Returns the learning rate of step 1..`total_steps`; `schedule` is "constant" or "cosine"."""
    warmup = max(1, math.ceil(WARMUP_SHARE * total_steps))
    if step <= warmup:
        return peak * step / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, total_steps - warmup)  # 0 at the end of warm-up, 1 at the last step
    return peak * (MIN_SHARE + (1 - MIN_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))
