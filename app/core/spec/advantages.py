"""Group-normalised advantages (Group Advantage Learning, arXiv 2604.14258, section 3).

    A_k = (R_k - mean_G R) / (std_G R + eps)        std is the sample standard deviation (n - 1)

Mean and std run over the whole hybrid group: sources are never normalised apart. The trainer and
whoever grades its groups again use this one function.
"""

import math
from collections.abc import Sequence
from typing import Final

from app.core.spec.contrast import has_contrast

EPSILON: Final = 1e-6


def group_advantages(rewards: Sequence[float | None]) -> list[float | None]:
    """Advantage of each member, in order.

    A member whose grade failed (`None`) leaves the group: it gets `None`, the others are normalised over the rest.
    Degenerate cases: a group of one has A = R; without contrast A = 0 for all. Raises `ValueError` on a non-finite
    reward, which the graders must have turned into `None`.
    """
    graded = [reward for reward in rewards if reward is not None]
    if not all(math.isfinite(reward) for reward in graded):
        raise ValueError("rewards must be finite; a failed grade is None")
    if len(graded) == 1:
        return list(rewards)
    if not has_contrast(graded):
        return [None if reward is None else 0.0 for reward in rewards]
    mean = math.fsum(graded) / len(graded)
    variance = math.fsum((reward - mean) ** 2 for reward in graded) / (len(graded) - 1)
    scale = math.sqrt(variance) + EPSILON
    return [None if reward is None else (reward - mean) / scale for reward in rewards]
