"""Group-normalised advantages (Group Advantage Learning, arXiv 2604.14258, section 3).

    A_k = (R_k - mean_G R) / (std_G R + eps)        std is the sample standard deviation (n - 1)
    A_k =  R_k - mean_G R                           without scaling (Dr. GRPO, arXiv 2503.20783)

Mean and standard deviation cover the whole hybrid group; sources are never normalised separately. The trainer, lint
and regrading share these functions.
"""

import math
from collections.abc import Sequence
from typing import Final

from app.core.spec.policy_loss import AdvantageScaling

EPSILON: Final = 1e-6
ZERO_VARIANCE_RANGE: Final = 1e-6
"""Largest difference between rewards that counts as float noise rather than a signal."""


def has_contrast(rewards: Sequence[float]) -> bool:
    """Return whether the rewards of a group differ; a group of one always trains (A = R)."""
    return len(rewards) == 1 or (len(rewards) > 1 and max(rewards) - min(rewards) > ZERO_VARIANCE_RANGE)


def group_advantages(rewards: Sequence[float | None], scaling: AdvantageScaling = "std") -> list[float | None]:
    """Return the advantage of each member, in order.

    A member whose grade failed (`None`) leaves the group: it gets `None`, and the others are normalised without it.
    Degenerate cases: a group of one has A = R; without contrast A = 0 for all. Raises `ValueError` on a non-finite
    reward; graders turn those into `None` first.
    """
    graded = [reward for reward in rewards if reward is not None]
    if not all(math.isfinite(reward) for reward in graded):
        raise ValueError("rewards must be finite; a failed grade is None")
    if len(graded) == 1:
        return list(rewards)
    if not has_contrast(graded):
        return [None if reward is None else 0.0 for reward in rewards]
    mean = math.fsum(graded) / len(graded)
    if scaling == "none":
        return [None if reward is None else reward - mean for reward in rewards]
    variance = math.fsum((reward - mean) ** 2 for reward in graded) / (len(graded) - 1)
    scale = math.sqrt(variance) + EPSILON
    return [None if reward is None else (reward - mean) / scale for reward in rewards]
